"""The whole workflow as its user runs it: a copy of the checkout, the smoke config, Snakemake as a subprocess."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from checkout import command, copy_checkout, environment, plans, snakemake

from logitfusion.clip.data import load_data
from logitfusion.clip.data.support import read_draw
from logitfusion.config.jobs import clip, distill, models
from logitfusion.config.jobs.texts import text_tasks
from logitfusion.config.load import load_config, write_once
from logitfusion.config.section import Section
from logitfusion.evaluate.table import COLUMNS
from logitfusion.files import read_json
from logitfusion.integrity import SEEN
from logitfusion.progress.record import read_record

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    str(path.relative_to(ROOT / "config"))
    for path in (ROOT / "config").rglob("*.yaml")
    if re.search(r"^run:", path.read_text(), re.MULTILINE)  # else a definition, or values that replace a config's
)
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
TABLES = ("plot_methods", "plot_students", "plot_clip", "index")
FEWSHOT = ("clip_predict", "metrics", "plot_clip_answers", *TABLES)
STUDENTS = ("answer", "evaluate_students", "metrics", "plot_student_losses", *TABLES)


TOKEN = "hf_" + secrets.token_hex(16)  # anew each time, so that it is not in the copied tests


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Path:
    """A checkout in which the smoke config has run to its end, with its report."""
    folder = copy_checkout(tmp_path_factory.mktemp("checkout"))
    done = snakemake(folder, "--configfile", "config/smoke.yaml", "--cores", "2", programs=programs, HF_TOKEN=TOKEN)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    (folder / "said").write_text(done.stdout + done.stderr)
    return folder


def test_the_metrics_table_is_tidy(finished: Path) -> None:
    table = pd.read_csv(finished / "results/smoke/metrics.csv")
    assert tuple(table.columns) == COLUMNS
    methods = table.groupby("track")["method"].agg(set)
    assert methods["fusion"] == {
        "large",
        "proxy",
        "tuned",
        "dynamic_multi",
        "task_arithmetic",
        "ceiling",
        "talker",
        "gate",
    }
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


def test_the_terminal_gets_a_line_a_job_and_a_summary(finished: Path) -> None:
    said = (finished / "said").read_text()
    lines = said.splitlines()
    record = read_record(min((finished / "results/smoke/runs").glob("*.json")))
    jobs = record.planned
    assert (record.state, record.finished, record.done, record.total) == ("finished", jobs, jobs, jobs)
    assert {job.state for job in record.jobs} == {"finished"}
    told = [line for line in lines if re.match(r" *\d+ of \d+  ", line)]
    for job in record.jobs:
        assert any(f"  {job.name} " in line for line in told), job.name
    assert sum(line.startswith(f"{jobs} of {jobs}  ") and line.endswith("100 %") for line in told) == 1
    assert re.search(rf"^{jobs} jobs: about [\d.]+ to [\d.]+ \w+ here on 2 cores", said, re.MULTILINE)
    assert not re.search(r"^(local)?rule \w+:", said, re.MULTILINE), "Snakemake's own paragraphs are in its log"
    assert "rule metrics:" in max((finished / ".snakemake/log").glob("*.log"), key=os.path.getsize).read_text()
    summary = lines[next(number for number, line in enumerate(lines) if line.startswith("Finished: ")) :]
    assert {"fusion", "distill", "clip", "time"} <= {line.split(" ")[0] for line in summary}
    assert max(map(len, [*told, *summary[:-2]])) <= 100


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


@pytest.mark.parametrize("name", ["字" * 50_000, "'" * 30_000], ids=["many bytes", "much quoting"])
def test_a_slice_too_long_for_a_command_is_refused_by_a_dry_run(tmp_path: Path, name: str) -> None:
    folder = copy_checkout(tmp_path)
    config = write_config(folder, "long.yaml", tasks__letters__training_split=name)
    done = snakemake(folder, "--configfile", config, "--dry-run", "results/smoke/tasks/letters/train.jsonl")
    assert done.returncode == 1
    assert "too long for a command" in done.stdout + done.stderr
    assert "task letters" in done.stdout + done.stderr


def test_every_log_ends_with_the_stage_s_own_line(finished: Path) -> None:
    logs = list((finished / "results/smoke/logs").rglob("*.log"))
    assert len(logs) > 50
    assert [log for log in logs if " INFO done in " not in log.read_text().splitlines()[-1]] == []


def test_no_checkpoints_and_no_half_files_stay(finished: Path) -> None:
    assert not list((finished / "results").rglob("*.partial-*"))
    assert not list((finished / "results").rglob("*.checkpoints"))


def test_a_second_run_has_nothing_to_do(finished: Path) -> None:
    records = list((finished / "results/smoke/runs").iterdir())
    done = snakemake(finished, "--configfile", "config/smoke.yaml")
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr
    assert list((finished / "results/smoke/runs").iterdir()) == records, "a call that ran nothing is no run"


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
    assert set(planned(finished, "config/turned.yaml")) - {"all", "total"} == {
        "plot_methods",
        "plot_traces",
        "plot_tuning",  # which shows what a gate had to be better than
        "index",
    }
    assert planned(finished, "config/smoke.yaml") == {}


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({"report__trace_examples": 1}, {"plot_traces", "index"}),
        ({"evaluate__resamples": 300}, {"metrics", *TABLES}),
        (
            {"experts__adapter__learning_rate": 0.002},
            {"expert", "tune", "decode", "evaluate", "metrics", "plot_losses", "plot_traces", "plot_tuning", *TABLES},
        ),
        ({"distill__teachers__other__template": "plain"}, {"teacher_cache", "student", *STUDENTS}),
        ({"clip__datasets__dark__seed": 1}, {"clip_data", "clip_test", *FEWSHOT}),
    ],
    ids=["report", "evaluation", "one expert", "one teacher", "a shifted set"],
)
def test_a_changed_value_reruns_what_depends_on_it_and_nothing_else(
    finished: Path, changes: dict[str, object], rules: set[str]
) -> None:
    """A few on a run that is really finished; every value of the demo's config is in test_reruns.py."""
    jobs = planned(finished, write_config(finished, "changed.yaml", **changes))
    assert set(jobs) - {"all", "total"} == rules
    if "experts__adapter__learning_rate" in changes:
        assert jobs["expert"] == 2, "the adapter and what is merged from it"
        assert jobs["tune"] == 1, "the gate alone"
        assert jobs["decode"] == 4, "both tasks, in two shards"
    if "distill__teachers__other__template" in changes:
        assert jobs["teacher_cache"] == 2, "that teacher alone, in two shards"
    if "clip__datasets__dark__seed" in changes:
        assert jobs["clip_data"] == jobs["clip_test"] == 1, "that set alone"
    assert planned(finished, "config/smoke.yaml") == {}, "reverting has nothing to do"


