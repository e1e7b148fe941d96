"""The whole workflow as its user runs it: a copy of the checkout, the smoke config, Snakemake as a subprocess."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from checkout import copy_checkout, snakemake

from logitfusion.clip.data import load_data
from logitfusion.clip.support import read_draw
from logitfusion.evaluate.table import COLUMNS

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.name for path in (ROOT / "config").rglob("*.yaml"))
pytestmark = pytest.mark.workflow


def planned(folder: Path, config: str) -> dict[str, int]:
    """Rule -> number of jobs that a dry-run would run."""
    done = snakemake(folder, "--configfile", config, "--dry-run", "--quiet", "rules")
    assert done.returncode == 0, done.stdout + done.stderr
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)}


def write_config(folder: Path, name: str, **changes: object) -> str:
    """The smoke config with some values replaced; keys are dotted paths."""
    config = yaml.safe_load((folder / "config/smoke.yaml").read_text())
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = config
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = value
    (folder / "config" / name).write_text(yaml.safe_dump(config, sort_keys=False))
    return f"config/{name}"


# What is made from the metrics table, and what follows on a new student.
TABLES = ("plot_methods", "summary", "plot_students", "summary_students", "plot_clip")
FEWSHOT = ("clip_predict", "metrics", "plot_clip_answers", *TABLES)
STUDENTS = ("answer", "evaluate_students", "metrics", "plot_student_losses", *TABLES)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the smoke config has run to its end, with its report."""
    folder = copy_checkout(tmp_path_factory.mktemp("checkout"))
    done = snakemake(folder, "--configfile", "config/smoke.yaml", "--cores", "2")
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return folder


def test_the_metrics_table_is_tidy(finished: Path) -> None:
    table = pd.read_csv(finished / "results/smoke/metrics.csv")
    assert tuple(table.columns) == COLUMNS
    methods = table.groupby("track")["method"].agg(set)
    assert methods["fusion"] == {"large", "proxy", "tuned", "dynamic_multi", "task_arithmetic", "ceiling"}
    assert methods["distill"] == {"small", "large", "stranger", "sft", "gld_vocab", "gld_rank"}
    assert methods["clip"] == {"zero_shot", "amu"}
    assert set(table["task"]) == {"sums", "letters", "shapes", "dark"}
    fewshot = table[(table["track"] == "clip") & (table["metric"] == "accuracy") & table["ci_low"].notna()]
    assert len(fewshot) == 2 * 2 * 2, "methods, test sets, shots"
    assert set(fewshot["n"]) == {6}
    scores = table[
        (table["track"] != "clip") & table["metric"].isin(["accuracy", "exact_match"]) & table["ci_low"].notna()
    ]
    assert ((scores["ci_low"] <= scores["value"]) & (scores["value"] <= scores["ci_high"])).all()
    assert set(scores.set_index("task")["n"].items()) == {("sums", 8), ("letters", 6)}
    parquet = pd.read_parquet(finished / "results/smoke/metrics.parquet")
    assert parquet["value"].tolist() == pytest.approx(table["value"].tolist(), nan_ok=True)


def test_every_generated_token_keeps_its_weights_and_expert(finished: Path) -> None:
    judged = pd.read_parquet(finished / "results/smoke/evaluation/sums.parquet")
    for _, row in judged.iterrows():
        assert len(row["tokens"]) == len(row["weights"]) == len(row["expert"])
    multi = judged[judged["method"] == "dynamic_multi"]
    assert all(len(weights) == 2 for steps in multi["weights"] for weights in steps)


