"""Few-shot multiple choice, as of MMLU, beside lm-evaluation-harness's own `hf`: `make bench-scoring`.

Requests as of a subject of MMLU with five examples, about 400 tokens that all questions share: a question of about 80,
and four choices of one token. `hf` and we get the same instances of lm-evaluation-harness, on the same models and one
thread, eight questions at a time; times are CPU time, so what else the machine does counts little.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from logitfusion.files import write_json, write_text
from logitfusion.fusion import FusedLM
from logitfusion.fusion.caches import CachedModel
from logitfusion.fusion.lm_eval import FusedLMEval
from timing import describe_machine, ratios, spread, time_rounds, words

EXAMPLES, CHOICES = 5, (" A", " B", " C", " D")
SUBJECT = "The following are multiple choice questions (with answers) about general science.\n\n"
THINGS = (
    "water", "iron", "light", "sound", "heat", "cells", "plants", "planets",
    "rivers", "magnets", "muscles", "gases", "rocks", "seeds", "waves", "salts",
)  # fmt: skip


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    instances = make_instances(arguments.questions)
    ways, models = open_ways(arguments)
    requests = {name: ask(lm, instances) for name, lm in ways.items()}
    seconds, said = time_rounds(requests, arguments.rounds, torch.device("cpu"), time.process_time)
    read = {name: count_tokens(ask(lm, instances)) for name, lm in ways.items() if name != "hf"}
    rows = [
        {
            "way": name,
            "seconds": seconds[name],
            "over hf": ratios(seconds, "hf")[name],
            "tokens of the large model": read.get(name),
            "difference": difference(said[name], said["hf"]) if name == "large alone" else None,
        }
        for name in ways
    ]
    report = {
        "questions": arguments.questions,
        "tokens": len(models.tokenizer.encode(instances[0].args[0])),
        "rounds": arguments.rounds,
        "machine": describe_machine(torch.device("cpu")),
        "rows": rows,
    }
    write_json(arguments.output, report)
    write_text(arguments.output.with_suffix(".md"), as_markdown(report))
    print(as_markdown(report))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--large", type=Path, default=Path("results/demo/models/large"))
    parser.add_argument("--base", type=Path, default=Path("results/demo/models/small"))
    parser.add_argument("--expert", type=Path, default=Path("results/demo/experts/common_knowledge"))
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("results/bench/scoring.json"))
    return parser.parse_args()


def make_instances(questions: int, seed: int = 0) -> list[Instance]:
    """Requests for the log-likelihoods of all choices of all questions, each after the same examples."""
    rng = random.Random(seed)
    shots = SUBJECT + "".join(f"{_question(rng)} {rng.choice(CHOICES).strip()}\n\n" for _ in range(EXAMPLES))
    contexts = [shots + _question(rng) for _ in range(questions)]
    return [
        Instance("loglikelihood", {}, (context, choice), number)
        for context in contexts
        for number, choice in enumerate(CHOICES)
    ]


def _question(rng: random.Random) -> str:
    one, other = rng.sample(THINGS, 2)
    asked = (
        f"A class compares {one} with {other}, writes down what changes when each of them is warmed, and repeats that"
        f" {rng.randint(2, 90)} times. Which of these do the notes show most often?"
    )
    answers = "\n".join(f"{choice.strip()}. that {rng.choice(THINGS)} change more than others" for choice in CHOICES)
    return f"{asked}\n{answers}\nAnswer:"


def open_ways(arguments: argparse.Namespace) -> tuple[dict[str, Any], FusedLM]:
    """The harness's model, ours of the same weights, and a fusion."""
    alone = FusedLM.from_folders(arguments.large)
    fused = FusedLM.from_folders(arguments.large, arguments.base, [arguments.expert], weights=1.0)
    theirs = HFLM(pretrained=alone.large, tokenizer=alone.tokenizer, batch_size=8, max_length=2048)
    ours = {"large alone": alone, "large, base and expert": fused}
    return {"hf": theirs, **{name: FusedLMEval(lm, batch_size=32) for name, lm in ours.items()}}, alone


def ask(lm: Any, instances: list[Instance]) -> Callable[[], list[tuple[float, bool]]]:
    return lambda: lm.loglikelihood(instances, disable_tqdm=True)


def count_tokens(work: Callable[[], Any]) -> int:
    """Tokens, padding included, that the first of the models reads."""
    counted: dict[int, int] = {}
    read = CachedModel._read

    def spy(self: CachedModel, ids: torch.Tensor, *others: Any) -> torch.Tensor:
        counted[id(self.model)] = counted.get(id(self.model), 0) + ids.numel()
        return read(self, ids, *others)

    CachedModel._read = spy
    try:
        work()
    finally:
        CachedModel._read = read
    return next(iter(counted.values()))


def difference(ours: list[tuple[float, bool]], theirs: list[tuple[float, bool]]) -> float:
    """The largest, of two log-likelihoods of one request."""
    return max(abs(one - other) for (one, _), (other, _) in zip(ours, theirs, strict=True))


def as_markdown(report: dict[str, Any]) -> str:
    lines = [
        "| way | CPU seconds | over `hf` | tokens that the large model reads | largest difference from `hf`, nats |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        read = "" if row["tokens of the large model"] is None else row["tokens of the large model"]
        apart = "" if row["difference"] is None else f"{row['difference']:.1e}"
        lines.append(f"| {row['way']} | {spread(row['seconds'])} | {spread(row['over hf'])} | {read} | {apart} |")
    size = f"{report['questions']} questions of {report['tokens']} tokens with their examples, four choices each"
    said = f"{size}, eight questions at a time."
    return "\n".join([*lines, "", f"{said} {words(report)}"]) + "\n"


if __name__ == "__main__":
    main()
