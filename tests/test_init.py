"""``logitfusion init``: small configs of every track that are valid, plan what they need, and (make start-test) run."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import lm_eval
import pandas as pd
import pytest
import yaml
from checkout import ROOT, copy_checkout, plans, snakemake
from commands import refuse, run
from lm_eval.api.model import LM
from tiny_encoders import write_image_tower

from logitfusion.cli._tasks import INVALID
from logitfusion.cli._templates import write_value
from logitfusion.cli.init import TRACKS
from logitfusion.clip.encoders.tiny import make_random_clip
from logitfusion.config.load import load_config, resolve_config
from logitfusion.tasks.find import index_folders

IMAGES = ROOT / "config/smoke_images/bright"
TEMPLATES = ROOT / "workflow/logitfusion/templates"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a checkout; the command is called in it."""
    (tmp_path / "Snakefile").touch()
    (tmp_path / "workflow/rules").mkdir(parents=True)
    (tmp_path / "config").mkdir()
    shutil.copytree(IMAGES, tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def written(capsys: pytest.CaptureFixture[str], *options: object) -> dict[str, Any]:
    """The config that the command writes, as YAML reads it."""
    said = run(capsys, "init", "mine", *options)
    assert said.splitlines()[-1] == "snakemake --profile local --configfile config/mine.yaml"
    load_config("config/mine.yaml")
    config = yaml.safe_load(Path("config/mine.yaml").read_text())
    Path("config/mine.yaml").unlink()
    assert config.pop("run") == "mine"
    return config


@pytest.mark.parametrize("track", TRACKS)
def test_a_template_is_small_valid_and_what_is_written_without_options(
    track: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (TEMPLATES / f"{track}.yaml").read_text()
    assert len(text.splitlines()) <= 32
    template = yaml.safe_load(text)
    assert getattr(resolve_config(template), track) is not None
    del template["run"]
    if track == "clip":
        template["clip"] |= {
            "datasets": {"images": {"source": "folder", "path": "images", "test_share": 0.5}},
            "shots": [1, 2],  # of four images of each class
        }
    options = ("--images", "images") if track == "clip" else ()
    assert written(capsys, "--track", track, *options) == template


def test_models_of_one_s_own_take_the_place_of_the_template_s(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "my model: #1").mkdir()
    for track in ("fusion", "distill"):
        config = written(capsys, "--track", track, "--large", "my model: #1", "--base", "me/small@main")
        assert config["models"] == {
            "large": {"source": "path", "path": "my model: #1"},
            "small": {"source": "hub", "id": "me/small", "revision": "main"},
        }
        assert config["tasks"]["sst2"]["harness"] == "sst2_reviews"


def test_a_task_of_the_library_is_used_everywhere(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(capsys, "--task", "sciq_passages")
    assert config["tasks"].keys() == config["experts"].keys() == {"sciq_passages"}
    entry = config["tasks"]["sciq_passages"]
    assert entry.pop("harness") == "sciq_passages"
    assert sum(entry[split] for split in ("train", "validation", "test")) <= 376, "all that there are"
    assert config["experts"]["sciq_passages"]["tasks"] == ["sciq_passages"]
    assert config["models"]["small"]["heal"]["tasks"] == ["sciq_passages"]
    assert "sst2" not in json.dumps(config)


def test_a_task_of_the_harness_is_used_by_its_name(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = written(capsys, "--task", "gsm8k")["tasks"]["gsm8k"]
    assert entry.pop("harness") == "gsm8k"
    assert entry.keys() == {"train", "validation", "test"}


# Answers of a file; and generated texts -> the answer that is found, and whether it is that of the second row.
FORMS = [
    (
        ["3", "-4", "2.5"],
        {
            " -4": ("-4", 1.0),
            "-4.0 apples": ("-4.0", 1.0),
            "4": ("4", 0.0),
            "minus 4": (INVALID, 0.0),
            "": (INVALID, 0.0),
        },
    ),
    (
        ["a", "a b", "no"],
        {" A b, of course": ("A b", 1.0), "a": ("a", 0.0), "ab": (INVALID, 0.0), "I say a b": (INVALID, 0.0)},
    ),
    (
        [f"The city of {number}" for number in range(30)],
        {
            "city of 1.": ("city of 1.", 1.0),
            "the City\tof 1\nYes": ("the City\tof 1", 0.0),
            "a b c d e f": (INVALID, 0.0),
        },
    ),
]


@pytest.mark.parametrize(("answers", "texts"), FORMS, ids=["number", "choice", "text"])
def test_lines_of_one_s_own_are_a_task(
    answers: list[str], texts: dict[str, Any], checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The harness finds answers of the file's form in what models generate, and tells others apart."""
    rows = [{"prompt": f"What is {number}?", "answer": f"{answers[number % len(answers)]} "} for number in range(60)]
    write_lines(checkout / "sst2/my lines.jsonl", rows)
    config = written(capsys, "--task", "sst2/my lines.jsonl")
    task = config["tasks"]["my_lines"]
    assert (task["harness"], task["include_path"]) == ("my_lines", "config/mine_tasks")
    assert task["train"] + task["validation"] + task["test"] == 60
    assert min(task["train"], task["validation"], task["test"]) >= 6
    assert config["fusion"]["methods"]["dynamic"]["experts"] == ["my_lines"]
    loaded = index_folders(["config/mine_tasks"]).load(["my_lines"])
    (leaf,) = loaded["tasks"].values()
    for text, (found, right) in texts.items():
        told = lm_eval.evaluate(Parrot(text), loaded, samples={"my_lines": [1]}, bootstrap_iters=0, log_samples=True)
        (sample,) = told["samples"]["my_lines"]
        assert sample["arguments"][0][0] == "What is 1?"
        assert leaf.doc_to_target(sample["doc"]) == answers[1]
        assert (sample["filtered_resps"], sample["exact_match"]) == ([found], right), text


class Parrot(LM):
    """Always generates the same."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
        return [self.text for _ in requests]

    def loglikelihood(self, requests: list[Any], **_: Any) -> list[Any]:
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


@pytest.mark.parametrize("name", ["1", "null", "yes", "2020-01-01", "0x10"])
def test_a_file_may_be_named_as_yaml_writes_other_things(
    name: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"What is {number}?", "answer": str(number)} for number in range(40)]
    write_lines(checkout / f"{name}.jsonl", rows)
    config = written(capsys, "--task", f"{name}.jsonl")
    assert [*config["tasks"], *config["experts"], *config["models"]["small"]["heal"]["tasks"]] == [name] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("../up",), "NAME is '../up'"),
        (("mine", "--large", "no/folder", "--base", "images"), "There is no folder no/folder"),
        (("mine", "--large", "images"), "--base MODEL"),
        (("mine", "--task", "sumz"), "There is no task 'sumz': did you mean "),
        (("mine", "--task", "truthfulqa_mc1"), "'truthfulqa_mc1' has no training split"),
        (("mine", "--task", "taken.jsonl"), "config/mine_tasks/taken.yaml is there already"),
        (("mine", "--task", "few.jsonl"), "at least 10"),
        (("mine", "--task", "wrong.jsonl"), 'needs a text under "answer"'),
        (("mine", "--task", "lines.jsonl"), "lines.jsonl, line 2, needs an answer of one line"),
        (("mine", "--task", "blank.jsonl"), "blank.jsonl, line 2, needs an answer of one line"),
        (("mine", "--task", "days.jsonl"), 'nothing but times under "answer" (2024-01-01)'),
        (("mine", "--task", "no.jsonl"), "no.jsonl does not exist"),
        (("mine", "--task", "chats.jsonl"), "chats.jsonl, line 1, is a chat, which is learned from and not measured"),
        (("mine", "--images", "images"), "--images is of the tracks clip"),
        (("mine", "--track", "clip"), "--images DIR"),
        (("mine", "--track", "clip", "--images", "no"), "The image folder no is not there"),
        (("mine", "--track", "clip", "--images", "one"), "has one class"),
        (("mine", "--track", "clip", "--images", "images", "--clip", "one"), "holds no CLIP"),
        (("mine", "--track", "clip", "--images", "void"), "void/disc has no images"),
        (("mine", "--track", "clip", "--images", "single"), "single/disc has one image"),
        (("mine", "--track", "clip", "--images", "split"), "are splits, not classes: test, train"),
        (("there",), "config/there.yaml is there already"),
        (("mine", "--output", "/dev/fd/1"), "is a pipe or a device, and a config is kept"),
        (("done",), "results/done is there already"),
        (("other",), "The run of config/there.yaml is named other too"),
    ],
)
def test_what_can_not_be_written_is_refused_and_nothing_is_written(
    options: tuple[str, ...], words: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "config/mine_tasks").mkdir()
    (checkout / "config/mine_tasks/taken.yaml").touch()
    write_lines(checkout / "taken.jsonl", [{"prompt": str(number), "answer": "b"} for number in range(20)])
    (checkout / "one").mkdir()
    shutil.copytree(IMAGES / "bar", checkout / "one/bar")
    for split in ("train", "test"):
        shutil.copytree(IMAGES, checkout / "split" / split)
    for folder in ("void", "single"):
        shutil.copytree(IMAGES / "bar", checkout / folder / "bar")
        (checkout / folder / "disc").mkdir()
    shutil.copy(IMAGES / "disc/0.png", checkout / "single/disc")
    (checkout / "results/done").mkdir(parents=True)
    (checkout / "config/there.yaml").write_text("run: other # than its file\n")
    write_lines(checkout / "few.jsonl", [{"prompt": "a", "answer": "b"}])
    write_lines(checkout / "wrong.jsonl", [{"prompt": "a"}])
    for name, answer in (("lines", "b\nc"), ("blank", " ")):
        write_lines(checkout / f"{name}.jsonl", [{"prompt": "a", "answer": "b"}, {"prompt": "c", "answer": answer}])
    days = [{"prompt": str(day), "answer": f"2024-01-{day:02d}"} for day in range(1, 30)]
    write_lines(checkout / "days.jsonl", days)
    write_lines(checkout / "chats.jsonl", [{"messages": [{"role": "user", "content": "a"}]}])
    assert words in refuse(capsys, "init", *options)
    assert sorted(path.name for path in (checkout / "config").rglob("*")) == ["mine_tasks", "taken.yaml", "there.yaml"]
    assert (checkout / "config/there.yaml").read_text() == "run: other # than its file\n"


def test_outside_of_a_checkout_a_place_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--output FILE" in refuse(capsys, "init", "mine")
    said = run(capsys, "init", "mine", "--output", "mine.yaml")
    assert load_config(tmp_path / "mine.yaml").run == "mine"
    assert str(tmp_path / "mine.yaml") in said
    assert "a checkout of logitfusion" in said.splitlines()[-1]


@pytest.mark.parametrize(
    "value", ["yes", "a: b", "#", "-", "1e-4", "0o7", "~", "é", "", "x#y", "a, b", "2020-01-01", 3, [1], {"a": {}}]
)
def test_values_are_read_as_they_were_written(value: Any) -> None:
    assert yaml.safe_load(f"key: {write_value(value)}") == {"key": value}
    assert yaml.safe_load(f"key: {write_value({'inner': [value]})}") == {"key": {"inner": [value]}}


def test_models_of_the_templates_are_the_demo_s() -> None:
    """Digests that are checked by every run of the demo."""
    demo = yaml.safe_load((ROOT / "config/config.yaml").read_text())["models"]
    for track in ("fusion", "distill"):
        models = yaml.safe_load((TEMPLATES / f"{track}.yaml").read_text())["models"]
        assert models["large"] == demo["large"]
        assert models["small"]["layers"] == demo["small"]["layers"]


# What a template plans, but for the packages, the table, the page and the target.
JOBS = {
    "fusion": {
        "model": 2, "task": 1, "expert": 1, "tune": 1, "decode": 1, "evaluate": 1,
        "plot_losses": 1, "plot_methods": 1, "plot_traces": 1, "plot_tuning": 1,
    },
    "distill": {
        "model": 2, "task": 1, "teacher_cache": 1, "student": 3, "answer": 5, "evaluate_students": 1,
        "plot_losses": 1, "plot_students": 1, "plot_student_losses": 1,
    },
    "clip": {
        "fetch_encoder": 2, "clip_data": 1, "clip_encoder": 1, "clip_support": 1, "clip_test": 1, "clip_fit": 4,
        "clip_predict": 1, "plot_clip": 1, "plot_clip_answers": 1,
    },
}  # fmt: skip


@pytest.mark.workflow
def test_a_template_plans_what_it_needs_and_nothing_else(tmp_path: Path) -> None:
    folder = copy_checkout(tmp_path)
    configs = [yaml.safe_load((TEMPLATES / f"{track}.yaml").read_text()) | {"run": track} for track in JOBS]
    found = dict(zip(JOBS, plans(folder, configs), strict=True))
    jobs = {track: Counter(job["rule"] for job in plan if job["rule"] != "package") for track, plan in found.items()}
    every = {"fetch": 1, "metrics": 1, "index": 1, "all": 1}
    assert jobs == {track: expected | every for track, expected in JOBS.items()}


@pytest.fixture(scope="module")
def small_checkout(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Path:
    """A checkout with models, lines, images and encoders so small that a run takes a minute."""
    folder = copy_checkout(tmp_path_factory.mktemp("start"))
    for name in ("large", "base"):
        shutil.copytree(tiny_models[name], folder / f"my/{name}")
    rows = [{"prompt": f"{number} is", "answer": ("odd", "even")[number % 2 == 0]} for number in range(40)]
    write_lines(folder / "my/parity.jsonl", rows)
    (folder / "my/clip").mkdir()
    make_random_clip(folder / "my/clip", 0)
    write_image_tower(folder / "my/tower.safetensors", "test_efficientnet", 0)
    return folder


MODELS = ("--large", "my/large", "--base", "my/base", "--task", "my/parity.jsonl")
OPTIONS = {
    "fusion": MODELS,
    "distill": MODELS,
    "clip": (
        "--images", "config/smoke_images/bright", "--clip", "my/clip",
        "--auxiliary", "checkpoint:test_efficientnet:my/tower.safetensors",
    ),
}  # fmt: skip


@pytest.mark.start
@pytest.mark.parametrize("track", TRACKS)
def test_what_init_writes_runs_to_its_end(
    track: str, small_checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(small_checkout)
    said = run(capsys, "init", f"my-{track}", "--track", track, *OPTIONS[track])
    done = snakemake(small_checkout, *said.splitlines()[-1].split()[3:], "--cores", "2")
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    table = pd.read_csv(small_checkout / f"results/my-{track}/metrics.csv")
    assert set(table["track"]) == {track}
    assert set(load_config(f"config/my-{track}.yaml").dump()[track]["methods"]) <= set(table["method"])
    assert not {"gap_closure", "score_ratio"} & set(table["metric"])
    if track == "clip":  # a CLIP that the workflow made, by its path
        _use_the_run_s_clip(small_checkout, capsys)


def _use_the_run_s_clip(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = "results/my-clip/clip/encoder"
    run(capsys, "init", "again", "--track", "clip", *OPTIONS["clip"][:2], "--clip", made, *OPTIONS["clip"][4:])
    done = snakemake(folder, "--configfile", "config/again.yaml", "--cores", "2", "results/again/clip/test/images")
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    prints = {
        json.loads((folder / path / "stage.json").read_text())["fingerprint"]
        for path in (made, "results/again/clip/encoder")
    }
    assert len(prints) == 1
    run(capsys, "fewshot", "fit", "--images", "config/smoke_images/bright", "--clip", made, "--method", "gda",
        "--output", "head.safetensors")  # fmt: skip
    assert (folder / "head.safetensors").is_file()
