"""Fit one few-shot method, its settings chosen on the support set where they are to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from logitfusion.clip.fitting.selection import cross_validate
from logitfusion.clip.heads import Head, Support
from logitfusion.clip.methods import METHODS, FewShotSettings, complete_settings
from logitfusion.clip.methods.progress import portion
from logitfusion.errors import UserError
from logitfusion.tensors import check_count

_SEEN = 256  # images; heads that compare with all others need memory for each

Settings = FewShotSettings | Mapping[str, Any] | None


def fit_method(
    name: str,
    support: Support,
    settings: Settings = None,
    *,
    seed: int,
    on_epoch: Callable[[int, Head], None] | None = None,
) -> Head:
    """Fit one method on the support set, and on nothing else.

    Args:
        name: one of ``METHODS``.
        settings: an object of ``METHODS[name].Settings``, or what differs from its defaults, by key.
        seed: of the order of images, their views and the folds.
        on_epoch: called with the epoch (from 1) and the head after it, by methods that have ``by_epochs``; it has no
            effect on the fit, so an evaluation can keep these heads and report the best as an oracle.

    Returns:
        a head. Its ``logits(clip [m, D], auxiliary [m, D_aux] or None)`` are ``[m, C]`` in fp32; its ``settings`` have
        every setting by key, with those that were selected, what the method itself found, ``selected``, ``seed``, and
        perhaps ``held_out_loss`` (nats).

    Raises:
        TypeError: no support, or a seed that is no whole number.
        ValueError: a negative seed, or one of more than 63 bits.
        UserError: unknown names of method or settings, a method without a grid to be selected from, or one that needs
            auxiliary features without any; or a head whose numbers are not finite, as of too high a rate.
    """
    if not isinstance(support, Support):
        raise TypeError(f"support is a Support, not a {type(support).__name__}")
    check_count("seed", seed, 0)
    seed = int(seed)  # NumPy's are neither torch's nor JSON's
    given = settings.dump() if isinstance(settings, FewShotSettings) else settings or {}
    chosen, method, facts = complete_settings(name, given), METHODS[name], {"selected": False, "seed": seed}
    if chosen.selection == "cross_validation":
        candidates = [chosen.changed(choice) for choice in method.grid]
        fit = partial(method.fit_all, seed=seed)
        with portion(0, 2, 3):
            losses = cross_validate(fit, support, candidates, folds=chosen.folds, seed=seed)
        if losses is None:
            chosen = method.fallback(support, chosen)
        else:
            best = int(losses.nan_to_num(nan=torch.inf).argmin())
            chosen = candidates[best]
            facts |= {"selected": True, "held_out_loss": float(losses[best])}
    with portion(2, 1, 3) if chosen.selection == "cross_validation" else nullcontext():
        head = method.fit(support, chosen, seed=seed, on_epoch=on_epoch)
    if not _is_finite(head, support):
        raise UserError(f"{name} ran off to infinity with these settings; change them.")
    return replace(head, method=name, settings=chosen.dump() | head.settings | facts)


def _is_finite(head: Head, support: Support) -> bool:
    """Whether all that was fitted, and what it makes of some of its own images, are finite numbers."""
    clip, auxiliary = support.plain
    some = head.logits(clip[:_SEEN], None if auxiliary is None else auxiliary[:_SEEN])
    fitted = (value for value in vars(head).values() if isinstance(value, Tensor))
    return all(bool(values.isfinite().all()) for values in (some, *fitted))
