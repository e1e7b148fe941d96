"""The registries: a method is one file and one line, and so is a source of data; options have one place."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import ValidationError

from logitfusion import cli
from logitfusion.clip import AMUHead, uncertainty
from logitfusion.clip.confidence import KINDS
from logitfusion.clip.data import SOURCES, DataSet, ImageRow, Source, read_data
from logitfusion.clip.heads import FusedHead
from logitfusion.clip.methods import METHODS, FewShotSettings, complete_settings
from logitfusion.config.clip_recipe import ClipRecipe
from logitfusion.errors import UserError

PACKAGE = Path(cli.__file__).parents[1]

NEAREST = '''"""A method of its own."""

from __future__ import annotations

from logitfusion.clip.methods.base import FewShotMethod, FewShotSettings
from logitfusion.config.section import NonNegative


class Nearest(FewShotMethod):
    """The nearest class mean."""

    class Settings(FewShotSettings):
        """The settings of ``nearest``."""

        sharpness: NonNegative = 3.0
        """Of the softmax."""

    name = "nearest"
    grid = ({"sharpness": 1.0}, {"sharpness": 9.0})

    def fit(self, support, settings, *, seed, on_epoch=None):
        from logitfusion.clip.heads import LinearHead, class_means

        weight = settings.sharpness * class_means(support.clip[:, 0], support.labels, support.classes).T
        return LinearHead(weight, None, weight.new_zeros(support.classes))


METHODS = (Nearest(),)
'''
USE = """
import sys
from logitfusion import cli
assert cli.main(["fewshot", "methods", "nearest"]) == 0
print("torch" in sys.modules)
import torch
from logitfusion.clip import Support, fit_method, load_head, save_head
clip = torch.eye(4).repeat(2, 1)[:, None]
support = Support(clip, None, torch.arange(4).repeat(2), torch.ones(4, 4) / 2)
head = fit_method("nearest", support, {"sharpness": 5}, seed=0)
print(head.logits(torch.eye(4)).tolist() == (5 * torch.eye(4)).tolist())
chosen = fit_method("nearest", support, {"selection": "cross_validation"}, seed=0)
save_head("head", chosen, class_names=list("abcd"), encoders={})
print(load_head("head")[0].settings == chosen.settings, chosen.settings["sharpness"] in (1.0, 9.0))
"""


def test_a_method_is_one_file_and_one_line(tmp_path: Path) -> None:
    """In a copy of the package with that file and that line, it is listed, fitted, selected and saved."""
    shutil.copytree(PACKAGE, tmp_path / "logitfusion", ignore=shutil.ignore_patterns("__pycache__"))
    methods = tmp_path / "logitfusion/clip/methods"
    (methods / "nearest.py").write_text(NEAREST)
    registry = (methods / "__init__.py").read_text()
    assert registry.count('"zero_shot", ') == 1
    (methods / "__init__.py").write_text(registry.replace('"zero_shot", ', '"zero_shot", "nearest", '))
    done = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "sharpness = 3.0  Of the softmax. (a number of at least 0)" in done.stdout
    assert "chooses among 2 values of sharpness" in done.stdout
    assert done.stdout.splitlines()[-3:] == ["False", "True", "True True"]


def test_all_methods_are_listed_with_all_their_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fewshot", "methods"]) == 0
    printed = capsys.readouterr().out
    words = " ".join(printed.split())
    for name, method in METHODS.items():
        assert f"\n{name}\n" in printed
        assert method.name == name
        for key, schema in method.Settings.describe().items():
            assert f"{key} = {schema['default']} {schema['description'].replace('``', '')}" in words
    assert cli.main(["fewshot", "methods", "gda"]) == 0
    assert "\namu\n" not in capsys.readouterr().out


@pytest.mark.parametrize("name", METHODS)
def test_grids_are_settings(name: str) -> None:
    """Every candidate is valid, and a head file's settings give the same object again."""
    method = METHODS[name]
    default = complete_settings(name, {})
    assert complete_settings(name, default.dump()) == default
    for choice in method.grid:
        candidate = default.changed(choice)
        assert {key: candidate.dump()[key] for key in choice} == choice
        assert candidate.dump() == default.dump() | choice
    assert method.reads_auxiliary(default) == method.needs_auxiliary


def test_other_defaults_keep_range_and_meaning() -> None:
    amu, variant = (METHODS[name].Settings.describe() for name in ("amu", "amu_no_m"))
    assert amu["lambda"] | {"default": 1.0} == variant["lambda"]
    assert {key: schema for key, schema in amu.items() if variant[key] != schema}.keys() == {"lambda"}
    with pytest.raises(UserError, match="lambda of amu_no_m is a number from 0 to 1, not 2"):
        complete_settings("amu_no_m", {"lambda": 2})
    with pytest.raises(UserError, match="no setting 'lambda_'"):
        complete_settings("amu", {"lambda_": 0.5})
    settings = complete_settings("amu", {"lambda": 0})
    assert (settings.lambda_, settings.dump()["lambda"]) == (0.0, 0.0)
    with pytest.raises(ValidationError):
        FewShotSettings(folds=True)


def test_signatures_have_the_settings_defaults() -> None:
    defaults = complete_settings("amu", {}).dump()
    for function in (AMUHead, uncertainty):
        given = {name: one.default for name, one in inspect.signature(function).parameters.items()}
        named = {name: value for name, value in given.items() if value is not inspect.Parameter.empty}
        assert named.keys() >= {"kind", "power", "reference"}
        assert named == {name: defaults[name] for name in named}
    for field in fields(FusedHead):
        if field.name in ("kind", "temperature", "branch"):
            assert field.default == defaults[field.name]
    assert METHODS["amu"].Settings.describe()["kind"]["enum"] == list(KINDS)


def test_a_source_of_data_is_one_reader_and_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def read(entry: dict[str, object]) -> DataSet:
        rows = [ImageRow(f"{label}/{n}", "x.png", label) for label in (0, 1) for n in range(entry["count"])]
        return DataSet(["a", "b"], ["{}"], [], rows, "given")

    entry = {"source": "made_up", "count": 5}
    with pytest.raises(UserError, match="can't be 'made_up'; it is one of folder"):
        read_data(entry)
    monkeypatch.setitem(SOURCES, "made_up", Source(read, ("count",)))
    assert len(read_data(entry).test) == 10
    assert len(read_data({**entry, "test_images": 3, "seed": 0}).test) == 3
    with pytest.raises(UserError, match="needs the key count"):
        read_data({"source": "made_up"})
    monkeypatch.setitem(SOURCES, "made_up", Source(read, packaged=True))
    with pytest.raises(UserError, match="comes out of a package"):
        read_data(entry, folder=tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"batch_size": 1}, {"learning_rate": 0.0}, {"weight_decay": -0.1}, {"dropout": 1.0},
        {"templates": []}, {"templates": ["no place"]}, {"held_out": 0.95}, {"image_size": 16}, {"context_length": 3},
        {"seed": -1}, {"step": 3}, {"steps": 2.0},
    ],
    ids=str,
)  # fmt: skip
def test_recipes_that_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ClipRecipe(**wrong)
