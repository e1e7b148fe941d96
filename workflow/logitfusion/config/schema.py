"""The JSON schema of a config, for editors, and its reference page: both generated from the sections.

``python -m logitfusion.config.schema SCHEMA.json REFERENCE.md`` writes both (``make reference``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from logitfusion.clip.methods import METHODS, FewShotMethod
from logitfusion.config.meanings import DescribedSchema
from logitfusion.config.run import RunConfig
from logitfusion.files import write_text

_LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "multipleOf": "a multiple of {}",
    "minItems": "at least {}",
}
_HEAD = """# Every key of a config

Generated from the classes in `workflow/logitfusion/config` by `make reference`; do not edit. A key without a default is
needed. Where several sections are named, the keys of the entry decide which one it is.
"""


def make_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of a config file."""
    schema = RunConfig.model_json_schema(by_alias=True, schema_generator=DescribedSchema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "logitfusion config"}


def make_reference() -> str:
    """A Markdown page with a table for each section, in the order in which a config reaches them."""
    schema = make_schema()
    sections = [_section(name, place, part, schema["$defs"]) for name, place, part in _reached(schema)]
    return "\n".join([_HEAD, *sections, *map(_method, METHODS.values())])


def _method(method: FewShotMethod) -> str:
    """A few-shot method with its settings."""
    first = " ".join((method.__doc__ or "").strip().partition("\n\n")[0].split())
    head = f"`clip.methods.<name>` with `method: {method.name}`. {first}"
    part = {"description": head, "properties": method.Settings.describe()}
    return _section(f"Few-shot method {method.name}", "", part, {})


def _reached(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, place and schema of the sections: the whole config first, then each where it is first named."""
    seen, waiting = {""}, [("The file", "", schema)]
    while waiting:
        name, place, part = waiting.pop(0)
        yield name, place, part
        inner = []
        for key, value in part["properties"].items():
            for found, suffix in _references(value):
                if found not in seen:
                    seen.add(found)
                    inner.append((found, f"{place}.{key}{suffix}".lstrip("."), schema["$defs"][found]))
        waiting = inner + waiting


def _references(value: Any) -> Iterator[tuple[str, str]]:
    """The sections that a value names, and what comes after its key on the way to them."""
    if "$ref" in value:
        yield value["$ref"].rsplit("/", 1)[1], ""
    for one in (*value.get("anyOf", ()), *value.get("oneOf", ())):
        yield from _references(one)
    if "items" in value:
        yield from ((found, f".<n>{suffix}") for found, suffix in _references(value["items"]))
    if (entry := _entry(value)) is not None:
        yield from ((found, f".<name>{suffix}") for found, suffix in _references(entry))


def _entry(value: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of a mapping's entries."""
    named = [*value.get("patternProperties", {}).values(), value.get("additionalProperties")]
    return next((entry for entry in named if isinstance(entry, dict)), None)


def _section(name: str, place: str, part: dict[str, Any], sections: dict[str, Any]) -> str:
    lines = [f"## {name}\n", f"`{place}`. " * bool(place) + part.get("description", "").strip(), ""]
    lines += ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for key, value in part["properties"].items():
        named = [found for found, _ in _references(value)]
        default = f"`{_default(value, named)}`" if "default" in value else ""
        meaning = value.get("description") or (sections[named[0]].get("description", "") if named else "")
        lines.append(
            "| " + " | ".join(map(_cell, (f"`{key}`", _kind(value), default, " ".join(meaning.split())))) + " |"
        )
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(value: dict[str, Any], named: list[str]) -> str:
    """A default in JSON; a section whose values are all its defaults is an empty mapping."""
    return "{}" if named and isinstance(value["default"], dict) else json.dumps(value["default"])


def _kind(value: dict[str, Any]) -> str:
    """Type and range in words."""
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in value:
            return " or ".join(dict.fromkeys(_kind(one) for one in value[key]))
    if "enum" in value or "const" in value:
        return ", ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    limits = [words.format(value[key]) for key, words in _LIMITS.items() if key in value]
    match value.get("type"):
        case "array" if "prefixItems" in value:
            words = f"list of {len(value['prefixItems'])}: {_kind(value['prefixItems'][0])}"
        case "array":
            words = f"list of: {_kind(value['items'])}"
        case "object" if (entry := _entry(value)) is not None:
            words = f"name -> {_kind(entry)}"
        case kind:
            words = {"string": "text", "object": "mapping", "null": "nothing"}.get(kind, kind or "any value")
    return ", ".join([words, *limits])


if __name__ == "__main__":
    schema_path, reference_path = map(Path, sys.argv[1:])
    write_text(schema_path, json.dumps(make_schema(), indent=1, ensure_ascii=False) + "\n")
    write_text(reference_path, make_reference())