# The record of what was made -> the slice of the config that it must hold, given the names in its path.
RECORDS: dict[str, Callable[..., Section]] = {
    "models/(.+)/record.json": models.model_job,
    "experts/(.+)/record.json": models.expert_job,
    "tasks/([^/]+)/record.json": lambda run, name: text_tasks(run).get(name) or models.task_job(run, name),
    "distill/students/(.+)[.]./record.json": distill.student_job,
    "clip/data/(.+)/record.json": clip.data_job,
    "clip/encoder/stage.json": clip.encoder_job,
    "clip/support/.+/stage.json": clip.support_job,
    "clip/test/.+/stage.json": clip.test_job,
    "clip/heads/.+/(.+)/stage.json": clip.fit_job,
}


@pytest.mark.parametrize("pattern", RECORDS)
def test_every_product_says_the_config_that_it_was_made_with(finished: Path, pattern: str) -> None:
    run, folder = load_config(finished / "config/smoke.yaml"), finished / "results/smoke"
    found = {path: re.fullmatch(pattern, str(path.relative_to(folder))) for path in folder.rglob("*.json")}
    records = {path: match.groups() for path, match in found.items() if match}
    assert records
    for path, names in records.items():
        seed = {"seed": int(path.parent.name.partition(".")[2])} if "students" in pattern else {}
        assert read_json(path)["config"] == RECORDS[pattern](run, *names).dump() | seed


