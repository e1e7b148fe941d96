"""The page that a reader opens first, from made-up numbers: what it says of them, and of what is missing."""

from __future__ import annotations

import base64
import gzip
import html
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from judged_tasks import make_judged

from logitfusion.config.evaluate import Evaluate
from logitfusion.config.jobs.page import page_job
from logitfusion.config.jobs.report import metrics_job
from logitfusion.config.load import load_config, resolve_config
from logitfusion.config.methods import used_models
from logitfusion.config.run import RunConfig
from logitfusion.config.section import canonical, parse
from logitfusion.config.tracks import FusionTrack
from logitfusion.evaluate.fusion import SEEN, tabulate_fusion
from logitfusion.evaluate.table import DTYPES, Provenance
from logitfusion.progress.record import JobRecord, Machine, RunRecord, record_path, write_record
from logitfusion.report.index import PageSection, render_page
from logitfusion.report.index.comparisons import make_comparisons
from logitfusion.report.index.facts import Facts, RunFiles, gather_facts
from logitfusion.report.index.forest import choose_scale, draw_forest
from logitfusion.report.index.problems import find_problems
from logitfusion.report.index.settings import list_values
from logitfusion.report.index.verdicts import tell_other_tasks, write_verdicts
from logitfusion.report.index.words import difference, judge_difference
from logitfusion.stages.index import make_sections
from logitfusion.tables import write_table

ROOT = Path(__file__).parents[1]
TRACKS = ("fusion", "distill", "clip")
SUBSETS = [subset for size in (1, 2, 3) for subset in itertools.combinations(TRACKS, size)]


def smoke(*tracks: str) -> RunConfig:
    """The smoke config with some of its tracks."""
    config = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    return resolve_config({key: value for key, value in config.items() if key not in TRACKS or key in tracks})


def row(track: str, method: str, task: str, metric: str, value: float, *ends: float, **cells: Any) -> dict[str, Any]:
    low, high = ends or (None, None)
    common = {"track": track, "run": "made-up", "split": "test", "method": method, "task": task, "n": 100, "seeds": 1}
    common |= {"metric": metric, "value": value, "ci_low": low, "ci_high": high, "confidence": 0.95}
    return dict.fromkeys(DTYPES) | common | {"config": "c", "commit": "d"} | cells


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(DTYPES), dtype=object).astype(DTYPES)


def fusion_rows(value: float = 0.2, low: float = 0.1, high: float = 0.3) -> list[dict[str, Any]]:
    """The smoke config's fusion methods; the difference of the one that is spoken of is given."""
    rows = []
    for place, name in enumerate(("large", "proxy", "tuned", "dynamic_multi", "task_arithmetic", "ceiling")):
        score = 0.3 + place / 100
        rows.append(row("fusion", name, "sums", "exact_match", score, score - 0.05, score + 0.05, better="higher"))
        rows.append(row("fusion", name, "sums", "format_failures", 0.25))
        rows.append(row("fusion", name, "sums", "tokens_per_second", 100.0 + place))
        if name != "large":
            ends = (value, low, high) if name == "dynamic_multi" else (0.05, 0.01, 0.09)
            rows.append(row("fusion", name, "sums", "gain", *ends))
        if name != "ceiling":
            behind = (place - 4) / 100
            rows.append(row("fusion", name, "sums", "behind_best", behind, behind - 0.01, behind + 0.025))
    return rows


def facts_of(run: RunConfig, folder: Path, metrics: pd.DataFrame | None = None, config: str = "", **more: Any) -> Facts:
    """The facts of a run whose only files are the metrics table and those in ``more``."""
    path = folder / "metrics.parquet"
    if metrics is not None:
        write_table(metrics.assign(config=config or metrics_job(run).config), path)
    return gather_facts(page_job(run), RunFiles(metrics=path, full=folder / "full/index.html", **more))


def page_of(facts: Facts) -> str:
    return render_page(make_sections(facts), "a run")