def test_fits_have_their_manifests_and_no_test_image(finished: Path) -> None:
    clip = finished / "results/smoke/clip"
    tested = {row.id for row in load_data(clip / "data/shapes/table.parquet").test}
    drawn = [read_draw(clip / f"support/shapes/seed-{seed}.csv") for seed in (0, 1)]
    assert all(len(manifest) == 2 * 3 for manifest in drawn)
    assert not tested & {name for manifest in drawn for name, _ in manifest}
    log = (finished / "results/smoke/logs/clip/heads/shapes/amu.log").read_text()
    assert "2 shots, seed 1" in log
    assert {path.name for path in (clip / "heads/shapes/amu").glob("*.safetensors")} == {
        f"{shots}-{seed}.safetensors" for shots in (1, 2) for seed in (0, 1)
    }


def test_no_checkpoints_and_no_half_files_stay(finished: Path) -> None:
    assert not list((finished / "results").rglob("*.partial-*"))
    assert not [path for path in (finished / "results/smoke/checkpoints").rglob("*") if path.is_file()]


def test_a_second_run_has_nothing_to_do(finished: Path) -> None:
    done = snakemake(finished, "--configfile", "config/smoke.yaml")
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr


def test_key_order_and_comments_do_not_rerun(finished: Path) -> None:
    def turn(value: object) -> object:
        return {key: turn(inner) for key, inner in reversed(value.items())} if isinstance(value, dict) else value

    config = yaml.safe_load((finished / "config/smoke.yaml").read_text())
    turned = turn(config)
    for track in ("fusion", "distill", "clip"):  # the order of methods is that of the plots; so are teachers and sets
        turned[track] |= {
            key: config[track][key] for key in ("methods", "teachers", "datasets") if key in config[track]
        }
    (finished / "config/turned.yaml").write_text("# another comment\n" + yaml.safe_dump(turned, sort_keys=False))
    assert planned(finished, "config/turned.yaml") == {}


def test_the_order_of_methods_is_the_order_in_the_plots_and_nothing_else(finished: Path) -> None:
    config = yaml.safe_load((finished / "config/smoke.yaml").read_text())
    config["fusion"]["methods"] = dict(reversed(config["fusion"]["methods"].items()))
    (finished / "config/turned.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert set(planned(finished, "config/turned.yaml")) - {"all", "total"} == {"plot_methods", "plot_traces", "summary"}
    assert planned(finished, "config/smoke.yaml") == {}


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({"report__trace_examples": 1}, {"plot_traces"}),
        ({"evaluate__resamples": 300}, {"metrics", *TABLES}),
        (
            {"fusion__methods__tuned__tune__anchors": [0.5]},
            {"tune", "decode", "evaluate", "metrics", "plot_traces", "plot_tuning", *TABLES},
        ),
        ({"fusion__temperature": 0.5}, {"decode", "evaluate", "metrics", "plot_traces", *TABLES}),
        (
            {"experts__adapter__learning_rate": 0.002},
            {"expert", "decode", "evaluate", "metrics", "plot_losses", "plot_traces", *TABLES},
        ),
        ({"distill__methods__gld_rank__gld": 0.1}, {"student", *STUDENTS}),
        ({"distill__training__learning_rate": 0.002}, {"student", *STUDENTS}),
        ({"distill__cache__k": 9}, {"teacher_cache", "student", *STUDENTS}),
        ({"distill__teachers__other__template": "plain"}, {"teacher_cache", "student", *STUDENTS}),
        ({"distill__batch_size": 5}, {"answer", "evaluate_students", "metrics", *TABLES}),
        ({"clip__methods__amu__alpha": 0.7}, {"clip_fit", *FEWSHOT}),
        ({"clip__oracle": []}, {"clip_fit", *FEWSHOT}),
        ({"clip__baselines": []}, {"metrics", "plot_clip_answers", *TABLES}),
        ({"clip__shots": [1]}, {"clip_support", "clip_fit", *FEWSHOT}),
        ({"clip__views": 3}, {"clip_support", "clip_fit", *FEWSHOT}),
        (
            {"clip__auxiliaries__tiny__preprocess": {"crop_pct": 0.5}},
            {"clip_support", "clip_test", "clip_fit", *FEWSHOT},
        ),
        ({"clip__datasets__dark__seed": 1}, {"clip_data", "clip_test", *FEWSHOT}),
        (
            {"clip__encoder__seed": 1},
            {"clip_encoder", "clip_support", "clip_test", "clip_fit", *FEWSHOT},
        ),
        ({"distill__baseline": "gld_rank"}, {"metrics", "plot_student_losses", *TABLES}),
    ],
    ids=[
        "report",
        "evaluation",
        "tuning",
        "decoding",
        "one expert",
        "one distillation",
        "distillation",
        "cache",
        "one teacher",
        "answers",
        "a few-shot method",
        "oracle",
        "few-shot baselines",
        "shots",
        "views",
        "auxiliary",
        "a shifted set",
        "encoder",
        "baseline",
    ],
)
def test_a_changed_value_reruns_what_depends_on_it_and_nothing_else(
    finished: Path, changes: dict[str, object], rules: set[str]
) -> None:
    jobs = planned(finished, write_config(finished, "changed.yaml", **changes))
    assert set(jobs) - {"all", "total"} == rules
    if "experts__adapter__learning_rate" in changes:
        assert jobs["expert"] == 2, "the adapter and what is merged from it"
        assert jobs["decode"] == 4, "the two methods that use them, in two shards"
    if "distill__methods__gld_rank__gld" in changes:
        assert jobs["student"] == jobs["answer"] == 2, "that method alone, with two seeds"
    if "distill__teachers__other__template" in changes:
        assert jobs["teacher_cache"] == 2, "that teacher alone, in two shards"
    if "clip__methods__amu__alpha" in changes:
        assert jobs["clip_fit"] == 1, "that method alone"
    if "clip__datasets__dark__seed" in changes:
        assert jobs["clip_data"] == jobs["clip_test"] == 1, "that set alone"
    if "tune" in jobs:
        assert jobs["decode"] == 2, "the tuned method alone"
    assert planned(finished, "config/smoke.yaml") == {}, "reverting has nothing to do"


