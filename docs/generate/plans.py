"""The plans in docs/tutorials/plan.md, of the configs in config/paper.

``python docs/generate/plans.py`` (``make reference``) writes them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from generate.parts import replace_part
from generate.stored import DOCS
from logitfusion.config.load import load_config
from logitfusion.files import write_text
from logitfusion.plan.hardware import find_gpu
from logitfusion.plan.jobs import Assumed
from logitfusion.plan.report import RunPlan, write_plan
from logitfusion.plan.run import plan_run

PAGE = DOCS / "tutorials/plan.md"
ROOT = DOCS.parent
GPU = "A100-80GB"


@dataclass(frozen=True)
class Plan:
    """A plan that the page shows.

    Attributes:
        configs: in config/paper, each laid over those before it.
        cards: of the machine.
    """

    configs: tuple[str, ...]
    cards: int


PLANS = {
    "dlf-multi": Plan(("dlf-multi",), 8),
    "dlf-multi-one-card": Plan(("dlf-multi", "one-card/dlf-multi"), 1),
    "dlf-qwen": Plan(("dlf-qwen",), 1),
    "gld": Plan(("gld",), 8),
    "gld-one-card": Plan(("gld", "one-card/gld"), 1),
}


def make_plan(plan: Plan) -> RunPlan:
    """What ``logitfusion plan`` makes of configs for a number of cards."""
    places = [f"config/paper/{name}.yaml" for name in plan.configs]
    gpu, metadata = find_gpu(GPU), ROOT / "config/paper/metadata"
    assumed = Assumed(cards=plan.cards, memory=gpu.memory)
    run = load_config(*(ROOT / place for place in places))
    return plan_run(run, " and ".join(places), gpu=gpu, assumed=assumed, metadata=metadata)


def render(plan: RunPlan) -> str:
    """A plan as a block of Markdown."""
    return f"```text\n{write_plan(plan)}\n```"


def main() -> None:
    """Replace all plans of the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name, plan in PLANS.items():
        text = replace_part(text, name, render(make_plan(plan)))
    write_text(PAGE, text)


if __name__ == "__main__":
    main()
