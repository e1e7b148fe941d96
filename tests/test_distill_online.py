"""Teachers that read while the student learns: as from a cache of all tokens, whatever is batched, cut or in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_distill_losses import LargeTensors
from test_distill_training import CPU, RECIPE, TEXTS, assert_same
from torch import Tensor
from transformers import PreTrainedModel

from logitfusion.config.models import RandomModel
from logitfusion.config.objective import Objective
from logitfusion.config.training import Recipe
from logitfusion.distill import Teacher, teacher
from logitfusion.distill.cache import TeacherCache
from logitfusion.distill.encoding import EncodedText, encode_texts
from logitfusion.distill.objective import DistillLoss
from logitfusion.distill.offline import SOURCE, cache_teacher
from logitfusion.distill.rows import DistillationCollator, pair_texts
from logitfusion.distill.shard import TeacherText
from logitfusion.distill.sources import CachedSource, OnlineSource, Source, open_online
from logitfusion.distill.step import PARTS, objective_loss, read_teachers
from logitfusion.distill.teacher import read_teacher
from logitfusion.distill.training import distill
from logitfusion.distill.vocabulary import Vocabulary
from logitfusion.errors import UserError
from logitfusion.models.identity import hash_vocabulary
from logitfusion.models.load import load_model, load_tokenizer
from logitfusion.models.source import make_random
from logitfusion.training.kept import kept_logits

NAMES = {"student": "bytes", "twin": "bytes", "stranger": "pairs"}
TOPS = Objective(uld=0.4, gld=0.3, k=5)
WHOLE = Objective(uld=0.2, gld=0.2, kl=0.3, k=5)

HYBRID = Objective(uld=0.2, gld=0.2, hybrid=0.4, k=5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("online")
    for seed, (name, tokenizer) in enumerate(NAMES.items(), 1):
        make_random(RandomModel(source="random", hidden_size=16, layers=1, seed=seed, tokenizer=tokenizer), root / name)
    return {name: root / name for name in NAMES}


def encoded(folder: Path, **options: Any) -> list[EncodedText]:
    return encode_texts(load_tokenizer(folder), TEXTS, **options)


class Kept(list[TeacherText]):
    """What a teacher makes of texts, all of its tokens, in a cache's place and without its rounding."""

    def __init__(self, folder: Path, model: PreTrainedModel, texts: Sequence[EncodedText], k: int) -> None:
        super().__init__(read_teacher(model, texts, k=k, batch_size=4))
        self.k, self.digests = k, [text.digest for text in texts]
        self.vocabulary = model.config.vocab_size
        self.settings = {"vocabulary_hash": hash_vocabulary(load_tokenizer(folder)), "template": "plain"}

    def ends(self, number: int) -> list[int]:
        return self[number].ends.tolist()


def online(folder: Path, objective: Objective, dtype: torch.dtype = torch.float32, **options: Any) -> OnlineSource:
    model = load_model(folder, device=CPU, dtype=dtype)
    return OnlineSource(model, load_tokenizer(folder), encoded(folder, **options), objective)


def compute(
    folders: dict[str, Path],
    sources: dict[str, Source],
    objective: Objective,
    dtype: torch.dtype = torch.float32,
    padding: int = 0,
) -> tuple[DistillLoss, Tensor, list[Any]]:
    """The loss of all texts as the trainer computes it, its gradient, and what the teachers are.

    The student has ``padding`` more tokens than its tokenizer, or fewer than all.
    """
    texts = encoded(folders["student"])
    rows = list(pair_texts(texts, sources, objective.alignment))
    if objective.hybrid:
        for name, source in sources.items():
            source.share(name, Vocabulary.of(load_tokenizer(folders["student"]), 259, texts))
    batch = DistillationCollator(0, list(sources.values()))(rows)
    labels, columns = batch.pop("labels"), batch.pop("teachers")
    student = load_model(folders["student"], device=CPU, dtype=dtype)
    logits = kept_logits(student, student, batch).detach()
    logits = torch.nn.functional.pad(logits, (0, padding)).requires_grad_()
    teachers = read_teachers(list(sources.values()), columns, objective)
    loss = objective_loss(objective, logits, labels, teachers)
    return loss, torch.autograd.grad(loss.total, logits)[0], teachers


