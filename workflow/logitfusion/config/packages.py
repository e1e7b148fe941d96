"""Packages that carry weights or data: pinned to one version, and to the bytes of it."""

from __future__ import annotations

from typing import ClassVar

from logitfusion.config.section import Pinned, Requirement, Section, Sha256, Text


class Package(Section):
    """A package of a registry."""

    package: Pinned
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
    """One file of a wheel."""

    package: Requirement
    """NAME==VERSION."""
    file: Text
    """The file inside the package."""
