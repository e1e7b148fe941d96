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

from typing import get_args

from torch import Tensor

from logitfusion.config.objective import Nodes

NODES = get_args(Nodes)
# The first is the default.
NORMALISATIONS = ("positions_and_k", "positions", "none")


def node_features(values: Tensor, ids: Tensor | None, *, normalize: str = NORMALISATIONS[0]) -> Tensor:
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


def build_graph(values: Tensor, ids: Tensor | None, *, normalize: str = NORMALISATIONS[0]) -> Tensor:
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
