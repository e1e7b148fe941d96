"""A large model that small experts steer, as one language model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.decoding import DECODING, DecodingOptions
from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.keywords import given_options
from logitfusion.config.loading import Attention, Dtype
from logitfusion.errors import UserError
from logitfusion.fusion.caches import Batch, CachedAdapters, CachedModel, share_prefixes
from logitfusion.fusion.decoding import Continuations, Fused, Generation, decode, read_prompts, tell_once
from logitfusion.fusion.ends import end_tokens, folder_ends
from logitfusion.fusion.graphs import StepGraphs
from logitfusion.fusion.opening import open_folders
from logitfusion.fusion.prefixes import order_rows
from logitfusion.fusion.prompts import PromptMemory
from logitfusion.fusion.rereading import open_model
from logitfusion.fusion.scoring import Pair, group_rows, judge_steering, score_pairs
from logitfusion.fusion.speculation import Pace, decode_speculatively, make_pace
from logitfusion.fusion.steering import Steering
from logitfusion.models.adapters import refuse_no_expert, refuse_one_folder
from logitfusion.models.architecture import context_length, count_vocabulary, has_position_table, rope_limit
from logitfusion.models.batch_size import BatchSize
from logitfusion.models.checkpoint import is_adapter
from logitfusion.models.device_maps import input_device
from logitfusion.models.forward import refuse_not_causal
from logitfusion.models.identity import has_tokenizer
from logitfusion.models.padding import left_pad
from logitfusion.models.text import TextEncoder, token_ids
from logitfusion.models.vocabulary import load_shared_tokenizer

_NO_BASE = "Experts steer by their difference from a small base: give the base as well."


class FusedLM:
    """A large causal LM, alone or steered by small experts of one small base.

    Args:
        large: the model that is steered; with no experts it decodes alone.
        base: the small base that the experts were trained from.
        experts: the small experts, or the names of LoRA adapters of ``base`` (then a peft model), which are read
            together with the base in one pass.
        tokenizer: the one tokenizer of all models.
        entries: how many entries of the logits mean the same in all models, where some have tokens of their own behind
            them; these are never predicted.
        options: how the experts steer. Weight 1.0 of one expert is proxy-tuning; rule, selection, bounds and step are
            those of ``solve_weights``; ``tune`` chooses trust and anchor on validation data.
        ends: tokens that end a text besides those that ``tokenizer`` and the models' configs name; ``folder_ends``
            reads those of the tokenizers that base and experts were saved with.
        memory: of prompts, shared with other fusions of the same models.
        graphs: of decoding's steps on a GPU, shared as well; by default none, because they were tried on a CPU only.
        named: the fields of ``FusionOptions`` by name, instead of ``options``.

    Raises:
        UserError: experts without a base, vocabularies of different sizes, an unknown option or one that can't be used,
            or a wrong number of weights.
    """

    def __init__(
        self,
        large: PreTrainedModel,
        base: PreTrainedModel | None = None,
        experts: Sequence[PreTrainedModel] | Sequence[str] = (),
        *,
        tokenizer: PreTrainedTokenizerBase,
        entries: int | None = None,
        options: FusionOptions | None = None,
        ends: Iterable[int] = (),
        memory: PromptMemory | None = None,
        graphs: StepGraphs | None = None,
        **named: Any,
    ) -> None:
        if experts and base is None:
            raise UserError(_NO_BASE)
        models = [large, *([base] if experts else []), *(expert for expert in experts if not isinstance(expert, str))]
        for model in models:
            refuse_not_causal(model)
        if entries is not None and entries < 1:
            raise UserError(f"The models share at least one entry, not entries={entries}.")
        sizes = [count_vocabulary(model) for model in models]
        # Families pad their output layers to different sizes; the entries beyond the tokenizer mean nothing.
        self.vocabulary = min([*sizes, *([entries] if entries and experts else [])])
        shared = len(tokenizer) if entries is None else entries
        if self.vocabulary != max(sizes) and self.vocabulary < shared:
            raise UserError(
                f"The models of a fusion need one vocabulary: the tokenizer has {shared} tokens, and the models"
                f" have {sorted(set(sizes))} entries."
            )
        if experts and (tokenizer.eos_token_id or 0) >= self.vocabulary:
            raise UserError(
                f"The large model ends a text with {tokenizer.eos_token!r} (number {tokenizer.eos_token_id}), and not"
                f" all models of the fusion have it: they share {self.vocabulary} entries; use models of one family."
            )
        self.steering = Steering(given_options(FusionOptions, options, named), len(experts))
        self.large, self.base, self.experts, self.tokenizer = large, base, list(experts), tokenizer
        self.encoder = TextEncoder(tokenizer)
        self.device = input_device(large)  # where all logits meet
        self.max_length = min(context_length(model) for model in models)
        # Longer rows would change how the others are read, so they are read alone.
        self.shared_length = min(rope_limit(model) for model in models)
        self.memory = memory
        self.graphs = graphs
        self.models = models  # those that have weights of their own
        self._further_ends = frozenset(token_ids("ends", ends))

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a text, those of every model of the fusion, whatever its weight is.

        Experts may be chat models that end their turns by another token than base and large model, and which of them
        steers changes from token to token. A large model alone ends by its own ones.
        """
        found = end_tokens(self.models, self.tokenizer) | self._further_ends
        return frozenset(token for token in found if 0 <= token < self.vocabulary)

    @classmethod
    def from_folders(
        cls,
        large: str | Path,
        base: str | Path | None = None,
        experts: Sequence[str | Path] = (),
        *,
        dtype: Dtype | torch.dtype = "auto",
        device_map: str | int | torch.device | None = None,
        attn_implementation: Attention = "auto",
        options: FusionOptions | None = None,
        **named: Any,
    ) -> FusedLM:
        """Load the models of a fusion, refusing by name those that number their tokens differently.

        An expert's folder may hold an adapter of the base, as peft saves it. If all hold plain LoRA, the base is in
        memory once, and base and experts are read together in one pass; other adapters are a model each.

        Args:
            large, base, experts: folders.
            dtype: of the weights; ``"auto"`` is each checkpoint's own. Keys and values are kept in it too; logits are
                fused in fp32 always.
            device_map: ``"auto"`` parts the models among all visible GPUs, see ``models.placement``; a device takes all
                of them. By default the first GPU that is visible, else the CPU.
            attn_implementation: ``"sdpa"``, ``"flash_attention_2"``, ``"eager"``, or ``"auto"``: transformers' choice.
            options, named: as in the class, checked before anything is loaded.

        Raises:
            UserError: folders that hold no such models, or models that do not fit the GPUs.
        """
        options = given_options(FusionOptions, options, named)
        refuse_one_folder(experts)
        with_tokenizer = [folder for folder in experts if not is_adapter(folder) or has_tokenizer(folder)]
        folders = [large, *([base] if base and experts else [])]
        for folder in [*folders, *(path for path in experts if not base or not is_adapter(path))]:
            refuse_no_expert(folder)
        tokenizer, entries = load_shared_tokenizer([*folders, *with_tokenizer])
        ends = folder_ends([*folders, *experts])
        if experts and not base:
            raise UserError(_NO_BASE)
        models = open_folders(large, base, experts, device_map, dtype=dtype, attention=attn_implementation)
        return cls(*models, tokenizer=tokenizer, entries=entries, options=options, ends=ends)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        options: DecodingOptions | None = None,
        *,
        on_batch: Callable[[int], None] | None = None,
        on_token: Callable[[int, Generation], None] | None = None,
        stopping_criterion: Callable[[list[int]], bool] | None = None,
        **named: Any,
    ) -> list[Generation]:
        """Continue every prompt, until an end token of one of the models (``ends``), a stop string or the length.

        What else the models' generation configs ask for (penalties, suppressed or forced tokens, a least length, a
        temperature) is not applied: ``options`` are all.

        Args:
            prompts: texts or token ids; each must have at least one token.
            options: how to decode. Row i draws with ``seed + i`` whatever the batch, so batches don't change the draws.
                Speculative decoding gives the same greedy continuations, and sampled ones of the same distribution (but
                other draws from a seed). Prompts of similar length share a batch.
            named: the fields of ``DecodingOptions`` by name, instead of ``options``.
            on_batch: called with the number of prompts that a batch finished.
            on_token: called at each token with the prompt's number and its continuation so far, to stream it: its text
                is what no later token changes.
            stopping_criterion: called with a continuation's tokens at each of them; where it says so, it ends there, as
                it does with a stop string, and its text is not cut.

        Raises:
            UserError: an empty prompt, options that can't be used, or a model whose logits are not finite.
        """
        options = given_options(DecodingOptions, options, named)
        if not isinstance(prompts, Iterable):
            raise UserError(f"A list of prompts is needed, not {prompts!r}.")
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        encoded = [self._read_prompt(f"Prompt {number}", prompt) for number, prompt in enumerate(prompts)]
        start = options.seed if options.seed is not None else torch.Generator().seed() % 2**31
        # The last token is not read.
        limits = [int(min(options.max_new_tokens, self.max_length - len(ids) + 1)) for ids in encoded]
        lengths = [len(ids) + limit - 1 for ids, limit in zip(encoded, limits, strict=True)]
        ends = self.ends
        pace = self._make_pace(options, max(lengths, default=0)) if options.speculative else None
        notify = None if on_token is None else tell_once(on_token)

        def continue_batch(batch: list[int]) -> list[Generation]:
            generators = [torch.Generator().manual_seed(start + number) for number in batch]
            tell = notify and (lambda row, generation: notify(batch[row], generation))
            rows = [limits[number] for number in batch]
            continuations = Continuations(rows, options, self.tokenizer, ends, tell, stopping_criterion)
            batch_ids = [encoded[number] for number in batch]
            remake = self.cached_models if lengths[batch[0]] > self.shared_length else None
            known = (self.memory, self.graphs)
            fused = Fused(self.cached_models(), self.steering, self.vocabulary, self.max_length, remake, *known)
            if pace is not None:
                decode_speculatively(fused, batch_ids, generators, continuations, pace)
            else:
                decode(fused, batch_ids, generators, continuations)
            return continuations.all

        results: dict[int, Generation] = {}
        size = BatchSize(options.batch_size, "prompts")
        shares = not self.steering.reads_prompts and share_prefixes(self.cached_models())
        order = order_rows(encoded, size.rows, shares=shares)
        batches = group_rows(order, lengths, size.rows, self.shared_length)
        compute = continue_batch if self.graphs is None else partial(self.graphs.give_way, continue_batch)
        for batch, generations in size.each(batches, compute):
            results.update(zip(batch, generations, strict=True))
            if on_batch is not None:
                on_batch(len(batch))
        return [results[number] for number in range(len(prompts))]

    @torch.inference_mode()
    def score(
        self,
        contexts: Sequence[str | Sequence[int]],
        continuations: Sequence[str | Sequence[int]],
        *,
        batch_size: int | Literal["auto"] = DECODING.batch_size,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[tuple[float, bool]]:
        """How likely each continuation is after its context.

        Args:
            contexts: texts or token ids. An empty one stands for the begin-of-text (or end-of-text) token.
            continuations: one for each context, both texts or both token ids. Texts are encoded together with their
                contexts, and white space between them belongs to the continuation, as in lm-evaluation-harness; where
                a token spans the border, the continuation is encoded alone. Its log-likelihood is 0 where token ids
                are none; a text must have some.
            batch_size: pairs scored together, or ``"auto"``, see ``Decoding``; equal contexts are read once.
            on_batch: called with the number of pairs that a batch scored.

        Returns:
            natural log-likelihood of each continuation, and whether greedy decoding would give it.

        Raises:
            UserError: as many contexts as continuations are needed, and of the same kind; a text without
                tokens; a batch size below 1; a model whose logits are not finite.
        """
        size = BatchSize(batch_size, "pairs")
        listed = all(isinstance(part, Sized) and not isinstance(part, str) for part in (contexts, continuations))
        if not listed or len(contexts) != len(continuations):
            raise UserError("Scoring needs a list of contexts and as many continuations.")
        pairs = self.encode_pairs(contexts, continuations)
        if not pairs:
            return []
        self.check_pairs(pairs)
        if self.graphs is not None:
            self.graphs.clear()
        total, greedy = score_pairs(
            self.cached_models,
            judge_steering(self.steering),
            pairs,
            vocabulary=self.vocabulary,
            batch_size=size,
            shared_length=self.shared_length,
            reads_contexts=self.steering.reads_prompts,
            memory=self.memory,
            on_batch=on_batch,
        )
        return list(zip(total[:, 0].tolist(), greedy[:, 0].tolist(), strict=True))

    @torch.inference_mode()
    def likelihood_gap(
        self, prompts: Sequence[str], *, batch_size: int | Literal["auto"] = DECODING.batch_size
    ) -> list[float]:
        """By how many nats a token the nearest expert predicts each prompt worse than the large model does.

        Text that no expert predicts as the large model does is not theirs to steer; see ``read_prompts``.

        Raises:
            UserError: no experts, an empty prompt or one that is too long, or a model whose logits are not finite.
        """
        if not self.experts:
            raise UserError("A likelihood gap needs a fusion with a small base and experts.")
        encoded = [self._read_prompt(f"Prompt {number}", prompt) for number, prompt in enumerate(prompts)]

        def read(numbers: list[int]) -> list[float]:
            ids, mask, _ = (tensor.to(self.device) for tensor in left_pad([encoded[number] for number in numbers], 0))
            batch = Batch(self.cached_models(), len(ids), self.memory)
            return read_prompts(batch, ids, mask, self.vocabulary).tolist()

        found: dict[int, float] = {}
        size = BatchSize(batch_size, "prompts")
        batches = group_rows(range(len(encoded)), list(map(len, encoded)), size.rows, self.shared_length)
        for numbers, gaps in size.each(batches, read):
            found.update(zip(numbers, gaps, strict=True))
        return [found[number] for number in range(len(encoded))]

    def extend(self, tokens: int) -> None:
        """Let texts be longer than the models' configs say, which rotary encodings allow and learned positions don't.

        Raises:
            UserError: a model has no positions beyond its own limit.
        """
        for model in self.models:
            if tokens > context_length(model) and has_position_table(model):
                raise UserError(
                    f"A max_length of {tokens} is more than the {context_length(model)} tokens that"
                    f" {type(model).__name__} has positions for; lower it."
                )
        self.max_length = max(self.max_length, tokens)

    def check_length(self, name: str, tokens: int) -> None:
        """Refuse a text that is longer than the shortest context of all models.

        Raises:
            UserError: ``name`` is the text's.
        """
        if tokens > self.max_length:
            raise UserError(f"{name} has {tokens} tokens, and the models read at most {self.max_length}; shorten it.")

    def check_pairs(self, pairs: Sequence[Pair]) -> None:
        """``check_length`` of contexts with their continuations, whose last tokens are predicted and not read."""
        for number, (context, continuation) in enumerate(pairs):
            self.check_length(f"Pair {number}", len(context) + len(continuation) - 1)
            self._refuse_unknown_tokens((*context, *continuation))

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt. One that begins with the begin-of-text token, as chat templates do, gets no second."""
        return self.encoder.prompt(text)

    def cached_models(self) -> list[CachedModel]:
        """The models with empty caches: the large one, the base, the experts (these two as one if they share)."""
        large = open_model(self.large, [_title("the large model", self.large)])
        if not self.experts:
            return [large]
        base = _title("the base", self.base)
        if isinstance(self.experts[0], str):
            names = [base, *(f"expert {number} ({name})" for number, name in enumerate(self.experts, start=1))]
            return [large, CachedAdapters(self.base, self.experts, names)]
        experts = [
            open_model(expert, [_title(f"expert {number}", expert)])
            for number, expert in enumerate(self.experts, start=1)
        ]
        return [large, open_model(self.base, [base]), *experts]

    def _make_pace(self, options: DecodingOptions, longest: int) -> Pace:
        """The pace of a speculation; a row that is read alone can't be read ahead."""
        if longest > self.shared_length:
            raise UserError(
                f"Speculative decoding reads several tokens at once, but the positions of texts of more than"
                f" {self.shared_length} tokens are encoded by their length at every token; leave it off."
            )
        return make_pace(self.cached_models(), options.draft_tokens)

    def encode_pairs(
        self, contexts: Sequence[str | Sequence[int]], continuations: Sequence[str | Sequence[int]]
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """``encode_pair`` of all; a message names the pair by its number, from 0 on."""
        pairs = enumerate(zip(contexts, continuations, strict=True))
        return [self.encode_pair(*pair, name=f"Pair {number}") for number, pair in pairs]

    def encode_pair(
        self, context: str | Sequence[int], continuation: str | Sequence[int], *, name: str = "The pair"
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids of a context (at least one) and its continuation (at least one of a text); see ``score``.

        Args:
            name: of the pair in messages.
        """
        if isinstance(context, str) != isinstance(continuation, str):
            raise UserError("A context and its continuation must both be texts or both be token ids.")
        if isinstance(context, str):
            before, after = self.encoder.pair(context, continuation, name)
            return tuple(before), tuple(after)
        return tuple(token_ids(name, context)) or tuple(self.encoder.start), tuple(token_ids(name, continuation))

    def _read_prompt(self, name: str, prompt: str | Sequence[int]) -> list[int]:
        """Token ids that all models can read, at least one."""
        ids = self.encode(prompt) if isinstance(prompt, str) else token_ids(name, prompt)
        if not ids:
            raise UserError(f"{name} has no tokens; a continuation needs at least one.")
        self.check_length(name, len(ids))
        self._refuse_unknown_tokens(ids)
        return ids

    def _refuse_unknown_tokens(self, ids: Sequence[int]) -> None:
        """Refuse numbers that not all models have in their vocabularies: an embedding would read beyond its end."""
        wrong = next((token for token in ids if not 0 <= token < self.vocabulary), None)
        if wrong is not None:
            name = self.tokenizer.convert_ids_to_tokens(wrong) if 0 <= wrong < len(self.tokenizer) else None
            raise UserError(
                f"A text has the token {'' if name is None else f'{name!r}, '}number {wrong}, and the models"
                f" {'share' if self.experts else 'have'} only {self.vocabulary} entries; leave it out of the text."
            )


def _title(role: str, model: PreTrainedModel) -> str:
    """The model in a message: its part in the fusion, and its folder."""
    return f"{role} ({model.name_or_path})" if model.name_or_path else role
