"""Forms of the rule gate, judged on validation answers that they were not fitted on: ``make bench-gate``.

Of a finished run, whose validation answers are read once by all of its models. Test documents are never read. A nested
cross-validation chooses the ridge of each form and judges it; a task's own expert is then left out together with the
task, to see what a gate does where nobody knows the task.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from gating.answers import Answers, read_answers
from gating.forms import FORMS
from gating.tables import Row, as_markdown, make_row
from gating.trials import judge_fixed, judge_held_out, judge_strangers, see
from gating.views import View
from logitfusion.config.fusion import Tune
from logitfusion.files import write_json, write_text
from logitfusion.fusion import FusedLM
from timing import describe_machine


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    answers = read_run(arguments)
    rows = try_all(answers, arguments.experts)
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


def try_all(answers: Mapping[str, Answers], experts: list[str]) -> list[Row]:
    """Every form where the task's own expert steers, all experts do, and all but the task's own."""
    tune = Tune()
    ridges = sorted(tune.ridges, reverse=True)
    own = {name: View.of(answers[name], [name]) for name in experts}
    together = {name: see(answers[name], experts) for name in experts}
    left = {name: View.of(task, [one for one in experts if one != name]) for name, task in answers.items()}
    rows = []
    for setting, views in (("own expert", own), ("all experts", together), ("own expert absent", left)):
        fixed = judge_fixed(views, tune.anchors)
        rows.append(make_row(setting, "large alone", judge_fixed(views, [0.0]), fixed))
        rows.append(make_row(setting, "best fixed weight of each task", fixed, fixed))
        for form in FORMS:
            if setting == "own expert absent":
                judged = judge_strangers(form, answers, experts, ridges)
            elif setting == "own expert" and form.strangers:
                continue
            else:
                judged = judge_held_out(form, views, ridges)
            rows.append(make_row(setting, form.name, judged, fixed))
            print(f"{setting}: {form.name}", flush=True)
    return rows


if __name__ == "__main__":
    main()
