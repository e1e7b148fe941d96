"""A large model that small experts steer, as one language model: decoding with KV caches in left-padded batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.errors import UserError
from logitfusion.fusion.logits import fuse_logits
from logitfusion.fusion.sampling import pick_tokens
from logitfusion.fusion.weights import RULES, SELECTIONS, make_grid, solve_weights
from logitfusion.models.load import load_model
from logitfusion.models.padding import left_pad
from logitfusion.models.vocabulary import load_shared_tokenizer


@dataclass
class Generation:
    """One continuation.

    Attributes:
        text: the decoded continuation, cut before the stop string, without special tokens.
        token_ids: every token that was generated, the last one included even if it ended the text.
        weights: the experts' weights at each token, ``[tokens][T]``; empty lists where no expert takes part.
        expert: index of the expert that steered each token, -1 where none did.
        finish_reason: ``"eos"``, ``"stop"`` (a stop string) or ``"length"``.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    weights: list[list[float]] = field(default_factory=list)
    expert: list[int] = field(default_factory=list)
    finish_reason: str = "length"


class _Stepper:
    """One model with its KV cache over a batch."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.cache = model, DynamicCache(config=model.config)

    def step(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Logits ``[B, V]`` fp32 after the newest tokens ``ids [B, n]``."""
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def keep(self, rows: Tensor) -> None:
        """Forget the rows that are finished."""
        self.cache.batch_select_indices(rows)


