"""The parts of README.md that hold numbers, between ``<!-- begin: NAME -->`` and ``<!-- end: NAME -->``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from generate import stored, study_page
from generate.pages import describe_time, show
from generate.parts import replace_part
from generate.stored import StoredRun
from logitfusion.evaluate.fusion import SEEN
from logitfusion.files import write_text
from logitfusion.report.page import compared

RUN = "demo"
PATH = stored.DOCS.parent / "README.md"

# Method -> what it is; the three or four of each track that answer its question.
FUSION = {
    "large": "SmolLM2 135M, untouched",
    "dynamic": "steered by the task's small expert, as published",
    "gate": "the same with a weight that was learned on validation texts",
    "multi_judged": "steered by all three experts, whatever the task (our default)",
}
DISTILL = {
    "sft": "labels alone",
    "uld": "+ a teacher's tokens (ULD)",
    "gld_vocab": "+ the graph term (GLD)",
}
CLIP = {
    "zero_shot": "CLIP alone",
    "auxiliary_probe": "the second encoder alone",
    "amu": "AMU-Tuning, as published",
    "amu_classes": "the same with settings by cross-validation (our default)",
}
FEW_SHOT_TASK, SHOTS = "emoji", (1, 8)
# Places are those of study_page.
STUDY = """
**[The study](docs/results/study.md)**: five learned tasks (n = {seen}), two others (n = {unseen}), three trainings of
each expert. Steered by the task's own expert, our learned `gate` has [[fusion/gate/seen tasks]] right, the best
fixed weight [[fusion/fixed/seen tasks]], the paper's rule [[fusion/dynamic/seen tasks]]; `gate` less the fixed weight:
[[goals/gate/seen tasks/fixed]]. With all experts and no word of the task, `multi_gate` has
[[fusion/multi_gate/seen tasks]], the paper's rule [[fusion/multi_one_hot/seen tasks]], the large model alone
[[fusion/large/seen tasks]]; on tasks that nobody learned, `multi_gate` less the large model:
[[goals/multi_gate/unseen tasks/large]]. The graph term of GLD, added to `kl`: [[converged/kl_gld_vocab/all tasks/kl]];
to `uld`: [[converged/uld_gld_vocab/all tasks/uld]].
"""


def tabulate(run: StoredRun) -> str:
    """A few rows of each track."""
    head = ["| | method | right answers | gain |", "| --- | --- | --- | --- |"]
    tracks = {"fusion": _fusion_rows(run), "distillation": _distill_rows(run), "few-shot CLIP": _clip_rows(run)}
    lines = []
    for track, rows in tracks.items():
        names = [f"**{track}**", *[""] * (len(rows) - 1)]
        lines += ["| " + " | ".join((name, *row)) + " |" for name, row in zip(names, rows, strict=True)]
    return "\n".join([*head, *lines, "", _note(run)])


def _fusion_rows(run: StoredRun) -> list[tuple[str, str, str]]:
    def gain(method: str) -> str:
        return (
            ""
            if method == "large"
            else "closes " + show(run, f"fusion/{method}/{SEEN}/gap_closure", "percent") + " of the gap"
        )

    return [
        (f"`{method}`: {words}", show(run, f"fusion/{method}/{SEEN}/score", "interval"), gain(method))
        for method, words in FUSION.items()
    ]


def _distill_rows(run: StoredRun) -> list[tuple[str, str, str]]:
    task, metric = _distilled(run)
    return [
        (
            f"`{method}`: {words}",
            show(run, f"distill/{method}/{task}/{metric}", "interval"),
            "" if method == "sft" else show(run, f"distill/{method}/{task}/gain", "interval"),
        )
        for method, words in DISTILL.items()
    ]


def _clip_rows(run: StoredRun) -> list[tuple[str, str, str]]:
    place = f"{FEW_SHOT_TASK}/accuracy"
    return [
        (
            f"`{method}`: {words}",
            " → ".join(show(run, f"clip/{method}/{place}@{shots}", "plain") for shots in SHOTS),
            ""
            if method == "zero_shot"
            else show(run, f"clip/{method}/{FEW_SHOT_TASK}/gain_over_zero_shot@{SHOTS[1]}", "interval"),
        )
        for method, words in CLIP.items()
    ]


def _distilled(run: StoredRun) -> tuple[str, str]:
    """The task of the distillation and how it is measured."""
    rows = compared(run.table[run.table["track"] == "distill"])
    return rows["task"].iloc[0], rows["metric"].iloc[0]


def _note(run: StoredRun) -> str:
    task, metric = _distilled(run)
    fusion = run.find("fusion", "large", SEEN, "score")
    distill = run.find("distill", "sft", task, metric)
    clip = run.find("clip", "amu", FEW_SHOT_TASK, "accuracy", SHOTS[1])
    tasks = run.table[(run.table["method"] == "expert") & (run.table["task"] != SEEN)]["task"].nunique()
    facts, reached = run.facts, show(run, f"fusion/ceiling/{SEEN}/score", "plain")
    return (
        f"{fusion['confidence']:.0%} bootstrap intervals. Fusion: mean of {tasks} tasks, n = {fusion['n']}; the gap is"
        f" that to the large model itself fine-tuned ({reached}). Distillation: {task.replace('_', ' ')},"
        f" n = {distill['n']}, gain over `sft`. Few-shot: unseen emojis, n = {clip['n']}, {clip['seeds']} seeds,"
        f" {' → '.join(map(str, SHOTS))} shots, gain over `zero_shot` at the latter. Run `{facts.run}`, config"
        f" `{facts.config}`, commit `{facts.commit}`."
    )


PARTS: dict[str, Callable[[StoredRun], str]] = {
    "time": lambda run: describe_time(run.facts, "The demo's"),
    "results": tabulate,
}


def tell_study(compared: study_page.Tables) -> str:
    """What the study says, in a few sentences."""
    counts = {name: study_page.count(compared["fusion"], f"{name} tasks") for name in ("seen", "unseen")}
    return study_page.fill(STUDY.format(**counts).replace("\n", " ").strip(), {}, compared)


def render(text: str, run: StoredRun) -> str:
    """README.md with its parts made anew.

    Raises:
        UserError: a part is not marked in it, or more than once.
    """
    for name, make in PARTS.items():
        text = replace_part(text, name, make(run))
    return text


def write() -> None:
    """Write README.md anew from the stored run."""
    write_text(PATH, render(PATH.read_text(encoding="utf-8"), stored.read(RUN)))


def write_study(compared: study_page.Tables) -> None:
    """Write what the study says into README.md, if it has all that is said."""
    if {"fusion", "goals", "converged"} <= compared.keys():
        write_text(PATH, replace_part(PATH.read_text(encoding="utf-8"), "study", tell_study(compared)))


if __name__ == "__main__":
    write()
