"""The cards of a machine: which are seen, and how they and the cores are shared; nvidia-smi is made up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from checkout import copy_checkout, snakemake

from logitfusion.cards import JOBS, Card, cards_for, share_cores, visible_cards

WHOLE = "GPU {0}: NVIDIA H100 80GB HBM3 (UUID: GPU-{0}a)\n"
SLICE = "  MIG 1g.10gb     Device  {0}: (UUID: MIG-{0})\n"


def write_smi(folder: Path, said: str) -> Path:
    """A folder with an nvidia-smi that says this; without a word, one that finds no driver."""
    folder.mkdir(exist_ok=True)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<END\n{said}END\nexit {int(not said)}\n")
    program.chmod(0o755)
    return folder


def names(cards: tuple[Card, ...]) -> list[str]:
    return [card.name for card in cards]


# ---- which there are ----------------------------------------------------------------------------------------------


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three cards, the second of which is cut in two."""
    said = WHOLE.format(0) + WHOLE.format(1) + SLICE.format(0) + SLICE.format(1) + WHOLE.format(2)
    monkeypatch.setenv("PATH", str(write_smi(tmp_path / "bin", said)), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("box")
def test_slices_stand_for_the_card_that_is_cut() -> None:
    cards = visible_cards()
    assert names(cards) == ["0", "MIG-0", "MIG-1", "2"]
    assert names(tuple(cards_for(1, cards))) == names(cards)
    assert names(tuple(cards_for(2, cards))) == ["0", "2"]


@pytest.mark.usefixtures("box")
@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("", {}),
        ("-1", {}),
        ("NoDevFiles", {}),
        ("2,-1,0", {"2": "GPU-2a"}),
        ("2, 0", {"2": "GPU-2a", "0": "GPU-0a"}),
        ("2,GPU-2,GPU-2a", {"GPU-2a": "GPU-2a"}),
        ("GPU-0,MIG-1", {"GPU-0": "GPU-0a", "MIG-1": "MIG-1"}),
        ("GPU-", {"GPU-": "GPU-"}),
        ("7", {}),
        ("0,7,2", {"0": "GPU-0a"}),
        ("1,MIG-1", {"1": "MIG-0", "MIG-1": "MIG-1"}),
    ],
)
def test_the_users_choice_counts_and_a_card_has_one_uuid(
    monkeypatch: pytest.MonkeyPatch, visible: str, expected: dict[str, str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert {card.name: card.uuid for card in visible_cards()} == expected


def test_a_machine_without_the_driver_has_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_cards() == ()
    write_smi(tmp_path, "")
    assert visible_cards() == ()


@pytest.mark.parametrize("cores", [1, 2, 7, 16, 64])
@pytest.mark.parametrize("count", range(9))
def test_as_many_jobs_as_cards_compute_at_once_and_two_where_there_is_one(cores: int, count: int) -> None:
    threads = share_cores(cores, count)
    jobs = max(2, count)
    assert threads >= 1
    assert threads == 1 or threads * jobs <= cores < (threads + 1) * jobs


# ---- how Snakemake hands them out -----------------------------------------------------------------------------------

CONFIG = {
    "run": "cards",
    "models": {name: {"source": "random", "hidden_size": 8, "layers": 2} for name in ("large", "small")},
    "tasks": {"sums": {"harness": "sums", "train": 4, "validation": 4, "test": 4}},
    "experts": {name: {"base": "small", "tasks": ["sums"], "steps": 1} for name in ("sums", "left", "right")},
    "fusion": {
        "large": "large",
        "base": "small",
        "methods": {"pair": {"experts": ["sums"], "tune": {"trusts": [1.0], "anchors": [0.5]}}},
    },
}
# In place of the stages: outputs that say which cards were seen. Jobs that are to be together wait for each other.
STAGE = """
import logitfusion.stages
import argparse, os, sys, time
from pathlib import Path

outputs = ("output", "train", "validation", "documents", "record")
parser = argparse.ArgumentParser(allow_abbrev=False)
for name in outputs:
    parser.add_argument(f"--{name}", nargs="*", type=Path, default=[])
found, _ = parser.parse_known_args()
given = outputs if found.train else ("output", "record")  # documents are an input elsewhere
paths = [path for name in given for path in getattr(found, name)]
together = os.environ.get("TOGETHER", "").split()
if paths[0].stem in together:
    started = Path("started")
    started.mkdir(exist_ok=True)
    (started / paths[0].stem).touch()
    deadline = time.monotonic() + 120
    while len(list(started.iterdir())) < len(together):
        if time.monotonic() > deadline:
            sys.exit("the others were not started")
        time.sleep(0.05)
for path in paths:
    if not path.suffix:
        path.mkdir(parents=True)
        path /= "cards"
    path.write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
"""
LEFT, RIGHT, PAIR = "results/cards/experts/left", "results/cards/experts/right", "results/cards/tuning/pair.json"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose stages do nothing, and a config with three experts and a tuning with one of them."""
    folder = copy_checkout(tmp_path / "checkout")
    for name in ("model", "task", "expert", "tune"):
        (folder / f"workflow/logitfusion/stages/{name}.py").write_text(STAGE)
    (folder / "config/cards.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder


def call(checkout: Path, cards: int, *arguments: str, profile: str = "local", **variables: str) -> tuple[int, str]:
    """Snakemake's exit code and words on a machine with so many cards."""
    said = "".join(map(WHOLE.format, range(cards)))
    programs = write_smi(checkout / f"bin{cards}", said)
    variables |= {"TMPDIR": str(checkout)}
    options = (*arguments, "--configfile", "config/cards.yaml")
    done = snakemake(checkout, *options, profile=profile, programs=programs, **variables)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.workflow
def test_a_job_of_two_cards_runs_beside_two_of_one_each_on_its_own(checkout: Path) -> None:
    together = {"TOGETHER": "pair left right"}
    code, said = call(checkout, 4, PAIR, LEFT, RIGHT, "--cores", "8", "--set-resources", "tune:gpu=2", **together)
    assert code == 0, said[-3000:]
    assert "here on 8 cores and 4 GPUs" in said
    pair, left, right = (checkout / path for path in (PAIR, f"{LEFT}/cards", f"{RIGHT}/cards"))
    seen = [path.read_text().split(",") for path in (pair, left, right)]
    assert list(map(len, seen)) == [2, 1, 1]
    assert sorted(card for cards in seen for card in cards) == ["0", "1", "2", "3"]


@pytest.mark.workflow
def test_jobs_share_a_card_where_the_user_says_so(checkout: Path) -> None:
    together = {"TOGETHER": "pair left right", JOBS: "3"}
    code, said = call(checkout, 1, PAIR, LEFT, RIGHT, "--cores", "3", **together)
    assert code == 0, said[-3000:]
    assert "here on 3 cores and 1 GPU" in said
    assert {(checkout / path).read_text() for path in (PAIR, f"{LEFT}/cards", f"{RIGHT}/cards")} == {"0"}
    code, said = call(checkout, 1, PAIR, "--forceall", "--set-resources", "tune:gpu=2", **together)
    assert code == 1
    assert "tune (pair) asks for 2 GPUs and can get 1 here" in said, "places on one card are one card"
    code, said = call(checkout, 1, PAIR, "--forceall", **{JOBS: "some"})
    assert code == 1
    assert f"{JOBS} is 'some'" in said


@pytest.mark.workflow
def test_more_cards_than_there_are_end_a_call_before_its_first_job(checkout: Path) -> None:
    asking = ("--cores", "4", "--set-resources", "tune:gpu=3")
    for cards, limit, most in ((2, (), 2), (4, ("--resources", "gpu=1"), 1)):
        code, said = call(checkout, cards, PAIR, *asking, *limit)
        assert code == 1
        assert said.count(f"tune (pair) asks for 3 GPUs and can get {most} here") == 1
        assert "Traceback" not in said
        assert not (checkout / "results/cards/models").exists()
    code, said = call(checkout, 0, PAIR, *asking)
    assert code == 0, said[-3000:]
    assert (checkout / PAIR).read_text() == "all", "on a machine without cards nothing is asked for"


@pytest.mark.workflow
def test_cores_are_shared_by_as_many_jobs_as_cards(checkout: Path) -> None:
    def threads(cards: int, *arguments: str, profile: str = "local", **variables: str) -> set[str]:
        options = ("--dry-run", LEFT, "--cores", "16", *arguments)
        code, said = call(checkout, cards, *options, profile=profile, **variables)
        assert code == 0, said[-3000:]
        text = said[said.index("rule expert:") :]
        return re.search(r"^ +threads: (\d+)$", text, re.MULTILINE)[1]

    assert threads(8, CUDA_VISIBLE_DEVICES="1,2,3,4,5") == "3"
    assert threads(8, "--resources", "gpu=2") == "8"
    assert threads(1, **{JOBS: "8"}) == "2"
    assert threads(8, profile="slurm") == "4"