def packed(page: str, name: str) -> Any:
    """What a page carries under a name."""
    text = re.search(rf'<script type="text/plain" id="data-{name}">([^<]*)</script>', page)
    assert text is not None
    return json.loads(gzip.decompress(base64.b64decode(text[1])))


# ---- what is said of a difference


@given(
    value=st.floats(-1, 1), below=st.floats(0, 1), above=st.floats(0, 1)
)  # an interval need not be symmetric, and may have no width
def test_no_difference_is_shown_exactly_where_the_interval_holds_0(value: float, below: float, above: float) -> None:
    one = pd.Series({"value": value, "ci_low": value - below, "ci_high": value + above})
    shown = judge_difference(one)
    assert (shown == "no difference shown") == (value - below <= 0 <= value + above)
    assert (shown == "better") == (value - below > 0)
    assert (shown == "worse") == (value + above < 0)
    text = difference(one, digits=6)
    written = float(re.match(r"[^ ]+", text)[0].replace("\N{MINUS SIGN}", "-"))
    assert written == pytest.approx(value, abs=1e-6)
    assert text.startswith("+") == (round(value, 6) > 0), text


@pytest.mark.parametrize(
    ("value", "low", "high", "says"),
    [
        (0.2, 0.1, 0.3, "+0.20 [0.10, 0.30] over large"),
        (-0.2, -0.3, -0.1, "M0.20 [M0.30, M0.10] against large: worse"),
        (0.02, -0.02, 0.06, "+0.02 [M0.02, 0.06] against large: no difference shown"),
        (0.02, 0.0, 0.06, "+0.02 [0.00, 0.06] against large: no difference shown"),
        (0.004, 0.001, 0.007, "+0.004 [0.001, 0.007] over large"),
    ],
)
def test_a_verdict_is_its_rows_in_words(value: float, low: float, high: float, says: str, tmp_path: Path) -> None:
    says = says.replace("M", "\N{MINUS SIGN}")
    facts = facts_of(smoke("fusion"), tmp_path, table(*fusion_rows(value, low, high)))
    (sentence,) = write_verdicts(make_comparisons(facts)[0])
    assert sentence.startswith(
        "dynamic_multi (our default, all experts at every task): 0.33 [0.28, 0.38] of sums right"
    )
    assert says in sentence
    assert ("no difference shown" in sentence) == ("no difference shown" in says)
    assert "Ceiling" not in sentence
    assert says in re.sub(r"</?strong>", "", html.unescape(page_of(facts)))


def test_a_difference_that_is_chance_among_its_comparisons_is_not_shown(tmp_path: Path) -> None:
    """.02 alone is one thing, and among five methods that are compared with large another: Holm's 5 x .02."""
    rows = fusion_rows(0.2, 0.1, 0.3)
    gains = [one for one in rows if one["metric"] == "gain"]
    for one in gains:
        one["p_value"] = 0.02 if one["method"] == "dynamic_multi" else 0.5
    (comparison,) = make_comparisons(facts_of(smoke("fusion"), tmp_path, table(*rows)))
    assert comparison.difference("dynamic_multi", "sums")["p_holm"] == pytest.approx(len(gains) * 0.02)
    assert "against large: no difference shown" in write_verdicts(comparison)[0]
    assert f"corrected for {len(gains)} comparisons" in draw_forest(comparison, "sums", (-1.0, 1.0, 0.5))
    gains[0]["p_value"] = 1e-9
    for one in gains[1:]:
        one["p_value"] = min(one["p_value"], 0.02)
    (again,) = make_comparisons(facts_of(smoke("fusion"), tmp_path, table(*rows)))
    assert judge_difference(again.difference(gains[0]["method"], "sums")) == "better"


def test_which_method_is_spoken_of_does_not_depend_on_numbers(tmp_path: Path) -> None:
    run = load_config(ROOT / "config/config.yaml")
    spoken = [one.spoken for one in make_comparisons(facts_of(run, tmp_path))]
    assert [list(names) for names in spoken] == [
        ["dynamic", "gate", "multi_one_hot", "multi_judged", "multi_gate"],
        ["gld_vocab", "gld_vocab_two"],
        ["amu", "amu_classes"],
    ]
    best = [
        row("fusion", name, SEEN, "score", 0.9 if name == "proxy" else 0.1, 0.0, 1.0) for name in run.fusion.methods
    ]
    after = make_comparisons(facts_of(run, tmp_path, table(*best)))
    assert [one.spoken for one in after] == spoken
    assert "proxy" not in " ".join(write_verdicts(after[0]))


