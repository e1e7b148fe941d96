"""Training a student from caches: against plain fine-tuning, one large batch and an uninterrupted run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from logitfusion.config.models import RandomModel
from logitfusion.config.objective import Objective
from logitfusion.config.training import LoRA, Recipe
from logitfusion.distill.cache import TeacherCache
from logitfusion.distill.encoding import digest_text, encode_text
from logitfusion.distill.objective import distill_loss
from logitfusion.distill.offline import SOURCE, cache_teacher
from logitfusion.distill.rows import DistillationCollator, pair_texts
from logitfusion.distill.sources import CachedSource
from logitfusion.distill.step import read_teachers
from logitfusion.distill.texts import UNKNOWN_TEXT, EncodedText
from logitfusion.distill.training import distill
from logitfusion.errors import UserError
from logitfusion.models.identity import hash_vocabulary
from logitfusion.models.load import load_model, load_tokenizer
from logitfusion.models.source import make_random
from logitfusion.training import loop as training
from logitfusion.training.finetune import finetune
from logitfusion.training.kept import kept_logits

CPU = torch.device("cpu")
TEXTS = [(f"Count to {number}:", " " + " ".join(map(str, range(10, 12 + number % 5)))) for number in range(12)]
RECIPE = Recipe(
    steps=4, batch_size=6, micro_batch=6, learning_rate=5e-3, weight_decay=0.0, max_tokens=64, checkpoint_minutes=60.0,
    precision="fp32", seed=0,
)  # fmt: skip
SFT = Objective(k=5)
BOTH = Objective(uld=0.4, gld=0.3, k=5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A student, and two teachers, of which one cuts texts otherwise."""
    root = tmp_path_factory.mktemp("distill")
    for name, tokenizer, seed in (("student", "bytes", 1), ("twin", "bytes", 2), ("stranger", "pairs", 3)):
        make_random(RandomModel(source="random", hidden_size=16, layers=1, seed=seed, tokenizer=tokenizer), root / name)
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def caches(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, CachedSource]:
    made = {}
    for name in ("twin", "stranger"):
        source = dict.fromkeys(SOURCE, "x") | {"max_tokens": None}
        texts = encoded(load_tokenizer(folders[name]))
        model = load_model(folders[name], device=CPU)
        paths = cache_teacher(model, texts, tmp_path_factory.mktemp(name), source=source, k=8, batch_size=4, shards=2)
        made[name] = CachedSource(TeacherCache(paths))
    return made


def encoded(tokenizer: PreTrainedTokenizerBase) -> list[EncodedText]:
    return [encode_text(tokenizer, *text) for text in TEXTS]


def run(
    folders: dict[str, Path],
    caches: dict[str, CachedSource],
    checkpoints: Path,
    objective: Objective = BOTH,
    recipe: Recipe = RECIPE,
    lora: LoRA | None = None,
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    tokenizer = load_tokenizer(folders["student"])
    model, curve = distill(
        load_model(folders["student"], device=CPU), tokenizer, encoded(tokenizer), caches, objective, recipe,
        lora=lora, checkpoints=checkpoints, fingerprint="same", name="test",
    )  # fmt: skip
    merged = training.merge_adapters(model, "test")
    return {name: value.detach().clone() for name, value in merged.state_dict().items()}, curve


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **tolerance)


def test_without_teachers_it_is_fine_tuning(folders: dict[str, Path], tmp_path: Path) -> None:
    found, curve = run(folders, {}, tmp_path / "a", SFT)
    model, expected = finetune(
        load_model(folders["student"], device=CPU), load_tokenizer(folders["student"]),
        [{"prompt": prompt, "completion": response} for prompt, response in TEXTS],
        RECIPE, lora=None, checkpoints=tmp_path / "b", fingerprint="same", name="test",
    )  # fmt: skip
    assert_same(found, dict(model.state_dict()), rtol=1e-5, atol=1e-6)
    assert [row["loss"] for row in curve] == pytest.approx([row["loss"] for row in expected], rel=1e-5)
    assert all(row["sft"] == pytest.approx(row["loss"], rel=1e-5) and row["gld"] == 0 for row in curve)


@pytest.mark.parametrize("combine", ["sum", "min_ce"])
def test_the_logged_parts_come_to_the_loss(
    folders: dict[str, Path], caches: dict[str, CachedSource], tmp_path: Path, combine: str
) -> None:
    objective = BOTH.model_copy(update={"combine": combine})
    """Whole batches and accumulated ones, in which the rows of a step are others: micro-batches are of like length."""
    _, curve = run(folders, caches, tmp_path / "whole", objective)
    _, other = run(folders, caches, tmp_path / "parts", objective, RECIPE.model_copy(update={"micro_batch": 2}))
    assert len(curve) == len(other) == RECIPE.steps
    assert all(row["loss"] == pytest.approx(0.3 * row["sft"] + 0.4 * row["uld"] + 0.3 * row["gld"], rel=1e-4)
               for row in [*curve, *other])  # fmt: skip
    assert all(row[part] > 0 for row in curve for part in ("sft", "uld", "gld"))


