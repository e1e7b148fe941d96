"""Packages that carry weights or data: pinned to one version, and to the bytes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from logitfusion.config.section import Requirement, Section, Sha256, Text

if TYPE_CHECKING:
    from logitfusion.config.run import RunConfig


class Package(Section):
    """A package of a registry."""

    package: Requirement
    """NAME==VERSION."""
    sha256: Sha256
    """SHA-256 of the downloaded package."""

    suffix: ClassVar[str] = "whl"
    """Of the downloaded file: a wheel of PyPI."""


class NpmPackage(Package):
    """A package of npm."""

    suffix: ClassVar[str] = "tgz"


class DebianPackage(Package):
    """A package of Debian."""

    suffix: ClassVar[str] = "deb"


class PackageFile(Package):
    """One file of a package."""

    file: Text
    """The file inside the package."""


def find_packages(run: RunConfig) -> list[Package]:
    """Every package of a config: of models, of the rows of tasks, of encoders and image data sets."""
    owners: list[Section] = [*run.models.values(), *(task.definition.source for task in run.tasks.values())]
    if run.clip is not None:
        owners += [run.clip.encoder, *run.clip.auxiliaries.values(), *run.clip.datasets.values()]
    return [part for owner in owners for part in getattr(owner, "packages", ())]
