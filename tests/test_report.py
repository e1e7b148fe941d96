"""What rules hand to plots, and the pictures of the fusion track."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from judged_tasks import make_judged
from pydantic import ValidationError

from logitfusion.config.evaluate import Evaluate
from logitfusion.config.section import canonical
from logitfusion.config.tracks import FewShotTrack, FusionReport, FusionTrack, StudentsTrack, TracesReport
from logitfusion.evaluate.fusion import SEEN, tabulate_fusion
from logitfusion.evaluate.scores import JudgedTask
from logitfusion.evaluate.table import Provenance
from logitfusion.report.fusion.methods import plot_methods, write_fusion_summary
from logitfusion.report.fusion.traces import plot_traces
from logitfusion.report.fusion.tuning import GatedTasks, TunedTask, plot_tuning
from logitfusion.stages.plot import PLOTS, read_tuning

ROOT = Path(__file__).parents[1]
METHODS = {"large": [1, 0, 0, 0], "proxy": [1, 1, 0, 0], "ceiling": [1, 1, 1, 0]}


def judged() -> JudgedTask:
    weights = {method: [[0.5], [1.5]] if method == "proxy" else [[], []] for method in METHODS}
    return make_judged(METHODS, weights=weights)


def test_rules_ask_for_plots_that_there_are() -> None:
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    assert set(re.findall(r'stage\(\s*"plot",\s*f?"(\w+)', rules)) == set(PLOTS)


def test_the_order_of_methods_teachers_and_sets_survives_sorted_keys() -> None:
    sets = {"pets": ("pets", "drawn"), "birds": ("birds",)}
    fewshot = FewShotTrack(sets=sets, shots=(1,), seeds=(0,))
    traces = TracesReport(task="t", experts={"two": ("b", "a"), "one": ("a",)}, examples=1, steering=("a", "b"))
    students = StudentsTrack(
        split="test", student="s", teachers={"z": "m", "a": "m"}, methods=("b", "a"), seeds=(1, 0), baseline="b"
    )
    for one, ordered in ((fewshot, "sets"), (traces, "experts"), (students, "teachers")):
        back = type(one).model_validate(json.loads(canonical(one)))
        assert back == one
        assert list(getattr(back, ordered)) == list(getattr(one, ordered))
    assert list(students.trials) == ["s", "m", "b", "a"]
    assert students.trials["b"] == ["b.1", "b.0"]


def test_a_track_has_no_hidden_keys() -> None:
    with pytest.raises(ValidationError, match="classes"):
        FusionTrack(split="test", seen=(), classes=())


def test_pictures_of_fusion_name_methods_tasks_and_counts(tmp_path: Path) -> None:
    settings = Evaluate(base="large", ceiling="ceiling", resamples=200)
    provenance = Provenance(run="r", split="test", config="c", commit="d", seed=0)
    seen = FusionTrack(split="test", seen=("one", "two"))
    table = tabulate_fusion(dict.fromkeys(("one", "two", "far"), judged()), seen, settings, provenance)
    track = FusionReport(methods=tuple(METHODS), base="large", ceiling="ceiling", seen=seen.seen)
    plot_methods(table, track, tmp_path / "methods.svg")
    write_fusion_summary(table, track, tmp_path / "summary.html", tmp_path / "summary.md")
    for file in ("methods.svg", "summary.html", "summary.md"):
        text = (tmp_path / file).read_text()
        assert all(word in text for word in ("large", "proxy", "ceiling", "one", "two", "far")), file
    head, _, *rows = (tmp_path / "summary.md").read_text().splitlines()
    cells = dict(zip(head.split(" | "), rows[1].split(" | "), strict=True))
    assert cells["far (unseen)"].startswith("0.50 [")
    assert cells["gap closure of it"].startswith("0.50 [")
    assert f"n = 4 (one), 4 (two), 4 (far), 8 ({SEEN})" in rows[-1]


def test_traces_show_the_first_examples_of_steered_methods(tmp_path: Path) -> None:
    track = TracesReport(
        task="one", experts={"proxy": ("expert",), "absent": ("other",)}, examples=2, steering=("expert", "other")
    )
    plot_traces(judged().examples, track, tmp_path / "traces.svg")
    text = (tmp_path / "traces.svg").read_text()
    assert text.count("right answer: ") == 2
    assert "first 2 examples of one" in text
    assert "absent" not in text


def test_tuning_leaves_out_tasks_that_a_method_has_none_of(tmp_path: Path) -> None:
    candidates = pd.DataFrame(
        {"trust": [0.0, 0.0, 1.0], "anchor": [0.0, 1.0, 0.0], "log_likelihood": [-2.0, -1.0, -3.0]}
    )
    tuned = TunedTask(candidates, trust=0.0, anchor=1.0)
    plot_tuning({"first": {"one": tuned, "two": tuned}, "second": {"two": tuned}}, tmp_path / "tuning.svg")
    text = (tmp_path / "tuning.svg").read_text()
    assert [name in text for name in ("first: one", "first: two", "second: one", "second: two")] == [1, 1, 0, 1]


def test_the_gate_of_all_tasks_is_a_choice_that_changes_no_option(tmp_path: Path) -> None:
    ways = [{"way": "fixed", "weights": 1.0, "log_likelihood": -2.0}, {"way": "gate", "log_likelihood": -1.5}]
    tuned = {"gate": {}, "ways": {"a": ways, "b": ways}, "chosen": {"a": {}, "b": {"weights": 1.0}}}
    found = read_tuning(tuned)
    assert [found[task].chosen for task in ("a", "b")] == ["gate", "fixed"]
    shared = read_tuning(tuned | {"ways": {"a, b": ways}, "chosen": {"*": {}}})
    assert shared["a, b"].chosen == "gate"


def test_a_gate_stands_beside_what_it_had_to_be_better_than(tmp_path: Path) -> None:
    rows = {"way": ["large", "fixed", "gate"], "log_likelihood": [-3.0, -2.0, -1.5], "behind_error": [0.3, 0.2, 0.0]}
    gated = GatedTasks(pd.DataFrame(rows | {"metric": [0.25, 0.5, 0.75]}), chosen="gate")
    plot_tuning({"gate": {"one, two": gated}}, tmp_path / "tuning.svg")
    text = (tmp_path / "tuning.svg").read_text()
    for words in ("gate: one, two", "large", "fixed", "metric 0.75"):
        assert words in text
