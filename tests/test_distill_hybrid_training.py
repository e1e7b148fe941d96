"""The hybrid term in a training: from a cache that ``distill-cache`` wrote, whose tokenizer is beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_distill_training import CPU, RECIPE, TEXTS

from logitfusion.cli import main
from logitfusion.config.models import RandomModel
from logitfusion.config.objective import Objective
from logitfusion.distill.cache import TeacherCache, find_shards
from logitfusion.distill.encoding import encode_texts
from logitfusion.distill.sources import CachedSource
from logitfusion.distill.training import distill
from logitfusion.errors import UserError
from logitfusion.files import write_jsonl
from logitfusion.models.load import load_model, load_tokenizer
from logitfusion.models.source import make_random

HYBRID = Objective(gld=0.1, hybrid=0.5, divergence="jsd", normalisation="texts", k=5)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make(tmp_path_factory.mktemp("hybrid") / "student", "bytes", 1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cached")
    teacher = _make(root / "teacher", "pairs", 2)
    texts = root / "texts.jsonl"
    write_jsonl(texts, [{"prompt": prompt, "response": text} for prompt, text in TEXTS])
    main(["distill-cache", "--teacher", str(teacher), "--texts", str(texts), "--k", "8", "--output", str(root / "c")])
    return root / "c"


def _make(folder: Path, tokenizer: str, seed: int) -> Path:
    make_random(RandomModel(source="random", hidden_size=16, layers=1, seed=seed, tokenizer=tokenizer), folder)
    return folder


def train(student: Path, cache: Path, checkpoints: Path) -> list[dict[str, float]]:
    tokenizer = load_tokenizer(student)
    _, curve = distill(
        load_model(student, device=CPU), tokenizer, encode_texts(tokenizer, TEXTS),
        {"stranger": CachedSource(TeacherCache(find_shards(cache)))}, HYBRID, RECIPE,
        lora=None, checkpoints=checkpoints, fingerprint="same", name="test",
    )  # fmt: skip
    return curve


def test_a_student_learns_by_it(student: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says how much is shared, once: there are no texts that are held out."""
    with caplog.at_level("INFO", "logitfusion"):
        curve = train(student, cache, tmp_path)
    said = [line for line in caplog.messages if line.startswith("teacher")]
    assert said[0] == "teacher stranger: 259 of its 1555 tokens are the student's as well"
    assert len(said) == 2
    assert curve[-1]["hybrid"] < curve[0]["hybrid"]
    for row in curve:
        assert row["loss"] == pytest.approx(0.4 * row["sft"] + 0.1 * row["gld"] + 0.5 * row["hybrid"], rel=1e-4)


def test_it_needs_no_k_of_a_cache(student: Path, cache: Path) -> None:
    """It takes the 8 entries that there are; the 10 of k are uld's and gld's."""
    source, tokenizer = CachedSource(TeacherCache(find_shards(cache))), load_tokenizer(student)
    source.check("stranger", Objective(hybrid=0.5), tokenizer)
    with pytest.raises(UserError, match="holds the top 8, not 10"):
        source.check("stranger", Objective(hybrid=0.5, uld=0.1), tokenizer)


def test_a_cache_without_its_tokenizer_is_refused(student: Path, cache: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(cache, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer"))
    with pytest.raises(UserError, match="teacher 'stranger' has no tokenizer beside it; save the teacher's to"):
        train(student, bare, tmp_path / "a")
    load_tokenizer(student).save_pretrained(bare / "tokenizer")
    with pytest.raises(UserError, match="has other tokens than the one that the cache of teacher 'stranger'"):
        train(student, bare, tmp_path / "b")
