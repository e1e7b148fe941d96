"""Finished runs are put together example by example and compared; runs that are not one comparison are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from checkout import ROOT
from judged_tasks import make_judged
from scipy import stats

from logitfusion import cli
from logitfusion.cli._finished_run import read_run
from logitfusion.config.jobs.report import metrics_job
from logitfusion.config.load import resolve_config, write_once
from logitfusion.config.run import RunConfig
from logitfusion.errors import UserError
from logitfusion.evaluate.compare import Comparison, compare_runs
from logitfusion.evaluate.corrections import correct_holm
from logitfusion.evaluate.fewshot import tabulate_fewshot
from logitfusion.evaluate.fusion import tabulate_fusion
from logitfusion.evaluate.run_tables import RunTables
from logitfusion.evaluate.scores import JudgedTask
from logitfusion.evaluate.students import tabulate_students
from logitfusion.evaluate.table import Provenance
from logitfusion.tables import write_table

TRACKS = ("fusion", "distill", "clip")
# How often each method is right; those that are not trained are alike in all runs.
RIGHT = {"large": 0.4, "proxy": 0.5, "tuned": 0.55, "dynamic_multi": 0.5, "gate": 0.85, "ceiling": 0.9}
UNTRAINED = ("large",)


def config_of(seed: int, *tracks: str, **changes: object) -> RunConfig:
    """The smoke config with some tracks, as one run of a study."""
    config = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    kept = {key: value for key, value in config.items() if key not in TRACKS or key in tracks}
    return resolve_config(kept | {"run": f"study{seed}", "seed": seed} | changes)


def judged_of(seed: int, methods: Sequence[str] = tuple(RIGHT), size: int = 60, task: int = 0) -> JudgedTask:
    """Methods that have an example right by their own share, the harder examples less often."""
    hard = np.random.default_rng(task).random(size)
    marks = {}
    for place, method in enumerate(RIGHT):
        rng = np.random.default_rng([task, place, 99 if method in UNTRAINED else seed])
        marks[method] = list(map(float, 0.7 * hard + 0.3 * rng.random(size) < RIGHT[method]))
    return make_judged({method: marks[method] for method in methods}, "exact_match")


def fusion_run(seed: int, **changes: object) -> RunTables:
    tasks = {"sums": judged_of(seed), "letters": judged_of(seed, task=1)}
    return RunTables(config=config_of(seed, "fusion", **changes), digest="c", commit="d", fusion=tasks)


@pytest.fixture(scope="module")
def study() -> list[RunTables]:
    return [fusion_run(seed) for seed in (0, 1, 2)]


def found(comparison: Comparison, **cells: object) -> pd.Series:
    table = comparison.table()
    for column, value in cells.items():
        table = table[table[column] == value]
    (row,) = table.to_dict("records")
    return pd.Series(row)


def marks(run: RunTables, task: str, method: str) -> np.ndarray:
    return run.fusion[task].by_document("score").loc[method].to_numpy(float)


# ---- the numbers


def test_scores_and_differences_are_means_over_runs(study: list[RunTables]) -> None:
    row = found(compare_runs(study), task="sums", method="gate", rival="large")
    gate, large = (np.stack([marks(run, "sums", method) for run in study]) for method in ("gate", "large"))
    assert row["score"] == pytest.approx(gate.mean())
    assert row["difference"] == pytest.approx((gate - large).mean())
    assert (row["n"], row["runs"], row["seeds"]) == (60, 3, 1)
    assert row["joint_low"] < row["low"] < row["difference"] < row["high"] < row["joint_high"]
    assert row["verdict_of_these"] == "higher"
    ceiling = np.stack([marks(run, "sums", "ceiling") for run in study])
    assert row["gap_closure"] == pytest.approx((gate - large).mean() / (ceiling - large).mean())
    assert row["score_ratio"] == pytest.approx(gate.mean() / ceiling.mean())
    assert row["closure_low"] < row["gap_closure"] < row["closure_high"]


def test_the_rivals_are_the_fixed_weight_the_large_model_and_the_paper_s_rule(study: list[RunTables]) -> None:
    table = compare_runs(study).table()
    assert set(table[table["method"] == "gate"]["rival"]) == {"proxy", "large"}, "no method of it is the paper's rule"
    assert table[table["method"] == "ceiling"]["rival"].isna().all()
    pairs = table.dropna(subset=["rival"])[["task", "method", "rival"]].to_numpy()
    assert len({(task, frozenset(pair)) for task, *pair in pairs}) == len(pairs), "each pair once"
    assert (table["comparisons"].dropna() == len(pairs)).all()


def test_what_is_compared_can_be_chosen(study: list[RunTables]) -> None:
    table = compare_runs(study, baselines=["tuned"], methods=["gate"], tasks=["sums"]).table()
    row = table.dropna(subset=["rival"]).iloc[0]
    assert (row["method"], row["rival"], row["comparisons"]) == ("gate", "tuned", 1)
    assert row["p_holm"] == row["p_value"]
    for asked in ({"baselines": ["nobody"]}, {"methods": ["nobody"]}, {"tasks": ["nobody"]}):
        with pytest.raises(UserError, match=r"no .* 'nobody'; known are "):
            compare_runs(study, **asked)


def test_what_is_named_twice_is_compared_once(study: list[RunTables]) -> None:
    """Holm's correction counts it once, too."""
    once = compare_runs(study, baselines=["large"], methods=["gate"]).table()
    twice = compare_runs(study, baselines=["large", "large"], methods=["gate", "gate"]).table()
    pd.testing.assert_frame_equal(once, twice)


