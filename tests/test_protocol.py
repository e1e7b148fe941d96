"""A frozen comparison: what it holds, what is refused before a test split is decoded, and what is remembered."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import pytest
import yaml
from checkout import ROOT, copy_checkout, snakemake

from logitfusion.config import load
from logitfusion.config.jobs import clip, distill, fusion, models
from logitfusion.config.jobs.clip import PredictJob
from logitfusion.config.jobs.protocol import frozen_values, standing
from logitfusion.config.jobs.report import metrics_job
from logitfusion.config.run import RunConfig
from logitfusion.config.section import Section, canonical
from logitfusion.errors import UserError
from logitfusion.protocol.admission import begin_decoding, check, make_job
from logitfusion.protocol.frozen import first_difference, freeze_run, read_frozen
from logitfusion.protocol.records import read_decoded, records_folder
from logitfusion.stages import clip_predict
from logitfusion.stages.metrics import _provenance

FROZEN = "config/frozen.json"
STUDY = {"comparison": "study", "frozen": FROZEN}
GIT = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org")


def config(protocol: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The smoke config with a protocol and other values; keys are dotted paths."""
    plain = yaml.safe_load((ROOT / "config/smoke.yaml").read_text()) | {"protocol": STUDY | (protocol or {})}
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = plain
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = value
    return plain


def resolve(protocol: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    return load.resolve_config(config(protocol, **changes))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where somebody works: configs in a git repository, no results yet."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    write_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    subprocess.run([*GIT, "init", "--quiet"], check=True)
    return tmp_path


def write_config(folder: Path, name: str = "mine.yaml", **changes: Any) -> str:
    (folder / "config" / name).write_text(yaml.safe_dump(config(**changes), sort_keys=False))
    return f"config/{name}"


def commit() -> None:
    subprocess.run([*GIT, "add", "--all"], check=True)
    subprocess.run([*GIT, "commit", "--quiet", "--message", "Freeze"], check=True)


def freeze(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    return commands.run(capsys, "freeze", *(arguments or ("config/mine.yaml",)))


def refused(run: RunConfig) -> str:
    with pytest.raises(UserError) as caught:
        check(make_job(run), run)
    return str(caught.value)


def begin(run: RunConfig) -> None:
    begin_decoding(make_job(run))


# ---- what is frozen -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"run": "other"},
        {"report__trace_examples": 4},
        {"protocol__exploratory": True},
        {"fusion__shards": 3},
        {"fusion__batch_size": "auto"},
        {"fusion__speculative": True},
        {"fusion__methods__proxy__gpus": 2},
        {"distill__split": "validation"},
        {"distill__cache__batch_size": 2},
        {"distill__training__processes": 2},
        {"experts__sums__gradient_checkpointing": True},
        {"clip__batch_size": 8},
        {"clip__shown": "zero_shot"},
    ],
    ids=str,
)
def test_what_changes_no_meaning_is_not_frozen(change: dict[str, Any]) -> None:
    assert frozen_values(resolve(**change)) == frozen_values(resolve())


def without_fits() -> dict[str, Any]:
    """Methods that may decode validation documents: no gate is fitted on them."""
    methods = config()["fusion"]["methods"]
    del methods["gate"]
    return {"fusion__methods": methods}


def test_validation_documents_are_decoded_by_what_is_frozen() -> None:
    run, looked = resolve(**without_fits()), resolve(fusion__split="validation", **without_fits())
    assert frozen_values(looked) == frozen_values(run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("experts.sums.learning_rate", 0.5),
        ("models.small.heal.steps", 5),
        ("tasks.sums.test", 9),
        ("fusion.methods.gate.tune.ridges", [1.0]),
        ("fusion.attention", "eager"),
        ("distill.training.batch_size", 4),
        ("clip.methods.amu.epochs", 3),
        ("clip.methods.amu.alpha", 0.25),
        ("evaluate.resamples", 300),
        ("seed", 1),
    ],
)
def test_what_decides_answers_is_frozen_and_named(key: str, value: Any) -> None:
    found = first_difference(freeze_run(resolve()), freeze_run(resolve(**{key.replace(".", "__"): value})))
    assert found is not None
    if key != "seed":  # which seeds that are left out follow
        assert (found.key, found.second) == (key, json.dumps(value))


def sections(value: Any) -> Iterator[Section]:
    if isinstance(value, Section):
        yield value
        value = {name: getattr(value, name) for name in type(value).model_fields}
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ():
        yield from sections(inner)


def test_no_section_freezes_where_it_is_computed() -> None:
    def keys(value: Any) -> Iterator[str]:
        for key, inner in value.items() if isinstance(value, dict) else ():
            yield key
            yield from keys(inner)

    run = resolve()
    there = {name for section in sections(run) for name in type(section).model_fields}
    computing = {"gpus", "shards", "processes", "sharded", "gradient_checkpointing", "speculative", "report_to"}
    assert computing <= there
    assert computing.isdisjoint(keys(frozen_values(run)))