def test_a_step_in_parts_has_the_gradient_of_the_whole(
    folders: dict[str, Path], caches: dict[str, CachedSource]
) -> None:
    """The collator's groups and counts, and the division by the step's own numbers."""
    tokenizer, model = load_tokenizer(folders["student"]), load_model(folders["student"], device=CPU)
    rows = list(pair_texts(encoded(tokenizer), caches, "bytes"))
    collate = DistillationCollator(tokenizer.pad_token_id, list(caches.values()))

    def gradient(parts: list[list[dict[str, Any]]]) -> Tensor:
        model.zero_grad()
        tokens = sum(row["completion"] for part in parts for row in part)
        for part in parts:
            batch = collate(part)
            labels, cached = batch.pop("labels"), batch.pop("teachers")
            logits = kept_logits(model, model, batch)
            teachers = read_teachers(collate.sources, cached, BOTH)
            options: dict[str, Any] = {"k": 5, "uld_k": 5, "uld_weight": 0.4, "gld_weight": 0.3}
            distill_loss(logits, labels, teachers, tokens=tokens, texts=len(rows), **options).total.backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    torch.testing.assert_close(gradient([rows[:1], rows[1:5], rows[5:]]), gradient([rows]), rtol=1e-4, atol=1e-6)


def test_packed_texts_meet_their_teachers_predictions(
    folders: dict[str, Path], caches: dict[str, TeacherCache], tmp_path: Path
) -> None:
    """Of teachers with other tokens, too: every part of the loss, and the student."""
    expected, curve = run(folders, caches, tmp_path / "padded")
    found, packed = run(folders, caches, tmp_path / "packed", recipe=RECIPE.model_copy(update={"packing": 64}))
    for name in ("loss", "sft", "uld", "gld"):
        assert [row[name] for row in packed] == pytest.approx([row[name] for row in curve], rel=1e-4)
    assert_same(found, expected, rtol=1e-4, atol=1e-5)


class JobKilledError(Exception):
    """Stands for a job that is killed."""