def test_a_fixed_weight_is_the_rival_and_the_best_one_on_validation_first(tmp_path: Path) -> None:
    demo = load_config(ROOT / "config/config.yaml")
    assert make_comparisons(facts_of(demo, tmp_path))[0].rivals == {
        "gain_over_fixed": ("fixed", "the best fixed weight on validation")
    }
    assert list(make_comparisons(facts_of(smoke("fusion"), tmp_path))[0].rivals) == ["gain_over_proxy"]


def test_what_is_exploratory_says_so_in_every_verdict(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    for exploratory, standing in ((True, "exploratory"), (False, "confirmatory")):
        protocol = {"comparison": "study", "frozen": "frozen.json", "exploratory": exploratory}
        run = resolve_config(
            {key: config[key] for key in config if key not in ("distill", "clip")} | {"protocol": protocol}
        )
        facts = facts_of(run, tmp_path, table(*fusion_rows()).assign(protocol=standing))
        (comparison,) = make_comparisons(facts)
        said = [*write_verdicts(comparison), tell_other_tasks(comparison, "proxy")]
        assert said[0]
        assert all(sentence.endswith(" (exploratory).") == exploratory for sentence in filter(None, said))
        assert f"comparison study, {standing}: " in page_of(facts)
    assert "comparison study" not in page_of(facts_of(smoke("fusion"), tmp_path, table(*fusion_rows())))


# ---- the rows that it needs


def test_gains_are_paired_and_change_no_earlier_number() -> None:
    rng = np.random.default_rng(0)
    names = ("large", "proxy", "same", "ceiling")
    marks = {name: rng.random(40) < 0.3 + place / 5 for place, name in enumerate(names)}
    marks["same"] = marks["large"]
    judged = make_judged({name: list(map(float, values)) for name, values in marks.items()})
    settings = Evaluate(base="large", ceiling="ceiling", resamples=200)
    source = Provenance(run="r", split="test", config="c", commit="d", seed=0)
    tables = [
        tabulate_fusion(
            {"one": judged, "two": judged},
            FusionTrack(split="test", seen=("one", "two"), rival=rival),
            settings,
            source,
        )
        for rival in (None, "proxy")
    ]
    rest, with_rival = (one[one["metric"] != "gain_over_proxy"].reset_index(drop=True) for one in tables)
    pd.testing.assert_frame_equal(rest, with_rival)
    rows = tables[1].set_index(["metric", "task", "method"]).sort_index()
    for task in ("one", "two", SEEN):
        gain = rows.loc["gain", task]
        assert gain.loc["same", ["value", "ci_low", "ci_high"]].tolist() == [0, 0, 0], "the same answers, so no spread"
        score = rows.loc["score" if task == SEEN else "accuracy", task]["value"]
        for name in ("proxy", "ceiling"):
            assert gain.loc[name, "value"] == pytest.approx(score[name] - score["large"])
        behind = rows.loc["behind_best", task]
        assert "ceiling" not in behind.index
        assert behind["value"].max() == 0
        assert behind.loc["same", "value"] == pytest.approx(score["large"] - max(score[["large", "proxy", "same"]]))


@pytest.mark.parametrize("size", [1e-9, 0.3, 70.0, 1e17])
def test_an_axis_has_few_ticks_whatever_the_metric(size: float, tmp_path: Path) -> None:
    rows = [one | ({"better": "lower"} if one["better"] else {}) for one in fusion_rows(size, size / 2, 2 * size)]
    (comparison,) = make_comparisons(facts_of(smoke("fusion"), tmp_path, table(*rows)))
    low, high, step = choose_scale(comparison, "sums")
    assert low <= 0 < 2 * size <= high
    assert (high - low) / step <= 9
    assert judge_difference(comparison.difference("dynamic_multi", "sums"), comparison.better("sums")) == "worse"


# ---- the numbers of the tables


def test_numbers_of_the_page_are_those_of_the_table(tmp_path: Path) -> None:
    metrics = table(*fusion_rows())
    page = page_of(facts_of(smoke("fusion"), tmp_path, metrics))
    rows = re.findall(
        r'<tr><th scope="row"[^>]*><span>(\w+)</span>.*?</tr>', page.split('id="table-fusion"')[1].replace("<wbr>", "")
    )
    assert rows[:6] == ["large", "proxy", "tuned", "dynamic_multi", "task_arithmetic", "ceiling"]
    values = re.findall(r'data-label="sums" data-order="([^"]+)"', page)
    scores = metrics[metrics["metric"] == "exact_match"]["value"].tolist()
    assert list(map(float, values)) == scores
    tidy = packed(page, "metrics")
    back = pd.DataFrame(tidy["rows"], columns=tidy["columns"])
    for name in tidy["columns"]:
        assert back[name].astype(object).where(back[name].notna(), None).tolist() == (
            metrics[name].astype(object).where(metrics[name].notna(), None).tolist()
        ), name
    assert {"method", "track", "task", "metric", "value", "ci_low", "ci_high"} <= set(tidy["columns"])


def test_the_best_is_bold_and_those_not_told_apart_from_it_are_marked(tmp_path: Path) -> None:
    page = page_of(facts_of(smoke("fusion"), tmp_path, table(*fusion_rows())))
    cells = re.findall(r'<td class="([^"]*)" data-label="sums"', page)
    # The best, the ceiling aside, is task_arithmetic; the intervals of the two that are next to it hold 0.
    assert cells == ["number", "number", "tied number", "tied number", "best number", "number"]
    assert 'title="higher is better">↑' in page
    assert 'title="lower is better">↓' in page


def test_a_job_without_time_and_a_number_without_end_are_shown(tmp_path: Path) -> None:
    (tmp_path / "benchmarks/fusion/proxy").mkdir(parents=True)
    (tmp_path / "benchmarks/fusion/proxy/0.tsv").write_text("s\tmax_rss\tcpu_time\n0.0\t-\t-\n")
    metrics = table(*fusion_rows(), row("fusion", "proxy", "sums", "score_ratio", float("inf")))
    page = page_of(facts_of(smoke("fusion"), tmp_path, metrics, benchmarks=tmp_path / "benchmarks"))
    assert "inf" in packed(page, "metrics")["rows"][-1]


def test_columns_of_numbers_sort_as_numbers(tmp_path: Path) -> None:
    """A word among them would make the browser sort them as texts, unless the cell says what it sorts by."""
    gap = [
        row("fusion", name, "sums", "gap_closure", share) for name, share in (("proxy", 0.5), ("tuned", float("nan")))
    ]
    page = page_of(facts_of(smoke("fusion"), tmp_path, table(*fusion_rows(), *gap)))
    assert "no gap" in page
    for one in re.findall(r'<table class="results".*?</table>', page, re.DOTALL):
        cells = re.findall(r'<td class="[^"]*" data-label="([^"]*)"(?: data-order="([^"]*)")?', one)
        for label in {label for label, value in cells if value}:
            values = re.findall(rf'data-label="{re.escape(label)}"( data-order="[^"]*")?', one)
            assert all(values), label


# ---- what is missing or went wrong


@pytest.mark.parametrize("tracks", SUBSETS, ids="+".join)
@pytest.mark.parametrize("there", [True, False], ids=["some numbers", "no files"])
def test_every_combination_of_tracks_has_a_page(tracks: tuple[str, ...], there: bool, tmp_path: Path) -> None:
    run = smoke(*tracks)
    if "fusion" in tracks:  # without a ceiling
        run = run.model_copy(update={"evaluate": Evaluate(ceiling="absent")})
    clip = [row("clip", name, "shapes", "accuracy", 0.5, 0.4, 0.6, shots=2) for name in ("zero_shot", "amu")]
    distill = [row("distill", name, "sums", "exact_match", 0.5, 0.4, 0.6) for name in ("small", "sft", "gld_vocab")]
    rows = {"fusion": fusion_rows(), "distill": distill, "clip": clip}
    metrics = table(*(one for track in tracks for one in rows[track])) if there else None
    page = page_of(facts_of(run, tmp_path, metrics, models=[tmp_path / name for name in used_models(run)]))
    assert page.count("There are no numbers of this track") == (0 if there else len(tracks))
    missing = bool(used_models(run)) or not there  # no model was made, and clip alone needs none
    assert ("missing, because a job failed or was never run" in page) == missing
    assert all((title in page) == (track in tracks) for track, title in (
        ("fusion", "<h3>Fusion</h3>"), ("distill", "<h3>Distillation</h3>"), ("clip", "<h3>Few-shot CLIP</h3>")
    ))  # fmt: skip
    assert [match for match in re.findall(r'<section id="(\w+)"', page) if match != "examples"][:4] == [
        "overview", "tables", "cost", "config",
    ]  # fmt: skip


def test_what_is_missing_is_red_and_what_is_whole_is_not(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    there, gone = tmp_path / "plots/there.svg", tmp_path / "plots/gone.svg"
    there.write_text("<svg/>")
    run, metrics = smoke("fusion"), table(*fusion_rows())
    assert find_problems(facts_of(run, tmp_path, metrics, parts=[there])) == []
    assert 'class="problem"' not in page_of(facts_of(run, tmp_path, metrics, parts=[there]))
    (sentence,) = find_problems(facts_of(run, tmp_path, metrics, parts=[there, gone]))
    assert str(gone) in sentence
    assert str(there) not in sentence
    page = page_of(facts_of(run, tmp_path, metrics, parts=[there, gone]))
    assert f'<div class="problem" role="note"><strong>Not as it should be</strong><ul><li>{sentence}' in page


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ([2.0, 1.5, 1.0], None),
        ([1.0, 1.5, 2.0], "diverged: its loss began at 1 and ended at 2"),
        ([1.0, float("nan"), 0.5], "losses that are not finite, from step 2 on"),
        ([1.0, 0.5, float("inf")], "losses that are not finite, from step 3 on"),
        ([1.0], None),
        ([], None),
    ],
)
def test_trainings_that_went_wrong_are_told(losses: list[float], says: str | None, tmp_path: Path) -> None:
    facts = facts_of(smoke("fusion"), tmp_path, table(*fusion_rows()))
    curve = pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses}, dtype=float)
    found = find_problems(replace(facts, curves={"sums": curve} if losses else {}))
    assert len(found) == (says is not None)
    assert says is None or (says in found[0] and "sums" in found[0])


