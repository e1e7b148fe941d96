"""A model whose logits are NaN or infinite is refused by name; entries that are only excluded (-inf) are fine."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM
from logitfusion.fusion.tuning import tune

PROMPTS = ["Hello world", "a", "2 + 2 = "]
MODELS = ("large", "base", "expert_a", "expert_b")
NAMES = {"large": "the large model", "base": "the base", "expert_a": "expert 1", "expert_b": "expert 2"}
SAMPLED = {"temperature": 1.0, "top_p": 0.9, "seed": 0}

USES: dict[str, Callable[[FusedLM], Any]] = {
    "greedy": lambda lm: lm.generate(PROMPTS, max_new_tokens=4),
    "sampled": lambda lm: lm.generate(PROMPTS, max_new_tokens=4, **SAMPLED),
    "speculative": lambda lm: lm.generate(PROMPTS, max_new_tokens=4, speculative=True),
    "speculative, sampled": lambda lm: lm.generate(PROMPTS, max_new_tokens=4, speculative=True, **SAMPLED),
    "score": lambda lm: lm.score(PROMPTS, ["x", "yz", "x"]),
    "tune": lambda lm: tune(lm, PROMPTS, ["x", "yz", "4"], trusts=[0.5], anchors=[1.0]),
}


def poison(model: PreTrainedModel, value: float, token: int = 5) -> PreTrainedModel:
    """A copy of the model, one entry of whose logits is this value everywhere."""

    def put(_: Any, __: Any, output: Any) -> Any:
        output.logits[..., token] = value
        return output

    poisoned = copy.deepcopy(model)
    poisoned.register_forward_hook(put)
    return poisoned


def make(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, bad: str, value: float, **options: Any
) -> FusedLM:
    large, base, *experts = (poison(loaded[name], value) if name == bad else loaded[name] for name in MODELS)
    return FusedLM(large, base, experts, tokenizer=tokenizer, **options)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("bad", MODELS)
@pytest.mark.parametrize("use", USES)
def test_logits_that_are_not_finite_are_refused_by_name(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, use: str, bad: str, value: float
) -> None:
    with pytest.raises(UserError) as caught:
        USES[use](make(loaded, tokenizer, bad, value))
    assert str(caught.value).startswith(f"The logits of {NAMES[bad]} (")
    assert loaded[bad].name_or_path in str(caught.value)


@pytest.mark.parametrize("bad", ["large", "base"])
def test_what_reads_prompts_refuses_them_too(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, bad: str
) -> None:
    with pytest.raises(UserError, match=NAMES[bad]):
        make(loaded, tokenizer, bad, torch.nan).likelihood_gap(PROMPTS)
    with pytest.raises(UserError, match=NAMES[bad]):
        make(loaded, tokenizer, bad, torch.nan, familiar=0.0).generate(PROMPTS, max_new_tokens=2)


def test_a_model_alone_is_named(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    alone = FusedLM(poison(loaded["large"], torch.nan), tokenizer=tokenizer)
    for use in ("greedy", "sampled", "score"):
        with pytest.raises(UserError, match="the large model"):
            USES[use](alone)


def test_a_damaged_adapter_is_named(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    base = get_peft_model(copy.deepcopy(loaded["base"]), config, "sound")
    base.add_adapter("damaged", config)
    for name, parameter in base.named_parameters():
        if "lora_B.damaged" in name:
            parameter.data.fill_(torch.nan)
    fusion = FusedLM(loaded["large"], base.eval(), ["sound", "damaged"], tokenizer=tokenizer)
    with pytest.raises(UserError, match=r"expert 2 \(damaged\)"):
        fusion.generate(PROMPTS, max_new_tokens=2)


@pytest.mark.parametrize("bad", MODELS)
@pytest.mark.parametrize("use", USES)
def test_excluded_entries_are_fine(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, use: str, bad: str
) -> None:
    assert USES[use](make(loaded, tokenizer, bad, -torch.inf))


def test_what_a_model_makes_of_padding_does_not_matter(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Rows of different lengths: positions of padding may hold anything."""

    def put(_: Any, __: Any, kwargs: dict[str, Any], output: Any) -> Any:
        keep = output.logits.shape[1]
        if "attention_mask" in kwargs:
            output.logits[kwargs["attention_mask"][:, -keep:] == 0] = torch.nan
        return output

    large = copy.deepcopy(loaded["large"])
    large.register_forward_hook(put, with_kwargs=True)
    sound = FusedLM(loaded["large"], tokenizer=tokenizer)
    assert USES["score"](FusedLM(large, tokenizer=tokenizer)) == USES["score"](sound)
