"""Shared fixtures: tiny random models, made once a session."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "workflow"), str(ROOT / "docs")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that run Snakemake take minutes: the first ones to be dealt, so that no worker is left with one alone."""
    slow = {item.path for item in items if item.get_closest_marker("workflow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of random models with one vocabulary: a large one, a small base and two experts of it."""
    from logitfusion.config.models import RandomModel
    from logitfusion.models.source import make_random

    root = tmp_path_factory.mktemp("models")
    sizes = {"large": (64, 3, 1), "base": (32, 2, 2), "expert_a": (32, 2, 3), "expert_b": (32, 2, 4)}
    for name, (hidden_size, layers, seed) in sizes.items():
        make_random(RandomModel(source="random", hidden_size=hidden_size, layers=layers, seed=seed), root / name)
    return {name: root / name for name in sizes}


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """For PATH: a `python` whose stages start with their libraries imported; see `preloaded.py`."""
    from preloaded import preloaded

    with tempfile.TemporaryDirectory(prefix="tests-") as folder, preloaded(Path(folder)) as programs:
        yield programs


@pytest.fixture(scope="module")
def loaded(tiny_models: dict[str, Path]) -> dict[str, PreTrainedModel]:
    """The tiny models in memory, for one file of tests."""
    from logitfusion.models.load import load_model

    return {name: load_model(folder, device=torch.device("cpu")) for name, folder in tiny_models.items()}


@pytest.fixture(scope="module")
def tokenizer(tiny_models: dict[str, Path]) -> PreTrainedTokenizerBase:
    """The one tokenizer of the tiny models."""
    from logitfusion.models.load import load_tokenizer

    return load_tokenizer(tiny_models["large"])


@pytest.fixture
def heard_signals() -> Iterator[None]:
    """What a program started here hears: tests that are run by nohup or in a background ignore some signals."""
    heard = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in heard.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
