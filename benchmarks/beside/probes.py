"""Linear probes on cached features: scikit-learn's as its users call it, and CLIP_benchmark's with its defaults.

The features are made up, so accuracies show what each probe makes of the same features, not what images would give.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.utils.data import DataLoader

from beside.checkouts import CLIP_BENCHMARK
from beside.comparison import Comparison, compare
from fewshot import SITUATIONS, make_problem
from logitfusion.clip import Support, fit_method
from logitfusion.clip.methods.probe import ProbeSettings

TESTED = 20  # images a class
# CLIP_benchmark's defaults (--fewshot_lr, --fewshot_epochs, --batch_size); without validation data it decays nothing.
RATE, EPOCHS, BATCH = 0.1, 10, 64


def measure(sizes: list[tuple[int, int]], rounds: int, checkout: Path | None) -> list[Comparison]:
    """Of so many classes and images a class: a probe is fitted, and answers for the test features."""
    found = CLIP_BENCHMARK.load(checkout, import_probe)
    rows = []
    for classes, shots in sizes:
        support, test, _, labels = make_problem(classes, shots, 1, SITUATIONS["both fair"], seed=0, tested=TESTED)
        others = {f"scikit-learn {sklearn.__version__}": plain_probe(support, test)}
        others |= {found[0]: their_probe(found[1], support, test)} if found else {}
        for version, probe in others.items():
            rows.append(compare_probe(support, test, labels, version, probe, rounds))
        print(f"probes, {classes} classes: done", flush=True)
    return rows


def compare_probe(
    support: Support, test: Tensor, labels: Tensor, version: str, probe: Callable[[], Tensor], rounds: int
) -> Comparison:
    """The package's ``clip_probe`` beside another, which gives the class of each test image."""

    def here() -> Tensor:
        return fit_method("clip_probe", support, seed=0).logits(test, None).argmax(-1)

    def agree(ours: Tensor, theirs: Tensor) -> str:
        right = [f"{(one == labels).double().mean():.3f}" for one in (ours, theirs)]
        return f"right {right[0]} here, {right[1]} there; {int((ours == theirs).sum())}/{len(labels)} the same"

    what = f"probe, {support.classes} classes, {len(support.labels) // support.classes} images each"
    return compare(what, version, here, probe, agree, rounds)


def plain_probe(support: Support, test: Tensor) -> Callable[[], Tensor]:
    """scikit-learn's, with the penalty and precision of ``clip_probe``."""
    learnt, labels = support.clip[:, 0].double().numpy(), support.labels.numpy()
    settings = ProbeSettings()

    def probe() -> Tensor:
        model = LogisticRegression(C=settings.inverse_penalty, max_iter=settings.iterations).fit(learnt, labels)
        return torch.from_numpy(model.predict(test.double().numpy()))

    return probe


def import_probe() -> ModuleType:
    return importlib.import_module("clip_benchmark.metrics.linear_probe")


def their_probe(module: ModuleType, support: Support, test: Tensor) -> Callable[[], Tensor]:
    """CLIP_benchmark's training by AdamW; its ``evaluate`` insists on a GPU, its parts don't."""
    learnt = module.FeatureDataset(support.clip[:, 0], support.labels)
    tested = module.FeatureDataset(test, torch.zeros(len(test)))

    def probe() -> Tensor:
        loader = DataLoader(learnt, batch_size=BATCH, shuffle=True)
        with _without_gpu(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            model = module.train(loader, test.shape[1], support.classes, 0, RATE, EPOCHS, False, "cpu", 0)
            logits, _ = module.infer(model, DataLoader(tested, batch_size=BATCH), False, "cpu")
        return logits.argmax(-1)

    return probe


@contextmanager
def _without_gpu() -> Iterator[None]:
    """Let ``.cuda()``, which it calls whatever its device is, leave everything on the CPU."""
    with (
        patch.object(torch.Tensor, "cuda", lambda self: self),
        patch.object(torch.nn.Module, "cuda", lambda self: self),
    ):
        yield
