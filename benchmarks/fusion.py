"""Fused decoding and its solver against what a user would do otherwise, measured in the same run.

`make bench-fusion` runs it on the demo's models. `--shape llama-13b --device cuda` takes random weights of the paper's
sizes instead (13B large, 1.1B base and expert), for machines that have the memory.

Every round times each way once, one after the other; a ratio is of two times of one round. Tables give the median over
rounds and, in brackets, the least and the greatest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

import logitfusion.fusion.speculation as speculation
import logitfusion.fusion.steering as steering
from logitfusion.files import write_json, write_text
from logitfusion.fusion import FusedLM, solve_weights
from logitfusion.models.load import count_bytes, load_model, load_tokenizer
from logitfusion.models.padding import left_pad
from logitfusion.models.tiny import tiny_tokenizer
from timing import describe_machine, ratios, spread, synchronise, time_rounds, use_all_threads, words

# hidden size, feed-forward size, layers, heads, key-value heads (Llama 2 13B; TinyLlama 1.1B; Llama 2 7B)
SHAPES = {
    "llama-13b": {"large": (5120, 13824, 40, 40, 40), "small": (2048, 5632, 22, 32, 4)},
    "llama-13b-7b": {"large": (5120, 13824, 40, 40, 40), "small": (4096, 11008, 32, 32, 32)},
}
TOKENS = 24


# ---- what is compared -------------------------------------------------------------------------------------------


@torch.inference_mode()
def naive_solve(large: torch.Tensor, base: torch.Tensor, expert: torch.Tensor) -> torch.Tensor:
    """The paper's search as it is printed: 21 fused distributions, two divergences each. Fused logits ``[B, V]``."""
    large, base, expert = large.float(), base.float(), expert.float()
    log_p, log_q, log_t = large.log_softmax(-1), base.log_softmax(-1), expert.log_softmax(-1)
    forward_target = (log_t.exp() * (log_t - log_q)).sum(-1)
    backward_target = (log_q.exp() * (log_q - log_t)).sum(-1)
    best = torch.full_like(forward_target, torch.inf)
    weight = torch.zeros_like(best)
    for tenth in range(21):
        log_fused = (large + tenth / 10 * (expert - base)).log_softmax(-1)
        forward = (log_fused.exp() * (log_fused - log_p)).sum(-1)
        backward = (log_p.exp() * (log_p - log_fused)).sum(-1)
        loss = (forward - forward_target) ** 2 + (backward - backward_target) ** 2
        weight = torch.where(loss < best, tenth / 10, weight)
        best = torch.minimum(loss, best)
    return large + weight[:, None] * (expert - base)


@torch.inference_mode()
def naive_loop(models: list[PreTrainedModel], prompts: list[list[int]], tokens: int, cached: bool) -> list[list[int]]:
    """Three models, a forward after the other, and the naive search: what a user would write, with KV caches or not."""
    device = models[0].device
    ids, mask, positions = (tensor.to(device) for tensor in left_pad(prompts, 0))
    caches = [DynamicCache(config=model.config) if cached else None for model in models]
    made: list[torch.Tensor] = []
    for _ in range(tokens):
        logits = []
        for model, cache in zip(models, caches, strict=True):
            inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "use_cache": cached}
            logits.append(model(**inputs, past_key_values=cache, logits_to_keep=1).logits[:, -1])
        newest = naive_solve(*logits).argmax(-1, keepdim=True)
        made.append(newest)
        mask = torch.cat([mask, torch.ones_like(newest)], dim=-1)
        following = positions[:, -1:] + 1
        ids = newest if cached else torch.cat([ids, newest], dim=-1)
        positions = following if cached else torch.cat([positions, following], dim=-1)
    return torch.cat(made, dim=-1).tolist()


def transformers_generate(model: PreTrainedModel, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    ids, mask, _ = (tensor.to(model.device) for tensor in left_pad(prompts, 0))
    length = {"min_new_tokens": tokens, "max_new_tokens": tokens}
    made = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, pad_token_id=0, **length)
    return made[:, ids.shape[1] :].tolist()


# ---- decoding ---------------------------------------------------------------------------------------------------


@dataclass
class Pair:
    """A large model, a small base and its expert, and prompts."""

    name: str
    large: PreTrainedModel
    base: PreTrainedModel
    expert: PreTrainedModel
    tokenizer: Any
    prompts: list[list[int]]

    def fused(self, steered: bool = True) -> FusedLM:
        others = (self.base, [self.expert]) if steered else (None, [])
        return FusedLM(self.large, *others, tokenizer=self.tokenizer, selection="one_hot")


