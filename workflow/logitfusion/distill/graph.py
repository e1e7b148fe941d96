"""Node features of the graph of a text's logits (InfiGFusion, arXiv 2505.13893).

``Z`` holds the top-k signals of each position, one row a position. The published graph is ``C = Z^T Z``, the outer
products summed over positions, and the published feature of a node is the sum of its row, ``f = C 1``. As
``f = Z^T (Z 1)`` (derived), the graph is never built: O(L k) instead of O(n^2).

Two readings of "node" are in the paper, and which one its numbers come from is not published:

* ``"vocab"`` (the text): nodes are vocabulary channels, the union of the top-k ids of the text, zeros elsewhere.
* ``"rank"`` (as drawn): node i is the i-th largest entry of each position. All rows are sorted alike, so the sorting
  of features does nothing, and two curves of k points are compared.
"""

from __future__ import annotations

from torch import Tensor

from logitfusion.distill.selection import log_probabilities_at, top_ids, working_dtype

NODES = ("vocab", "rank")
SIGNALS = ("logprob", "prob", "logit")
NORMALISATIONS = ("positions_and_k", "positions", "none")


def top_signals(logits: Tensor, mask: Tensor, *, k: int, signal: str = "logprob") -> tuple[Tensor, Tensor]:
    """The top-k signals of every position, largest first, and their ids.

    An entry that the model excludes (-inf) has signal 0 and takes no part, as does every masked position. Gradients
    flow through the values, not through the choice of ids.

    Args:
        logits: ``[B, L, V]``, any float type.
        mask: ``[B, L]`` bool, True where a position counts.
        k: how many entries of each position.
        signal: ``"logprob"`` (natural logarithm, normalised over the whole vocabulary), ``"prob"`` or ``"logit"`` (as
            given; the only one that a constant added to all logits changes).

    Returns:
        Values ``[B, L, k]``, fp32 (float64 for float64 logits), and ids ``[B, L, k]`` int64.
    """
    ids = top_ids(logits, k)
    if signal == "logit":
        values = logits.gather(2, ids).to(working_dtype(logits.dtype))
    else:
        values = log_probabilities_at(logits, ids, mask)
    return as_signals(values, values.isneginf() | ~mask.unsqueeze(-1), signal), ids


def as_signals(values: Tensor, excluded: Tensor, signal: str) -> Tensor:
    """Log-probabilities (or logits) as the signal that is asked for, 0 where an entry is ``excluded``."""
    values = values.masked_fill(excluded, 0.0)
    return values.exp().masked_fill(excluded, 0.0) if signal == "prob" else values


def node_features(values: Tensor, ids: Tensor | None, *, normalize: str = "positions_and_k") -> Tensor:
    """The features ``f = Z^T (Z 1)`` of one text, in no particular order.

    Args:
        values: top-k signals of the positions that count, ``[L, k]``.
        ids: their vocabulary ids ``[L, k]``, of a position all different; None for nodes that are ranks.
        normalize: ``"positions_and_k"`` divides by L and k, so that neither a longer text nor a larger k makes larger
            features; ``"positions"`` by L; ``"none"`` is the published form.

    Returns:
        ``[n]``: n = k for ranks, else the number of different ids.
    """
    # Divided before the sum over positions: fp32 is wide enough for the sum, but smaller numbers cost nothing.
    terms = values * (values.sum(-1, keepdim=True) / _divisor(values, normalize))
    if ids is None:
        return terms.sum(0)
    channels, place = ids.unique(return_inverse=True)
    return terms.new_zeros(len(channels)).index_add(0, place.flatten(), terms.flatten())


def build_graph(values: Tensor, ids: Tensor | None, *, normalize: str = "positions_and_k") -> Tensor:
    """The graph ``Z^T Z`` itself, ``[n, n]``, for the bounds on small graphs; arguments as for ``node_features``."""
    scaled = values / _divisor(values, normalize)
    if ids is None:
        return values.T @ scaled
    channels, place = ids.unique(return_inverse=True)
    dense = (values.new_zeros(len(values), len(channels)).scatter(1, place, part) for part in (values, scaled))
    return next(dense).T @ next(dense)


def _divisor(values: Tensor, normalize: str) -> int:
    length, k = values.shape
    return {"positions_and_k": length * k, "positions": length, "none": 1}[normalize]