@pytest.mark.parametrize(
    ("objective", "names"),
    [
        (TOPS, ["twin", "stranger"]),
        (TOPS.model_copy(update={"combine": "min_ce"}), ["stranger", "twin"]),
        (TOPS.model_copy(update={"alignment": "positions"}), ["stranger"]),
        (WHOLE, ["twin"]),
        (HYBRID, ["twin", "stranger"]),
        (HYBRID.model_copy(update={"divergence": "reverse", "normalisation": "texts"}), ["stranger"]),
        (WHOLE.model_copy(update={"divergence": "jsd", "temperature": 2.0}), ["twin"]),
    ],
)
def test_it_is_the_cache_of_all_tokens(folders: dict[str, Path], objective: Objective, names: list[str]) -> None:
    """Of the top-k, what is read is what a cache would hold; of whole vocabularies, losses and gradients are equal."""
    at_hand = {name: online(folders[name], objective) for name in names}
    sizes = {name: one.model.config.vocab_size for name, one in at_hand.items()}
    cached = {
        name: CachedSource(
            Kept(folders[name], one.model, one.texts, objective.k if one.k else sizes[name]), tokenizer=folders[name]
        )
        for name, one in at_hand.items()
    }
    found, expected = (compute(folders, sources, objective) for sources in (at_hand, cached))
    for part in ("total", *PARTS):
        torch.testing.assert_close(getattr(found[0], part), getattr(expected[0], part), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-7)
    assert found[0].uld > 0
    assert found[0].gld > 0
    assert (found[0].kl > 0) == bool(objective.kl)
    assert (found[0].hybrid > 0) == bool(objective.hybrid)


@pytest.mark.parametrize("padding", [5, -1])  # the last token is in none of the texts
@pytest.mark.parametrize("form", ["forward", "reverse", "jsd"])
def test_a_padded_vocabulary_is_the_cache_of_all_tokens(folders: dict[str, Path], form: str, padding: int) -> None:
    objective = Objective(kl=0.5, divergence=form)
    at_hand = online(folders["twin"], objective)
    kept = Kept(folders["twin"], at_hand.model, at_hand.texts, at_hand.model.config.vocab_size)
    sources = at_hand, CachedSource(kept)
    found, expected = (compute(folders, {"twin": one}, objective, padding=padding) for one in sources)
    torch.testing.assert_close(found[0].kl, expected[0].kl, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-7)


def test_the_files_of_a_cache_differ_by_their_rounding(folders: dict[str, Path], tmp_path: Path) -> None:
    """Half precision of log-probabilities: 2^-11 of each."""
    at_hand = online(folders["stranger"], TOPS)
    source = dict.fromkeys(SOURCE, "x") | {"max_tokens": None}
    paths = cache_teacher(at_hand.model, at_hand.texts, tmp_path, source=source, k=5, batch_size=4)
    found = compute(folders, {"stranger": at_hand}, TOPS)
    expected = compute(folders, {"stranger": CachedSource(TeacherCache(paths))}, TOPS)
    torch.testing.assert_close(found[0].total, expected[0].total, rtol=1e-3, atol=0)
    torch.testing.assert_close(found[1], expected[1], rtol=2e-3, atol=1e-6)


