"""What the fields of a section mean: the text under each of them in the source, read where somebody asks for it.

pydantic's ``use_attribute_docstrings`` reads the same, but whenever a class is made, and looks through all modules that
are loaded for it: up to a quarter of the time in which Snakemake or a stage starts, for what only help texts and pages
say.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema


@functools.cache
def read_meanings(section: type[BaseModel]) -> Mapping[str, str]:
    """Field -> its meaning, of a section and those that it extends; fields without a text are left out."""
    found: dict[str, str] = {}
    for one in reversed(section.__mro__):
        if issubclass(one, BaseModel) and one is not BaseModel:
            found |= _read_texts(one.__module__).get(one.__qualname__, {})
    return {name: text for name, text in found.items() if name in section.model_fields}


@functools.cache
def _read_texts(module: str) -> dict[str, dict[str, str]]:
    """Class, by its qualified name, -> field -> the text under it, in the source of a module."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules.get(module)))
    except (OSError, TypeError):  # typed at a prompt
        return {}
    return {name: dict(_texts_under_fields(node)) for name, node in _classes(tree, "")}


def _classes(outer: ast.Module | ast.ClassDef, place: str) -> Iterator[tuple[str, ast.ClassDef]]:
    for node in outer.body:
        if isinstance(node, ast.ClassDef):
            yield f"{place}{node.name}", node
            yield from _classes(node, f"{place}{node.name}.")


def _texts_under_fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in pairwise(node.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text)


class DescribedSchema(GenerateJsonSchema):
    """JSON schemas in which every field is described by its meaning: ``model_json_schema(schema_generator=...)``."""

    def model_schema(self, schema: Any) -> dict[str, Any]:
        """The schema of a section."""
        section, made = schema["cls"], super().model_schema(schema)
        for name, text in read_meanings(section).items():
            made["properties"][section.model_fields[name].alias or name].setdefault("description", text)
        return made
