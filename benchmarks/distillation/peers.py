"""What other libraries compute of the same text, by their own code: TRL and DistillKit, installed or as a checkout.

Every loss is the sum over a text's positions divided by the student's tokens, whatever its library divides by.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TypeVar

from torch import Tensor
from torch.nn.functional import l1_loss

from distillation.pair import Pair

Losses = dict[str, Callable[[Pair], Tensor]]
Loaded = TypeVar("Loaded")
ULD, GROUPED, HYBRID = "ULD, whole vocabularies", "ULD, groups of bytes", "hybrid, groups of bytes"
FORWARD, REVERSE, JSD = "KL", "reverse KL", "Jensen-Shannon"
TOP_FORWARD, TOP_JSD = "KL, top-k and rest", "Jensen-Shannon, top-k and rest"


def find(name: str, checkout: Path | None) -> tuple[str, Losses] | None:
    """The version of a library and its losses; None where it is not installed and no checkout is named.

    Raises:
        SystemExit: a checkout that does not have its losses where they are looked for.
    """
    package, make = PEERS[name]
    return load(name, package, checkout, make)


def load(name: str, package: str, checkout: Path | None, make: Callable[[], Loaded]) -> tuple[str, Loaded] | None:
    """The version of a library and what ``make`` imports of it; see ``find``."""
    if checkout is not None:
        sys.path.insert(0, str(checkout.resolve()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = make()
    except ImportError as error:
        if checkout is None and importlib.util.find_spec(package) is None:
            return None
        raise SystemExit(f"{name} can't be imported from {checkout or package}: {error}") from None
    return f"{name} {_version(package, checkout)}", found


def _version(package: str, checkout: Path | None) -> str:
    if checkout is None:
        return importlib.metadata.version(package)
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "of a checkout"


def plain() -> Losses:
    """ULD as torch's sort and autograd have it."""

    def uld(pair: Pair) -> Tensor:
        sides = [side[0, :-1].softmax(-1).sort(dim=-1, descending=True).values for side in (pair.student, pair.teacher)]
        return l1_loss(*sides, reduction="sum") / pair.positions

    return {ULD: uld}


def trl() -> Losses:
    """TRL's GOLD (merging ``"bayesian"``, ends of text counted) and GKD."""
    gold = importlib.import_module("trl.experimental.gold.gold_trainer")
    gkd = importlib.import_module("trl.experimental.gkd.gkd_trainer").GKDTrainer.generalized_jsd_loss

    def jsd(pair: Pair, beta: float) -> Tensor:
        labels = pair.labels[:, 1:]
        return gkd(pair.student[:, :-1], pair.teacher[:, :-1], labels=labels, beta=beta)

    return {
        ULD: lambda pair: _gold(gold, pair, use_extended_uld=False),
        GROUPED: lambda pair: _gold(gold, pair) * len(pair.groups) / pair.positions,
        HYBRID: lambda pair: _gold(gold, pair, uld_use_hybrid_loss=True) * len(pair.groups) / pair.positions,
        FORWARD: lambda pair: jsd(pair, 0),
        REVERSE: lambda pair: jsd(pair, 1),
        JSD: lambda pair: jsd(pair, 0.5),
    }


def _gold(module: ModuleType, pair: Pair, **options: bool) -> Tensor:
    config = {
        "uld_crossentropy_weight": 0.0, "uld_distillation_weight": 1.0, "uld_student_temperature": 1.0,
        "uld_teacher_temperature": 1.0, "uld_skip_student_eos": False, "uld_skip_teacher_eos": False,
        "use_extended_uld": True, "uld_token_merge_strategy": "bayesian", "beta": 0.5,
    }  # fmt: skip
    loss = module.ULDLoss(SimpleNamespace(**config | options), *_vocabularies(pair), device=pair.student.device)
    offsets = [_offsets(pair, ends) for ends in (pair.ends, pair.teacher_ends)]
    ids = [labels.clamp(min=0) for labels in (pair.labels, pair.teacher_labels)]
    return loss(pair.student, pair.teacher, pair.labels, pair.teacher_labels, *ids, *offsets)


def _vocabularies(pair: Pair) -> list[SimpleNamespace]:
    """Of student and teacher, stand-ins of tokenizers."""
    shared = pair.shared.places.tolist()
    words = [f"{own}" if own >= 0 else f"teacher's {place}" for place, own in enumerate(shared)]
    student = {f"{place}": place for place in range(pair.student.shape[-1])}
    teacher = {word: place for place, word in enumerate(words)}
    return [SimpleNamespace(get_vocab=lambda words=words: words) for words in (student, teacher)]


def _offsets(pair: Pair, ends: list[int]) -> Tensor:
    """First byte and end of every token, ``[1, L + 1, 2]``."""
    rows = [[0, 0], *map(list, zip([0, *ends[:-1]], ends, strict=True))]
    return pair.labels.new_tensor([rows])


def distillkit() -> Losses:
    """DistillKit's, dense, and sparse with the rest as one more entry."""
    kl = importlib.import_module("distillkit.lossfuncs.kl")
    jsd = importlib.import_module("distillkit.lossfuncs.jsd")
    rest = importlib.import_module("distillkit.missing_probability").MissingProbabilityHandling.SYMMETRIC_UNIFORM

    def dense(loss: Callable[..., Tensor]) -> Callable[[Pair], Tensor]:
        return lambda pair: loss(pair.student[:, :-1], pair.teacher[:, :-1]) / pair.positions

    def sparse(loss: Callable[..., Tensor]) -> Callable[[Pair], Tensor]:
        def of(pair: Pair) -> Tensor:
            top = pair.cached.ids[None], pair.cached.log_probs[None]
            return loss(pair.student[:, :-1], *top, missing=rest, log_target=True) / pair.positions

        return of

    return {
        FORWARD: dense(kl.dense_kl_div),
        JSD: dense(jsd.dense_js_div),
        TOP_FORWARD: sparse(kl.sparse_kl_div),
        TOP_JSD: sparse(jsd.sparse_js_div),
    }


PEERS = {"torch": ("torch", plain), "TRL": ("trl", trl), "DistillKit": ("distillkit", distillkit)}
