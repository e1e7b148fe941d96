"""README.md and docs/: every block runs as printed after ``make demo``, or says why not and is read instead."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

import pytest
from checkout import ROOT, copy_checkout
from documents import (
    READ,
    RUN,
    Block,
    check_config,
    check_python,
    check_shell,
    find_blocks,
    find_make_calls,
    find_targets,
    list_files,
    list_pages,
    note_written,
    split_commands,
)
from generate import command_line, picture, readme, stored
from generate.stored import StoredRun
from shell import run_shell
from tiny_demo import write_demo

PAGES = {page: find_blocks(page, (ROOT / page).read_text(encoding="utf-8")) for page in list_pages()}
BLOCKS = [block for blocks in PAGES.values() for block in blocks]


def runs(block: Block) -> bool:
    return block.reason is None and block.language in ("bash", "python")


def reaches_beyond(words: list[str]) -> bool:
    """Whether a command needs a network, a repository, or what it calls would install an environment."""
    return words[0] in ("make", "pip", "pipx", "uv", "conda") or (words[0] == "git" and words[1:2] != ["apply"])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Path:
    """A checkout after ``make demo``, without configs of whoever has followed the tutorials already."""
    folder = copy_checkout(tmp_path_factory.mktemp("demo"))
    for name in list_files("--others", "config"):
        (folder / name).unlink()
    write_demo(folder / "results", tiny_models)
    return folder


def test_every_block_is_of_a_kind_that_is_run_or_read() -> None:
    assert {block.place: block.language for block in BLOCKS if block.language not in RUN + READ} == {}
    silent = [block.place for block in BLOCKS if block.reason is not None and block.language not in RUN]
    assert silent == [], "only what would run needs a reason not to"
    marks = sum(len(re.findall(r"^ *<!-- not (?:run|a config):", (ROOT / page).read_text(), re.M)) for page in PAGES)
    assert marks == sum(block.reason is not None for block in BLOCKS), "a mark that no block follows"


@pytest.mark.parametrize("page", [page for page, blocks in PAGES.items() if any(map(runs, blocks))])
def test_blocks_run_as_printed(
    page: str, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(demo, tmp_path / "checkout", symlinks=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(folder)
    names = {"__name__": "__main__"}
    edited = False  # the page changes the code itself
    for block in filter(runs, PAGES[page]):
        if block.language == "bash":
            beyond = [words for words in split_commands(block.text, set()) if reaches_beyond(words)]
            assert beyond == [], f"{block.place} would reach beyond the test: mark it"
            edited = edited or "workflow/logitfusion/" in block.text
            run_shell(block.text, folder, tmp_path, here=not edited)
        else:
            with contextlib.chdir(folder):
                exec(compile("\n" * block.line + block.text, os.fspath(ROOT / page), "exec"), names)


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.reason is not None and block.language in ("bash", "python")],
    ids=lambda block: f"{block.place} ({block.reason})",
)
def test_blocks_that_can_not_run_here_are_understood(block: Block) -> None:
    if block.language == "python":
        return check_python(block)
    written = {"config/mine.yaml"}  # what all pages call a reader's own config
    for earlier in PAGES[block.page]:
        if earlier.language == "bash" and earlier.line < block.line:
            for words in split_commands(earlier.text, written):
                note_written(words, written)
    check_shell(block, written)


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language == "yaml" and block.reason is None],
    ids=lambda block: block.place,
)
def test_blocks_of_yaml_are_configs(block: Block) -> None:
    check_config(block)


def test_targets_of_make_that_are_named_exist() -> None:
    """In pages, docstrings, comments, workflows of CI: wherever one is named as code."""
    wrong = {name: calls for name in list_files() if (calls := find_make_calls(read_text(name)) - find_targets())}
    assert wrong == {}


def read_text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8", errors="ignore")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    text = re.sub(r"^( *)(```+|:::+).*?^\1\2$", "", (ROOT / page).read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in find_anchors(file.read_text()), f"{page}: {target}"


def find_anchors(text: str) -> set[str]:
    """What a code host calls the headings of a page."""
    headings = re.findall(r"^#+ +(.+?) *$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# What is generated is in step with what it is generated from.


def test_the_reference_of_the_commands_is_in_step() -> None:
    assert (ROOT / "docs/reference/command_line.md").read_text() == command_line.make_page(), "run make reference"


def test_readme_holds_the_stored_run() -> None:
    text = (ROOT / "README.md").read_text()
    run = stored.read(readme.RUN)
    assert readme.render(text, run) == text, "run make results"
    assert len(text.splitlines()) <= 120
    other = StoredRun(run.facts, run.table.assign(value=run.table["value"] / 2))
    assert readme.render(text, other) != text


def test_the_picture_is_of_the_stored_run() -> None:
    assert picture.describe_source() in picture.PATH.read_text(), "run make results"


def test_the_picture_s_text_is_large_enough_for_a_page_of_two_thirds_its_width(tmp_path: Path) -> None:
    picture.draw(stored.read("demo"), tmp_path / "demo.svg")
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", (tmp_path / "demo.svg").read_text())]
    assert sizes
    assert min(sizes) >= 14


# The checks themselves: each refuses what it is there for.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("make nothing\n", "no target"),
        ("snakemake --profile local --configfile config/none.yaml\n", "no config"),
        ("snakemake --profile nowhere\n", "no profile"),
        ("logitfusion generate --larg L\n", "2"),
        ("frobnicate --now\n", "no command"),
        ("python nothing.py\n", "no file"),
        ("echo 'unfinished\n", "unexpected EOF"),
    ],
)
def test_a_wrong_command_is_seen(text: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_shell(Block("page.md", 1, "bash", text, "a test"), set())


def test_a_page_is_read_block_by_block() -> None:
    text = "<!-- not run: slow -->\n```bash\nmake demo\n```\ntext\n\n```yaml\nrun: x\n```\n"
    first, second = find_blocks("page.md", text)
    assert (first.line, first.language, first.text, first.reason) == (2, "bash", "make demo\n", "slow")
    assert (second.line, second.language, second.text, second.reason) == (7, "yaml", "run: x\n", None)


def test_commands_are_split_as_a_shell_does() -> None:
    written: set[str] = set()
    text = "cat > a.yaml <<'END'\nrun: x > y\nEND\nA=1 b --c \\\n  d | e && f $'x\\ny' # g's\nh '#1' >> i\n"
    assert split_commands(text, written) == [["cat"], ["A=1", "b", "--c", "d"], ["e"], ["f", "x\\ny"], ["h", "#1"]]
    assert written == {"a.yaml", "i"}
