"""Texts that are packed in rows: the same texts in each step, losses and weights; models that can't are found."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from logitfusion.config.training import HealRecipe, LoRA, Recipe
from logitfusion.models.load import load_model
from logitfusion.models.tiny import tiny_tokenizer
from logitfusion.training.batches import CompletionCollator, order_rows
from logitfusion.training.finetune import finetune
from logitfusion.training.heal import heal
from logitfusion.training.packing import JoinedRows, join, make_batches
from logitfusion.training.padding import Padding

TOKENIZER = tiny_tokenizer()
EXAMPLES = [{"prompt": f"{n} {'=' * (n % 9)}", "completion": f" {'ab' * (n % 4)} {n**3}"} for n in range(20)]
RECIPE = Recipe(
    steps=6, batch_size=8, micro_batch=4, learning_rate=5e-3, max_tokens=64, precision="fp32", seed=0,
)  # fmt: skip
PADDED = Padding(RECIPE, 0)


def make_rows(sizes: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Of a prompt and a completion of these many tokens."""
    return [
        {"id": number, "input_ids": [5] * (prompt + own), "completion": own}
        for number, (prompt, own) in enumerate(sizes)
    ]


SIZES = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20)), min_size=1, max_size=15)


@given(SIZES, st.integers(1, 6), st.integers(1, 3), st.integers(8, 60), st.integers(1, 4))
def test_a_step_has_the_same_texts_in_rows_that_are_no_longer_than_they_may_be(
    sizes: list[tuple[int, int]], part: int, processes: int, packing: int, steps: int
) -> None:
    recipe = Recipe(steps=steps, batch_size=part * processes, micro_batch=2, packing=packing, seed=1)
    ordered = order_rows(make_rows(sizes), recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", str(processes))
        joined = JoinedRows(ordered, recipe)
    assert joined.of_step % processes == 0
    assert len(joined) == steps * joined.of_step
    for step in range(steps):
        rows = [joined[step * joined.of_step + place] for place in range(joined.of_step)]
        assert all(rows)
        found = sorted(text["id"] for row in rows for text in row)
        assert found == sorted(ordered[step * recipe.batch_size + place]["id"] for place in range(recipe.batch_size))
        for row in rows:
            assert len(row) == 1 or sum(len(text["input_ids"]) for text in row) <= packing


@given(SIZES)
def test_places_that_are_kept_are_those_of_each_text(sizes: list[tuple[int, int]]) -> None:
    """The last columns of each text, so that logits and labels meet as in a padded batch."""
    numbers = iter(range(1000))
    texts = [[next(numbers) for _ in range(prompt + own)] for prompt, own in sizes]
    columns = max(own for _, own in sizes) + 1
    made = join(texts, columns)
    assert made["input_ids"].tolist() == [list(range(sum(map(len, texts))))]
    assert made["position_ids"].tolist() == [[place for text in texts for place in range(len(text))]]
    for text, kept in zip(texts, made["kept"].tolist(), strict=True):
        assert kept == [text[max(0, len(text) - columns + place)] for place in range(columns)]


# ---- trainings ------------------------------------------------------------------------------------------------------


def train(
    base: Path, checkpoints: Path, lora: LoRA | None = None, **changes: Any
) -> tuple[dict[str, Tensor], list[float]]:
    model, curve = finetune(
        load_model(base, device=torch.device("cpu")), TOKENIZER, EXAMPLES, RECIPE.model_copy(update=changes),
        lora=lora, checkpoints=checkpoints, fingerprint="same", name="test",
    )  # fmt: skip
    return dict(model.state_dict()), [row["loss"] for row in curve]


ADAPTERS = LoRA(rank=2, alpha=4.0)


@pytest.mark.parametrize(
    ("lora", "changes"),
    [(None, {}), (ADAPTERS, {}), (None, {"gradient_checkpointing": True}), (None, {"attention": "eager"})],
    ids=["full", "lora", "checkpointed", "eager"],
)
def test_a_packed_training_is_the_padded_one(
    tiny_models: dict[str, Path], tmp_path: Path, lora: LoRA | None, changes: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    expected, losses = train(tiny_models["base"], tmp_path / "padded", lora)
    with caplog.at_level(logging.INFO):
        found, packed = train(tiny_models["base"], tmp_path / "packed", lora, packing=96, **changes)
    assert "the 8 texts of a step are packed in" in caplog.text
    assert packed == pytest.approx(losses, rel=1e-5)
    assert losses[-1] < losses[0] - 0.1
    for name, value in expected.items():
        # AdamW divides by the size of a gradient, so that the rounding of one near 0 counts.
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4, msg=name)


def test_a_healing_of_the_same_texts_in_a_row_is_the_padded_one(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    recipe = HealRecipe(steps=3, batch_size=4, micro_batch=4, precision="fp32", logit_share=1.0, seed=0)

    def losses(name: str, packing: int | None) -> list[float]:
        student, teacher = (load_model(tiny_models[kind], device=torch.device("cpu")) for kind in ("expert_a", "base"))
        _, curve = heal(
            student, teacher, TOKENIZER, [row["prompt"] for row in EXAMPLES],
            recipe.model_copy(update={"packing": packing}), checkpoints=tmp_path / name, fingerprint="same",
        )  # fmt: skip
        return [row["loss"] for row in curve]

    assert losses("packed", 2000) == pytest.approx(losses("padded", None), rel=1e-4)


class Blended(torch.nn.Module):
    """A model that is told of positions and looks beyond the joints all the same, from some length of the row on."""

    def __init__(self, model: PreTrainedModel, length: int) -> None:
        super().__init__()
        self.model, self.length = model, length
        self.config, self.device = model.config, model.device

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.model.get_output_embeddings()

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **others: Any) -> Any:
        if input_ids.shape[1] >= self.length:
            position_ids = torch.arange(input_ids.shape[1])[None]
        return self.model(input_ids=input_ids, position_ids=position_ids, **others)


@pytest.mark.parametrize("length", [20, 10_000])
def test_a_model_is_tried_on_the_longest_row(
    tiny_models: dict[str, Path], length: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What holds of short rows need not hold of long ones: tables end, windows begin."""
    model, recipe = load_model(tiny_models["base"]), RECIPE.model_copy(update={"packing": 64})
    rows, collator = make_rows([(8, 4)] * 20), CompletionCollator(0)
    with caplog.at_level(logging.INFO):
        batches = make_batches(Blended(model, length), rows, recipe, PADDED, collator, "test")
    assert ("packed in 2 rows" in caplog.text) == (length == 10_000)
    assert ("texts are not packed, because Blended can't" in caplog.text) == (length == 20)
    assert len(batches.rows) == RECIPE.steps * (2 if length == 10_000 else RECIPE.batch_size)
