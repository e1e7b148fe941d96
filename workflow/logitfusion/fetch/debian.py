"""Packages of Debian: downloaded by apt-get, pinned, checked, kept; nothing is installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from logitfusion.errors import UserError
from logitfusion.fetch.pypi import check
from logitfusion.files import whole


def fetch_debian(name: str, version: str, digest: str, target: str | Path) -> None:
    """Fetch one Debian package as ``target``, a .deb, if its SHA-256 is ``digest``.

    ``apt-get download`` does it, so that the machine's own sources hold; no rights are needed.

    Raises:
        UserError: no apt-get, no network, no such version, or other bytes than expected.
    """
    package = f"{name}={version}"
    if shutil.which("apt-get") is None:
        raise UserError(
            f"The package {package} is one of Debian's, and this machine has no apt-get; fetch the .deb on one that"
            " has, and give its path as the data set's package."
        )
    with tempfile.TemporaryDirectory() as folder:
        command = ["apt-get", "download", "--quiet", package]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        archives = list(Path(folder).glob("*.deb"))
        if done.returncode != 0 or len(archives) != 1:
            lines = [line.removeprefix("E: ") for line in done.stderr.splitlines() if line.startswith("E: ")]
            raise UserError(
                f"The package {package} could not be fetched ({lines[0] if lines else 'apt-get gave no reason'});"
                " check the network and apt's sources, and call apt-get update."
            )
        check(archives[0], digest, package)
        with whole(target) as temporary:
            shutil.copyfile(archives[0], temporary)
