"""Every number of a config and of the command line has a finite range, and JSON that is written is JSON."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn.functional import normalize

from logitfusion.cli import make_parser
from logitfusion.cli._harness import read_evaluation
from logitfusion.clip import Support, fit_method
from logitfusion.clip.fitting import fit
from logitfusion.clip.methods import METHODS
from logitfusion.config.decoding import DecodingOptions
from logitfusion.config.errors import explain
from logitfusion.config.fusion_options import MOST_CANDIDATES, FusionOptions
from logitfusion.config.keywords import read_options
from logitfusion.config.run import RunConfig
from logitfusion.config.schema import make_schema
from logitfusion.config.section import LARGEST, SMALLEST, Section
from logitfusion.config.training import Training
from logitfusion.errors import UserError
from logitfusion.formats.json import format_json
from logitfusion.fusion import solve_weights
from logitfusion.fusion.lm_eval_arguments import read_generation
from logitfusion.models.device_maps import measure_folder
from logitfusion.models.load import load_model, load_tokenizer
from logitfusion.plan.measure import read_config

ODD: list[Any] = [
    *(math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, -5e-324, 1e-300, 2.0**63, 1e31, -0.0, True, False),
    *(10**12, 10**22, -(10**22), 2**63, 2**64, 10**400, -(10**400), 10**5000, -1, "1e999", "nan", "٣", b"1"),
]
ODD_TEXTS = [
    *("nan", "inf", "-inf", "1e999", "-1e999", "1e-320", "9" * 23, "-" + "9" * 23, "9" * 400, "9" * 5000),
    *("", " ", "0x10", "1e3", "1/2", "--", "True", "none", "1,5", "-0.0", "-1"),
]


# ---- configs ------------------------------------------------------------------------------------------------------


def number_schemas(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas of numbers, wherever they are."""
    if isinstance(schema, list):
        for part in schema:
            yield from number_schemas(part, place)
    elif isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            yield place, schema
        for key, part in schema.items():
            yield from number_schemas(part, f"{place}.{key}")


def test_every_number_of_a_config_has_two_ends() -> None:
    found = list(number_schemas(make_schema()))
    found += [
        (name, part) for name, method in METHODS.items() for _, part in number_schemas(method.Settings.describe())
    ]
    assert len(found) > 200
    for place, schema in found:
        if ".where." not in place:  # values that rows are compared with
            assert {"minimum", "exclusiveMinimum"} & schema.keys(), place
            assert {"maximum", "exclusiveMaximum"} & schema.keys(), place


def sections() -> list[type[Section]]:
    """All that a config is made of, and the settings of few-shot methods."""
    seen: dict[type[Section], None] = {}

    def walk(kind: Any) -> None:
        if isinstance(kind, type) and issubclass(kind, Section):
            if kind in seen:
                return
            seen[kind] = None
            for field in kind.model_fields.values():
                walk(field.annotation)
        for part in getattr(kind, "__args__", ()):
            walk(part)

    walk(RunConfig)
    for method in METHODS.values():
        walk(method.Settings)
    return list(seen)


def check(section: type[Section], key: str, value: Any) -> tuple[str, bool]:
    """The sentence that refuses a section with this value, and whether that is the value's fault."""
    try:
        section.model_validate({key: value})
    except ValidationError as error:
        return explain(error), any(one["loc"][:1] == (key,) for one in error.errors())
    return "", False


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_an_odd_number_is_one_sentence_or_in_range(section: type[Section]) -> None:
    for name, field in section.model_fields.items():
        key = field.alias or name
        for value in ODD:
            sentence, wrong = check(section, key, value)
            assert "\n" not in sentence
            assert len(sentence) < 1000
            if not wrong and not isinstance(value, (str, bool, bytes)):
                assert abs(value) <= LARGEST, (name, value)
                assert value == 0 or abs(value) >= SMALLEST, (name, value)


def test_zero_has_no_sign() -> None:
    """Equal configs are one text in jobs, so that none runs again."""
    assert math.copysign(1, FusionOptions(anchor=-0.0).anchor) == 1


@pytest.mark.parametrize("value", [{"steps": 10**8, "batch_size": 1000}, {"epochs": 1e6, "batch_size": 1}])
def test_a_training_that_no_memory_holds_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, UserError), match="more than 100000000 sequences"):
        Training.model_validate(value).for_texts(1000)


# ---- the command line ---------------------------------------------------------------------------------------------


def numeric_options() -> list[Any]:
    """The options of all commands that read a text as something else than a text or a path."""

    def walk(parser: argparse.ArgumentParser) -> Iterator[Any]:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for child in action.choices.values():
                    yield from walk(child)
            elif action.type not in (None, str, Path):
                yield pytest.param(action, id=f"{parser.prog} {action.dest}")

    return list(walk(make_parser()))


def test_there_are_numeric_options() -> None:
    assert len(numeric_options()) > 30


def read(action: argparse.Action, text: str) -> tuple[Any, str | None]:
    """The value of an option's text, or the sentence that refuses it."""
    try:
        return action.type(text), None
    except UserError as error:
        return None, str(error)


@pytest.mark.parametrize("action", numeric_options())
def test_a_number_of_the_command_line_is_in_range_or_a_sentence(action: argparse.Action) -> None:
    if action.dest == "bounds":  # two numbers that are checked together
        return
    assert action.type not in (int, float), "takes its type from the field of a section: cli/_options.py"
    for text in ODD_TEXTS:
        value, sentence = read(action, text)
        assert sentence is None or (sentence.startswith(action.option_strings[-1]) and len(sentence) < 400)
        assert sentence is not None or (math.isfinite(value) and abs(value) <= LARGEST)


