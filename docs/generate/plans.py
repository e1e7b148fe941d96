"""The plans in docs/tutorials/plan.md, of the configs in config/paper.

``python docs/generate/plans.py`` (``make reference``) writes them.
"""

from __future__ import annotations

import sys
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
# Config -> cards of the machine.
PLANS = {"dlf_one": 1, "dlf_eight": 8, "gld_one": 1, "gld_eight": 8}


def make_plan(name: str) -> RunPlan:
    """What ``logitfusion plan config/paper/NAME.yaml`` makes for the card and the number of them."""
    place = f"config/paper/{name}.yaml"
    gpu = find_gpu(GPU)
    assumed = Assumed(cards=PLANS[name], memory=gpu.memory)
    return plan_run(load_config(ROOT / place), place, gpu=gpu, assumed=assumed, metadata=ROOT / "config/paper/metadata")


def render(plan: RunPlan) -> str:
    """A plan as a block of Markdown."""
    return f"```text\n{write_plan(plan)}\n```"


def main() -> None:
    """Replace all plans of the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name in PLANS:
        text = replace_part(text, name, render(make_plan(name)))
    write_text(PAGE, text)


if __name__ == "__main__":
    main()
