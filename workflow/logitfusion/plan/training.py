"""The cost of a training: weights, gradients, the optimizer's state, what autograd keeps, and the loss's logits."""

from __future__ import annotations

from dataclasses import dataclass

from logitfusion.config.training import LoRA
from logitfusion.plan.cost import PROCESS, Cost, Work
from logitfusion.plan.size import ITEM, ModelSize
from logitfusion.training.memory import TRAINED

# Bytes of a trained parameter: fp32 master, gradient, and AdamW's two moments.
MASTER, GRADIENT, MOMENTS = TRAINED


@dataclass(frozen=True)
class Activations:
    """What autograd keeps of a forward, in bytes: ``fixed + rows * (token * tokens + pair * tokens ** 2)``.

    It is of all layers but the logits, which a loss makes of some positions only. ``saved`` counts it, ``estimate``
    does without building the model.
    """

    fixed: float
    """Whatever the batch: copies of weights in half precision."""
    token: float
    """For each token."""
    pair: float = 0.0
    """For each pair of tokens of a text: masks, and attention that keeps its products."""

    def at(self, rows: int, tokens: int) -> float:
        """Of a batch."""
        return self.fixed + rows * (self.token * tokens + self.pair * tokens**2)


@dataclass(frozen=True)
class Forward:
    """How a model is run while it trains."""

    dtype: str = "float32"
    """Of its weights."""
    autocast: bool = True
    """Products in bf16."""
    lora: LoRA | None = None
    """Adapters, which alone are trained; None: all weights are."""
    attention: str = "sdpa"
    """The kernels; those of flash attention keep what sdpa's keep."""


def estimate(size: ModelSize, forward: Forward) -> Activations:
    """What autograd keeps of a dense decoder: hidden states and products of each layer, in half precision or fp32."""
    # Bytes around the hidden states and around the wide layer, as Llamas keep them.
    hidden, wide = (37, 8) if forward.autocast else (45, 16)
    copies = 2.0 * (size.linear + size.embedding / 2) if forward.autocast and not forward.lora else 0.0
    return Activations(copies, size.layers * (hidden * size.hidden + wide * size.widest))


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
    host = {"process": plan.processes * PROCESS, "saving": MASTER * trained}
    return Cost(
        gpu,
        plan.processes,
        host,
        disk=stored,
        scratch=2 * (MASTER + MOMENTS) * trained,  # the last checkpoint is there until the next one is whole
        work=_work(size, plan),
    )


def _activations(size: ModelSize, kept: Activations, plan: Plan) -> float:
    everything = kept.at(plan.rows, plan.tokens) - kept.fixed
    if not plan.checkpointed:
        return everything
    stream = ITEM["float32"] if plan.frozen in ("float32",) or not plan.rank else ITEM["bfloat16"]
    inputs = plan.rows * plan.tokens * size.hidden * size.layers * stream
    return inputs + everything / max(1, size.layers)  # and one layer, which is computed again


def _work(size: ModelSize, plan: Plan) -> Work:
    """Two operations a parameter and token forth; back as many for the inputs, and for the weights that are trained."""
    passes = 2 + 2 + (2 if not plan.rank else 0) + (2 if plan.checkpointed else 0)
    return Work(float(passes) * size.active * plan.sequences * plan.tokens, parallel=plan.processes)
