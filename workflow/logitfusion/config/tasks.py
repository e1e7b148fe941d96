"""Tasks: those of lm-evaluation-harness, which are measured, and texts, which are only learnt from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from logitfusion.config.packages import Package
from logitfusion.config.section import Count, InputPath, Revision, Section, Seed, Shots, Text, Whole, either
from logitfusion.config.texts import FileTexts, TextTask
from logitfusion.errors import UserError
from logitfusion.files import sha256
from logitfusion.tasks.definition import LIBRARY, data_files, definition_files, local_packages, needs_hub

Split = Literal["test", "validation"]  # of the documents that are decoded
# Names in generation_kwargs of how many tokens a text may have; the first that is given counts.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


def _check_json(value: Any, key: str = "") -> Any:
    """Free values reach a stage as JSON, which would turn dates into texts and infinities into nothing."""
    if isinstance(value, (dict, list)):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _check_json(inner, f"{key}.{name}".lstrip("."))
    elif not isinstance(value, (str, bool, int, NoneType)) and not (isinstance(value, float) and math.isfinite(value)):
        words = "must be a text, a finite number, true, false or nothing, and is {value}"
        raise PydanticCustomError("cross", words, {"key": key, "value": repr(value)})
    return value


class Definition(Section):
    """Where a task is defined, and where its documents come from."""

    harness: Text
    """A task or group of lm-evaluation-harness: its own, of include_path, or of our library
    (workflow/logitfusion/tasks/library)."""
    include_path: InputPath | None = None
    """Folder of further definitions (YAML), as lm-eval's --include_path."""
    revision: Revision | None = None
    """Of its data set on the hub: a commit (best), a tag or a branch; the commit that a branch was is recorded, and
    stays the run's. Null: the definition's, else main."""
    training_split: Text | None = None
    """The data set's split that is learnt from. Null: the definition's. The evaluated split itself is cut into disjoint
    parts: its documents are shuffled, and those of the test come first."""


class Splits(Definition):
    """A task's documents: all that its splits depend on."""

    train: Whole = 0
    """Documents that experts are trained on."""
    validation: Whole = 0
    """Documents for choosing anything: of the definition's validation split if that is not evaluated, else cut from
    those that are learnt from."""
    test: Count | None = None
    """Documents that are evaluated: the first so many of each task, as lm-eval's --limit. Null: all of them."""
    split_seed: Seed | None = None
    """Shuffles documents before they are cut. Null: the definition's metadata.split_seed, else 0; null there keeps
    their order."""


class HarnessTask(Splits):
    """A task or group of lm-evaluation-harness."""

    num_fewshot: Shots | None = None
    """Examples in each prompt. Null: the task's own number."""
    generation_kwargs: Annotated[dict[str, Any], AfterValidator(_check_json)] = {}
    """Merged into the definition's: until, max_gen_toks, ..."""
    metric: Text | None = None
    """The metric that tables compare: its name, or name,filter. Null: the definition's first."""

    @property
    def packages(self) -> tuple[Package, ...]:
        """The packages that hold its documents, if any do."""
        return tuple(Package(**part) for part in local_packages(self.harness, self.include_path))

    @property
    def files(self) -> tuple[str, ...]:
        """Files of the user that it is made of: definitions with their code, and documents."""
        named = self.harness, self.include_path
        own = (path for path in definition_files(*named) if not path.is_relative_to(LIBRARY))
        return (*map(str, own), *data_files(*named))

    @property
    def library(self) -> tuple[str, ...]:
        """SHA-256 of what it is made of in our library, which lies where the workflow does: its place means nothing."""
        named = definition_files(self.harness, self.include_path)
        return tuple(sha256(path) for path in named if path.is_relative_to(LIBRARY))

    @property
    def fetched(self) -> bool:
        """Whether its documents come from the hub."""
        return needs_hub(self.harness, self.include_path)


def check_inputs(tasks: Mapping[str, HarnessTask | TextTask]) -> None:
    """Refuse folders of definitions and files that are not there, before any job runs.

    Snakemake would say that there is nothing to be done where results are there already, of another file.

    Raises:
        UserError: names the task.
    """
    for name, task in tasks.items():
        folder = getattr(task, "include_path", None)
        if folder is not None and not Path(folder).is_dir():
            raise UserError(f"The folder of definitions {folder} (tasks.{name}.include_path) does not exist.")
        if isinstance(task, HarnessTask):
            paths = task.files
        else:
            paths = tuple(part.path for part in task.texts if isinstance(part, FileTexts))
        for path in paths:
            if not Path(path).exists():
                raise UserError(f"The file {path} of tasks.{name} does not exist.")


Task = either("harness", having=HarnessTask, lacking=TextTask)
