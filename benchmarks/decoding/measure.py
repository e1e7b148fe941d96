"""A step of decoding, each way: fused, the large model alone, speculation, and the loops that a user would write."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import logitfusion.fusion.speculation as speculation
from decoding.floor import Speed, Work
from decoding.naive import Member, naive_loop, proxy_tuning, transformers_generate
from decoding.plan import Predicted
from decoding.sizes import Setting, make_model, put_adapters
from decoding.solver import GATE, solver_share
from logitfusion.fusion import FusedLM
from logitfusion.fusion.graphs import StepGraphs
from logitfusion.models.load import count_bytes, count_parameters, load_model, load_tokenizer
from logitfusion.models.tiny import tiny_tokenizer
from peak import most_bytes
from timing import ratios, time_rounds

Ways = dict[str, Callable[[], Any]]


@dataclass
class Fusion:
    """Models and prompts; experts are models, or the names of adapters of the base (a peft model)."""

    name: str
    large: PreTrainedModel
    base: PreTrainedModel
    experts: list[PreTrainedModel] | list[str]
    tokenizer: PreTrainedTokenizerBase
    prompts: list[list[int]]
    graphs: StepGraphs | None = None  # shared by all ways, so that their caches do not add up

    def __post_init__(self) -> None:
        """Let all rows decode the same number of tokens: no model's end of a text ends one."""
        self.graphs = StepGraphs() if self.large.device.type == "cuda" else None
        self.tokenizer.eos_token = None
        for model in self.models():
            for config in (model.config, model.generation_config):
                if config is not None:
                    config.eos_token_id = None

    def fused(self, steered: bool = True, **options: Any) -> FusedLM:
        """As the package decodes."""
        others = (self.base, self.experts) if steered else (None, [])
        searched = {} if options.get("rule") == "gate" else {"selection": "one_hot"}
        given = searched | {"graphs": self.graphs} | options
        return FusedLM(self.large, *others, tokenizer=self.tokenizer, **given)

    def members(self) -> list[Member]:
        """As a user would call them, one after the other."""
        if all(isinstance(expert, str) for expert in self.experts):
            return [(self.large, None), (self.base, ""), *((self.base, name) for name in self.experts)]
        return [(model, None) for model in (self.large, self.base, *self.experts)]

    def models(self) -> list[PreTrainedModel]:
        """Those that have weights of their own."""
        return list(dict.fromkeys(model for model, _ in self.members()))

    def work(self, steered: bool, rows: int, tokens: int, before: int) -> Work:
        """What one pass over ``tokens`` new ones of each row does, after ``before`` of each."""
        weights = cache = operations = 0
        for model in self.models() if steered else [self.large]:
            members = sum(member is model for member, _ in self.members())
            read, output = _matrices(model)
            weights += read * model.dtype.itemsize
            cache += members * rows * before * _cached_bytes(model)
            operations += 2 * members * rows * ((read - output) * tokens + output)  # logits of the last token only
        return Work(weights, cache, operations)


def _matrices(model: PreTrainedModel) -> tuple[int, int]:
    """Parameters that every pass reads, not an embedding of its own; and those of the output matrix."""
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    looked_up = 0 if embedding is output else embedding.numel()
    return count_parameters(model) - looked_up, output.numel()


def _cached_bytes(model: PreTrainedModel) -> int:
    """Of one token's keys and values."""
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * size * model.dtype.itemsize


def load_fusion(results: Path, expert: str, device: torch.device) -> Fusion:
    """The demo's models, with prompts of the expert's task."""
    folders = (results / "models/large", results / "models/small", results / "experts" / expert)
    large, base, trained = (load_model(folder, device=device) for folder in folders)
    tokenizer = load_tokenizer(folders[0])
    lines = (results / f"tasks/{expert}/validation.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [tokenizer.encode(json.loads(line)["prompt"]) for line in lines]
    return Fusion(f"demo, {expert}", large, base, [trained], tokenizer, prompts)


def make_fusion(name: str, setting: Setting, device: torch.device, dtype: torch.dtype, prompt: int) -> Fusion:
    """Random weights, and prompts of so many tokens."""
    large, base = (make_model(shape, device, dtype, seed) for seed, shape in enumerate((setting.large, setting.base)))
    if setting.adapters:
        base, experts = put_adapters(base, setting.experts, seed=2)
    else:
        experts = [make_model(setting.base, device, dtype, seed) for seed in range(2, 2 + setting.experts)]
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, 250, (32, prompt), generator=generator).tolist()
    return Fusion(name, large, base, experts, tiny_tokenizer(), prompts)


