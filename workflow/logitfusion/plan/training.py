"""The cost of a training: weights, gradients, the optimizer's state, what autograd keeps, and the loss's logits."""

from __future__ import annotations

from dataclasses import dataclass

from logitfusion.plan.cost import PROCESS, Cost, Work
from logitfusion.plan.size import ITEM, ModelSize

# Bytes of a trained parameter: fp32 master, gradient, and AdamW's two moments.
MASTER, GRADIENT, MOMENTS = 4.0, 4.0, 8.0


@dataclass(frozen=True)
class Activations:
    """What autograd keeps, in bytes (see ``saved.SavedBytes``, which counts them)."""

    fixed: float
    token: float
    pair: float

    def at(self, rows: int, tokens: int) -> float:
        """Of a batch, without what is kept whatever the batch."""
        return rows * (self.token * tokens + self.pair * tokens**2)


@dataclass(frozen=True)
class Plan:
    """A training.

    Attributes:
        rows: sequences of one forward pass of one process.
        tokens: of each, at most.
        sequences: of the whole training.
        rank: of LoRA; 0 where all weights are trained.
        frozen: dtype of the frozen weights under LoRA; ``nf4`` is 4 bits.
        processes: that train together, a card each.
        sharded: weights, gradients and the optimizer's state are parted among them.
        checkpointed: layers are computed again for the backward.
        logits: temporaries of the loss, in bytes a logit.
        half: products in bf16.
    """

    rows: int
    tokens: int
    sequences: int
    rank: int = 0
    frozen: str = "float32"
    processes: int = 1
    sharded: bool = False
    checkpointed: bool = False
    logits: float = 10.0
    half: bool = True


def train_cost(size: ModelSize, kept: Activations, plan: Plan) -> Cost:
    """One training.

    Args:
        size: of the model.
        kept: what autograd keeps of its forward.
        plan: how it is trained.
    """
    trained = size.adapters(plan.rank) if plan.rank else size.parameters
    shares = plan.processes if plan.sharded else 1
    still = size.weights(plan.frozen) if plan.rank else 0.0
    gpu = {
        "weights": (still + MASTER * trained) / shares,
        "gradients": GRADIENT * trained / shares,
        "optimizer": MOMENTS * trained / shares,
        "activations": _activations(size, kept, plan),
        "logits": plan.rows * plan.tokens * size.vocabulary * plan.logits,
    }
    half = ITEM["bfloat16"] if plan.half else ITEM["float32"]
    layer = size.layer * half
    if plan.sharded:  # a layer is whole while it computes, and the next one comes; so are the ends, and a gradient
        gpu["whole layers"] = 2 * layer + size.embedding * half + max(size.layer, size.embedding) * (half + GRADIENT)
    elif not plan.checkpointed:
        gpu["copies"] = kept.fixed
    else:
        gpu["copies"] = min(kept.fixed, 2 * layer + size.embedding * half)
    if plan.processes > 1 and not plan.sharded:
        gpu["gradients"] *= 2  # once more in the buckets that are added up
    if plan.frozen == "nf4":
        gpu["copies"] = gpu.get("copies", 0.0) + layer
    stored = MASTER * trained if plan.rank else size.weights()
    host = {"process": PROCESS, "saving": MASTER * trained}
    return Cost(
        gpu,
        plan.processes,
        host,
        disk=stored,
        scratch=(MASTER + MOMENTS) * trained,
        work=_work(size, plan),
    )


def _activations(size: ModelSize, kept: Activations, plan: Plan) -> float:
    everything = kept.at(plan.rows, plan.tokens)
    if not plan.checkpointed:
        return everything
    stream = ITEM["float32"] if plan.frozen in ("float32",) or not plan.rank else ITEM["bfloat16"]
    inputs = plan.rows * plan.tokens * size.hidden * size.layers * stream
    return inputs + everything / max(1, size.layers)  # and one layer, which is computed again


def _work(size: ModelSize, plan: Plan) -> Work:
    """Two operations a parameter and token forth; back as many for the inputs, and for the weights that are trained."""
    passes = 2 + 2 + (2 if not plan.rank else 0) + (2 if plan.checkpointed else 0)
    return Work(float(passes) * size.active * plan.sequences * plan.tokens, parallel=plan.processes)