def naive_kl(student: PreTrainedModel, other: PreTrainedModel, texts: list[EncodedText]) -> Tensor:
    """Of each text alone, position by position."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for text in texts:
        ours, theirs = (model(torch.tensor([text.ids])).logits[0].log_softmax(-1) for model in (student, other))
        for place in text.places:
            p, q = ours[place - 1], theirs[place - 1].detach()
            total, count = total + (q.exp() * (q - p)).sum(), count + 1
    return total / count


def test_in_float64_it_is_the_definition(folders: dict[str, Path]) -> None:
    objective = Objective(kl=1.0, k=5)
    source = online(folders["twin"], objective, torch.float64)
    texts = encoded(folders["student"])
    models = [load_model(folders["student"], device=CPU, dtype=torch.float64) for _ in range(2)]
    rows = list(pair_texts(texts, {"twin": source}, "bytes"))
    batch = DistillationCollator(0, [source])(rows)
    labels, columns = batch.pop("labels"), batch.pop("teachers")
    logits = kept_logits(models[0], models[0], batch)
    found = objective_loss(objective, logits, labels, read_teachers([source], columns, objective)).total
    expected = naive_kl(models[1], source.model, texts)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    found.backward()
    expected.backward()
    for mine, its in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-8, atol=1e-12)
    assert all(weight.grad is None for weight in source.model.parameters())


def _alone(source: OnlineSource) -> None:
    source.reading = replace(source.reading, limit=0)


def _some_alone(source: OnlineSource) -> None:
    lengths = sorted(len(text.ids) for text in source.texts)
    source.reading = replace(source.reading, limit=lengths[len(lengths) // 2])


def _training(source: OnlineSource) -> None:
    source.model.train()


def _in_small_parts(source: OnlineSource) -> None:
    pass


@pytest.mark.parametrize("objective", [TOPS, WHOLE])
@pytest.mark.parametrize("change", [_alone, _some_alone, _training, _in_small_parts])
def test_how_it_is_read_does_not_matter(
    folders: dict[str, Path],
    objective: Objective,
    change: Callable[[OnlineSource], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources = [online(folders["twin"], objective) for _ in range(2)]
    numbers = [7, 0, 3, 11, 4]
    columns = sources[0].collate(numbers)
    groups = torch.zeros(0, 4, dtype=torch.int64)
    change(sources[1])
    expected = sources[0].read(columns, groups, 1.0)
    if change is _in_small_parts:
        monkeypatch.setattr(teacher, "_CHUNK", 3 * sources[0].model.config.vocab_size)
    with torch.autocast("cpu", torch.bfloat16) if change is _training else nullcontext():  # as of the student's
        found = sources[1].read(columns, groups, 1.0)
    parts = (vars(found), vars(expected)) if objective.kl else (vars(found.predictions), vars(expected.predictions))
    for name, value in parts[1].items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(parts[0][name], value)
    assert sources[1].model.training == (change is _training)


def test_logits_are_of_responses_only(folders: dict[str, Path]) -> None:
    source = online(folders["twin"], WHOLE)
    found = source.read(source.collate([2, 9]), torch.zeros(0, 4, dtype=torch.int64), 0.5)
    assert isinstance(found, Teacher)
    assert found.weight == 0.5
    texts = [source.texts[number] for number in (2, 9)]
    assert found.logits.shape[:2] == (2, max(len(text.labels) for text in texts) + 1)
    for row, text in enumerate(texts):
        assert found.labels[row][found.labels[row] >= 0].tolist() == list(text.labels)
        expected = source.model(torch.tensor([text.ids])).logits[0, text.start - 1 : -1]
        torch.testing.assert_close(found.logits[row, : len(text.labels)], expected)


@pytest.mark.parametrize(("objective", "held"), [(TOPS, 0), (WHOLE, 1)])
def test_terms_over_the_top_k_never_hold_the_logits(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, objective: Objective, held: int
) -> None:
    """Those over whole vocabularies do once."""
    source = online(folders["twin"], objective)
    columns = source.collate(range(12))
    vocabulary = source.model.config.vocab_size
    monkeypatch.setattr(teacher, "_CHUNK", 4 * vocabulary)
    with LargeTensors(4 * vocabulary * len(columns["places"]), ()) as seen:
        source.read(columns, torch.zeros(0, 4, dtype=torch.int64), 1.0)
    assert seen.count == held


def test_a_text_that_is_cut_before_its_response_has_no_part(folders: dict[str, Path]) -> None:
    """A limit of tokens leaves the teacher nothing of some texts; of one batch, of none."""
    for objective in (TOPS, Objective(kl=0.5, k=5)):
        source = online(folders["twin"], objective)
        source.texts = [replace(text, ids=text.ids[: text.start], ends=()) for text in source.texts]
        loss, gradient, _ = compute(folders, {"twin": source}, objective)
        assert loss.uld == loss.gld == loss.kl == 0
        assert gradient.isfinite().all()


def train(
    folders: dict[str, Path], sources: dict[str, Source], checkpoints: Path, recipe: Recipe = RECIPE
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    model, curve = distill(
        load_model(folders["student"], device=CPU), load_tokenizer(folders["student"]), encoded(folders["student"]),
        sources, TOPS, recipe, lora=None, checkpoints=checkpoints, fingerprint="same", name="test",
    )  # fmt: skip
    return dict(model.state_dict()), curve


def test_a_training_is_that_from_a_cache(folders: dict[str, Path], tmp_path: Path) -> None:
    """Two teachers, whole batches; the student's weights are equal but for rounding."""
    at_hand = {name: online(folders[name], TOPS) for name in ("twin", "stranger")}
    cached = {name: CachedSource(Kept(folders[name], one.model, one.texts, 5)) for name, one in at_hand.items()}
    found, curve = train(folders, at_hand, tmp_path / "a")
    expected, other = train(folders, cached, tmp_path / "b")
    assert_same(found, expected, rtol=1e-4, atol=1e-5)
    assert [row["loss"] for row in curve] == pytest.approx([row["loss"] for row in other], rel=1e-5)


def test_what_it_can_not_read_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    twin, stranger = (online(folders[name], TOPS) for name in ("twin", "stranger"))
    twin.texts = twin.texts[1:]
    with pytest.raises(UserError, match="'twin' does not have the student's text 1; let it read all texts"):
        train(folders, {"twin": twin}, tmp_path)
    with pytest.raises(UserError, match=r"k is 9999, and must be from 1 to the teacher's \d+ tokens"):
        stranger.check("stranger", Objective(uld=0.4, k=9999), load_tokenizer(folders["student"]))
    with pytest.raises(UserError, match="'stranger' has another vocabulary than the student"):
        stranger.check("stranger", WHOLE, load_tokenizer(folders["student"]))


def test_the_teacher_that_can_not_read_the_texts_is_named(folders: dict[str, Path]) -> None:
    """The student, and other teachers, may have the template that it lacks."""
    chat = [[{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}]]
    with pytest.raises(UserError, match=r"Teacher 'twin' can't read the texts\. Text 1: it is"):
        open_online("twin", folders["twin"], chat, Objective(uld=0.4))