@pytest.mark.parametrize("bound", ["nan", "inf", "-1", "1e999", "1e-320"])
def test_odd_bounds_are_a_sentence(bound: str) -> None:
    with pytest.raises(UserError, match="bounds"):
        read_options(FusionOptions, {"bounds": (float(bound), 2.0)})


# ---- searches and draws -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"step": 1e-9}, "10000 weights"),
        ({"step": 0.1, "bounds": (0.0, 1e9)}, "10000 weights"),
        ({"step": 3.0}, "only the lower would be tried"),
        ({"step": 0.1, "bounds": ((0.0, 1.0), (0.0, 1e6)), "selection": "one_hot"}, "10000 weights"),
    ],
)
def test_a_search_has_a_limit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_options(FusionOptions, options)


def test_the_function_has_the_same_limit() -> None:
    logits = torch.zeros(1, 3)
    with pytest.raises(ValueError, match=str(MOST_CANDIDATES)):
        solve_weights(logits, logits, logits[None], step=1e-12)
    assert FusionOptions(step=2.0 / (MOST_CANDIDATES - 1)).step > 0
    assert FusionOptions(bounds=(1.0, 1.0), step=5.0).step == 5.0


@pytest.mark.parametrize("temperature", [1e-7, 1e-320, 1e7])
def test_a_temperature_is_nothing_or_of_a_size_that_divides(temperature: float) -> None:
    with pytest.raises(UserError, match="--temperature"):
        read_options(DecodingOptions, {"temperature": temperature}, lambda name: f"--{name}")


@pytest.mark.parametrize("word", ["temperature=nan", "max_gen_toks=0.5", "max_tokens=1e999", "top_k=-1", "top_p=1e-99"])
def test_generation_kwargs_of_the_command_line_are_checked_before_anything_is_loaded(word: str) -> None:
    arguments = make_parser().parse_args(["evaluate", "--large", ".", "--tasks", "a", "--gen-kwargs", word])
    with pytest.raises(UserError, match=f"--gen-kwargs {word.partition('=')[0]} "):
        read_evaluation(arguments)


@pytest.mark.parametrize("name", [0.5, True, "9" * 5000])
def test_a_task_asks_for_a_whole_number_of_tokens(name: Any) -> None:
    with pytest.raises(UserError, match="number") as caught:
        read_generation({"max_gen_toks": name}, 16, None)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "settings"),
    [("amu", {"epochs": 2, "learning_rate": 1e30}), ("tip_adapter_f", {"epochs": 2, "epsilon": 0.0})],
)
def test_a_head_that_is_not_finite_is_refused(name: str, settings: dict[str, Any]) -> None:
    """By the workflow, too, which would keep it, and answer by it."""
    labels = torch.arange(12) % 3
    features = normalize(torch.eye(3)[labels] + 0.3 * torch.randn(12, 3, generator=torch.manual_seed(0)), dim=-1)
    support = Support(features[:, None], features[:, None], labels, torch.eye(3), 100.0)
    assert fit_method(name, support, {"epochs": 2}, seed=0).logits(features, features).isfinite().all()
    with pytest.raises(UserError, match=f"{name} ran off to infinity"):
        fit_method(name, support, settings, seed=0)


def test_a_candidate_that_is_not_finite_is_never_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(12) % 3
    features = torch.eye(3)[labels]
    support = Support(features[:, None], None, labels, torch.eye(3), 100.0)
    losses = torch.full((len(METHODS["clip_probe"].grid),), torch.nan)
    losses[2] = 5.0
    monkeypatch.setattr(fit, "cross_validate", lambda *_, **__: losses)
    head = fit_method("clip_probe", support, {"selection": "cross_validation"}, seed=0)
    assert head.settings["inverse_penalty"] == METHODS["clip_probe"].grid[2]["inverse_penalty"]


# ---- JSON ---------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def refuse_constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def same(before: Any, after: Any) -> bool:
    """Equal, but for numbers that are not finite, which have become texts."""
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(same(before[key], after[key]) for key in before)
    if isinstance(before, list):
        return len(before) == len(after) and all(map(same, before, after))
    if isinstance(before, float) and not math.isfinite(before):
        return isinstance(after, str) and str(float(after)) == str(before)
    return type(before) is type(after) and before == after


@given(VALUES)
def test_json_that_is_written_is_json_and_loses_no_number(value: Any) -> None:
    assert same(value, json.loads(format_json(value), parse_constant=refuse_constant))


# ---- models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_local_experts"])
@pytest.mark.parametrize("count", [10**12, 10**400, 1e300])
def test_a_model_of_endless_layers_is_refused_before_it_is_built(
    tiny_models: dict[str, Path], tmp_path: Path, key: str, count: float
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_models["base"], folder)
    (folder / "record.json").unlink(missing_ok=True)
    facts = json.loads((folder / "config.json").read_text()) | {key: count}
    (folder / "config.json").write_text(json.dumps(facts))
    for read in (load_tokenizer, load_model, lambda folder: measure_folder(folder, "float32")):
        with pytest.raises(UserError, match=key):
            read(folder)
    with pytest.raises(UserError, match=key):
        read_config({"text_config": facts}, "The model")