def load_pair(results: Path, expert: str, device: torch.device) -> Pair:
    """The demo's models, with prompts of the expert's task."""
    folders = (results / "models/large", results / "models/small", results / "experts" / expert)
    models = [load_model(folder, device=device) for folder in folders]
    tokenizer = load_tokenizer(folders[0])
    lines = (results / f"tasks/{expert}/validation.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [tokenizer.encode(json.loads(line)["prompt"]) for line in lines]
    return never_ending(Pair(f"demo, {expert}", *models, tokenizer, prompts))


def make_pair(shape: str, device: torch.device, dtype: torch.dtype) -> Pair:
    """Random weights: times mean something, texts and acceptance don't."""

    def make(size: str) -> PreTrainedModel:
        hidden, feed_forward, layers, heads, key_value = SHAPES[shape][size]
        config = LlamaConfig(
            vocab_size=32_000,
            hidden_size=hidden,
            intermediate_size=feed_forward,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_value,
        )
        with torch.device(device):
            default = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            model = LlamaForCausalLM(config).eval()
            torch.set_default_dtype(default)
        return model

    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, 250, (32, 64), generator=generator).tolist()
    return never_ending(Pair(shape, make("large"), make("small"), make("small"), tiny_tokenizer(), prompts))


def never_ending(pair: Pair) -> Pair:
    """All rows decode the same number of tokens."""
    pair.tokenizer.eos_token = None
    pair.large.config.eos_token_id = None
    if pair.large.generation_config is not None:
        pair.large.generation_config.eos_token_id = None
    return pair


def bench_decoding(pair: Pair, batch: int, rounds: int, tokens: int) -> dict[str, Any]:
    prompts = (pair.prompts * batch)[:batch]
    options = {"max_new_tokens": tokens, "batch_size": batch}
    large, fused = pair.fused(steered=False), pair.fused()
    models = [pair.large, pair.base, pair.expert]
    drafts: list[tuple[int, int]] = []
    learn = speculation.Pace.learn

    def noting(self: speculation.Pace, accepted: list[int], draft: int) -> None:
        drafts.extend((number, draft) for number in accepted)
        learn(self, accepted, draft)

    speculation.Pace.learn = noting
    ways: dict[str, Callable[[], Any]] = {
        "large alone": lambda: large.generate(prompts, **options),
        "transformers generate, large alone": lambda: transformers_generate(pair.large, prompts, tokens),
        "fused": lambda: fused.generate(prompts, **options),
        "fused, speculative": lambda: fused.generate(prompts, speculative=True, **options),
        "naive loop": lambda: naive_loop(models, prompts, tokens, cached=True),
        "naive loop without caches": lambda: naive_loop(models, prompts, tokens, cached=False),
    }
    seconds, made = time_rounds(ways, rounds, pair.large.device)
    speculation.Pace.learn = learn
    share = solver_share(lambda: fused.generate(prompts, **options), pair.large.device)
    texts = {name: [row if isinstance(row, list) else row.token_ids for row in rows] for name, rows in made.items()}
    sizes = [count_bytes(model) for model in (pair.large, pair.base)]
    judged = sum(min(accepted + 1, draft) for accepted, draft in drafts)
    return {
        "pair": pair.name,
        "batch": batch,
        "tokens": tokens,
        "milliseconds a step": {name: [1e3 * value / tokens for value in values] for name, values in seconds.items()},
        "ratio to large alone": ratios(seconds, "large alone"),
        "ratio to fused": ratios(seconds, "fused"),
        "solver's share": share,
        "floor by bytes": (sizes[0] + 2 * sizes[1]) / sizes[0],
        "bytes": {"large": sizes[0], "base and expert": 2 * sizes[1]},
        "fused equals naive": same(texts["fused"], texts["naive loop"]),
        "speculative equals fused": same(texts["fused, speculative"], texts["fused"]),
        "accepted share": sum(accepted for accepted, _ in drafts) / max(judged, 1),
        "tokens a round": batch * tokens * (rounds + 1) / max(len(drafts), 1),
        "mean draft": statistics.mean(draft for _, draft in drafts) if drafts else 0,
    }


def solver_share(run: Callable[[], Any], device: torch.device) -> float:
    """The part of a run's time that is spent in ``solve_weights``."""
    original, spent = steering.solve_weights, 0.0

    def timed(*arguments: Any, **options: Any) -> Any:
        nonlocal spent
        synchronise(device)
        start = time.perf_counter()
        solved = original(*arguments, **options)
        synchronise(device)
        spent += time.perf_counter() - start
        return solved

    steering.solve_weights = timed
    start = time.perf_counter()
    run()
    total = time.perf_counter() - start
    steering.solve_weights = original
    return spent / total


def same(found: list[list[int]], expected: list[list[int]]) -> str:
    """How many rows are token for token the same."""
    return f"{sum(a == b for a, b in zip(found, expected, strict=True))}/{len(expected)}"


# ---- the solver alone -------------------------------------------------------------------------------------------


