"""Choose on validation examples how far a method trusts its solved weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from logitfusion.files import read_jsonl, write_json
from logitfusion.fusion import FusedLM
from logitfusion.fusion.tuning import Candidate, as_rows, choose, tune
from logitfusion.models.load import load_model, use_threads
from logitfusion.models.vocabulary import load_shared_tokenizer
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, config: dict[str, Any]) -> None:
    logger.info("tuning on %d tasks on %d threads", len(config["models"]), use_threads())
    folders = {path.name: path for path in arguments.models}
    tokenizer = load_shared_tokenizer(arguments.models)
    splits = {path.parent.name: path for path in arguments.examples}
    loaded: dict[str, Any] = {}
    candidates: dict[str, list[Candidate]] = {}
    for task, names in config["models"].items():
        loaded = {name: loaded.get(name) or load_model(folders[name]) for name in names}
        large, base, *experts = (loaded[name] for name in names)
        lm = FusedLM(large, base, experts, tokenizer=tokenizer, **config["options"])
        rows = read_jsonl(splits[task])
        candidates[task] = tune(
            lm,
            [row["prompt"] for row in rows],
            [row["completion"] for row in rows],
            trusts=config["tune"]["trusts"],
            anchors=config["tune"]["anchors"],
            stop=config["stop"][task],
            batch_size=config["batch_size"],
        )
        logger.info("%s: %d examples, %d candidates", task, len(rows), len(candidates[task]))
    write_json(arguments.output, _chosen(config["groups"], candidates))


def _chosen(groups: list[list[str]], candidates: dict[str, list[Candidate]]) -> dict[str, Any]:
    """The choice of each task, or of all (``*``) where they share one, and every candidate."""
    chosen = {}
    for group in groups:
        best = choose([candidates[task] for task in group])
        chosen[group[0] if len(groups) > 1 else "*"] = as_rows([best])[0]
        logger.info("%s: trust %.2f, anchor %.2f, exact %.3f", ", ".join(group), best.trust, best.anchor, best.exact)
    return {"chosen": chosen, "candidates": {task: as_rows(rows) for task, rows in candidates.items()}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=Path, nargs="+", required=True, help="splits: .../<task>/validation.jsonl")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders of all models, named by model")
    parser.add_argument("--output", type=Path, required=True)
    run_stage(main, parser)