def test_a_method_that_never_answers_in_form_is_told(tmp_path: Path) -> None:
    rows = [row("fusion", name, "sums", "format_failures", share) for name, share in (("large", 1.0), ("proxy", 0.99))]
    (sentence,) = find_problems(facts_of(smoke("fusion"), tmp_path, table(*rows)))
    assert "no answer had the asked form: large (fusion, 100 examples each)" in sentence


def test_numbers_of_an_earlier_config_are_told(tmp_path: Path) -> None:
    (sentence,) = find_problems(facts_of(smoke("fusion"), tmp_path, table(*fusion_rows()), config="earlier"))
    assert "of an earlier config (earlier)" in sentence


def test_a_broken_file_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "large/record.json").write_text("{")
    (tmp_path / "metrics.parquet").write_text("no table")
    facts = facts_of(smoke("fusion"), tmp_path, models=[tmp_path / "large"])
    assert len(facts.unreadable) == 2
    assert all(html.escape(sentence) in page_of(facts) for sentence in facts.unreadable)


# ---- the page itself


def test_the_page_asks_for_nothing_and_is_bounded(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).random((30_000, 3)).tolist()
    many = [row("fusion", f"m{place}", "sums", "accuracy", *ends) for place, ends in enumerate(numbers)]
    page = page_of(facts_of(smoke(*TRACKS), tmp_path, table(*fusion_rows(), *many)))
    assert not re.findall(r'(?:src|href|action|data|poster)\s*=\s*["\']?(?!#)[\w/.:]', re.sub(r"data-[\w-]+", "", page))
    assert not re.findall(r"@import|url\(|https?://", page)
    assert "url(" not in re.sub(r"url\(['\"]?data:", "", packed(page, "datatables")["css"])
    assert "localStorage" not in page
    assert len(page.encode()) < 1_200_000, "the rest of 1.5 MB is for examples"


