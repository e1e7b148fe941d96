"""What ``make demo`` leaves behind, file by file where its user would look, of tiny random models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import yaml
from checkout import ROOT
from tiny_encoders import COLOURS, write_clip, write_pictures

from logitfusion.artefact import write_artefact
from logitfusion.clip.data import DataSet, ImageRow, save_data
from logitfusion.config.load import resolve_config
from logitfusion.config.models import RandomModel
from logitfusion.evaluate.table import DTYPES
from logitfusion.models.source import make_random
from logitfusion.tables import write_table

# Prompts of the demo's tasks as they come out of them, and their answers.
_ROWS = {
    "sst2": [("Review: a joy to watch\nSentiment:", "positive"), ("Review: dull and overlong\nSentiment:", "negative")],
    "sums": [("Calculate 5 - 33 =", "-28"), ("Calculate 1 + 5 =", "6")],
    "common_knowledge": [
        ("Question: What is the capital of France?\nAnswer:", "Paris"),
        ("Question: How many days has a week?\nAnswer:", "7"),
    ],
    "sciq": [("Question: What gas do plants take in?\nAnswer:", "carbon dioxide")],
}


def write_demo(results: Path, tiny_models: dict[str, Path]) -> Path:
    """Fill ``results/demo``; the models are copies of the given ones."""
    demo = results / "demo"
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    for name, source in {"large": "large", "small": "base"}.items():
        shutil.copytree(tiny_models[source], demo / "models" / name)
    make_random(RandomModel(source="random", tokenizer="pairs", seed=5), demo / "models/gemma")
    for number, (name, expert) in enumerate(config["experts"].items()):
        source = "large" if expert["base"] == "large" else ("expert_a", "expert_b")[number % 2]
        shutil.copytree(tiny_models[source], demo / "experts" / name)
    for name, task in resolve_config(config).tasks.items():
        _write_task(demo / "tasks" / name, _ROWS[name], task.model_dump(mode="json"))
    write_clip(demo / "clip/encoder")
    _write_emoji(demo / "clip/data/emoji", list(config["clip"]["datasets"]["emoji"]["classes"]))
    _write_tables(demo, config)
    return demo


def _write_task(folder: Path, rows: list[tuple[str, str]], task: dict[str, object]) -> None:
    folder.mkdir(parents=True)
    for split in ("train", "validation"):  # the test documents are kept as the harness has them
        lines = [
            {"id": number, "prompt": prompt, "completion": f" {answer}", "answers": [answer]}
            for number, (prompt, answer) in enumerate(rows)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_artefact(folder / "record.json", task)


def _write_emoji(folder: Path, classes: list[str]) -> None:
    """The table of the emojis, of coloured squares, as many test images of each class as the demo's largest have."""
    rows = [
        ImageRow(f"{label}/{path.stem}", str(path.relative_to(folder.parents[4])), label)
        for label in range(len(classes))
        for path in write_pictures(folder / f"images/{label}", list(COLOURS.values())[label % 3], 20, seed=label)
    ]
    train = [row for row in rows if row.path.endswith("/19.png")]
    test = [row for row in rows if row not in train]
    save_data(DataSet(classes, ["{}"], train, test, "seeded 0"), folder / "table.parquet")


def _write_tables(demo: Path, config: dict[str, object]) -> None:
    """The tidy table that is stored with the documents, and the judged examples of one that nobody steered."""
    table = pd.read_csv(ROOT / "docs/results/demo.csv", dtype=DTYPES)
    table.to_csv(demo / "metrics.csv", index=False)
    write_table(table, demo / "metrics.parquet")
    (demo / "evaluation").mkdir()
    for task, rows in _ROWS.items():
        judged = {"correct": True, "format_failure": False, "weights": [[0.5]], "expert": [0], "seconds": 0.1}
        examples = [
            {"method": method, "id": number, "prompt": prompt, "gold": answer, "text": answer, "answer": answer}
            | {"tokens": [answer]}
            | judged
            for method in config["fusion"]["methods"]
            for number, (prompt, answer) in enumerate(rows)
        ]
        write_table(pd.DataFrame(examples), demo / f"evaluation/{task}.parquet")
