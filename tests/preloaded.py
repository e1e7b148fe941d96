"""A `python` for the jobs of a test's run that starts with the libraries imported: most of a small job is imports.

One process imports what the stages import of other packages; every job is a fork of it, with the command line, folder,
environment and outputs that Snakemake gave. The package's own modules are imported by each job, from its checkout.
What this does not test is tested elsewhere with processes that start as a user's do: on the cluster of `tests/slurm`,
in `tests/test_envs.py`, and wherever a test of a run sends signals, counts memory or breaks an import.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import gc
import json
import os
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from stage_imports import SOURCE, foreign_imports, module_file

# Read when libraries are imported: a job with other values starts a Python of its own, as all that is no stage does.
FIXED = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
SAME = ("HOME", "HF_HOME", "HF_ENDPOINT", "XDG_CACHE_HOME")
WORD = b"?"
START = """\
#!/bin/sh
exec {} -IS {} "$@"
"""
CLIENT = """\
import json, os, socket, sys
words = sys.argv[1:]
stage = words[0] == "-m" and words[1].startswith("logitfusion.stages.") and not words[1].endswith("._torchrun")
if not stage or any(os.environ.get(name) != value for name, value in {fixed}.items()):
    os.execv({python!r}, [{python!r}, *words])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [{word}], [0, 1, 2])
    server.sendall(json.dumps([words[1:], os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.recv(8) or b"1"))
"""


@contextlib.contextmanager
def preloaded(folder: Path) -> Iterator[Path]:
    """A folder for PATH with the `python`; the process behind it ends with the context.

    Args:
        folder: an empty one with a short name, because it holds a socket.
    """
    address = folder / "socket"
    fixed = {name: os.environ.get(name) for name in SAME} | FIXED
    values = {"python": sys.executable, "fixed": fixed, "address": str(address), "word": WORD}
    (folder / "bin").mkdir()
    (folder / "client.py").write_text(CLIENT.format(**values))
    (folder / "bin/python").write_text(START.format(*map(shlex.quote, (sys.executable, str(folder / "client.py")))))
    (folder / "bin/python").chmod(0o755)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | FIXED
    words = [sys.executable, __file__, str(address)]
    with subprocess.Popen(words, env=variables, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout.readline() == "ready\n", "the libraries could not be imported"
            yield folder / "bin"
        finally:
            server.terminate()


def serve(address: str) -> NoReturn:
    """Import, then fork for whoever asks."""
    for statement in libraries():
        exec(compile(statement, __file__, "exec"), {})
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while True:
            asking, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(asking)
            asking.close()


def libraries() -> Iterator[ast.Module]:
    """The import statements of other packages that any stage comes to when it starts."""
    stages = [f"logitfusion.stages.{path.stem}" for path in (SOURCE / "logitfusion/stages").glob("[!_]*.py")]
    modules = set().union(*(ours for stage in stages for ours in foreign_imports(stage, at_start=True).values()))
    for module in sorted(modules):
        for node in ast.parse(module_file(module).read_text()).body:
            match node:
                case ast.Import(names=names):
                    origins = [name.name for name in names]
                case ast.ImportFrom(module=str(origin)):
                    origins = [origin]
                case _:
                    continue
            if not {origin.partition(".")[0] for origin in origins} & {"logitfusion", "__future__"}:
                yield ast.Module([node], type_ignores=[])


def _answer(asking: socket.socket) -> NoReturn:
    """Run a job in a process of its own, so that all it does at its end is done before its exit code is told."""
    _, streams, _, _ = socket.recv_fds(asking, len(WORD), 3)
    with asking.makefile("rb") as said:
        words, folder, variables = json.load(said)
    parent = os.getpid()
    job = os.fork()
    if job == 0:
        asking.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        # A stage ends when the process that it names has ended: here its parent is this one, not Snakemake.
        os.environ.clear()
        os.environ.update(variables | {"LOGITFUSION_PARENT": str(parent)})
        os.chdir(folder)
        _become(*words)
    _, status = os.waitpid(job, 0)
    asking.sendall(str(os.waitstatus_to_exitcode(status) % 256).encode())
    os._exit(0)


def _become(module: str, *arguments: str) -> NoReturn:
    """What `python -m` does, but for taking the interpreter apart: most of a small job again."""
    sys.argv = [module, *arguments]
    sys.path.remove(str(Path(__file__).parent))
    sys.path[:0] = [str(Path.cwd()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    code: Any = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    serve(sys.argv[1])
