"""The learning rate of a training: every update counts, the first and the last too."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_models import EXAMPLES, RECIPE, TOKENIZER
from torch.optim import SGD
from transformers import get_cosine_schedule_with_warmup

from logitfusion.models.load import load_model
from logitfusion.training.batches import CompletionCollator
from logitfusion.training.finetune import CompletionTrainer, encode_examples
from logitfusion.training.loop import trainer_arguments
from logitfusion.training.schedule import share_of_peak


@given(updates=st.integers(1, 300), tenth=st.integers(2, 20))
def test_every_update_counts_and_the_peak_is_reached(updates: int, tenth: int) -> None:
    warm_up = updates // tenth
    shares = [share_of_peak(update, warm_up, updates) for update in range(updates)]
    assert min(shares) > 0
    assert shares[warm_up] == max(shares) == 1
    assert shares[:warm_up] == sorted(shares[:warm_up])
    assert shares[warm_up:] == sorted(shares[warm_up:], reverse=True)


def test_after_the_warm_up_it_is_the_library_s_cosine() -> None:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    library = get_cosine_schedule_with_warmup(optimizer, 3, 40)
    for update in range(40):
        if update >= 3:
            assert share_of_peak(update, 3, 40) == pytest.approx(library.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        library.step()


@pytest.mark.parametrize("steps", [1, 12])
def test_a_trainer_takes_these_rates(tiny_models: dict[str, Path], tmp_path: Path, steps: int) -> None:
    model = load_model(tiny_models["base"])
    before = copy.deepcopy(model.state_dict())
    recipe = RECIPE.model_copy(update={"steps": steps})
    arguments = trainer_arguments(recipe, tmp_path)
    arguments.logging_steps = 1
    rows = encode_examples(EXAMPLES, TOKENIZER, recipe.max_tokens)
    collator = CompletionCollator(TOKENIZER.pad_token_id)
    trainer = CompletionTrainer(model=model, args=arguments, train_dataset=rows * steps, data_collator=collator)
    trainer.train()
    rates = [row["learning_rate"] for row in trainer.state.log_history if "loss" in row]
    expected = [recipe.learning_rate * share_of_peak(update, steps // 10, steps) for update in range(steps)]
    assert rates == pytest.approx(expected)
    assert any(not torch.equal(value, before[name].to(value.device)) for name, value in model.state_dict().items())
