"""How often intervals of a difference miss the truth, in studies with few training seeds: `make bench-intervals`.

Made-up studies: two methods answer the same examples after each of a few trainings, and are equally good, so the true
difference is 0. An answer is right where a latent normal number is positive: the sum of the example's ease (standard
deviation 1, shared by both methods), of what the method makes of this example in all trainings (0.5), of how well this
training of this method went (the spread over seeds, which is varied), and of this example in this training (0.5).

Compared are the interval of ``logitfusion compare``, Satterthwaite's (one t quantile for the sum of the variances), the
percentile bootstrap that resamples seeds and examples, and the paired t interval over examples of these trainings.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from logitfusion.evaluate.crossed import Crossed, Observations
from logitfusion.evaluate.intervals import percentile_interval, resample_seeds_and_means
from logitfusion.files import write_json, write_text

EXAMPLES, RESAMPLES = 300, 500
LEVELS = (0.05, 0.005)
WAYS = ("compare", "satterthwaite", "bootstrap", "these trainings")


@dataclass(frozen=True)
class Study:
    """Two methods' answers, ``[seeds, examples]`` each, 0 or 1."""

    first: np.ndarray
    second: np.ndarray

    def half_widths(self, level: float) -> dict[str, float]:
        """Of the intervals that are symmetric, around the difference."""
        crossed = self.crossed()
        return {
            "compare": crossed.half_width(level),
            "satterthwaite": satterthwaite(crossed, level),
            "these trainings": crossed.of_these().half_width(level),
        }

    def crossed(self) -> Crossed:
        first, second = (Observations.of(one[:, None]) for one in (self.first, self.second))
        return Crossed.of(first - second)

    def bootstrap(self, level: float, rng: np.random.Generator) -> tuple[float, float]:
        drawn = resample_seeds_and_means({"first": self.first, "second": self.second}, RESAMPLES, rng)
        return percentile_interval(drawn["first"] - drawn["second"], 1 - level)


def draw_study(seeds: int, spread: float, rng: np.random.Generator) -> Study:
    ease = rng.standard_normal(EXAMPLES)
    answers = []
    for _ in range(2):
        latent = ease + 0.5 * rng.standard_normal(EXAMPLES) + spread * rng.standard_normal((seeds, 1))
        answers.append((latent + 0.5 * rng.standard_normal((seeds, EXAMPLES)) > 0).astype(float))
    return Study(*answers)


def satterthwaite(crossed: Crossed, level: float) -> float:
    """One quantile for the sum, of degrees of freedom that its parts have together (Judd, Westfall and Kenny 2012)."""
    parts = crossed.examples, *crossed.trainings
    variance = max(sum(parts) - crossed.shared, crossed.examples)
    weighted = sum(part**2 / degrees for part, degrees in zip(parts, crossed.degrees, strict=True))
    return float(-stdtrit(variance**2 / weighted, level / 2)) * math.sqrt(variance)


def measure(seeds: int, spread: float, studies: int) -> Iterator[dict[str, object]]:
    """A row a level: the shares of studies whose interval misses 0, and mean half widths."""
    rng = np.random.default_rng(0)
    drawn = [draw_study(seeds, spread, rng) for _ in range(studies)]
    for level in LEVELS:
        halves = [study.half_widths(level) for study in drawn]
        values = [abs(study.crossed().value) for study in drawn]
        missed = {
            way: float(np.mean([value > half[way] for value, half in zip(values, halves, strict=True)]))
            for way in halves[0]
        }
        if level == LEVELS[0]:  # a smaller level asks for more resamples
            ends = [study.bootstrap(level, rng) for study in drawn]
            missed["bootstrap"] = float(np.mean([not low <= 0 <= high for low, high in ends]))
        widths = {way: float(np.mean([half[way] for half in halves])) for way in halves[0]}
        shown = {"seeds": seeds, "spread": spread, "level": level, "studies": studies}
        yield {**shown, "missed": missed, "half widths": widths}


def as_markdown(rows: list[dict[str, object]]) -> str:
    ways = [f"{way} misses" for way in WAYS]
    lines = [
        f"| seeds | spread over seeds | level | {' | '.join(ways)} | half width, compare | satterthwaite |",
        "|" + " --- |" * (5 + len(ways)),
    ]
    for row in rows:
        missed = [f"{row['missed'][way]:.3f}" if way in row["missed"] else "" for way in WAYS]
        widths = [f"{row['half widths'][way]:.3f}" for way in ("compare", "satterthwaite")]
        cells = [str(row["seeds"]), f"{row['spread']:g}", f"{row['level']:g}", *missed, *widths]
        lines.append(f"| {' | '.join(cells)} |")
    words = f"{EXAMPLES} examples, {rows[0]['studies']} studies a row, seed 0; bootstrap of {RESAMPLES} resamples."
    return "\n".join([*lines, "", f"Shares of studies whose interval misses the true difference. {words}"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path("results/bench/intervals.json"))
    arguments = parser.parse_args()
    cases = [(seeds, spread) for seeds in (3, 5) for spread in (0.0, 0.05, 0.1, 0.3)]
    rows = [row for seeds, spread in cases for row in measure(seeds, spread, arguments.studies)]
    write_json(arguments.output, rows)
    write_text(arguments.output.with_suffix(".md"), as_markdown(rows))
    print(as_markdown(rows))


if __name__ == "__main__":
    main()
