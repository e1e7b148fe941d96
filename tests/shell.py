"""Blocks of shell as a reader types them, with ``logitfusion`` answered by this process: starting it costs seconds."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from checkout import environment

from logitfusion import cli

# What the shell calls as `logitfusion`: hands its arguments, folder and input over, and gives back what came of it.
_CLIENT = """#!{python} -IS
import json, os, socket, sys
wires = socket.socket(socket.AF_UNIX)
wires.connect({address!r})
text = "" if sys.stdin.isatty() else sys.stdin.read()
with wires.makefile("rw") as line:
    print(json.dumps([sys.argv[1:], os.getcwd(), text]), file=line, flush=True)
    code, out, err = json.loads(line.readline())
sys.stdout.write(out), sys.stderr.write(err)
sys.exit(code)
"""
_ALONE = """#!/bin/sh
exec {python} -m logitfusion "$@"
"""


def run_shell(text: str, folder: Path, home: Path, *, here: bool = True) -> str:
    """What a block prints, having ended well.

    Args:
        here: answer ``logitfusion`` in this process; else it runs the code of the folder, in its own.
    """
    with tempfile.TemporaryDirectory() as scratch, socket.socket(socket.AF_UNIX) as server:
        address = f"{scratch}/socket"
        server.bind(address)
        server.listen()
        client = Path(scratch) / "logitfusion"
        client.write_text((_CLIENT if here else _ALONE).format(python=sys.executable, address=address))
        client.chmod(0o755)
        variables = environment(Path(scratch), HOME=str(home), PYTHONPATH=str(folder / "workflow"))
        with tempfile.TemporaryFile("w+") as printed:
            shell = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", text],
                cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT,
            )  # fmt: skip
            _serve(server, shell)
            printed.seek(0)
            said = printed.read()
    assert shell.returncode == 0, f"{text}\n{said[-3000:]}"
    return said


def _serve(server: socket.socket, shell: subprocess.Popen[bytes]) -> None:
    """Answer calls of ``logitfusion`` until the shell has ended."""
    server.settimeout(0.05)
    while shell.poll() is None:
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        connection.settimeout(None)
        with connection, connection.makefile("rw") as line:
            print(json.dumps(_call(*json.loads(line.readline()))), file=line, flush=True)


def _call(arguments: list[str], folder: str, given: str) -> tuple[Any, str, str]:
    """Exit code and both outputs of the command line, run here as it would run there."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(given.encode()), encoding="utf-8")
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(arguments)
    except SystemExit as refused:  # argparse's
        code = refused.code
    finally:
        sys.stdin = before
    return code, *(stream.buffer.getvalue().decode() for stream in (out, err))
