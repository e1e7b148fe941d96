"""Small tasks of lm-evaluation-harness with data of their own, for tests without a network."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml

from logitfusion.files import write_jsonl

TASKS = ("toy_choice", "toy_words", "toy_text")


def write_tasks(folder: Path, rows: int = 9) -> Path:
    """Definitions and data of the tasks: a choice, a continuation and a perplexity."""
    folder.mkdir(parents=True, exist_ok=True)
    random.seed(0)
    words = ["red", "green", "blue", "a long yellow one", "Grüße", "→"]
    examples = [
        {
            "question": " ".join(random.choices(words, k=random.randint(1, 5))),
            "choices": random.sample(words, 3),
            "answer": random.randrange(3),
            "word": random.choice(words),
        }
        for _ in range(rows)
    ]
    write_jsonl(folder / "data.jsonl", examples)
    data = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "data.jsonl")}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "fewshot_split": "test",
        "metadata": {"version": 1.0},
    }
    for name, definition in _definitions().items():
        text = yaml.safe_dump({"task": name, **data, **definition}, allow_unicode=True)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def _definitions() -> dict[str, dict[str, Any]]:
    choice = {
        "output_type": "multiple_choice",
        "doc_to_text": "Q: {{question}}\nA:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    words = {
        "output_type": "generate_until",
        "doc_to_text": "{{question}} ",
        "doc_to_target": "word",
        "generation_kwargs": {"until": ["\n", "e"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    text = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    }
    return dict(zip(TASKS, (choice, words, text), strict=True))
