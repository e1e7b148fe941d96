"""Forms of the rule gate, judged on validation answers that they were not fitted on: ``make bench-gate``.

Of a finished run, whose validation answers are read once by all of its models. Test documents are never read. A nested
cross-validation chooses the ridge of each form and judges it; a task's own expert is then left out together with the
task, to see what a gate does where nobody knows the task.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from gating.answers import Answers, read_answers
from gating.forms import FORMS, Form
from gating.tables import Row, as_markdown, make_row
from gating.trials import Judged, judge_chosen, judge_fixed, judge_held_out, judge_strangers, see
from gating.views import AS_THEY_ARE, Scales, View
from logitfusion.config.fusion import Tune
from logitfusion.files import write_json, write_text
from logitfusion.fusion import FusedLM
from timing import describe_machine

SETTINGS = (OWN, TOGETHER, ABSENT) = ("own expert", "all experts", "own expert absent")
LARGE, FIXED, SHARED = "large alone", "best fixed weight of each task", "best fixed weight of all tasks"


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    answers = read_run(arguments)
    rows = try_all(answers, arguments.experts, arguments.workers)
    report = {
        "run": arguments.run.name,
        "experts": arguments.experts,
        "answers": {name: task.evidence.answers for name, task in answers.items()},
        "machine": describe_machine(torch.device("cpu")),
        "rows": [asdict(row) for row in rows],
    }
    write_json(arguments.output, report)
    write_text(arguments.output.with_suffix(".md"), as_markdown(rows, report))
    print(as_markdown(rows, report))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("results/demo"), help="folder of a finished run")
    parser.add_argument("--large", default="large", help="the model that is steered")
    parser.add_argument("--base", default="small", help="the model that the experts were trained from")
    parser.add_argument(
        "--experts", nargs="+", default=["sst2", "sums", "common_knowledge"], help="each named as its task"
    )
    parser.add_argument("--unseen", nargs="*", default=["sciq"], help="tasks that no expert was trained on")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="forms that are judged at a time")
    parser.add_argument("--output", type=Path, default=Path("results/bench/gate.json"))
    return parser.parse_args()


def read_run(arguments: argparse.Namespace) -> dict[str, Answers]:
    """The validation answers of all tasks; what the models make of them is kept beside the output."""
    run = arguments.run
    experts = [run / "experts" / name for name in arguments.experts]
    lm = FusedLM.from_folders(run / "models" / arguments.large, run / "models" / arguments.base, experts)
    found = {}
    for name in [*arguments.experts, *arguments.unseen]:
        kept = arguments.output.parent / "gate-answers" / f"{run.name}-{name}.pt"
        found[name] = read_answers(lm, name, arguments.experts, run / "tasks" / name / "validation.jsonl", kept)
        print(f"{name}: {found[name].evidence.answers} answers", flush=True)
    return found


def try_all(answers: Mapping[str, Answers], experts: Sequence[str], workers: int) -> list[Row]:
    """Every form where the task's own expert steers, all experts do, and all but the task's own."""
    rows = []
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for setting in SETTINGS:
            some = [form for form in FORMS if setting != OWN or not form.strangers]
            found: dict[str, dict[str, Judged]] = judge_simple(setting, make_views(setting, answers, experts))
            for form, judged in zip(some, pool.map(partial(judge, setting, answers, experts), some), strict=True):
                found[form.name] = judged
                print(f"{setting}: {form.name}", flush=True)
            if setting != ABSENT:
                found |= choose_among(setting, found, experts)
            rows += [make_row(setting, name, judged, found[FIXED]) for name, judged in found.items()]
    return rows


def judge_simple(setting: str, views: Mapping[str, View]) -> dict[str, dict[str, Judged]]:
    """What a gate has to be better than."""
    weights = Tune().anchors
    found = {LARGE: judge_fixed(views, [0.0]), FIXED: judge_fixed(views, weights)}
    return found | ({SHARED: judge_fixed(views, weights, [list(views)])} if setting == TOGETHER else {})


def choose_among(
    setting: str, found: Mapping[str, dict[str, Judged]], experts: Sequence[str]
) -> dict[str, dict[str, Judged]]:
    """What ``tune`` takes of large model, fixed weight and gate: for each task where it is known, else for all."""
    groups = [list(experts)] if setting == TOGETHER else [[name] for name in experts]
    ways = [found[LARGE], found[SHARED if setting == TOGETHER else FIXED], found[FORMS[0].name]]
    return {
        "simplest of large, fixed and gate, by likelihood": judge_chosen(ways, groups, by_metric=False),
        "simplest of large, fixed and gate, by metric": judge_chosen(ways, groups, by_metric=True),
    }


def make_views(
    setting: str, answers: Mapping[str, Answers], experts: Sequence[str], scales: Scales = AS_THEY_ARE
) -> dict[str, View]:
    if setting == OWN:
        return {name: View.of(answers[name], [name], scales=scales) for name in experts}
    if setting == TOGETHER:
        return {name: see(answers[name], experts, scales) for name in experts}
    return {
        name: View.of(task, [one for one in experts if one != name], scales=scales) for name, task in answers.items()
    }


def judge(setting: str, answers: Mapping[str, Answers], experts: Sequence[str], form: Form) -> dict[str, Judged]:
    ridges = sorted(Tune().ridges, reverse=True)
    if setting == ABSENT:
        return judge_strangers(form, answers, experts, ridges)
    return judge_held_out(form, make_views(setting, answers, experts, form.scales), ridges)


if __name__ == "__main__":
    main()