def test_the_whole_config_is_kept_under_its_digest(finished: Path) -> None:
    (path,) = (finished / "results/smoke/config").iterdir()
    assert load_config(path) == load_config(finished / "config/smoke.yaml")
    assert path == write_once(path.parent, load_config(path))


@pytest.fixture
def moved(finished: Path, tmp_path: Path) -> Path:
    """The finished run in another place."""
    subprocess.run(["cp", "-a", finished, tmp_path / "moved"], check=True)
    return tmp_path / "moved"


def test_a_moved_checkout_has_nothing_to_do_and_knows_no_old_place(finished: Path, moved: Path) -> None:
    assert planned(moved, "config/smoke.yaml") == {}
    products = [path for path in (moved / "results").rglob("*") if path.is_file() and path.suffix != ".log"]
    assert [path for path in products if str(finished).encode() in path.read_bytes()] == []


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 600
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, path
        time.sleep(0.1)


def read_outputs(folder: Path) -> dict[Path, str]:
    """All JSON of the smoke run but the records of its calls, and what was seen of files that were read."""
    results = folder / "results/smoke"
    paths = (path for path in results.rglob("*.json") if path.parent != results / "runs" and path.name != SEEN)
    return {path: path.read_text() for path in paths}


def test_a_config_edited_during_a_run_waits_for_the_next_one(moved: Path, tmp_path: Path) -> None:
    """The jobs' python waits for a word, so that the edit (and an impatient user's -n) comes while jobs are queued."""
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(
        f'#!/bin/sh\ntouch started\nwhile [ ! -e go ]; do sleep 0.1; done\nexec {shlex.quote(sys.executable)} "$@"\n'
    )
    python.chmod(0o755)
    variables = environment()
    variables["PATH"] = f"{python.parent}{os.pathsep}{variables['PATH']}"
    config = write_config(moved, "edited.yaml")
    targets = [f"results/smoke/tasks/{task}/record.json" for task in ("sums", "letters")]
    before = read_outputs(moved)
    words = command(*targets, "--forcerun", "task", "--cores", "1", "--configfile", config)
    with subprocess.Popen(words, cwd=moved, env=variables, stderr=subprocess.PIPE, text=True) as running:
        wait_for(moved / "started", running)
        write_config(moved, "edited.yaml", tasks__letters__test=5, evaluate__resamples=300)
        early = snakemake(moved, "--configfile", config, "--dry-run")
        (moved / "go").touch()
        said = running.communicate(timeout=600)[1]
    assert running.returncode == 0, said
    assert early.returncode == 0, early.stdout + early.stderr
    assert before == read_outputs(moved)
    again = planned(moved, "config/smoke.yaml").keys()
    assert "task" not in again
    assert not {"expert", "student"} & again, "texts that were made again are what was there (folders have no checksum)"
    jobs = planned(moved, config)
    assert jobs["task"] == 1
    assert {"decode", "evaluate", "metrics"} <= jobs.keys()


FAILING = """\
#!/bin/sh
case "$*" in *stages.clip_fit*)
    {}
    exit 1
esac
exec {} "$@"
"""


