"""Speculative decoding: a small expert drafts, the other models read the draft in one pass, fusion at every position.

The expert has to read every token anyway, so its draft costs no extra pass. Lossless for any rule that looks at one
position at a time: greedy decoding gives the same tokens, sampling the same distribution (Leviathan et al. 2023,
arXiv 2211.17192, algorithm 1, with the fused distribution as the target).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from logitfusion.config.decoding import DecodingOptions
from logitfusion.errors import UserError
from logitfusion.fusion.caches import Batch, CachedModel, refuse_not_finite
from logitfusion.fusion.decoding import Continuations, Fused, read_prompts, split_logits
from logitfusion.fusion.sampling import draw, filter_logits, pick_tokens, refuse_not_finite_rows
from logitfusion.models.load import count_bytes
from logitfusion.models.padding import left_pad

LONGEST_DRAFT = 8
_SHARE_BEFORE = (3.0, 4.0)  # three of four accepted, before anything is known


def pass_price(tokens: int, device: str) -> float:
    """What a pass over several tokens takes, in passes over one, whose price is reading the weights.

    On a CPU one token is a matrix-vector product, and the least matrix-matrix product costs 1.6 of them (fp32, MKL);
    on a GPU about 128 tokens calculate as long as the weights are read.
    """
    if device == "cpu":
        return 1.0 if tokens == 1 else 1.6 + tokens / 32
    return 1.0 + tokens / 128


class Pace:
    """Chooses the draft's length from the share of accepted tokens so far.

    With a share ``p``, a draft of ``n`` yields ``(1 - p^(n + 1)) / (1 - p)`` tokens on average (Leviathan et al. 2023,
    eq. 1); its price is counted in bytes of weights, so the choice repeats whatever else the machine does. No draft at
    all is one of the choices.

    Args:
        verifying: bytes of the models that read the whole draft in one pass.
        drafting: bytes of the model that drafts, one pass a token.
        device: ``"cpu"`` or ``"cuda"``.
        fixed: a length to keep, whatever is accepted.
    """

    def __init__(self, verifying: int, drafting: int, device: str, fixed: int | None = None) -> None:
        self.verifying, self.drafting, self.device, self.fixed = verifying, drafting, device, fixed
        self.accepted, self.judged = _SHARE_BEFORE

    def length(self, rows: int, limit: int) -> int:
        """Tokens to draft next for a batch of rows, at most ``limit``."""
        if self.fixed is not None:
            return min(self.fixed, limit)
        share = self.accepted / self.judged
        return max(range(min(LONGEST_DRAFT, limit) + 1), key=lambda draft: self._speed(draft, rows, share))

    def _speed(self, draft: int, rows: int, share: float) -> float:
        tokens = sum(share**position for position in range(draft + 1))
        verify = self.verifying * pass_price(rows * (draft + 1), self.device)
        return tokens / (verify + (draft + 1) * self.drafting * pass_price(rows, self.device))

    def learn(self, accepted: Sequence[int], draft: int) -> None:
        """Note how many drafted tokens each row accepted; older drafts count less and less."""
        if draft:
            new = sum(accepted), sum(min(number + 1, draft) for number in accepted)
            self.accepted, self.judged = 0.9 * self.accepted + new[0], 0.9 * self.judged + new[1]
        else:  # without drafts nothing is learned, so they are tried again after a while
            self.accepted = 0.99 * self.accepted + 0.01 * _SHARE_BEFORE[0]
            self.judged = 0.99 * self.judged + 0.01 * _SHARE_BEFORE[1]


def decode_speculatively(
    fused: Fused,
    prompts: list[list[int]],
    generators: list[torch.Generator],
    continuations: Continuations,
    pace: Pace,
) -> None:
    """Let the continuations of the prompts grow to their ends, several tokens of every row at a time."""
    _check(fused)
    options, steering, device = continuations.options, fused.steering, fused.models[0].device
    batch = Batch(fused.models, len(prompts), fused.memory)
    ids, mask, _ = (tensor.to(device) for tensor in left_pad(prompts, 0))
    steered_rows = None
    if steering.reads_prompts:
        steered_rows = steering.steers(read_prompts(batch, ids, mask, fused.vocabulary))
    elif ids.shape[1] > 1:
        batch.read_first(ids[:, :-1], mask[:, :-1])
    pending, drafter = ids[:, -1:], 0
    while continuations.active:
        rows = [generators[number] for number in continuations.active]
        longest = continuations.longest
        if math.isfinite(fused.max_length):  # a row near the models' limit holds the others back
            longest = min(longest, int(fused.max_length) - int(batch.lengths.max()))
        draft = pace.length(len(rows), longest - 1)
        drafted, proposals, logits = _draft(batch, drafter, pending, draft, rows, options, fused.vocabulary)
        everywhere = None if steered_rows is None else steered_rows[:, None]
        steered = steering.fuse(*split_logits(logits, fused.vocabulary), everywhere)
        tokens, accepted = _verify(steered.logits, drafted[:, 1:], proposals, rows, options)
        pace.learn(accepted.tolist(), draft)
        drafter = int(steered.weights.flatten(1).sum(1).argmax())  # the one that steers most drafts next
        finished = _append(continuations, tokens, accepted, steered.weights, steered.expert)
        places = torch.arange(draft + 1, device=device)
        batch.commit((places <= accepted[:, None]).long())
        pending = tokens.gather(1, accepted[:, None])
        if any(finished):
            kept = torch.tensor(continuations.retire(finished), device=device, dtype=torch.long)
            pending = pending[kept]
            steered_rows = None if steered_rows is None else steered_rows[kept]
            batch.select_rows(kept)
        if continuations.active:
            batch.close_gaps()


def _check(fused: Fused) -> None:
    if not fused.steering.experts:
        raise UserError("Speculative decoding drafts with an expert, and there is none; leave it off.")
    for cached in fused.models:
        if not cached.takes_back:
            raise UserError(
                f"Speculative decoding takes tokens back, which the cache of {cached.model.config.model_type!r} models"
                " can't (a sliding window, a recurrent state, or distances that count every slot); leave it off."
            )


def make_pace(models: Sequence[CachedModel], fixed: int | None = None) -> Pace:
    """The pace for these models; it goes on learning from batch to batch."""
    sizes = [count_bytes(cached.model) for cached in models]
    return Pace(sum(sizes[:-1]), sizes[-1], models[0].device.type, fixed)


def _draft(
    batch: Batch,
    drafter: int,
    pending: Tensor,
    draft: int,
    generators: list[torch.Generator],
    options: DecodingOptions,
    vocabulary: int,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Let the expert number ``drafter`` draft, then let the other models read what it drafted.

    Returns:
        the last token and the draft ``[B, 1 + n]``, the probabilities ``[B, V]`` that each drafted token was drawn
        from (none when greedy), and every model's logits ``[members, B, 1 + n, V]``.
    """
    model, member = _find_member(batch.models, drafter)
    ids, proposals, drafted_logits = pending, [], []
    for place in range(draft + 1):
        before, newest = torch.ones_like(ids[:, :place]), ids[:, place:]
        drafted_logits.append(batch.read_ahead(model, newest, torch.ones_like(newest), keep=1, before=before))
        if place < draft:
            logits = drafted_logits[-1][member, :, 0, :vocabulary]
            if options.temperature:
                refuse_not_finite([model])  # no token can be drawn from NaN
                proposals.append(_probabilities(logits, options))
            token = pick_tokens(
                logits, generators, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p
            )
            ids = torch.cat([ids, token[:, None]], dim=-1)
    others = [other for other in batch.models if other is not model]
    read = batch.read_all(others, ids, torch.ones_like(ids), keep=draft + 1)
    read.insert(batch.models.index(model), torch.cat(drafted_logits, dim=2))
    refuse_not_finite(batch.models)
    return ids, proposals, read


