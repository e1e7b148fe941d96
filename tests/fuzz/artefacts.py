"""What the package writes and reads again: how each is made small, and how it is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fewshot_features import make_problem
from test_distill_cache import MANIFEST, make_text

from logitfusion.artefact import read_artefact, read_rows, write_artefact, write_rows
from logitfusion.clip import Support, fit_method, load_head, save_head
from logitfusion.clip.data.dataset import DataSet, ImageRow, load_data, save_data
from logitfusion.clip.data.support import make_support, write_support
from logitfusion.clip.features.files import read_tensors, write_tensors
from logitfusion.clip.features.pool import Pool, read_classifier, write_classifier
from logitfusion.distill.cache import TeacherCache
from logitfusion.distill.shard import write_shard
from logitfusion.integrity import RECORD, as_rows, check_files, record_files
from logitfusion.models.load import load_model
from logitfusion.tables import read_table, write_table


@dataclass(frozen=True)
class Artefact:
    """One kind of artefact.

    Attributes:
        write: writes it at a path.
        read: reads all of it from there.
    """

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]


def _write_head(path: Path) -> None:
    problem = make_problem(classes=3, shots=2, views=1, widths=(8, 6))
    head = fit_method("amu", problem.support, {"epochs": 1}, seed=0)
    entries = {"clip": {"source": "built", "path": "clip"}, "auxiliary": []}
    metadata = {"entries": entries, "prompts": ["a {}."], "counts": [2, 2, 2], "calibration": {"temperature": 1.5}}
    save_head(path, head, class_names=["a", "b", "c"], encoders={"clip": "0" * 64}, metadata=metadata)


def _write_features(path: Path) -> None:
    values = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)).half()
    write_tensors(path, {"features": values, "labels": torch.arange(3)}, {"encoder": "0" * 64, "views": 2})


ROWS = [ImageRow(f"{label}/{number}.png", f"{label}/{number}.png", label) for label in range(2) for number in range(3)]
CLASSES = ["cat", "dog"]


def _write_data(path: Path) -> None:
    save_data(DataSet(CLASSES, ["a {}."], ROWS[::2], ROWS[1::2], "drawn", {}), path)


def _write_classifier(path: Path) -> None:
    facts = {"classes": CLASSES, "prompts": ["a {}."], "encoders": {"clip": "0" * 64}, "scale": 100.0}
    write_classifier(path.parent, torch.eye(3, 2), **facts)


def _write_manifest(path: Path) -> None:
    write_support(path, make_support(ROWS, 2, 0), CLASSES)
    _write_classifier(path)


def _draw(path: Path) -> Support:
    """The support set of a manifest, whose digest the classifier beside it has."""
    _, facts = read_classifier(path.parent)
    values = torch.arange(6.0).reshape(6, 1, 1)
    images = Support(values, None, torch.tensor([row.label for row in ROWS]), torch.eye(1, 2), 1.0)
    return Pool(images, [row.id for row in ROWS], ["0" * 64] * 6, facts, path.parent).draw(2, 0)


VALUE = {"chosen": {"*": {"trust": 0.5, "anchor": 1.0}}, "text": "Grüße"}
ARTEFACTS = {
    "head": Artefact(_write_head, load_head),
    "features": Artefact(_write_features, read_tensors),
    "classifier": Artefact(_write_classifier, lambda path: read_classifier(path.parent)),
    "manifest": Artefact(_write_manifest, _draw),
    "data": Artefact(_write_data, load_data),
    "shard": Artefact(
        lambda path: write_shard(path, [make_text(2), make_text(3, seed=1)], MANIFEST),
        lambda path: list(TeacherCache([path])),
    ),
    "object": Artefact(lambda path: write_artefact(path, VALUE), read_artefact),
    "rows": Artefact(lambda path: write_rows(path, [{"a": 1.5, "b": [number]} for number in range(3)]), read_rows),
    "table": Artefact(
        lambda path: write_table(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), path),
        lambda path: read_table(path).to_dict("list"),
    ),
}
NAMES = {
    "classifier": "classifier.safetensors",
    "manifest": "seed-0.csv",
    "data": "data.parquet",
    "object": "object.json",
    "rows": "rows.jsonl",
    "table": "table.parquet",
}


def read_model(folder: Path) -> Any:
    """The weights of a model whose folder is held against its record."""
    check_files(folder)
    model = load_model(folder, device=torch.device("cpu"))
    return model.config.to_dict(), dict(model.state_dict())


def copy_model(source: Path, target: Path) -> Path:
    """A folder of a model with its record, as stages write it, that can be damaged."""
    shutil.copytree(source, target)
    write_artefact(target / RECORD, {"files": as_rows(record_files(target))})
    return target


def same(found: Any, expected: Any) -> bool:
    """Whether two answers are equal in all that they hold, tensors to the last bit."""
    if type(found) is not type(expected):
        return False
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and found.shape == expected.shape and _bits(found) == _bits(expected)
    if isinstance(expected, np.ndarray):
        return same(torch.from_numpy(found), torch.from_numpy(expected))
    if is_dataclass(expected):
        return all(same(getattr(found, field.name), getattr(expected, field.name)) for field in fields(expected))
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == expected)


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