@pytest.mark.parametrize("work", ["", '{python} "$@"'], ids=["before its work", "after its work"])
def test_what_follows_from_a_failed_job_is_not_up_to_date(
    moved: Path, tmp_path: Path, work: str, programs: Path
) -> None:
    """A job in the middle fails with a new value, while all that was made from its earlier output is still there."""
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    real = shlex.quote(str(programs / "python"))
    python.write_text(FAILING.format(work.format(python=real), real))
    python.chmod(0o755)
    config = write_config(moved, "changed.yaml", clip__methods__amu__alpha=0.7)
    done = snakemake(moved, "--configfile", config, "--cores", "2", programs=python.parent)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED  clip_fit (shapes, amu): " in done.stderr
    assert re.search(
        r"^Stopped after .*: \d+ of \d+ jobs finished, 1 failed, [1-9]\d* left\.$", done.stderr, re.MULTILINE
    )
    assert {"clip_fit", "clip_predict", "metrics"} <= planned(moved, config).keys()


def test_a_config_edited_before_a_queued_job_starts_is_not_the_job_s(moved: Path) -> None:
    """Jobs that are processes of their own, as on a cluster, read the config when they start."""
    config = write_config(moved, "edited.yaml")
    (moved / "edits").mkdir()
    write_config(moved, "edits.yaml", fusion__split="validation")
    (moved / "config/edits.yaml").rename(moved / "edits/1")
    (moved / "edits/2").write_text("run: [not yet")
    before = {task: judged(moved, task) for task in ("sums", "letters")}
    done = snakemake(
        moved, *(f"results/smoke/evaluation/{task}.parquet" for task in before), "--forcerun", "evaluate",
        "--executor", "late", "--jobs", "1", "--configfile", config, PYTHONPATH=str(ROOT / "tests/executors"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list((moved / "edits").iterdir()), "both jobs started after an edit"
    assert {task: judged(moved, task) for task in before} == before
    assert planned(moved, "config/smoke.yaml") == {}


def judged(folder: Path, task: str) -> set[int]:
    """The examples of a task that were judged."""
    return set(pd.read_parquet(folder / f"results/smoke/evaluation/{task}.parquet")["id"])


def test_the_report_is_one_file_that_opens_offline(finished: Path) -> None:
    done = snakemake(finished, "--configfile", "config/smoke.yaml", "--report", "reports/report.html", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (finished / "reports/report.html").read_text()
    assert not re.findall(r"""<(?:script|link|img)[^>]+(?:src|href)=["']https?://""", page)
    for word in ("1 Start here", "3 Weights along the text", "summary table", "loss curves", "accuracy against shots"):
        assert word in page


def test_a_secret_of_the_environment_is_in_no_file(finished: Path) -> None:
    """Neither in what the run and its report wrote, nor in what Snakemake keeps or said."""
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert finished / "reports/report.html" in files
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


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


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which nothing has run; dry runs leave it so."""
    return copy_checkout(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="module")
def planned_here(fresh: Path) -> dict[str, list[dict[str, Any]] | str]:
    """The jobs of each shipped config, or what is wrong with it, all planned by one process."""
    configs = [yaml.safe_load((ROOT / "config" / name).read_text()) for name in CONFIGS]
    return dict(zip(CONFIGS, plans(fresh, configs), strict=True))


@pytest.mark.parametrize("config", CONFIGS)
def test_every_shipped_config_plans_here(planned_here: dict[str, list[dict[str, Any]] | str], config: str) -> None:
    jobs = planned_here[config]
    assert not isinstance(jobs, str), jobs
    assert "index" in {job["rule"] for job in jobs}


@pytest.mark.parametrize("config", CONFIGS)
def test_every_shipped_config_dry_runs(fresh: Path, config: str) -> None:
    """As its user calls it, on a cluster; the profile `local` is that of most other tests here."""
    done = snakemake(fresh, "--configfile", f"config/{config}", "--dry-run", "--quiet", "rules", profile="slurm")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_demo_is_what_runs_without_a_config_file(tmp_path: Path) -> None:
    done = snakemake(copy_checkout(tmp_path), "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "results/demo/" in done.stdout + done.stderr
    assert not (tmp_path / "results/demo").exists(), "a dry run writes nothing"
