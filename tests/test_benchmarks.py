"""Benchmarks through the workflow give what the harness's own `hf` gives, which reads the same hub by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
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
SOME = ("cnn_dailymail_rouge2", "truthfulqa_mc1")
ALL = ("gsm8k", "triviaqa", *SOME, "mmlu_abstract_algebra")


def make_config(tasks: Sequence[str]) -> dict[str, Any]:
    """The model, steered with a weight of 0 (by itself, so that nothing else is fetched)."""
    sizes = {"num_fewshot": 0, "test": LIMIT, "generation_kwargs": {"max_gen_toks": TOKENS}}
    methods = {"steered": {"experts": ["large"], "weights": 0.0}}
    return {
        "run": "equal",
        "models": {"large": {"source": "hub", "id": taught.ID, "revision": "main"}},
        "tasks": {name: {"harness": name, **sizes} for name in tasks},
        "fusion": {"large": "large", "base": "large", "shards": 2, "batch_size": 6, "methods": methods},
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


@pytest.fixture(scope="module", params=[SOME, pytest.param(ALL, marks=pytest.mark.paper)], ids=["some", "all"])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    tasks = request.param
    folder = tmp_path_factory.mktemp("equal")
    checkout = copy_checkout(folder / "checkout")
    (checkout / "equal.yaml").write_text(yaml.safe_dump(make_config(tasks)))
    with serve(MAKERS) as hub:
        with start_harness(tasks, folder / "theirs", variables(hub, folder / "their-home")) as harness:
            wanted, asking = "results/equal/metrics.csv", variables(hub, folder / "home")
            done = snakemake(checkout, wanted, "--cores", "2", "--configfile", "equal.yaml", **asking)
            said, _ = harness.communicate()
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert harness.returncode == 0, said[-3000:]
    results = checkout / "results/equal"
    (told,) = (folder / "theirs").rglob("results_*.json")
    return Runs(
        pd.read_csv(results / "metrics.csv"),
        {name: pd.read_parquet(results / f"evaluation/{name}.parquet").sort_values("id") for name in tasks},
        json.loads(told.read_text())["results"],
        {name: read_samples(folder / "theirs", name) for name in tasks},
    )


def start_harness(tasks: Sequence[str], output: Path, asking: dict[str, str]) -> subprocess.Popen[str]:
    """The harness's command, with nothing of ours but a definition that it has not."""
    words = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={taught.ID}"]
    words += ["--tasks", *tasks, "--include_path", str(LIBRARY), "--num_fewshot", "0", "--limit", str(LIMIT)]
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


def test_every_metric_is_the_harnesss(runs: Runs) -> None:
    for task, found in runs.theirs.items():
        ours = runs.table[runs.table["task"] == task].set_index("metric")
        theirs = {name.removesuffix(",none"): value for name, value in found.items() if "," in name}
        metrics = [name for name in theirs if "_stderr" not in name]
        assert metrics
        for name in metrics:
            measure, _, kept = name.partition(",")
            error = theirs[f"{measure}_stderr,{kept}" if kept else f"{measure}_stderr"]
            assert ours.loc[name, "value"] == theirs[name]
            assert ours.loc[name, "stderr"] == pytest.approx(error, rel=1e-12)
            assert ours.loc[name, "n"] == len(runs.samples[task])


def test_every_response_is_the_harnesss(runs: Runs) -> None:
    for task, theirs in runs.samples.items():
        ours = runs.answers[task]
        assert len(ours) == len(theirs)
        if isinstance(theirs[0]["resps"][0][0], str):
            texts = [row["resps"][0][0] for row in theirs]
            assert list(ours["text"]) == texts
            assert len(set(texts)) > 2, "else equality would say little"
        else:
            scores = [[float(answer[0][0]) for answer in row["resps"]] for row in theirs]
            for mine, other in zip(ours["loglikelihoods"], scores, strict=True):
                assert list(mine) == pytest.approx(other, abs=1e-4)


def test_not_all_is_wrong_and_not_all_is_right(runs: Runs) -> None:
    for name in ("rouge2", "acc", "exact_match,remove_whitespace"):
        found = runs.table[runs.table["metric"] == name]["value"]
        assert found.between(0, 1, inclusive="neither").any() or found.empty


def test_rouge_is_that_of_its_authors_on_the_texts(runs: Runs) -> None:
    rouge = RougeScorer(["rouge2"], use_stemmer=True)
    rows = runs.samples["cnn_dailymail_rouge2"]
    scores = [rouge.score(row["doc"]["highlights"], row["resps"][0][0])["rouge2"].fmeasure for row in rows]
    ours = runs.table[runs.table["task"] == "cnn_dailymail_rouge2"].set_index("metric").loc["rouge2", "value"]
    assert ours == pytest.approx(sum(scores) / len(scores), abs=1e-12)
