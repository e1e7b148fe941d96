"""What training keeps in memory, in bytes of a parameter: the choices of this folder as numbers, which a test measures.

===========================  =======  =========  =======
bytes of a parameter         weights  gradients  moments
===========================  =======  =========  =======
trained: all, or an adapter  4        4          8
frozen in fp32               4
frozen in bf16 or fp16       2
frozen in 4 bits (nf4)       0.516
===========================  =======  =========  =======

Trained weights are fp32 masters, and AdamW's two moments are in fp32. Of several processes that each have all of the
model, each keeps its gradients twice (once in the buckets that are added up). Of ``n`` sharded processes each keeps an
n-th of the table, be weights trained or frozen, and all of a decoder layer that computes and of the next one, in the
precision of products; embedding and output layer are whole from their first use on. The gradient of a layer is whole
while it is computed. Weights in 4 bits are whole in every process.
"""

from __future__ import annotations

from typing import NamedTuple


class Bytes(NamedTuple):
    """Of a parameter: its value, its gradient, and the optimizer's two moments."""

    weights: float
    gradients: float = 0.0
    moments: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self)


TRAINED = Bytes(weights=4.0, gradients=4.0, moments=8.0)
# Four bits, and for each block of 64 a scale of 8 bits, which have a scale of 32 bits for each 256 of them.
FROZEN = {
    "float32": Bytes(4.0),
    "bfloat16": Bytes(2.0),
    "float16": Bytes(2.0),
    "nf4": Bytes(0.5 + 1 / 64 + 4 / (64 * 256)),
}
