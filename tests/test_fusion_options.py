"""Options stand in one place: signatures, the command line and the registries agree with the typed classes."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.cli import evaluate, generate, score
from logitfusion.cli._fusion import add_fusion
from logitfusion.cli._options import add_options, given_values, read_section, spell
from logitfusion.config.decoding import Decoding, DecodingOptions
from logitfusion.config.fusion import SteeredMethod
from logitfusion.config.fusion_options import FusionOptions, PoolName, RuleName, SelectionName
from logitfusion.config.gate import Gate
from logitfusion.config.section import Section
from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM, solve_weights
from logitfusion.fusion.lm_eval import FusedLMEval
from logitfusion.fusion.options import parse_options
from logitfusion.fusion.rules import RULES
from logitfusion.fusion.selections import POOLS, SELECTIONS
from logitfusion.fusion.tuning import tune

PROMPTS = ["Hello world", "a"]


@pytest.mark.parametrize(
    "function",
    [
        solve_weights,
        FusedLM.__init__,
        FusedLM.from_folders,
        FusedLM.generate,
        FusedLM.score,
        FusedLM.likelihood_gap,
        FusedLMEval.__init__,
        tune,
    ],
)
@pytest.mark.parametrize("section", [FusionOptions, DecodingOptions])
def test_defaults_of_signatures_are_those_of_the_classes(function: Callable[..., Any], section: type[Section]) -> None:
    for name, parameter in inspect.signature(function).parameters.items():
        if name in section.model_fields and parameter.default is not parameter.empty:
            assert parameter.default == section.model_fields[name].default, name


def test_options_by_name_default_to_the_classes(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    fusion = FusedLM(loaded["large"], loaded["base"], [loaded["expert_a"]], tokenizer=tokenizer)
    assert fusion.steering.options == FusionOptions()
    assert FusedLMEval(fusion).decoding == Decoding()


@pytest.mark.parametrize("command", [generate, score, evaluate])
def test_the_command_line_has_each_option_with_the_default_of_its_class(command: Any) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    required = ["--large", ".", "--pairs", "x", "--tasks", "y"]
    arguments, _ = parser.parse_known_args(required)
    assert read_section(FusionOptions, arguments) == FusionOptions()
    assert read_section(DecodingOptions, arguments) == DecodingOptions()
    text = " ".join(parser.format_help().split())
    shown = {**FusionOptions.model_fields, **(DecodingOptions.model_fields if command is generate else {})}
    for name, field in shown.items():
        assert f" {spell(name)} " in text
        if isinstance(field.default, (float, str)):
            assert re.search(rf" {spell(name)} [^-].*?default: {field.default}\)", text)


def test_every_field_can_be_given_on_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, DecodingOptions)
    given = "--batch-size 3 --temperature 0.5 --top-p 0.9 --top-k 7 --speculative --seed 2 --max-new-tokens 9"
    arguments = parser.parse_args([*given.split(), "--stop", "a", "b", "--stop", "c", "--draft-tokens", "4"])
    options = read_section(DecodingOptions, arguments)
    assert options.model_fields_set == DecodingOptions.model_fields.keys()
    assert (options.top_k, options.speculative, options.stop, options.draft_tokens) == (7, True, ("a", "b", "c"), 4)


def test_a_value_out_of_range_is_refused_by_the_name_of_its_option() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, DecodingOptions)
    for text, sentence in {
        "--top-p 1.5": "--top-p must be at most 1, and is 1.5.",
        "--max-new-tokens -1": "--max-new-tokens must be at least 0, and is -1.",
        "--temperature nan": "--temperature must be a finite number, and is nan.",
    }.items():
        with pytest.raises(UserError) as caught:
            read_section(DecodingOptions, parser.parse_args(text.split()))
        assert str(caught.value).replace(".0,", ",") == sentence


# A new rule or selection is one object and its name


def test_every_name_has_its_rule_or_selection() -> None:
    assert tuple(RULES) == get_args(RuleName) == get_args(FusionOptions.model_fields["rule"].annotation)
    assert get_args(PoolName) == POOLS
    assert tuple(SELECTIONS) == get_args(SelectionName) == get_args(FusionOptions.model_fields["selection"].annotation)


@pytest.mark.parametrize("rule", get_args(RuleName))
@pytest.mark.parametrize("selection", get_args(SelectionName))
def test_every_name_can_be_used(rule: str, selection: str) -> None:
    generator = torch.Generator().manual_seed(0)
    large, base, *experts = torch.randn(4, 5, 11, generator=generator)
    gate = Gate() if rule == "gate" else None
    solved = solve_weights(large, base, torch.stack(experts), rule=rule, selection=selection, gate=gate)
    assert solved.weights.isfinite().all()


# Objects and keywords


def test_an_object_is_its_keywords(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    models = (loaded["large"], loaded["base"], [loaded["expert_a"], loaded["expert_b"]])
    steering = {"selection": "one_hot", "bounds": (0.0, 1.0), "trust": 0.5}
    decoding = {"max_new_tokens": 5, "temperature": 0.7, "seed": 3, "stop": ["e"]}
    named = FusedLM(*models, tokenizer=tokenizer, **steering)
    typed = FusedLM(*models, tokenizer=tokenizer, options=FusionOptions(**steering))
    assert named.generate(PROMPTS, **decoding) == typed.generate(PROMPTS, DecodingOptions(**decoding))
    with pytest.raises(ValueError, match="trust"):
        FusedLM(*models, tokenizer=tokenizer, options=FusionOptions(), trust=0.5)


def test_a_single_stop_string_may_stand_alone(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    fusion = FusedLM(loaded["large"], tokenizer=tokenizer)
    options = {"max_new_tokens": 8, "temperature": 1.0, "seed": 0}
    assert fusion.generate(PROMPTS, stop="ab", **options) == fusion.generate(PROMPTS, stop=["ab"], **options)


def test_unknown_options_are_refused_with_a_suggestion(
    tiny_models: dict[str, Path], loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    fusion = FusedLM(loaded["large"], tokenizer=tokenizer)
    with pytest.raises(UserError, match=r"no option selecton: did you mean 'selection'\?"):
        FusedLM(loaded["large"], tokenizer=tokenizer, selecton="judged")
    with pytest.raises(UserError, match=r"no option temprature: did you mean 'temperature'\?"):
        fusion.generate(PROMPTS, temprature=1.0)
    with pytest.raises(UserError, match=r"no option anchors: did you mean 'anchor'\?"):
        FusedLMEval(large=tiny_models["large"], anchors=1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "much"}, "weights must be"),
        ({"weights": True}, "weights must be"),
        ({"bounds": (0.0,)}, "bounds holds too few values"),
        ({"bounds": (2.0, 1.0)}, "bounds must hold the lower weight first"),
        ({"bounds": [(0.0, 1.0), (1.0, 0.5)]}, "bounds must hold the lower weight first"),
        ({"bounds": [(0.0, 1.0)] * 3, "selection": "matched"}, "2 experts need one pair of bounds"),
        (
            {"bounds": [(0.0, 1.0)] * 2},
            "bounds can't be given for each expert",
        ),
        ({"step": float("nan")}, "step must be a finite number"),
        ({"trust": "all"}, "trust must be of type number, and is 'all'"),
    ],
)
def test_options_that_mean_nothing_are_refused_by_name(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        FusedLM(loaded["large"], loaded["base"], [loaded["expert_a"]] * 2, tokenizer=tokenizer, **options)


def test_a_method_of_a_config_has_bounds_for_all_experts_or_for_each() -> None:
    options = {"experts": ["a", "b"], "selection": "matched"}
    for bounds in ([0.0, 1.0], [[0.0, 1.0], [0.5, 2.0]]):
        assert SteeredMethod(**options, bounds=bounds).part(FusionOptions).dump()["bounds"] == bounds
    with pytest.raises(ValidationError, match="2 experts and 3 pairs of bounds"):
        SteeredMethod(**options, bounds=[[0.0, 1.0]] * 3)


@pytest.mark.parametrize(
    ("words", "bounds"), [("0 1", (0.0, 1.0)), ("0 1 0.5 2", ((0.0, 1.0), (0.5, 2.0)))], ids=["all", "each"]
)
def test_bounds_on_the_command_line_are_one_pair_or_one_for_each_expert(words: str, bounds: Any) -> None:
    parser = argparse.ArgumentParser()
    add_fusion(parser)
    arguments = parser.parse_args(["--large", ".", "--selection", "matched", "--bounds", *words.split()])
    assert parse_options(given_values(FusionOptions, arguments), spell).bounds == bounds


def test_an_odd_number_of_bounds_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="--bounds"):
        parse_options({"bounds": [0.0, 1.0, 2.0], "selection": "matched"}, spell)