def test_p_values_are_corrected_over_the_table(study: list[RunTables]) -> None:
    table = compare_runs(study).table().dropna(subset=["rival"])
    for raw, corrected in (("p_value", "p_holm"), ("p_examples", "p_examples_holm")):
        assert table[corrected].to_numpy() == pytest.approx(correct_holm(table[raw].to_numpy()))
    shown = table["verdict"].isin(["higher", "lower"])
    assert shown.equals(table["p_holm"] < 0.05)


def test_no_order_changes_a_number(study: list[RunTables]) -> None:
    rng = np.random.default_rng(0)

    def shuffle(task: JudgedTask) -> JudgedTask:
        return replace(task, examples=task.examples.sample(frac=1, random_state=rng))

    def turn(run: RunTables) -> RunTables:
        fusion = run.config.fusion
        methods = dict(reversed(fusion.methods.items()))
        config = run.config.model_copy(update={"fusion": fusion.model_copy(update={"methods": methods})})
        return replace(run, config=config, fusion={name: shuffle(task) for name, task in run.fusion.items()})

    key = ["track", "task", "method", "rival"]
    ours, theirs = (
        compare_runs(runs).table().sort_values(key, ignore_index=True)
        for runs in (study, [turn(run) for run in reversed(study)])
    )
    pd.testing.assert_frame_equal(ours, theirs)


def test_one_run_is_the_paired_t_test_but_for_half_an_example_each_way() -> None:
    run = fusion_run(0)
    row = found(compare_runs([run]), task="sums", method="gate", rival="large")
    differences = marks(run, "sums", "gate") - marks(run, "sums", "large")
    squares = ((differences - differences.mean()) ** 2).sum() + 1
    t = differences.mean() / np.sqrt(squares / (60 * 59))
    assert row["p_value"] == pytest.approx(2 * stats.t.sf(t, 59))
    assert row["p_examples"] == pytest.approx(row["p_value"])


def test_averages_are_over_seen_and_over_unseen_tasks() -> None:
    changes = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    tasks = changes["tasks"] | {"more": changes["tasks"]["letters"]}
    judged = {"sums": judged_of(0), "letters": judged_of(0, task=1), "more": judged_of(0, task=2)}
    run = RunTables(config=config_of(0, "fusion", tasks=tasks), digest="c", commit="d", fusion=judged)
    comparison = compare_runs([run])
    row = found(comparison, task="unseen tasks", method="gate", rival="large")
    parts = [(marks(run, name, "gate") - marks(run, name, "large")).mean() for name in ("letters", "more")]
    assert row["difference"] == pytest.approx(np.mean(parts))
    assert row["n"] == 120
    assert "seen tasks" not in set(comparison.table()["task"]), "one task has no average"


def test_a_score_that_is_no_mean_has_no_interval_and_is_not_counted(study: list[RunTables]) -> None:
    run = fusion_run(0)
    task = run.fusion["letters"]
    task.scores["gate"] = [replace(task.scores["gate"][0], value=0.123)]
    table = compare_runs([run]).table()
    rows = table[(table["task"] == "letters") & (table["method"] == "gate")]
    assert (rows["score"] == 0.123).all()
    assert rows[["score_low", "p_value", "p_holm", "smallest"]].isna().all(axis=None)
    assert (rows["verdict"] == "no interval").all()
    tested = table["p_value"].notna().sum()
    assert (table["comparisons"].dropna() == tested).all()