def bench_decoding(
    fusion: Fusion, batch: int, rounds: int, tokens: int, speed: Speed, predicted: Predicted | None
) -> dict[str, Any]:
    """Every way in every round, and the most memory that each took in the first one."""
    prompts = (fusion.prompts * batch)[:batch]
    device, drafts = fusion.large.device, []
    ways = _ways(fusion, prompts, tokens)
    with _noting_drafts(drafts):
        seconds, made = time_rounds(ways, rounds, device)
    texts = {name: [row if isinstance(row, list) else row.token_ids for row in rows] for name, rows in made.items()}
    share = solver_share(ways["fused"], device)
    gate_share = solver_share(ways["gate"], device)
    length = max(map(len, prompts))
    floors = {name: _floor(fusion, steered, batch, length, tokens, speed) for name, steered in _FLOORS.items()}
    resident = sum(map(count_bytes, fusion.models()))
    judged = sum(min(accepted + 1, draft) for accepted, draft in drafts)
    return {
        "pair": fusion.name,
        "batch": batch,
        "tokens": tokens,
        "prompt tokens": length,
        "milliseconds a step": {name: [1e3 * value / tokens for value in values] for name, values in seconds.items()},
        "tokens a second": {name: [batch * tokens / value for value in values] for name, values in seconds.items()},
        "ratio to large alone": ratios(seconds, "large alone"),
        "ratio to fused": ratios(seconds, "fused"),
        "floor milliseconds a step": {name: 1e3 * floor / tokens for name, floor in floors.items()},
        "floor by bytes": resident / count_bytes(fusion.large),
        "bytes": {"large": count_bytes(fusion.large), "base and experts": resident - count_bytes(fusion.large)},
        "peak bytes": {name: resident + most_bytes(ways[name], device) for name in _PEAKS},
        "predicted bytes": None if predicted is None else predicted(batch, length, tokens),
        "solver's share": share,
        "a gate's share": gate_share,
        "fused equals naive": same(texts["fused"], texts["naive loop"]),
        "speculative equals fused": same(texts["fused, speculative"], texts["fused"]),
        "proxy equals naive": same(texts["proxy-tuning"], texts["naive proxy-tuning"]),
        "accepted share": sum(accepted for accepted, _ in drafts) / max(judged, 1),
        "tokens a round": batch * tokens * (rounds + 1) / max(len(drafts), 1),
        "mean draft": statistics.mean(draft for _, draft in drafts) if drafts else 0,
    }


_FLOORS = {"large alone": False, "fused": True}
_PEAKS = ("large alone", "fused", "fused, speculative", "naive loop")


def _ways(fusion: Fusion, prompts: list[list[int]], tokens: int) -> Ways:
    options = {"max_new_tokens": tokens, "batch_size": len(prompts)}
    large, fused, proxy = fusion.fused(steered=False), fusion.fused(), fusion.fused(weights=1.0)
    gate = fusion.fused(rule="gate", gate=GATE)
    members = fusion.members()
    plain, plain_large = (fusion.fused(steered, graphs=StepGraphs(math.inf)) for steered in (True, False))
    before = {
        "large alone, without graphs": lambda: plain_large.generate(prompts, **options),
        "fused, without graphs": lambda: plain.generate(prompts, **options),
    }
    return (before if fusion.graphs is not None else {}) | {
        "large alone": lambda: large.generate(prompts, **options),
        "transformers generate, large alone": lambda: transformers_generate(fusion.large, prompts, tokens),
        "fused": lambda: fused.generate(prompts, **options),
        "fused, speculative": lambda: fused.generate(prompts, speculative=True, **options),
        "proxy-tuning": lambda: proxy.generate(prompts, **options),
        "gate": lambda: gate.generate(prompts, **options),
        "naive proxy-tuning": lambda: naive_loop(members, prompts, tokens, proxy_tuning),
        "naive loop": lambda: naive_loop(members, prompts, tokens),
        "naive loop without caches": lambda: naive_loop(members, prompts, tokens, cached=False),
    }


def _floor(fusion: Fusion, steered: bool, rows: int, prompt: int, tokens: int, speed: Speed) -> float:
    """Seconds: the prompts' pass, then a pass for every further token."""
    seconds = fusion.work(steered, rows, prompt, 0).seconds(speed)
    return seconds + sum(fusion.work(steered, rows, 1, prompt + made).seconds(speed) for made in range(tokens - 1))


@contextmanager
def _noting_drafts(drafts: list[tuple[int, int]]) -> Iterator[None]:
    """Note how many tokens of every draft were accepted, and its length."""
    learn = speculation.Pace.learn

    def noting(self: speculation.Pace, accepted: list[int], draft: int) -> None:
        drafts.extend((number, draft) for number in accepted)
        learn(self, accepted, draft)

    speculation.Pace.learn = noting
    try:
        yield
    finally:
        speculation.Pace.learn = learn


def same(found: list[list[int]], expected: list[list[int]]) -> str:
    """How many rows are token for token the same."""
    return f"{sum(a == b for a, b in zip(found, expected, strict=True))}/{len(expected)}"