def test_data_of_two_sections_keep_apart_and_scripts_stay_inside() -> None:
    one = PageSection("a", "A & B", "<p>x</p>", data={"rows": [1, "</script>"]})
    assert packed(render_page([one], "t"), "rows") == [1, "</script>"]
    assert "A &amp; B" in render_page([one], "t")
    for other in (PageSection("b", "B", "", data={"rows": []}), PageSection("b", "B", "", script="x = '</SCRIPT>'")):
        with pytest.raises(ValueError, match="section b"):
            render_page([one, other], "t")


def test_texts_of_the_config_can_not_become_html(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    config["tasks"]["letters"]["generation_kwargs"] = {"until": ["<script>alert(1)</script>"]}
    config["clip"]["auxiliaries"]["tiny"]["pretraining"] = '"><img src=x>'
    page = page_of(facts_of(resolve_config(config), tmp_path))
    assert "<script>alert" not in page
    assert "<img" not in page


def test_assets_are_part_of_the_package() -> None:
    patterns = re.search(r"^logitfusion = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    package = ROOT / "workflow/logitfusion"
    found = {path for pattern in json.loads(patterns) for path in package.glob(pattern)}
    assert {*package.glob("report/index/assets/*"), *package.glob("report/published/*.csv")} <= found


# ---- what ran, and how it was set


def test_jobs_are_told_from_the_latest_record_and_count_the_page_itself(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    jobs = tuple(
        JobRecord(rule=rule, wildcards={}, start=0.0, seconds=1.0, state=state, threads=1, shared=False)
        for rule, state in (("metrics", "finished"), ("index", "running"))
    )
    for hour, planned, seconds in ((9, 95, 60.0), (10, 2, 1140.0)):
        started = datetime(2026, 1, 1, hour, tzinfo=UTC)
        record = RunRecord(
            run="made-up", started=started.isoformat(), seconds=seconds, state="running", cores=2, executor="local",
            machine=Machine(cpus=2, memory_gb=8.0, system="Linux x86_64"), snakemake="9", commit="d", total=95,
            planned=planned, jobs=jobs,
        )  # fmt: skip
        write_record(record_path(tmp_path / "runs", started), record)
    page = page_of(facts_of(smoke("fusion"), tmp_path, table(*fusion_rows()), runs=tmp_path / "runs"))
    assert "95 of 95 jobs, 19 min, 2 cores" in page
    assert "2026-01-01 10:00 UTC" in page


@pytest.mark.parametrize("name", ["config", "smoke", "study/fusion", "study/distill", "study/fewshot"])
def test_values_say_whether_they_were_given(name: str, tmp_path: Path) -> None:
    run = load_config(ROOT / f"config/{name}.yaml")
    job = parse(type(page_job(run)), canonical(page_job(run)))
    assert job.run == run, "what was given is enough to have all"
    values = {value.key: value for value in list_values(facts_of(run, tmp_path))}
    assert values["run"].source == "given"
    assert values["evaluate.confidence"] == replace(values["evaluate.confidence"], value=0.95, source="default")
    written = yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())
    for key in (
        "fusion.batch_size",
        "fusion.methods.proxy.weights",
        "distill.cache.k",
        "clip.views",
        "clip.batch_size",
    ):
        place: Any = written
        for part in key.split("."):
            place = place.get(part) if isinstance(place, dict) else None
        if key in values:
            assert (values[key].source == "given") == (place is not None), key
            assert place is None or values[key].value == place