def test_the_report_is_one_file_that_opens_offline(finished: Path) -> None:
    done = snakemake(finished, "--configfile", "config/smoke.yaml", "--report", "reports/report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (finished / "reports/report.html").read_text()
    assert not re.findall(r"""<(?:script|link|img)[^>]+(?:src|href)=["']https?://""", page)
    for word in ("Weights along the text", "summary table", "loss curves", "methods by task", "accuracy against shots"):
        assert word in page


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fusion__tempratur": 0.5}, "did you mean 'temperature'"),
        ({"experts__sums__learning_rate": "1e-4"}, "write 1.0e-4"),
        ({"fusion__large": "lrge"}, "did you mean 'large'"),
        ({"clip__methods__amu__alhpa": 1.0}, "amu has no setting 'alhpa'"),
    ],
)
def test_a_bad_config_ends_in_one_sentence_and_changes_nothing(
    finished: Path, changes: dict[str, object], sentence: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "results").rglob("*") if path.is_file()}
    done = snakemake(finished, "--configfile", write_config(finished, "bad.yaml", **changes))
    output = done.stdout + done.stderr
    assert done.returncode == 1
    assert sentence in output
    assert "Traceback" not in output
    assert before == {path: path.stat().st_mtime_ns for path in (finished / "results").rglob("*") if path.is_file()}


@pytest.mark.parametrize("profile", ["local", "slurm"])
@pytest.mark.parametrize("config", CONFIGS)
def test_every_shipped_config_dry_runs(tmp_path: Path, config: str, profile: str) -> None:
    folder = copy_checkout(tmp_path)
    done = snakemake(folder, "--configfile", f"config/{config}", "--dry-run", "--quiet", "rules", profile=profile)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_demo_is_what_runs_without_a_config_file(tmp_path: Path) -> None:
    done = snakemake(copy_checkout(tmp_path), "--dry-run", "--quiet", "rules")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "results/demo/config").is_dir()
