"""What the stages of a conda environment import, read from the rules and from the package's source."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "workflow"
ENVIRONMENTS = sorted(path.stem for path in (ROOT / "envs").glob("*.yaml"))


def stages_of(environment: str) -> set[str]:
    """The stage modules of all rules whose `conda:` names an environment."""
    stages = set()
    for path in (SOURCE / "rules").glob("*.smk"):
        for rule in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            if re.search(r'conda:\s+"../../envs/(\w+).yaml"', rule)[1] == environment:
                stages.add("logitfusion.stages." + re.search(r'stage\(\s*"(\w+)"', rule)[1])
    return stages


def foreign_imports(stage: str, source: Path = SOURCE, *, at_start: bool = False) -> dict[str, set[str]]:
    """Modules of other packages -> the modules of ours that import them, for all that a stage can reach.

    Imports inside functions count, those of functions that the stage never calls too, unless it is asked what is
    imported ``at_start``; those for type checkers don't.
    """
    found: dict[str, set[str]] = {}
    seen: set[str] = set()
    waiting = [stage]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        for name in _imports(module, source, at_start):
            if name.split(".")[0] == "logitfusion":
                parts = name.split(".")
                packages = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
                waiting.extend(part for part in packages if module_file(part, source))
            elif name.split(".")[0] not in sys.stdlib_module_names:
                found.setdefault(name, set()).add(module)
    return found


def _imports(module: str, source: Path, at_start: bool) -> Iterator[str]:
    """Names in a module's import statements; `from package import name` may name a module, so ours are given so too."""
    waiting: list[ast.AST] = [ast.parse(module_file(module, source).read_text())]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(origin), names=names, level=0):
                yield origin
                if origin.split(".")[0] == "logitfusion":
                    yield from (f"{origin}.{name.name}" for name in names)
            case ast.ImportFrom():
                raise ValueError(f"{module} has a relative import, which is not followed here.")
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=rest):
                waiting.extend(rest)
            case ast.FunctionDef() if at_start:
                pass
            case _:
                waiting.extend(ast.iter_child_nodes(node))


def module_file(module: str, source: Path = SOURCE) -> Path | None:
    """The file of a module of ours, None if the name is not one of a module."""
    path = source.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)
