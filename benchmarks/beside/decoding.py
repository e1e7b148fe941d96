"""Greedy decoding: proxy-tuning by its authors' own loop, and the large model alone by transformers' ``generate``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.generation import utils as generation

from beside.checkouts import PROXY_TUNING
from beside.comparison import CPU, Comparison, compare
from decoding.measure import Fusion, load_fusion, same
from decoding.naive import transformers_generate
from logitfusion.models.padding import left_pad

Loop = Callable[[list[list[int]], int], list[list[int]]]


def measure(
    results: Path, expert: str, batches: list[int], tokens: int, rounds: int, checkout: Path | None
) -> list[Comparison]:
    """With a run's models and prompts of the expert's task, ``tokens`` a row."""
    fusion = load_fusion(results, expert, CPU)
    found = PROXY_TUNING.load(checkout, import_loop)
    folders = [results / "models/large", results / "experts" / expert, results / "models/small"]
    loops = {found[0]: make_loop(found[1], folders)} if found else {}
    rows = []
    for batch in batches:
        rows += compare_batch(fusion, (fusion.prompts * batch)[:batch], tokens, rounds, loops)
        print(f"decoding, batch {batch}: done", flush=True)
    return rows


def compare_batch(
    fusion: Fusion, prompts: list[list[int]], tokens: int, rounds: int, loops: dict[str, Loop]
) -> Iterator[Comparison]:
    """The large model alone, then proxy-tuning by every loop."""
    options = {"max_new_tokens": tokens, "batch_size": len(prompts)}
    alone, proxy = fusion.fused(steered=False), fusion.fused(weights=1.0)

    def here(model: Any) -> Callable[[], list[list[int]]]:
        return lambda: [row.token_ids for row in model.generate(prompts, **options)]

    def agree(ours: list[list[int]], theirs: list[list[int]]) -> str:
        if any(len(row) != tokens for row in (*ours, *theirs)):
            raise SystemExit(f"a row has not the {tokens} tokens that were asked for")
        return f"{same(ours, theirs)} rows the same"

    where = f"batch {len(prompts)}, {max(map(len, prompts))} + {tokens} tokens"
    version = f"transformers {transformers.__version__}, generate"
    theirs: Callable[[], Any] = lambda: transformers_generate(fusion.large, prompts, tokens)  # noqa: E731
    yield compare(f"large alone, {where}", version, here(alone), theirs, agree, rounds)
    for version, loop in loops.items():
        theirs = lambda loop=loop: loop(prompts, tokens)  # noqa: E731
        yield compare(f"proxy-tuning, {where}", version, here(proxy), theirs, agree, rounds)


# Their loop with a transformers that is younger than it


def import_loop() -> type:
    """Their class of three models.

    It imports ``top_k_top_p_filtering``, which transformers has no longer; decoded greedily, it is not called.
    """
    with _filtering():
        return importlib.import_module("modeling.dexperts").DExpertsLlama


@contextmanager
def _filtering() -> Iterator[None]:
    name = "top_k_top_p_filtering"
    if hasattr(generation, name):
        yield
        return
    setattr(generation, name, None)
    try:
        yield
    finally:
        delattr(generation, name)


def make_loop(kind: type, folders: list[Path]) -> Loop:
    """Their decoding of token ids with the large model, the expert and the base ("anti-expert") of these folders."""
    # No token ends a row: every row has the same work, as with `Fusion`.
    tokenizer = SimpleNamespace(eos_token_id=-1, pad_token_id=0)
    models = kind(*map(str, folders), tokenizer=tokenizer, model_kwargs={"dtype": torch.float32})
    for model in (models.base, models.expert, models.antiexpert):
        prepare_new_tokens(model)

    @torch.inference_mode()
    def loop(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        ids, mask, _ = left_pad(prompts, 0)
        # Trainings save models whose config says that they have no cache, which the loop would go by.
        made = models.generate(ids, max_new_tokens=tokens, attention_mask=mask, use_cache=True)
        return made[:, ids.shape[1] :].tolist()

    return loop


def prepare_new_tokens(model: PreTrainedModel) -> None:
    """Let ``prepare_inputs_for_generation`` leave out what the cache holds and count positions without the padding.

    It did when their loop was written; now the caller says how many tokens are new, and where they stand. Without it,
    a model would read the whole text at every step, after its own cache.
    """
    prepare = model.prepare_inputs_for_generation

    def prepare_as_before(input_ids: torch.Tensor, **options: Any) -> dict[str, Any]:
        new = 1 if options.get("past_key_values") is not None else None
        positions = (options["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return prepare(input_ids, next_sequence_length=new, position_ids=positions, **options)

    model.prepare_inputs_for_generation = prepare_as_before