def test_the_order_of_keys_is_not_frozen() -> None:
    def turned(value: Any) -> Any:
        return {key: turned(inner) for key, inner in reversed(value.items())} if isinstance(value, dict) else value

    assert freeze_run(load.resolve_config(turned(config(clip__shown="amu")))) == freeze_run(resolve())


def test_files_that_the_config_names_are_frozen(folder: Path) -> None:
    before = freeze_run(resolve())
    for name, key in {"chats.jsonl": "tasks.chats", "letters.jsonl": "tasks.letters"}.items():
        path = folder / "config/smoke_tasks" / name
        text = path.read_text()
        path.write_text(text + text.splitlines()[0] + "\n")
        assert first_difference(before, freeze_run(resolve())).key == f"files of {key}"
        path.write_text(text)
    assert freeze_run(resolve()) == before


# ---- logitfusion freeze ---------------------------------------------------------------------------------------------


def test_freezing_again_changes_nothing_and_says_what_would_differ(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "smoke: new" in freeze(capsys)
    before = (folder / FROZEN).read_bytes()
    assert "smoke: unchanged" in freeze(capsys)
    assert (folder / FROZEN).read_bytes() == before
    write_config(folder, experts__sums__learning_rate=0.5)
    assert "smoke: changed, first experts.sums.learning_rate: 0.5 (before 0.001)" in freeze(capsys)
    changed = {*(folder / FROZEN).read_text().splitlines()} - {*before.decode().splitlines()}
    assert '"learning_rate": 0.5,' in {line.strip() for line in changed}


def test_runs_are_frozen_one_by_one_or_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    freeze(capsys)
    freeze(capsys, "config/mine.yaml", "--config", "run=second", "seed=1")
    (folder / "config/longer.yaml").write_text("experts: {sums: {steps: 6}}")
    third = write_config(folder, "third.yaml", run="third")
    freeze(capsys, "config/mine.yaml", third, "config/longer.yaml")
    runs = read_frozen(FROZEN).runs
    assert runs.keys() == {"smoke", "second", "third"}
    assert {name: run.values["seed"] for name, run in runs.items()} == {"smoke": 0, "second": 1, "third": 0}
    assert {name: run.values["experts"]["sums"]["steps"] for name, run in runs.items()} == {
        "smoke": 4,
        "second": 4,
        "third": 6,
    }


def test_what_can_not_be_frozen_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = commands.refuse(capsys, "freeze", "config/smoke.yaml")
    assert "'smoke' has no section protocol" in plain
    other = write_config(folder, "other.yaml", run="other", protocol__comparison="another")
    assert "different comparisons" in commands.refuse(capsys, "freeze", "config/mine.yaml", other)
    assert "'smoke'" in commands.refuse(capsys, "freeze", "config/mine.yaml", "config/mine.yaml")
    assert "KEY=VALUE" in commands.refuse(capsys, "freeze", "config/mine.yaml", "--config", "seed")
    alone = config(fusion__split="validation", **without_fits())
    del alone["distill"], alone["clip"]
    (folder / "config/look.yaml").write_text(yaml.safe_dump(alone))
    assert "decodes no test split" in commands.refuse(capsys, "freeze", "config/look.yaml")


def test_nothing_is_frozen_anew_once_a_test_split_was_decoded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    freeze(capsys)
    commit()
    begin(resolve())
    assert "unchanged" in freeze(capsys)
    for change in ("seed=1", "run=one_more"):
        words = commands.refuse(capsys, "freeze", "config/mine.yaml", "--config", change)
        assert "'study' was decoded on" in words
    (folder / FROZEN).unlink()
    write_config(folder, experts__sums__learning_rate=0.5)
    assert "what is frozen stays" in commands.refuse(capsys, "freeze", "config/mine.yaml")


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_a_comparison_that_is_not_frozen_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'study' is not frozen (config/frozen.json does not exist)" in refused(resolve())
    freeze(capsys)
    assert "is not committed as it stands" in refused(resolve())
    commit()
    assert check(make_job(resolve()), resolve()) == read_frozen(FROZEN)
    assert "'other' is not among those" in refused(resolve(run="other"))
    assert "freezes the comparison 'study', not 'else'" in refused(resolve({"comparison": "else"}))


def test_another_config_is_refused_with_the_key_that_differs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    freeze(capsys)
    commit()
    words = refused(resolve(experts__sums__learning_rate=0.5))
    assert "'experts.sums.learning_rate' is 0.5, and 0.001 is frozen (config/frozen.json)" in words
    more = copy.deepcopy(config()["fusion"]["methods"]) | {"half": {"experts": ["sums"], "weights": 0.5}}
    assert "'fusion.methods.half' is {" in refused(resolve(fusion__methods=more))
    assert "and nothing is frozen" in refused(resolve(fusion__methods=more))
    with (folder / "config/smoke_tasks/chats.jsonl").open("a") as file:
        file.write("\n")
    assert "files of tasks.chats hold something else" in refused(resolve())


def test_a_frozen_file_that_was_edited_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    freeze(capsys)
    commit()
    text = (folder / FROZEN).read_text()
    (folder / FROZEN).write_text(text.replace('"learning_rate": 0.001', '"learning_rate": 0.002'))
    assert "is damaged" in refused(resolve())
    (folder / FROZEN).write_text(text)
    write_config(folder, experts__sums__learning_rate=0.5)
    freeze(capsys)
    assert "is not committed" in refused(resolve(experts__sums__learning_rate=0.5))


def test_outside_of_a_repository_nothing_can_be_checked(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(folder / ".git")
    freeze(capsys)
    check(make_job(resolve()), resolve())
    assert "lies in no git repository" in caplog.text


def test_a_second_configuration_is_refused_and_the_first_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    freeze(capsys)
    commit()
    begin(resolve())
    (record,) = read_decoded(records_folder("study"))
    begin(resolve())
    assert read_decoded(records_folder("study")) == [record], "a job more of the same"
    # Somebody puts the records aside, freezes anew, and puts them back.
    shutil.move("results", "aside")
    write_config(folder, experts__sums__learning_rate=0.5)
    freeze(capsys)
    commit()
    shutil.move("aside", "results")
    words = refused(resolve(experts__sums__learning_rate=0.5))
    assert "Another configuration of the comparison 'study' was decoded" in words
    assert "protocol.exploratory: true" in words


def test_a_stage_is_refused_before_it_reads_anything(folder: Path) -> None:
    arguments = Namespace(protocol=canonical(make_job(resolve())), test=[], support=None, heads=[], output=None)
    with pytest.raises(UserError, match="is not frozen"):
        clip_predict.main(arguments, PredictJob(methods=(), sets=()))


# ---- what is exploratory --------------------------------------------------------------------------------------------


def test_exploration_is_never_refused_and_is_told_by_what_is_frozen_later(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(resolve({"exploratory": True}))
    (record,) = read_decoded(records_folder("study"))
    assert record.exploratory
    assert f"smoke had been decoded as exploratory on {record.date}" in freeze(capsys)
    commit()
    begin(resolve())
    begin(resolve({"exploratory": True}, seed=1))
    begin(resolve())
    assert read_frozen(FROZEN).explored == {"smoke": record.date}


def test_only_numbers_of_a_test_split_have_a_label() -> None:
    for run, label in ((resolve(), "confirmatory"), (resolve({"exploratory": True}), "exploratory")):
        job = metrics_job(run)
        assert _provenance(job, split="test", commit="c").protocol == label
        assert _provenance(job, split="validation", commit="c").protocol is None
        assert (standing(run, "test"), standing(run, "validation")) == (label, None)
    plain = config()
    del plain["protocol"]
    assert metrics_job(load.resolve_config(plain)).protocol is None


def test_only_jobs_that_decode_a_test_split_know_of_the_protocol() -> None:
    def slices(run: RunConfig) -> dict[str, str]:
        jobs = {f"model {name}": models.model_job(run, name) for name in run.models}
        jobs |= {f"expert {name}": models.expert_job(run, name) for name in run.experts}
        jobs |= {"tune": fusion.tune_job(run, "tuned"), "student": distill.student_job(run, "sft")}
        jobs |= {"fit": clip.fit_job(run, "amu"), "decode": fusion.decode_job(run, "sums", ["tuned"])}
        jobs |= {"answer": distill.answer_job(run, "small"), "predict": clip.predict_job(run, ["shapes"])}
        return {name: canonical(job) for name, job in jobs.items()}

    explored, confirmed = slices(resolve({"exploratory": True})), slices(resolve())
    assert {name for name in confirmed if confirmed[name] != explored[name]} == {"decode", "answer", "predict"}
    split = {"fusion__split": "validation", "distill__split": "validation", **without_fits()}
    explored, confirmed = slices(resolve({"exploratory": True}, **split)), slices(resolve(**split))
    assert {name for name in confirmed if confirmed[name] != explored[name]} == {"predict"}
    assert canonical(distill.answer_job(resolve(), "small")).count("study") == 1


def test_an_empty_protocol_is_refused() -> None:
    with pytest.raises(UserError, match="'protocol' is empty"):
        load.resolve_config(config() | {"protocol": None})


# ---- the workflow ---------------------------------------------------------------------------------------------------


@pytest.mark.workflow
def test_a_run_is_refused_before_its_first_job_unless_it_ends_before_the_test(tmp_path: Path) -> None:
    folder = copy_checkout(tmp_path)
    call = ("--configfile", write_config(folder), "--cores", "1")
    dry = snakemake(folder, *call, "--dry-run", "--quiet", "rules")
    assert dry.returncode == 0, dry.stderr
    assert "Test splits would not be decoded. The comparison 'study' is not frozen" in dry.stdout + dry.stderr
    done = snakemake(folder, *call)
    assert done.returncode == 1
    assert "The comparison 'study' is not frozen" in done.stdout + done.stderr
    assert not (folder / "results/smoke").exists(), "no job ran"
    before = snakemake(folder, *call, "--until", "fetch")
    assert before.returncode == 0, before.stderr
    assert (folder / "results/smoke/downloads.json").exists()