def student_run(seed: int) -> RunTables:
    names = [
        "small",
        "large",
        "stranger",
        *(f"{name}.{trial}" for name in ("sft", "gld_vocab", "gld_rank") for trial in (0, 1)),
    ]
    rng = np.random.default_rng(seed)
    judged = make_judged({name: list(map(float, rng.random(30) < 0.5)) for name in names})
    return RunTables(config=config_of(seed, "distill"), digest="c", commit="d", students={"sums": judged})


def test_students_are_compared_over_seeds_within_runs() -> None:
    runs = [student_run(seed) for seed in (0, 1)]
    row = found(compare_runs(runs), task="sums", method="gld_rank", rival="sft")
    score = {
        name: np.mean([run.students["sums"].by_document("score").loc[[f"{name}.0", f"{name}.1"]] for run in runs])
        for name in ("gld_rank", "sft")
    }
    assert row["difference"] == pytest.approx(score["gld_rank"] - score["sft"])
    assert (row["runs"], row["seeds"], row["comparisons"]) == (2, 2, 2)
    assert row["smallest_of_these"] < row["smallest"]


def fewshot_run(seed: int) -> RunTables:
    rng = np.random.default_rng(seed)
    answers = [
        {"method": method, "shots": shots, "seed": draw, "set": name, "id": f"{image}.png", "label": image % 3,
         "correct": bool(rng.random() < 0.6), "probability": 0.6}
        for method in ("zero_shot", "amu") for shots in (1, 2) for draw in (0, 1) for name in ("shapes", "dark")
        for image in range(12)
    ]  # fmt: skip
    return RunTables(config=config_of(seed, "clip"), digest="c", commit="d", fewshot={"shapes": pd.DataFrame(answers)})


def test_few_shot_methods_are_compared_at_each_number_of_shots() -> None:
    run = fewshot_run(0)
    table = compare_runs([run]).table().dropna(subset=["rival"])
    assert set(zip(table["task"], table["shots"], strict=True)) == {
        (name, k) for name in ("shapes", "dark") for k in (1, 2)
    }
    assert (table["comparisons"] == 2).all(), "one correction for each number of shots"
    answers = run.fewshot["shapes"]
    mine = answers[(answers["set"] == "dark") & (answers["shots"] == 2)].groupby("method")["correct"].mean()
    row = table[(table["task"] == "dark") & (table["shots"] == 2)].iloc[0]
    assert row["difference"] == pytest.approx(mine["amu"] - mine["zero_shot"])


# ---- what is refused


def test_runs_with_another_config_are_refused_by_key(study: list[RunTables]) -> None:
    other = fusion_run(3, evaluate={"resamples": 300})
    with pytest.raises(UserError, match=r"evaluate.resamples is 200 in the first and 300 in the other"):
        compare_runs([study[0], other])


def test_only_seeds_that_are_those_of_the_run_may_differ(study: list[RunTables]) -> None:
    smoke = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    fixed = [smoke["experts"] | {"sums": smoke["experts"]["sums"] | {"seed": seed}} for seed in (7, 8)]
    with pytest.raises(UserError, match=r"experts.sums.seed is 7 in the first and 8 in the other"):
        compare_runs([fusion_run(seed, experts=experts) for seed, experts in enumerate(fixed)])
    compare_runs([fusion_run(seed, experts=fixed[0]) for seed in (0, 1)])


def test_the_same_seed_twice_is_one_training(study: list[RunTables]) -> None:
    with pytest.raises(UserError, match="'study0' and 'study0' have the same seed 0"):
        compare_runs([study[0], study[0]])
    with pytest.raises(UserError, match="no run"):
        compare_runs([])


def test_other_documents_are_refused_by_number(study: list[RunTables]) -> None:
    fewer = replace(study[1], fusion=study[1].fusion | {"sums": judged_of(1, size=59)})
    with pytest.raises(UserError, match=r"fusion task 'sums': only one has document 59 of 't' \(1 such\)"):
        compare_runs([study[0], fewer])
    changed = judged_of(1)
    changed.examples.loc[changed.examples["id"] == 17, "prompt"] = "another"
    with pytest.raises(UserError, match=r"fusion task 'sums': document 17 of 't' differs \(1 such\)"):
        compare_runs([study[0], replace(study[1], fusion=study[1].fusion | {"sums": changed})])


# ---- the command