def bench_solver(rows: int, vocabulary: int, rounds: int, device: torch.device) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    large = (3 * torch.randn(rows, vocabulary, generator=generator)).to(device)
    base = large + torch.randn(rows, vocabulary, generator=generator).to(device)
    experts = base + 0.7 * torch.randn(3, rows, vocabulary, generator=generator).to(device)
    ways: dict[str, Callable[[], Any]] = {
        "naive": lambda: naive_solve(large, base, experts[0]),
        "solve_weights": lambda: solve_weights(large, base, experts[:1]),
        "solve_weights, newton": lambda: solve_weights(large, base, experts[:1], rule="newton"),
        "solve_weights, 3 experts one_hot": lambda: solve_weights(large, base, experts, selection="one_hot"),
        "solve_weights, 3 experts judged": lambda: solve_weights(large, base, experts),
        "logsumexp of the three": lambda: [part.logsumexp(-1) for part in (large, base, experts[0])],
    }
    with torch.inference_mode():
        seconds, _ = time_rounds(ways, rounds, device)
    read = 3 * rows * vocabulary * 4
    return {
        "rows": rows,
        "vocabulary": vocabulary,
        "milliseconds": {name: [1e3 * value for value in values] for name, values in seconds.items()},
        "faster than naive": ratios({"solve_weights": seconds["naive"]}, over=seconds["solve_weights"]),
        "times one logsumexp": ratios(seconds, "logsumexp of the three"),
        "bytes read": read,
        "floor milliseconds by bytes": 1e3 * read / bandwidth(device),
        # two exponentials, 10 x 5 multiply-adds and 14 products an entry, besides the two small softmaxes
        "multiply-adds an entry": 10 * 5 + 14,
    }


def bandwidth(device: torch.device) -> float:
    """Bytes a second that summing 256 MB reads, best of five."""
    data = torch.ones(2**26, device=device)
    times = []
    for _ in range(5):
        synchronise(device)
        start = time.perf_counter()
        data.sum()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return data.numel() * 4 / min(times)


# ---- tables -----------------------------------------------------------------------------------------------------


def as_markdown(report: dict[str, Any]) -> str:
    return "\n".join([*decoding_table(report["decoding"]), *solver_table(report["solver"]), "", words(report)]) + "\n"


def decoding_table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [
        "| decoding | batch | large alone, ms a step | transformers generate / large | fused / large | floor by bytes"
        " | solver's share | speculative / large | naive loop / fused | without caches / fused | accepted"
        " | tokens a round |",
        "|" + " --- |" * 12,
    ]
    for row in rows:
        ratio, share = row["ratio to large alone"], row["solver's share"]
        lines.append(
            f"| {row['pair']} | {row['batch']} | {spread(row['milliseconds a step']['large alone'], 0)} |"
            f" {spread(ratio['transformers generate, large alone'])} | {spread(ratio['fused'])} |"
            f" {row['floor by bytes']:.2f} | {share:.1%} |"
            f" {spread(ratio['fused, speculative'])} |"
            f" {spread(row['ratio to fused']['naive loop'])} |"
            f" {spread(row['ratio to fused']['naive loop without caches'])} | {row['accepted share']:.2f} |"
            f" {row['tokens a round']:.2f} |"
        )
    return [*lines, "", f"{TOKENS} tokens a row, the prompt's pass included.", ""]


def solver_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| solver | rows | naive grid, ms | solve_weights, ms | faster | 3 experts one_hot, ms | 3 judged, ms"
        " | newton, ms | times one logsumexp | floor by bytes, ms |",
        "|" + " --- |" * 10,
    ]
    for row in rows:
        time_of = row["milliseconds"]
        lines.append(
            f"| V = {row['vocabulary']:,} | {row['rows']} | {spread(time_of['naive'], 0)} |"
            f" {spread(time_of['solve_weights'], 1)} | {spread(row['faster than naive']['solve_weights'], 1)} |"
            f" {spread(time_of['solve_weights, 3 experts one_hot'], 0)} |"
            f" {spread(time_of['solve_weights, 3 experts judged'], 0)} |"
            f" {spread(time_of['solve_weights, newton'], 0)} |"
            f" {spread(row['times one logsumexp']['solve_weights'], 1)} | {row['floor milliseconds by bytes']:.1f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results/demo"), help="a finished run's folder")
    parser.add_argument("--experts", nargs="+", default=["common_knowledge"], help="experts of that run")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of these sizes instead")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("results/bench/fusion.json"))
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()
    device = torch.device(arguments.device)
    use_all_threads()
    report: dict[str, Any] = {"machine": describe_machine(device), "rounds": arguments.rounds}
    sizes = [(256, 32_000), (256, 49_152), (32, 262_144)]
    report["solver"] = [bench_solver(*size, arguments.rounds, device) for size in sizes]
    if not arguments.batches:  # the solver alone
        pairs = []
    elif arguments.shape:
        pairs = [make_pair(arguments.shape, device, torch.bfloat16 if device.type == "cuda" else torch.float32)]
    else:
        pairs = [load_pair(arguments.results, expert, device) for expert in arguments.experts]
    report["decoding"] = []
    for pair in pairs:
        for batch in arguments.batches:
            report["decoding"].append(bench_decoding(pair, batch, arguments.rounds, TOKENS))
            print(f"{pair.name}, batch {batch}: done", flush=True)
    write_json(arguments.output, report)
    write_text(arguments.output.with_suffix(".md"), as_markdown(report))
    print(as_markdown(report))


if __name__ == "__main__":
    main()
