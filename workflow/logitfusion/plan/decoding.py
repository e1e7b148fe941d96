"""The cost of decoding: weights, KV caches, logits and what solving needs, and the pass over the prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from logitfusion.config.distill import Rounding
from logitfusion.errors import UserError
from logitfusion.models.placement import Block, Sized, place_models
from logitfusion.plan.cost import PROCESS, Cost, Work
from logitfusion.plan.size import ITEM, ModelSize

# As in fusion.weights and fusion.divergences: numbers of a chunk that is solved at a time, and temporaries of its size.
_CHUNK, _TEMPORARIES, _ROOM = 4_000_000, 12, 2**26
# As in distill.teacher: logits made at a time.
_LOGITS = 2**25


@dataclass(frozen=True)
class Member:
    """A model that takes part, as it is loaded.

    Attributes:
        size: its numbers.
        dtype: of its weights and its cache; ``auto`` is that of ``size``.
        ranks: of the adapters that lie beside its weights.
        passes: members of the fusion that it computes in one pass: itself and the adapters that share it.
    """

    size: ModelSize
    dtype: str = "auto"
    ranks: tuple[int, ...] = ()
    passes: int = 1

    @property
    def weights(self) -> float:
        """Bytes of its weights, adapters included, which peft keeps in fp32."""
        adapters = sum(self.size.adapters(rank) for rank in self.ranks) * ITEM["float32"]
        return self.size.weights(self.dtype) + adapters

    @property
    def item(self) -> float:
        """Bytes of a number."""
        return ITEM[self.size.dtype if self.dtype == "auto" else self.dtype]

    def cache(self, rows: int, tokens: int) -> float:
        """Bytes of its keys and values."""
        return self.size.cached(rows * self.passes, tokens, self.dtype)


@dataclass(frozen=True)
class Texts:
    """What is decoded: how many prompts, of how many tokens, and how many tokens each may get."""

    prompts: int
    prompt: int
    new: int


def decode_cost(
    members: Sequence[Member], texts: Texts, batch: int, *, cards: int = 1, memory: float | None = None
) -> Cost:
    """Decode with one model, or with the large one first and the small ones behind it.

    Args:
        members: those that decode.
        texts: what they decode.
        batch: rows of a batch.
        cards: that the models are put on, as ``models.placement`` puts them.
        memory: bytes of a card; None: as much as it takes.
    """
    rows, length = min(batch, max(1, texts.prompts)), texts.prompt + texts.new
    steered = sum(member.passes for member in members) - 1
    vocabulary = max(member.size.vocabulary for member in members)
    caches = [member.cache(rows, length) for member in members]
    together = {  # on the card of the model that leads
        "logits": rows * vocabulary * (4 * (2 * steered + 4) + max(member.item for member in members)),
        "solver": _solver(rows, vocabulary, steered - 1) if steered > 1 else 0.0,
    }
    everywhere = {
        "prompts": max(_reading(member, rows, texts.prompt) for member in members),
        # A layer's cache is copied when a token is added to it.
        "growing": max(cache / max(1, member.size.layers) for cache, member in zip(caches, members, strict=True)),
    }
    parts = _part(members, caches, cards, memory)
    parts[0] |= together
    fullest = max(parts, key=lambda part: sum(part.values()))
    return Cost({**fullest, **everywhere}, cards, {"process": PROCESS}, work=_work(members, texts, rows))


def _part(
    members: Sequence[Member], caches: Sequence[float], cards: int, memory: float | None
) -> list[dict[str, float]]:
    """Weights and caches on each card; a layer's cache is where its weights are."""
    sized = [_measure(member, f"member {number}") for number, member in enumerate(members)]
    room = memory or 2 * sum(model.size for model in sized)
    try:
        places = place_models(sized, [int(room)] * cards)
    except UserError:  # too large for these cards: in equal parts, to say by how much
        share = {"weights": sum(member.weights for member in members) / cards, "KV caches": sum(caches) / cards}
        return [dict(share) for _ in range(cards)]
    parts = [{"weights": 0.0, "KV caches": 0.0} for _ in range(cards)]
    for model, member, cache, chosen in zip(sized, members, caches, places, strict=True):
        for number, (block, card) in enumerate(zip(model.blocks, chosen, strict=True)):
            parts[card]["weights"] += block.size
            if 0 < number <= member.size.layers:
                parts[card]["KV caches"] += cache / member.size.layers
    return parts


def _measure(member: Member, name: str) -> Sized:
    """A model as placement knows it: half of the ends, the layers, the other half."""
    ends = member.size.embedding * member.item / 2
    layer = (member.weights - 2 * ends) / max(1, member.size.layers)
    blocks = [Block((), int(ends)), *[Block((), int(layer))] * max(1, member.size.layers), Block((), int(ends))]
    return Sized(name, tuple(blocks))


def _solver(rows: int, vocabulary: int, experts: int) -> float:
    """Temporaries of ``solve_weights``, a chunk of rows at a time."""
    chunk = min(rows * vocabulary, max(_CHUNK, vocabulary))
    shifts = min(rows * vocabulary * experts, max(_CHUNK, vocabulary * experts))
    return 4 * (_TEMPORARIES * chunk + 2 * shifts + min(_ROOM, 15 * chunk))


def _reading(member: Member, rows: int, tokens: int) -> float:
    """What a layer computes while the prompts are read: hidden states, its widest products, and the mask."""
    size = member.size
    return rows * member.passes * tokens * ((4 * size.hidden + 3 * size.widest) * member.item + 3 * tokens)


def _work(members: Sequence[Member], texts: Texts, rows: int) -> Work:
    """Prompts are products; each further token of a batch reads all weights and the caches so far."""
    steps = math.ceil(texts.prompts / rows) * texts.new
    read = sum(member.weights + member.cache(rows, texts.prompt + texts.new // 2) for member in members)
    flops = sum(2 * member.size.active * member.passes for member in members)
    return Work(flops * texts.prompts * (texts.prompt + texts.new), steps * read)


def read_cost(
    member: Member,
    texts: int,
    tokens: int,
    batch: int,
    *,
    cards: int = 1,
    memory: float | None = None,
    row_bytes: float = 0.0,
) -> Cost:
    """Let a teacher read texts once; its logits are made a chunk of positions at a time.

    Args:
        texts: how many this job reads.
        tokens: of each, at most.
        cards: that the teacher is parted among.
        memory: bytes of a card; None: as much as it takes.
        row_bytes: what the cache keeps of a token.
    """
    rows = min(batch, max(1, texts))
    gpu = {
        "weights": max(part["weights"] for part in _part([member], [0.0], cards, memory)),
        "logits": _LOGITS * (3 * ITEM["float32"] + member.item) + rows * tokens * member.size.hidden * member.item,
        "texts": _reading(member, rows, tokens),
    }
    work = Work(2.0 * member.size.active * texts * tokens)
    return Cost(gpu, cards, {"process": PROCESS}, disk=texts * tokens * row_bytes, work=work)


def cached_token(k: int, vocabulary: int, rounding: Rounding) -> int:
    """Bytes of a token in a teacher's cache, as ``distill.packed`` lays it out (which imports torch)."""
    level, alone = {"fine": (11, 11), "coarse": (6, 9)}[rounding]
    lower = max(0, (vocabulary // k).bit_length() - 1)
    return alone + math.ceil((k * (1 + lower + level) + (vocabulary - 1 >> lower)) / 8)
