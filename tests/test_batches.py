"""Batch sizes that are found: halved where the memory is used up, every row computed once, the same results."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.decoding import Decoding
from logitfusion.config.keywords import read_options
from logitfusion.distill.encoding import EncodedText
from logitfusion.distill.teacher import read_teacher
from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM, Generation
from logitfusion.fusion.tuning import tune
from logitfusion.models import batch_size
from logitfusion.models.batch_size import LARGEST_BATCH, BatchSize

PROMPTS = [f"{word} {number}" for number in range(7) for word in ("Hello", "The quick brown fox", "a")]
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def small_card(loaded: dict[str, PreTrainedModel]) -> Iterator[Callable[[int, int], Counter[int]]]:
    """Let the large model use its memory up where more than some rows hold more than some tokens, and count rows."""
    seen: Counter[int] = Counter()
    handles = []

    def limit(rows: int, tokens: int = 0) -> Counter[int]:
        def check(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, torch.Tensor]) -> None:
            held, mask = len(kwargs["input_ids"]), kwargs.get("attention_mask")
            seen[held] += 1
            if held > rows and (mask is None or mask.shape[1] > tokens):
                raise FULL

        handles.append(loaded["large"].register_forward_pre_hook(check, with_kwargs=True))
        return seen

    yield limit
    for handle in handles:
        handle.remove()


@pytest.fixture
def fusion(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> FusedLM:
    return FusedLM(loaded["large"], loaded["base"], [loaded["expert_a"]], tokenizer=tokenizer)


# Rows and batches alone


@given(st.lists(st.integers(1, 40), max_size=8), st.integers(1, 40))
def test_every_row_is_computed_once_and_in_order(lengths: list[int], room: int) -> None:
    rows = iter(range(sum(lengths)))
    batches = [[next(rows) for _ in range(length)] for length in lengths]
    tried: list[int] = []

    def compute(batch: list[int]) -> list[int]:
        tried.append(len(batch))
        if len(batch) > room:
            raise FULL
        return [10 * row for row in batch]

    size = BatchSize("auto")
    with patch.object(batch_size, "_free"):  # which takes a moment
        found = list(size.each(batches, compute))
    assert [row for batch, _ in found for row in batch] == list(range(sum(lengths)))
    assert all(result == [10 * row for row in batch] for batch, result in found)
    failed = [length for length in tried if length > room]
    assert len(failed) == len(set(failed)) <= LARGEST_BATCH.bit_length()  # a size that failed is not tried again
    if failed:
        assert size.rows <= room < 2 * (size.rows + 1)


def test_what_is_no_lack_of_memory_ends_the_work_and_so_does_a_given_size() -> None:
    def compute(batch: list[int]) -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        list(BatchSize("auto").each([[1, 2]], compute))

    def fill(batch: list[int]) -> None:
        raise FULL

    with pytest.raises(torch.OutOfMemoryError):
        list(BatchSize("auto").each([[1]], fill))
    with pytest.raises(torch.OutOfMemoryError):
        list(BatchSize(2).each([[1, 2]], fill))


@pytest.mark.parametrize("value", [0, -1, "automatic", 2.5, True, "16"])
def test_a_batch_size_is_a_number_or_auto(value: object) -> None:
    assert read_options(Decoding, {"batch_size": "auto"}).batch_size == "auto"
    assert read_options(Decoding, {"batch_size": 3}).batch_size == 3
    with pytest.raises(UserError, match=r"^batch_size must be"):
        read_options(Decoding, {"batch_size": value})


# What is computed of them


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 3}, {"speculative": True}], ids=str)
def test_texts_do_not_depend_on_the_size_that_is_found(
    fusion: FusedLM,
    small_card: Callable[..., Counter[int]],
    options: dict[str, object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The memory is used up in the middle of the texts, as caches grow."""
    expected = fusion.generate(PROMPTS, max_new_tokens=8, batch_size=2, **options)
    seen, done = small_card(3, 20), []
    told: dict[int, list[int]] = {}

    def note(number: int, generation: Generation) -> None:
        told.setdefault(number, []).append(len(generation.token_ids))

    with caplog.at_level(logging.INFO, logger="logitfusion"):
        found = fusion.generate(
            PROMPTS, max_new_tokens=8, batch_size="auto", on_batch=done.append, on_token=note, **options
        )
    assert max(seen) > 3  # it was tried
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert [one.text for one in found] == [one.text for one in expected]
    assert sum(done) == len(PROMPTS)
    assert all(counts == sorted(set(counts)) for counts in told.values())  # nothing is told twice
    assert {number: counts[-1] for number, counts in told.items()} == {
        number: len(one.token_ids) for number, one in enumerate(found)
    }
    assert "the memory is used up by 21 prompts together: 10 from now on" in caplog.text


def test_scores_and_gaps_do_not_depend_on_it(fusion: FusedLM, small_card: Callable[..., Counter[int]]) -> None:
    continuations = [f" and {number} more" for number in range(len(PROMPTS))]
    expected = fusion.score(PROMPTS, continuations, batch_size=1)
    gaps = fusion.likelihood_gap(PROMPTS, batch_size=1)
    small_card(5)
    done: list[int] = []
    found = fusion.score(PROMPTS, continuations, batch_size="auto", on_batch=done.append)
    assert sum(done) == len(PROMPTS)
    assert max(done) <= 5
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert fusion.likelihood_gap(PROMPTS, batch_size="auto") == pytest.approx(gaps, abs=1e-4)


def test_tuning_does_not_depend_on_it(fusion: FusedLM, small_card: Callable[..., Counter[int]]) -> None:
    completions, options = [" yes"] * len(PROMPTS), {"trusts": [0.0, 1.0], "anchors": [0.5, 1.0]}
    expected = tune(fusion, PROMPTS, completions, batch_size=1, **options)
    small_card(4)
    found = tune(fusion, PROMPTS, completions, batch_size="auto", **options)
    for one, other in zip(found, expected, strict=True):
        assert (one.trust, one.anchor, one.exact) == (other.trust, other.anchor, other.exact)
        assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-4)


def test_a_teachers_predictions_do_not_depend_on_it(
    loaded: dict[str, PreTrainedModel], small_card: Callable[..., Counter[int]]
) -> None:
    texts = [EncodedText((5, *range(6, 8 + number % 5)), 1, tuple(range(1, 3 + number % 5))) for number in range(11)]
    expected = list(read_teacher(loaded["large"], texts, k=4, batch_size=1))
    small_card(4)
    done: list[int] = []
    found = list(read_teacher(loaded["large"], texts, k=4, batch_size="auto", on_batch=done.append))
    assert sum(done) == sum(len(text.labels) for text in texts)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.ids, other.ids)
        assert torch.allclose(one.log_probs, other.log_probs, atol=1e-4)


def test_a_given_size_that_does_not_fit_ends_as_it_did(
    fusion: FusedLM, small_card: Callable[..., Counter[int]], tmp_path: Path
) -> None:
    small_card(3)
    with pytest.raises(torch.OutOfMemoryError):
        fusion.generate(PROMPTS, max_new_tokens=2, batch_size=8)
