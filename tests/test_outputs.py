"""An output that can't be written, or that would destroy an input, is refused by every command before it works."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from commands import refuse

from logitfusion.errors import UserError
from logitfusion.files import check_outputs, read_jsonl

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "workflow"), "OMP_NUM_THREADS": "1"}
CLIP = ["--clip", "open_clip:RN50/openai"]
MODELS = ["--large", "large", "--base", "base", "--expert", "expert"]
COMMANDS = {
    "generate": ["generate", *MODELS, "--prompts", "lines.jsonl"],
    "score": ["score", *MODELS, "--pairs", "lines.jsonl"],
    "evaluate": ["evaluate", *MODELS, "--tasks", "sums", "--include-path", "tasks"],
    "plan": ["plan", "config.yaml", "--metadata", "metadata"],
    "compare": ["compare", "photos"],
    "init": ["init", "mine", "--large", "large", "--base", "base"],
    "init clip": ["init", "mine", "--track", "clip", "--images", "photos"],
    "distill": ["distill", "large", "--texts", "lines.jsonl"],
    "distill-cache": ["distill-cache", "--teacher", "large", "--texts", "lines.jsonl", "--k", "2"],
    "fit": ["fewshot", "fit", *CLIP, "--method", "gda", "--images", "photos", "--class-names", "names.json"],
    "fit csv": ["fewshot", "fit", *CLIP, "--method", "gda", "--csv", "list.csv"],
    "predict": ["fewshot", "predict", "--head", "head", "--images", "photos"],
}
NEEDED = {"fit": ["--output", "new"]}
# Command, option, and whether that is a folder.
OUTPUTS = [
    ("generate", "--output", False), ("generate", "--trace", False), ("score", "--output", False),
    ("evaluate", "--output", False), ("plan", "--json", False), ("init", "--output", False),
    ("compare", "--csv", False), ("compare", "--json", False),
    ("distill", "--output", True), ("distill-cache", "--output", True),
    ("fit", "--output", False), ("fit", "--features", True),
    ("predict", "--output", False), ("predict", "--report", False), ("predict", "--sort-into", True),
    ("predict", "--features", True),
]  # fmt: skip
UNWRITABLE: dict[str, Callable[[bool], str]] = {
    "another kind": lambda folder: "names.json" if folder else "photos",
    "in a file": lambda _: "names.json/x",
    "name too long": lambda _: "x" * 256,
    "in a name too long": lambda _: f"{'x' * 256}/x",
    "NUL": lambda _: "x\0y",
    "of the system": lambda _: "/proc/x",
    "in what is the system's": lambda _: "/proc/x/y",
    "a circle": lambda _: "loop",
    "in a circle": lambda _: "loop/x",
    "a socket": lambda _: "socket",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with all that the commands read."""
    monkeypatch.chdir(tmp_path)
    for name in ("large", "base", "expert", "tasks", "metadata", "photos/red", "photos/green"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("lines.jsonl", "names.json", "config.yaml", "head", "list.csv"):
        (tmp_path / name).write_text("precious")
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
        yield tmp_path


def state(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("kind", UNWRITABLE)
@pytest.mark.parametrize(("command", "option", "folder"), OUTPUTS)
def test_what_can_not_be_written_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], place: Path, command: str, option: str, folder: bool, kind: str
) -> None:
    if "system" in kind and not Path("/proc/self").exists():
        pytest.skip("of Linux")
    before = state(place)
    sentence = refuse(capsys, *COMMANDS[command], *NEEDED.get(command, []), option, UNWRITABLE[kind](folder))
    assert option in sentence
    assert state(place) == before


INPUTS = {
    "generate": ["lines.jsonl", "large/x", "base/x", "expert/deep/x", "large/../base/x"],
    "score": ["lines.jsonl", "./lines.jsonl", "large/x", "expert/x"],
    "evaluate": ["tasks/x", "large/x"],
    "plan": ["config.yaml", "metadata/x"],
    "compare": ["photos/x"],
    "init": ["large/x", "base/x"],
    "init clip": ["photos/x"],
    "distill": ["large", "large/x"],
    "distill-cache": ["large", "large/x"],
    "fit": ["names.json", "photos/red/x"],
    "fit csv": ["list.csv"],
    "predict": ["head", "photos/x"],
}


@pytest.mark.parametrize(("command", "output"), [(command, one) for command, some in INPUTS.items() for one in some])
def test_an_output_is_no_input_and_in_none(
    capsys: pytest.CaptureFixture[str], place: Path, command: str, output: str
) -> None:
    before = state(place)
    option = next(option for name, option, _ in OUTPUTS if name == command.split()[0])
    sentence = refuse(capsys, *COMMANDS[command], option, output)
    assert "reads" in sentence
    assert option in sentence
    assert state(place) == before


@pytest.mark.parametrize(
    ("command", "options"),
    [("generate", ("--output", "--trace")), ("predict", ("--output", "--report"))],
)
def test_two_outputs_are_two_files(
    capsys: pytest.CaptureFixture[str], place: Path, command: str, options: tuple[str, str]
) -> None:
    (place / "link").symlink_to("new")
    sentence = refuse(capsys, *COMMANDS[command], options[0], "new", options[1], "link")
    assert "name another one for each" in sentence
    assert all(option in sentence for option in options)


