"""Benchmarks through the workflow give what the harness's own `hf` gives, which reads the same hub by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from checkout import copy_checkout, snakemake
from hub_standin import serve
from rouge_score.rouge_scorer import RougeScorer
from standin import taught
from standin.contents import MAKERS, variables

from logitfusion.tasks.definition import LIBRARY

pytestmark = pytest.mark.workflow

LIMIT, TOKENS = 12, 48
TASKS = ("gsm8k", "triviaqa", "cnn_dailymail_rouge2", "truthfulqa_mc1", "mmlu_abstract_algebra")
OTHER = "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T"
CONFIG = {
    "run": "equal",
    "models": {
        "large": {"source": "hub", "id": taught.ID, "revision": "main"},
        "other": {"source": "hub", "id": OTHER, "revision": "main"},
    },
    "tasks": {
        name: {"harness": name, "num_fewshot": 0, "test": LIMIT, "generation_kwargs": {"max_gen_toks": TOKENS}}
        for name in TASKS
    },
    "fusion": {
        "large": "large",
        "base": "other",
        "shards": 2,
        "batch_size": 6,
        "methods": {"steered": {"experts": ["large"], "weights": 0.0}},
    },
    "evaluate": {"resamples": 100},
}


@dataclass(frozen=True)
class Runs:
    """Of one model on the same documents.

    Attributes:
        table: ours, the rows of ``metrics.csv``.
        answers: ours, task -> its judged documents, in the documents' order.
        theirs: ``results`` of the harness.
        samples: of the harness, task -> documents in their order.
    """

    table: pd.DataFrame
    answers: dict[str, pd.DataFrame]
    theirs: dict[str, dict[str, Any]]
    samples: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("equal")
    checkout = copy_checkout(folder / "checkout")
    (checkout / "equal.yaml").write_text(yaml.safe_dump(CONFIG))
    with serve(MAKERS) as hub:
        with start_harness(folder / "theirs", variables(hub, folder / "their-home")) as harness:
            wanted, asking = "results/equal/metrics.csv", variables(hub, folder / "home")
            done = snakemake(checkout, wanted, "--cores", "2", "--configfile", "equal.yaml", **asking)
            said, _ = harness.communicate()
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert harness.returncode == 0, said[-3000:]
    results = checkout / "results/equal"
    (told,) = (folder / "theirs").rglob("results_*.json")
    return Runs(
        pd.read_csv(results / "metrics.csv"),
        {name: pd.read_parquet(results / f"evaluation/{name}.parquet").sort_values("id") for name in TASKS},
        json.loads(told.read_text())["results"],
        {name: read_samples(folder / "theirs", name) for name in TASKS},
    )


def start_harness(output: Path, asking: dict[str, str]) -> subprocess.Popen[str]:
    """The harness's command, with nothing of ours but a definition that it has not."""
    words = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={taught.ID}"]
    words += ["--tasks", *TASKS, "--include_path", str(LIBRARY), "--num_fewshot", "0", "--limit", str(LIMIT)]
    words += ["--gen_kwargs", f"max_gen_toks={TOKENS}", "--batch_size", "6", "--device", "cpu"]
    words += ["--output_path", str(output), "--log_samples"]
    output.mkdir()
    return subprocess.Popen(
        words, cwd=output, env=os.environ | asking, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def read_samples(folder: Path, task: str) -> list[dict[str, Any]]:
    """A document may be there once for each filter; the last stands."""
    (path,) = folder.rglob(f"samples_{task}_*.jsonl")
    rows = {row["doc_id"]: row for row in map(json.loads, path.read_text().splitlines())}
    return [rows[number] for number in sorted(rows)]


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_is_the_harnesss(task: str, runs: Runs) -> None:
    ours = runs.table[runs.table["task"] == task].set_index("metric")
    theirs = {name.removesuffix(",none"): value for name, value in runs.theirs[task].items() if "," in name}
    metrics = [name for name in theirs if "_stderr" not in name]
    assert metrics
    for name in metrics:
        measure, _, kept = name.partition(",")
        error = theirs[f"{measure}_stderr{',' if kept else ''}{kept}"]
        assert ours.loc[name, "value"] == theirs[name]
        assert ours.loc[name, "stderr"] == pytest.approx(error, rel=1e-12)
        assert ours.loc[name, "n"] == min(LIMIT, len(runs.samples[task]))


@pytest.mark.parametrize("task", TASKS)
def test_every_response_is_the_harnesss(task: str, runs: Runs) -> None:
    ours, theirs = runs.answers[task], runs.samples[task]
    assert len(ours) == len(theirs)
    if theirs[0]["arguments"]["gen_args_0"].get("arg_1") is None or isinstance(theirs[0]["resps"][0][0], str):
        texts = [row["resps"][0][0] for row in theirs]
        assert list(ours["text"]) == texts
        assert len(set(texts)) > LIMIT / 2, "else equality would say little"
    else:
        scores = [[float(answer[0][0]) for answer in row["resps"]] for row in theirs]
        for mine, other in zip(ours["loglikelihoods"], scores, strict=True):
            assert list(mine) == pytest.approx(other, abs=1e-4)


def test_not_all_is_wrong_and_not_all_is_right(runs: Runs) -> None:
    for task, metric in {"triviaqa": "exact_match,remove_whitespace", "cnn_dailymail_rouge2": "rouge2"}.items():
        assert 0 < runs.theirs[task].get(metric, runs.theirs[task].get(f"{metric},none")) < 1


def test_rouge_is_that_of_its_authors_on_the_texts(runs: Runs) -> None:
    rouge = RougeScorer(["rouge2"], use_stemmer=True)
    rows = runs.samples["cnn_dailymail_rouge2"]
    scores = [rouge.score(row["doc"]["highlights"], row["resps"][0][0])["rouge2"].fmeasure for row in rows]
    ours = runs.table[runs.table["task"] == "cnn_dailymail_rouge2"].set_index("metric").loc["rouge2", "value"]
    assert ours == pytest.approx(sum(scores) / len(scores), abs=1e-12)
