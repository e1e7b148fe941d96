"""How it was set: every value of the config, given or left at its default; models with digests; sizes of the data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from logitfusion.config.meanings import read_meanings
from logitfusion.config.models import HubModel, PathModel
from logitfusion.config.names import fewshot_method
from logitfusion.config.section import Section
from logitfusion.errors import UserError
from logitfusion.integrity import read_record
from logitfusion.report.index.facts import Facts
from logitfusion.report.index.grids import Cell, Column, Grid, plain_cell, show_grid
from logitfusion.report.index.licences import UNSTATED, licence_of_folder, licence_of_packages
from logitfusion.report.index.models import list_models, say_size
from logitfusion.report.index.page import PageSection, read_asset
from logitfusion.report.index.words import escape


@dataclass(frozen=True)
class Value:
    """A value of the config: where it stands, what it is, where it comes from, what it means."""

    key: str
    value: Any
    source: str
    meaning: str


def settings_section(facts: Facts) -> PageSection:
    """Models, data, and the values of the config."""
    grids = {"Models": _models(facts), "Data": _data(facts), "Values": _values(facts)}
    body = "\n".join(
        f"<article><h3>{escape(title)}</h3>{show_grid(grid)}</article>" for title, grid in grids.items() if grid.rows
    )
    return PageSection("config", "Config", body, style=read_asset("settings.css"))


def _models(facts: Facts) -> Grid:
    rows = []
    for model in list_models(facts):
        digest, licence = _identify(facts, model.name)
        parameters = Cell(say_size(model.parameters), value=model.parameters and float(model.parameters))
        rows.append([Cell(model.name), Cell(model.real), parameters, Cell(digest), Cell(licence)])
    columns = [Column(title) for title in ("name", "what it is", "parameters", "digest", "licence")]
    note = (
        "Digest: SHA-256 of the package that carries the weights (its beginning), or the revision. Licence: what the"
        " config, the package or the model card states."
    )
    return Grid("models", "Models", columns, rows, note)


def _identify(facts: Facts, name: str) -> tuple[str, str]:
    """Digest and licence."""
    run = facts.run
    entry = run.models.get(name) or (run.clip.auxiliaries.get(name) if run.clip else None)
    if name == "CLIP" and run.clip:
        entry = run.clip.encoder
    if isinstance(entry, HubModel):
        return entry.revision, UNSTATED
    if isinstance(entry, PathModel):
        folder = next((path for path in facts.files.models if path.name == name), None)
        return "", licence_of_folder(folder) if folder else UNSTATED
    parts = getattr(entry, "packages", ())
    digests = ", ".join(f"sha256 {part.sha256[:12]}" for part in parts[:1]) + (" and others" if len(parts) > 1 else "")
    if not parts:
        return "", "" if name in run.experts or entry is None or hasattr(entry, "from_") else UNSTATED
    terms = getattr(entry, "terms", None)
    return digests, terms or licence_of_packages(parts, facts.files.packages)


def _data(facts: Facts) -> Grid:
    rows = []
    for path in facts.files.tasks:
        record = _read(path)
        if record is not None:
            config = record["config"]
            found = (record["sizes"].get(split, 0) for split in ("train", "validation", "test"))
            sizes = [plain_cell(float(size), ".0f") for size in found]
            rows.append([Cell(path.parent.name), Cell("task"), Cell(config.get("harness", "texts")), *sizes])
    for path in facts.files.datasets:
        record = _read(path)
        if record is not None:
            counts = {split: float(sum(classes.values())) for split, classes in record["images"].items()}
            sizes = [plain_cell(counts.get(split), ".0f") for split in ("train", "validation", "test")]
            kinds = f"images, {len(record['images'].get('test', {}))} classes"
            rows.append([Cell(path.parent.name), Cell(kinds), Cell(_say_source(record["config"])), *sizes])
    columns = [Column(title) for title in ("name", "what", "source", "train", "validation", "test")]
    return Grid("data", "Data: examples in each split", columns, rows)


def _read(path: Any) -> Any:
    try:
        return read_record(path.parent)
    except UserError:
        return None


def _say_source(source: dict[str, Any]) -> str:
    kind = source.get("kind") or source.get("source") or ""
    names = [source.get(key) for key in ("generator", "package", "id", "path", "name", "vendor")]
    return ", ".join(str(word) for word in [kind, *names] if word)


def _values(facts: Facts) -> Grid:
    rows = []
    for value in list_values(facts):
        rows.append([Cell(value.key), Cell(_say(value.value)), Cell(value.source), Cell(value.meaning)])
    columns = [Column("key"), Column("value"), Column("source", filtered=True), Column("meaning")]
    return Grid(
        "values", "Values of the config", columns, rows, "Given: written in the config file. Default: left out of it."
    )


def list_values(facts: Facts) -> list[Value]:
    """Every value that the run used, in the order of the classes of the config."""
    found = list(_walk(facts.run, ""))
    for name in facts.run.clip.methods if facts.run.clip else ():
        _, settings = fewshot_method(facts.run.clip, name)
        given = facts.run.clip.methods[name].settings
        for value in _walk(settings, f"clip.methods.{name}"):
            key = value.key.rpartition(".")[2]
            found.append(Value(value.key, value.value, "given" if key in given else "default", value.meaning))
    return found


def _walk(section: Section, place: str) -> Iterator[Value]:
    meanings = read_meanings(type(section))
    for name, field in type(section).model_fields.items():
        key = f"{place}.{field.alias or name}".lstrip(".")
        value = getattr(section, name)
        source = "given" if name in section.model_fields_set else "default"
        inner = list(_sections(value, key))
        if inner:
            for one, where in inner:
                yield from _walk(one, where)
        elif not (value is None and source == "default" and place == ""):
            yield Value(key, value, source, " ".join(meanings.get(name, "").split()))


def _sections(value: Any, key: str) -> Iterator[tuple[Section, str]]:
    """The sections that a value is, or holds."""
    if isinstance(value, Section):
        yield value, key
    elif isinstance(value, dict):
        yield from ((one, f"{key}.{name}") for name, one in value.items() if isinstance(one, Section))
    elif isinstance(value, tuple):
        yield from ((one, f"{key}.{place}") for place, one in enumerate(value) if isinstance(one, Section))


def _say(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, str) else value