def tabulate(run: RunTables) -> pd.DataFrame:
    """The tidy table of a run."""
    job, settings = metrics_job(run.config), run.config.evaluate
    source = Provenance(run=run.config.run, split="test", config=job.config, commit=run.commit)
    epochs = pd.DataFrame(columns=["method", "shots", "seed", "set", "epoch", "accuracy"])
    fits = pd.DataFrame(columns=["method", "shots", "seed", "seconds", "images"])
    tables = [tabulate_fusion(dict(run.fusion), job.fusion, settings, source)] if run.fusion else []
    tables += [tabulate_students(dict(run.students), job.distill, settings, source)] if run.students else []
    for name, answers in run.fewshot.items():
        tables.append(tabulate_fewshot(answers, epochs, fits, job.clip.sets[name], job.clip, settings, source))
    return pd.concat(tables, ignore_index=True)


def write_run(folder: Path, run: RunTables) -> str:
    """The folder of a finished run, as far as the command reads it."""
    place = folder / run.config.run
    write_once(place / "config", run.config)
    write_once(place / "config", run.config.model_copy(update={"seed": 77}))  # it was begun with another config
    for folder, tasks in (("evaluation", run.fusion), ("distill/evaluation", run.students)):
        for task, judged in tasks.items():
            (place / folder).mkdir(parents=True, exist_ok=True)
            judged.write(place / folder / f"{task}.parquet", place / folder / f"{task}.json")
    for name, answers in run.fewshot.items():
        (place / f"clip/predictions/{name}").mkdir(parents=True)
        write_table(answers, place / f"clip/predictions/{name}/answers.parquet")
    write_table(tabulate(run), place / "metrics.parquet")
    return str(place)


def test_the_command_reads_folders_and_writes_tables(
    study: list[RunTables], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [write_run(tmp_path, run) for run in study]
    files = ["--csv", str(tmp_path / "table.csv"), "--json", str(tmp_path / "table.json")]
    assert cli.main(["compare", *folders, "--method", "gate", "tuned", *files]) == 0
    said = capsys.readouterr().out
    assert said.startswith("study0 (seed 0), study1 (seed 1), study2 (seed 2)")
    assert "fusion: 3 runs, 95% intervals over examples and trainings" in said
    assert "after Holm's correction for 8 comparisons" in said
    expected = compare_runs(study, methods=["gate", "tuned"]).table()
    written = pd.read_csv(tmp_path / "table.csv")
    assert written["difference"].to_numpy() == pytest.approx(expected["difference"].to_numpy(), nan_ok=True)
    told = json.loads((tmp_path / "table.json").read_text())
    assert [run["run"] for run in told["runs"]] == ["study0", "study1", "study2"]
    assert len(told["rows"]) == len(expected)


def test_every_track_is_read_from_its_folder(tmp_path: Path) -> None:
    for run in (student_run(0), fewshot_run(1)):
        found = compare_runs([read_run(Path(write_run(tmp_path, run)))]).table()
        pd.testing.assert_frame_equal(found, compare_runs([run]).table())


@pytest.mark.parametrize("change", ["other answers", "a method less"])
def test_answers_of_a_later_call_that_was_stopped_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    """The metrics, and with them the name of the config, are still those of the call before."""
    place = write_run(tmp_path, fusion_run(0))
    later = judged_of(5) if change == "other answers" else judged_of(0, [name for name in RIGHT if name != "gate"])
    later.write(tmp_path / "study0/evaluation/sums.parquet", tmp_path / "study0/evaluation/sums.json")
    assert cli.main(["compare", place]) == 1
    assert "was changed after its metrics were made: '" in capsys.readouterr().err


def test_runs_of_different_code_are_told(
    study: list[RunTables], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [write_run(tmp_path, study[0]), write_run(tmp_path, replace(study[1], commit="e"))]
    assert cli.main(["compare", *folders, "--method", "gate"]) == 0
    assert "made by different commits (study0 by d, study1 by e)" in capsys.readouterr().out.splitlines()[1]


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "begun").mkdir()
    for name, words in (("nothing", "There is no run"), (str(tmp_path / "begun"), "it is not finished")):
        assert cli.main(["compare", name]) == 1
        assert words in capsys.readouterr().err.splitlines()[-1]
    place = Path(write_run(tmp_path, fusion_run(5)))
    for path in (place / "config").iterdir():
        path.unlink()
    assert cli.main(["compare", str(place)]) == 1
    assert "no config/*.json of its metrics" in capsys.readouterr().err