def test_what_can_be_written_is_only_tried(place: Path) -> None:
    """Nothing is left of the trial, and nothing that is there is touched."""
    os.mkfifo("pipe")
    before = state(place)
    outputs = {"--a": "lines.jsonl", "--b": "new/deep/file", "--c": "pipe", "--d": os.devnull, "--e": "x" * 255}
    given = {option: Path(name) for option, name in outputs.items()}
    folders = {"--f": Path("large"), "--g": Path("new/folder")}
    check_outputs(given | folders | {"--none": None}, {"--in": None, "--other": [], "--gone": "gone"}, folders=folders)
    assert state(place) == before
    check_outputs({"--a": Path(os.devnull), "--b": Path(os.devnull)}, {"--in": os.devnull})


def test_two_outputs_go_to_one_terminal() -> None:
    _, terminal = os.openpty()
    check_outputs({"--a": Path(f"/dev/fd/{terminal}"), "--b": Path(os.ttyname(terminal))})


def test_a_dash_makes_no_file_of_that_name(place: Path) -> None:
    with pytest.raises(UserError, match="/dev/stdout"):
        check_outputs({"--output": Path("-")})
    assert not (place / "-").exists()


def test_a_write_protected_file_is_refused(place: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everything")
    (place / "head").chmod(0o444)
    with pytest.raises(UserError, match="may not be written; name another place with --output"):
        check_outputs({"--output": Path("head")})


# ---- the standard output beside it ----------------------------------------------------------------------------------


def test_a_closed_pipe_does_not_cost_the_output(tiny_models: dict[str, Path], place: Path) -> None:
    asked = ["--prompt", "a", "--max-new-tokens", "300", "--output", "new.jsonl", "--trace", "trace.jsonl"]
    command = [sys.executable, "-m", "logitfusion", "generate", "--large", str(tiny_models["large"]), *asked]
    process = subprocess.Popen(
        command, cwd=place, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(100) == 141
    (row,) = read_jsonl(place / "new.jsonl")
    assert row["tokens"] == len(read_jsonl(place / "trace.jsonl")) > 0


PRINT = """
import sys
import time
from pathlib import Path
from logitfusion import cli
from logitfusion.errors import UserError
from logitfusion.files import whole
from logitfusion.cli._streams import outlive_reader

class Command:
    @staticmethod
    def run(arguments):
        if "outlive" in sys.argv:
            outlive_reader()
        for number in range(20):
            print("line", flush=True)
            print("progress", file=sys.stderr)
        if "fail" in sys.argv:
            print("last line")
            raise UserError("No.")
        with whole("done") as temporary:
            temporary.touch()
            if "wait" in sys.argv:
                Path("reached").write_text(repr((temporary.open().fileno() > 2, sys.stdin.read())))
                time.sleep(100)

cli._module = lambda command: Command
cli.make_parser = lambda: __import__("argparse").ArgumentParser()
cli.argparse.ArgumentParser.parse_args = lambda *_: cli.argparse.Namespace(command="x")
sys.exit(cli.main())
"""


def printing(place: Path, *mode: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    """A command that prints, then has done its work."""
    return subprocess.run([sys.executable, "-c", PRINT, *mode], cwd=place, env=ENVIRONMENT, text=True, **streams)


@pytest.fixture
def closed() -> Iterator[int]:
    """A pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("mode", [[], ["outlive"]])
def test_a_reader_who_has_gone_ends_what_writes_nothing_else(place: Path, closed: int, mode: list[str]) -> None:
    ended = printing(place, *mode, stdout=closed, stderr=subprocess.PIPE)
    assert ended.returncode == 141
    assert set(ended.stderr.splitlines()) <= {"progress"}
    assert (place / "done").exists() == bool(mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
@pytest.mark.parametrize("mode", [[], ["outlive"]])
def test_a_full_disk_behind_the_standard_output_is_told(place: Path, mode: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = printing(place, *mode, stdout=full, stderr=subprocess.PIPE)
    *progress, sentence = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert set(progress) <= {"progress"}
    assert "no space left on the disk" in sentence
    assert (place / "done").exists() == bool(mode)


def test_nobody_needs_to_read_the_errors(place: Path, closed: int) -> None:
    ended = printing(place, stdout=subprocess.PIPE, stderr=closed)
    assert ended.returncode == 0
    assert ended.stdout == "line\n" * 20


def test_what_was_printed_before_a_failure_is_there(place: Path) -> None:
    ended = printing(place, "fail", capture_output=True)
    assert ended.returncode == 1
    assert ended.stdout.endswith("line\nlast line\n")
    assert ended.stderr.endswith("progress\nlogitfusion: No.\n")


def test_nobody_needs_to_read_the_help(place: Path, closed: int) -> None:
    command = [sys.executable, "-m", "logitfusion", "completion", "--help"]
    ended = subprocess.run(command, env=ENVIRONMENT, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.usefixtures("heard_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_that_is_told_to_end_leaves_nothing_half_written(place: Path, number: signal.Signals) -> None:
    """Also one whose standard streams were closed before it began: no file takes their place."""
    names = sorted(path.name for path in place.iterdir())
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", PRINT, "wait"]
    with subprocess.Popen(command, cwd=place, env=ENVIRONMENT) as process:
        end = time.monotonic() + 60
        while not ((place / "reached").exists() and (place / "reached").read_text()) and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert (place / "reached").read_text() == "(True, '')"
    assert sorted(path.name for path in place.iterdir()) == sorted([*names, "reached"])