class FusedLM:
    """A large causal LM, alone or steered by small experts of one small base.

    Args:
        large: the model that is steered; with no experts it decodes alone.
        base: the small base that the experts were trained from.
        experts: the small experts.
        tokenizer: the one tokenizer of all models.
        weights: ``"dynamic"`` solves them at every step (see ``solve_weights``); a number or one number an expert keeps
            them fixed (1.0 with one expert is proxy-tuning).
        rule, selection, bounds, step: passed to ``solve_weights``.

    Raises:
        UserError: experts without a base, vocabularies of different sizes, or a wrong number of weights.
    """

    def __init__(
        self,
        large: PreTrainedModel,
        base: PreTrainedModel | None = None,
        experts: Sequence[PreTrainedModel] = (),
        *,
        tokenizer: PreTrainedTokenizerBase,
        weights: str | float | Sequence[float] = "dynamic",
        rule: str = "grid",
        selection: str = "one_hot",
        bounds: tuple[float, float] = (0.0, 2.0),
        step: float = 0.1,
    ) -> None:
        if experts and base is None:
            raise UserError("Experts steer by their difference from a small base: give the base as well.")
        sizes = [model.config.vocab_size for model in (large, *([base] if experts else []), *experts)]
        # Families pad their output layers to different sizes; the entries beyond the tokenizer mean nothing.
        self.vocabulary = min(sizes)
        if self.vocabulary != max(sizes) and self.vocabulary < len(tokenizer):
            raise UserError(
                f"The models of a fusion need one vocabulary: the tokenizer has {len(tokenizer)} tokens, and the models"
                f" have {sorted(set(sizes))} entries."
            )
        if rule not in RULES or selection not in SELECTIONS:
            raise UserError(
                f"rule is one of {RULES} and selection one of {SELECTIONS}, not {rule!r} and {selection!r}."
            )
        try:
            make_grid(bounds, step)
        except ValueError as error:
            raise UserError(f"The weights can't be searched: {error}.") from None
        self.large, self.base, self.experts, self.tokenizer = large, base, list(experts), tokenizer
        self.fixed = _fixed_weights(weights, len(self.experts))
        self.rule, self.selection, self.bounds, self.step = rule, selection, bounds, step
        self.device = large.device

    @classmethod
    def from_folders(
        cls, large: str | Path, base: str | Path | None = None, experts: Sequence[str | Path] = (), **options: object
    ) -> FusedLM:
        """Load the models of a fusion, refusing by name those that number their tokens differently."""
        folders = [large, *([base] if base and experts else []), *experts]
        tokenizer = load_shared_tokenizer(folders)
        return cls(
            load_model(large),
            load_model(base) if base and experts else None,
            [load_model(expert) for expert in experts],
            tokenizer=tokenizer,
            **options,
        )

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        speculative: bool = False,
        batch_size: int = 16,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[Generation]:
        """Continue every prompt.

        Args:
            prompts: texts; each must have at least one token.
            max_new_tokens: the most tokens of one continuation.
            temperature: 0 decodes greedily, else the fused logits are divided by it before sampling.
            top_p, top_k: nucleus and top-k filters of sampling (1.0 and 0: off).
            seed: of the sampling; row i uses ``seed + i`` whatever the batch, so batches don't change the draws.
            stop: a continuation ends before the first of these texts.
            speculative: reserved for speculative decoding.
            batch_size: prompts decoded together; prompts of similar length share a batch.
            on_batch: called with the number of prompts that a batch finished.

        Raises:
            UserError: an empty prompt, or options that can't be used.
        """
        if speculative:
            raise UserError("Speculative decoding is not implemented yet; leave speculative at False.")
        if temperature < 0 or not 0 < top_p <= 1 or top_k < 0 or max_new_tokens < 0 or batch_size < 1:
            raise UserError(
                "Decoding needs temperature >= 0, 0 < top_p <= 1, top_k >= 0, max_new_tokens >= 0, batch_size >= 1."
            )
        prompts, stop = _listed(prompts), _listed(stop)
        if "" in stop:
            raise UserError("A stop string is empty, and would end every continuation at once; remove it.")
        encoded = [self.tokenizer.encode(prompt) for prompt in prompts]
        for number, ids in enumerate(encoded):
            if not ids:
                raise UserError(f"Prompt {number} has no tokens; a continuation needs at least one.")
        start = seed if seed is not None else torch.Generator().seed() % 2**31
        order = sorted(range(len(prompts)), key=lambda number: len(encoded[number]))
        results: dict[int, Generation] = {}
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            generators = [torch.Generator().manual_seed(start + number) for number in batch]
            generations = self._generate_batch(
                [encoded[number] for number in batch], generators, max_new_tokens, temperature, top_p, top_k, stop
            )
            results.update(zip(batch, generations, strict=True))
            if on_batch is not None:
                on_batch(len(batch))
        return [results[number] for number in range(len(prompts))]

    def _generate_batch(
        self,
        encoded: list[list[int]],
        generators: list[torch.Generator],
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        top_k: int,
        stop: Sequence[str],
    ) -> list[Generation]:
        padded = left_pad(encoded, self.tokenizer.pad_token_id or 0)
        ids, mask, positions = (tensor.to(self.device) for tensor in padded)
        steppers = [_Stepper(model) for model in (self.large, *([self.base, *self.experts] if self.experts else []))]
        ends = _end_ids(self.large, self.tokenizer)
        generations = [Generation() for _ in encoded]
        active = list(range(len(encoded)))
        for _ in range(max_new_tokens):
            logits, weights, expert = self._fused_step(steppers, ids, mask, positions)
            rows = [generators[number] for number in active]
            tokens = pick_tokens(logits, rows, temperature=temperature, top_k=top_k, top_p=top_p)
            for row, (number, token) in enumerate(zip(active, tokens.tolist(), strict=True)):
                generation = generations[number]
                generation.token_ids.append(token)
                generation.weights.append(weights[row])
                generation.expert.append(expert[row])
            remaining = [
                row for row, number in enumerate(active) if not self._finished(generations[number], stop, ends)
            ]
            if not remaining:
                break
            if len(remaining) < len(active):
                kept = torch.tensor(remaining, device=self.device)
                active = [active[row] for row in remaining]
                tokens, mask, positions = tokens[kept], mask[kept], positions[kept]
                for stepper in steppers:
                    stepper.keep(kept)
            ids = tokens[:, None]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=-1)
            positions = positions[:, -1:] + 1
        for generation in generations:
            generation.text = self._text(generation, stop, ends)
        return generations

    def _fused_step(
        self, steppers: list[_Stepper], ids: Tensor, mask: Tensor, positions: Tensor
    ) -> tuple[Tensor, list[list[float]], list[int]]:
        """Fused logits ``[B, V]``, each row's weights and the expert that steers it."""
        logits = [stepper.step(ids, mask, positions)[:, : self.vocabulary] for stepper in steppers]
        if not self.experts:
            return logits[0], [[] for _ in ids], [-1] * len(ids)
        large, base, experts = logits[0], logits[1], torch.stack(logits[2:])
        if self.fixed is None:
            solved = solve_weights(
                large, base, experts, rule=self.rule, selection=self.selection, bounds=self.bounds, step=self.step
            )
            weights, expert = solved.weights, solved.expert.tolist()
        else:
            weights = torch.tensor(self.fixed, device=self.device)[:, None].expand(-1, len(ids))
            strongest = max(range(len(self.fixed)), key=lambda number: abs(self.fixed[number]))
            expert = [strongest if self.fixed[strongest] != 0 else -1] * len(ids)
        return fuse_logits(large, base, experts, weights), weights.T.tolist(), expert

    def _finished(self, generation: Generation, stop: Sequence[str], ends: set[int]) -> bool:
        """Whether the newest token ends the continuation; notes why."""
        if generation.token_ids[-1] in ends:
            generation.finish_reason = "eos"
            return True
        if stop:
            # A stop string can only end inside the newest token, and no token is less than a byte.
            tail = generation.token_ids[-(max(len(word.encode()) for word in stop) + 8) :]
            text = self.tokenizer.decode(tail, skip_special_tokens=True)
            if any(word in text for word in stop):
                generation.finish_reason = "stop"
                return True
        return False

    def _text(self, generation: Generation, stop: Sequence[str], ends: set[int]) -> str:
        ids = [token for token in generation.token_ids if token not in ends]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        cuts = [text.find(word) for word in stop if word in text]
        return text[: min(cuts)] if cuts else text


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a text."""
    found = [model.config.eos_token_id, tokenizer.eos_token_id]
    if model.generation_config is not None:  # chat models may list further ends only here
        found.append(model.generation_config.eos_token_id)
    several = [tokens if isinstance(tokens, Iterable) else [tokens] for tokens in found]
    return {token for tokens in several for token in tokens if token is not None}


def _listed(texts: str | Sequence[str]) -> list[str]:
    """A single text counts as a list of one."""
    return [texts] if isinstance(texts, str) else list(texts)


def _fixed_weights(weights: str | float | Sequence[float], experts: int) -> list[float] | None:
    """Fixed weights as one number an expert, or None where they are solved for."""
    if weights == "dynamic":
        return None
    if isinstance(weights, str):
        raise UserError(f'weights is "dynamic", a number or a list of numbers, not {weights!r}.')
    listed = [float(weights)] * experts if isinstance(weights, (int, float)) else [float(weight) for weight in weights]
    if len(listed) != experts:
        raise UserError(f"{experts} experts need {experts} weights, and {len(listed)} were given.")
    return listed