def _find_member(models: Sequence[CachedModel], expert: int) -> tuple[CachedModel, int]:
    """The model that holds an expert, and its place among the model's members. The base comes before the experts."""
    place = expert + 1
    for model in models[1:]:
        if place < model.members:
            return model, place
        place -= model.members
    raise IndexError(expert)


def _probabilities(logits: Tensor, options: DecodingOptions) -> Tensor:
    filtered = filter_logits(logits, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p)
    return filtered.exp()


def _verify(
    fused: Tensor, drafted: Tensor, proposals: list[Tensor], generators: list[torch.Generator], options: DecodingOptions
) -> tuple[Tensor, Tensor]:
    """The tokens after each place, ``[B, 1 + n]``, and how many drafted tokens are accepted, ``[B]``.

    A row gets its accepted tokens and one more; what follows that in its row of the result means nothing.
    """
    refuse_not_finite_rows(fused.amax(-1))
    if options.temperature == 0:
        tokens = fused.argmax(-1)
        return tokens, (drafted == tokens[:, :-1]).long().cumprod(-1).sum(-1)
    target = _probabilities(fused, options).cpu()
    proposal = torch.stack(proposals, dim=1).cpu() if proposals else target[:, :0]
    tokens, accepted = [], []
    for row, generator in enumerate(generators):
        held, last = _accept(target[row], proposal[row], drafted[row].tolist(), generator)
        accepted.append(held)
        kept = [*drafted[row, :held].tolist(), last]
        tokens.append(kept + [0] * (drafted.shape[1] + 1 - len(kept)))
    return torch.tensor(tokens, device=fused.device), torch.tensor(accepted, device=fused.device)


def _accept(target: Tensor, proposal: Tensor, drafted: list[int], generator: torch.Generator) -> tuple[int, int]:
    """How many drafted tokens are accepted, and the token after them, drawn from the residual if one is rejected."""
    for place, token in enumerate(drafted):
        uniform = torch.rand((), generator=generator)
        if uniform * proposal[place, token] >= target[place, token]:
            residual = (target[place] - proposal[place]).clamp(min=0)
            # Nothing is left where both are equal but for rounding.
            return place, draw(residual if residual.any() else target[place], generator)
    return len(drafted), draw(target[len(drafted)], generator)


def _append(
    continuations: Continuations, tokens: Tensor, accepted: Tensor, weights: Tensor, expert: Tensor
) -> list[bool]:
    """Add every row's accepted tokens and the one after them; which rows are finished."""
    shares, experts = weights.permute(1, 2, 0).tolist(), expert.tolist()
    finished = []
    for row, (kept, held) in enumerate(zip(tokens.tolist(), accepted.tolist(), strict=True)):
        places = range(held + 1)
        finished.append(
            any(continuations.append(row, kept[place], shares[row][place], experts[row][place]) for place in places)
        )
    return finished