def test_a_resumed_training_ends_like_an_uninterrupted_one(
    folders: dict[str, Path], caches: dict[str, CachedSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.model_copy(update={"checkpoint_minutes": 1e-9})
    expected, curve = run(folders, caches, tmp_path / "straight", recipe=recipe)

    class Interrupting(training.Progress):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                raise JobKilledError

    with monkeypatch.context() as patch:
        patch.setattr(training, "Progress", Interrupting)
        with pytest.raises(JobKilledError):
            run(folders, caches, tmp_path / "broken", recipe=recipe)
    found, joined = run(folders, caches, tmp_path / "broken", recipe=recipe)
    assert_same(found, expected)
    assert [row["gld"] for row in joined] == pytest.approx([row["gld"] for row in curve])


def test_adapters_are_merged(folders: dict[str, Path], caches: dict[str, CachedSource], tmp_path: Path) -> None:
    found, _ = run(folders, caches, tmp_path, lora=LoRA(rank=2, alpha=4.0, dropout=0.0))
    before = load_model(folders["student"], device=CPU).state_dict()
    assert found.keys() == before.keys()
    assert torch.equal(found["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    assert not torch.equal(found["model.layers.0.mlp.up_proj.weight"], before["model.layers.0.mlp.up_proj.weight"])


def test_the_student_learns_its_twin(folders: dict[str, Path], caches: dict[str, CachedSource], tmp_path: Path) -> None:
    """Without labels' factor, only the sorted distributions pull: they come nearer."""
    objective = Objective(uld=0.5, gld=0.5, k=5)
    recipe = RECIPE.model_copy(update={"steps": 30})
    _, curve = run(folders, {"twin": caches["twin"]}, tmp_path, objective, recipe)
    assert curve[-1]["uld"] < 0.8 * curve[0]["uld"]


@pytest.mark.parametrize("alignment", ["bytes", "positions"])
def test_pairs_by_bytes_cover_the_same_text(
    folders: dict[str, Path], caches: dict[str, CachedSource], alignment: str
) -> None:
    texts = encoded(load_tokenizer(folders["student"]))
    rows = pair_texts(texts, {"stranger": caches["stranger"]}, alignment)
    ends = [
        (text.ends[group[1]], caches["stranger"].ends(number)[group[3]])
        for number, (text, row) in enumerate(zip(texts, rows, strict=True)) for group in row["groups"][0].tolist()
    ]  # fmt: skip
    assert all(mine == its for mine, its in ends) == (alignment == "bytes")


def test_a_cache_that_does_not_fit_is_refused(
    folders: dict[str, Path], caches: dict[str, CachedSource], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(folders["student"])
    common: dict[str, Any] = {"lora": None, "checkpoints": tmp_path, "fingerprint": "x", "name": "test"}
    model = load_model(folders["student"], device=CPU)
    more = BOTH.model_copy(update={"k": 9})
    with pytest.raises(UserError, match="'twin' holds the top 8, not 9"):
        distill(model, tokenizer, encoded(tokenizer), {"twin": caches["twin"]}, more, RECIPE, **common)
    by_name = more.model_copy(update={"uld": 0.0, "gld": 0.0, "hybrid": 0.5})
    caches["twin"].check("twin", by_name, tokenizer)  # takes all that a cache holds, however few


def test_a_text_that_a_cache_lacks_is_refused(
    folders: dict[str, Path], caches: dict[str, CachedSource], tmp_path: Path
) -> None:
    """Counts are the same, and so is what the source says of itself; another prompt, but the same response."""
    tokenizer, model = load_tokenizer(folders["student"]), load_model(folders["student"], device=CPU)
    texts = encoded(tokenizer)
    texts[3] = replace(texts[3], digest=digest_text(("Another:", TEXTS[3][1])))
    with pytest.raises(UserError, match=r"'stranger' does not have the student's text 4; let it read"):
        distill(model, tokenizer, texts, {"stranger": caches["stranger"]}, BOTH, RECIPE, lora=None,
                checkpoints=tmp_path, fingerprint="x", name="test")  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chosen", [[4, 3, 3, 0], range(3, 9), list(reversed(range(12)))])
def test_texts_are_found_wherever_a_cache_has_them(
    folders: dict[str, Path], caches: dict[str, CachedSource], chosen: Sequence[int]
) -> None:
    """Some of them, in another order, one twice: what the student reads of a cache is of the same texts."""
    texts = encoded(load_tokenizer(folders["student"]))
    whole = pair_texts(texts, caches, "bytes")
    found = pair_texts([texts[number] for number in chosen], caches, "bytes")
    expected, batch = (
        DistillationCollator(0, list(caches.values()))(rows) for rows in ([whole[number] for number in chosen], found)
    )
    for mine, its in zip(batch.pop("teachers"), expected.pop("teachers"), strict=True):
        assert_same(mine, its)
    assert_same(batch, expected)


def test_texts_are_the_same_in_other_tokens(folders: dict[str, Path], caches: dict[str, CachedSource]) -> None:
    """Cut, in a chat template, or by another tokenizer: it is what was given that counts."""
    tokenizer = load_tokenizer(folders["stranger"])
    options: list[dict[str, Any]] = [{}, {"max_tokens": 9}, {"max_tokens": 2}, {"template": "chat"}]
    for chosen in options:
        texts = [encode_text(tokenizer, *text, **chosen) for text in TEXTS]
        assert all(list(cache.match(name, texts)) == list(range(12)) for name, cache in caches.items())


def test_texts_that_nobody_named_are_taken_in_their_order(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = encoded(load_tokenizer(folders["twin"]))
    texts = [replace(text, digest=UNKNOWN_TEXT) for text in named]
    source = dict.fromkeys(SOURCE, "x") | {"max_tokens": None}
    model = load_model(folders["twin"], device=CPU)
    cache = CachedSource(TeacherCache(cache_teacher(model, texts, tmp_path, source=source, k=8, batch_size=4)))
    assert list(cache.match("twin", texts)) == list(range(12))
    assert "teacher twin: some of its texts have no digest" in caplog.text
    with pytest.raises(UserError, match="'twin' has 12 texts and the student 11, and some"):
        cache.match("twin", texts[:-1])
    with pytest.raises(UserError, match=r"Text 4 of teacher 'twin' is not the student's text 4; .* the same order\."):
        cache.match("twin", [*texts[:3], named[3], *texts[4:]])


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_a_student_comes_closer_to_a_teacher_of_its_own_tokens(
    folders: dict[str, Path], caches: dict[str, CachedSource], tmp_path: Path, divergence: str
) -> None:
    objective = Objective(kl=1.0, divergence=divergence, k=5)
    recipe = RECIPE.model_copy(update={"steps": 30})
    cache = _of_the_same_tokens(folders, tmp_path / "cache")
    _, curve = run(folders, {"twin": cache}, tmp_path / "checkpoints", objective, recipe)
    assert all(row["loss"] == pytest.approx(row["kl"], rel=1e-4) for row in curve)
    assert curve[-1]["kl"] < 0.8 * curve[0]["kl"]
    assert all(row["uld"] == row["gld"] == 0 for row in curve)


def _of_the_same_tokens(folders: dict[str, Path], folder: Path) -> CachedSource:
    tokenizer = load_tokenizer(folders["twin"])
    source = dict.fromkeys(SOURCE, "x") | {"max_tokens": None} | {"vocabulary_hash": hash_vocabulary(tokenizer)}
    model = load_model(folders["twin"], device=CPU)
    paths = cache_teacher(model, encoded(tokenizer), folder, source=source, k=8, batch_size=4)
    return CachedSource(TeacherCache(paths))


def test_a_teacher_of_other_tokens_has_no_divergence(
    folders: dict[str, Path], caches: dict[str, CachedSource], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="'stranger' has another vocabulary than the student"):
        run(folders, {"stranger": caches["stranger"]}, tmp_path, Objective(kl=0.5, k=5))
