"""Places where a file or a folder is expected and something else is: pipes, devices, sockets, links, nothing."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

Make = Callable[[Path], Path]


def _mode(path: Path) -> int:
    return stat.S_IFMT(path.lstat().st_mode)


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _device(minor: int) -> Make:
    """A copy of a device of /dev, so that what replaces it does no harm."""

    def make(path: Path) -> Path:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        path.open("rb").close()  # not on every file system
        return path

    return make


def _socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as opened:
        here = Path.cwd()
        os.chdir(path.parent)  # its name has a limit of about 100 bytes
        try:
            opened.bind(path.name)
        finally:
            os.chdir(here)
    return path


def _link(target: str) -> Make:
    def make(path: Path) -> Path:
        path.symlink_to(target)
        return path

    return make


def _loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _file(content: bytes) -> Make:
    def make(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return make


def _below_a_file(path: Path) -> Path:
    path.write_bytes(b"x")
    return path / "below"


def _as(words: str) -> Make:
    return lambda path: Path(words)


# By what is there; each makes it at a path that is free, and gives the path to name.
ODD: dict[str, Make] = {
    "a pipe": _fifo,
    "a link to a pipe": lambda path: _link(_fifo(path.with_name("pipe")).name)(path),
    "a socket": _socket,
    "a folder": _folder,
    "a link to a file": lambda path: _link(_file(b"x")(path.with_name("file")).name)(path),
    "a link to nothing": _link("nowhere/at all"),
    "a link to itself": _loop,
    "below a file": _below_a_file,
    "below a link to itself": lambda path: _loop(path) / "below",
    "nothing": lambda path: path,
    "a name of 300 letters": lambda path: path.with_name("x" * 300),
    "a path of 5,000 letters": lambda path: path.joinpath(*["x" * 99] * 50),
    "a name that is no Unicode": lambda path: path.with_name("a\udcffb"),
    "an empty name": _as(""),
    "an empty file": _file(b""),
    "a file of zeros": _file(bytes(4096)),
    "a file of noise": _file(bytes(range(256)) * 16),
}
if sys.platform.startswith("linux"):
    ODD |= {
        "memory of the process": _as("/proc/self/mem"),
        "a folder of the kernel": _as("/proc/self/fdinfo"),
        "below the kernel's": _as("/proc/x/y"),
        "a file that is not open": _as("/proc/self/fd/9999"),
        "a file of the kernel": _as("/proc/self/status"),
    }
    if os.geteuid() == 0:
        ODD |= {"a device without end": _device(5), "a device without content": _device(3), "a full device": _device(7)}


def prepare(folder: Path, name: str) -> Path:
    """An empty folder, what is odd made in it, and the path to name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return ODD[name](folder / "odd")


def kinds(folder: Path) -> dict[str, int]:
    """What there is in a folder, and of which kind each is: what a command must not replace."""
    return {path.name: _mode(path) for path in folder.iterdir()}
