"""The benchmark of the gate's forms: what it reads of a fusion, and what it says of a planted gate."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_gate_fit import PLANTED, plant
from test_tuning import COMPLETIONS, PROMPTS
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.gate import Gate
from logitfusion.files import write_jsonl
from logitfusion.fusion import FusedLM
from logitfusion.fusion.gate.features import FEATURES
from logitfusion.fusion.gate.fit import judge

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from gating.answers import Answers, read_answers
from gating.forms import PROMPT, Form
from gating.tables import as_markdown, make_row
from gating.trials import Judged, judge_chosen, judge_fixed, judge_held_out, judge_strangers, see
from gating.views import Scales, View


def make_answers(task: str, seed: int, experts: int = 2) -> Answers:
    """Answers that were drawn from a gated fusion; its last two experts stand for the directions of base and large."""
    drawn = plant(PLANTED, seed, 40, experts + 2)
    evidence = replace(drawn, features=drawn.features[:, :-2])
    names = [f"task{number}" for number in range(experts)]
    features = dict(zip(FEATURES, evidence.features, strict=True))
    told = {f"is {name}": torch.eye(experts)[:, [place]].expand(-1, 40).double() for place, name in enumerate(names)}
    return Answers(task, names, evidence, features | told | {PROMPT[0]: torch.zeros(experts, 40)})


def test_answers_of_a_run_are_judged_as_decoding_and_tuning_do(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Log-likelihood with a fixed weight, and the running means; a second look reads the file."""
    rows = [{"prompt": p, "completion": c} for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    lm = FusedLM(loaded["large"], loaded["base"], [loaded["expert_a"]], tokenizer=tokenizer)
    read = [read_answers(lm, "a", ["a"], tmp_path / "rows.jsonl", tmp_path / "kept.pt") for _ in range(2)]
    view = View.of(read[0], ["a"])
    assert torch.equal(view.evidence.shift, View.of(read[1], ["a"]).evidence.shift)
    for weight in (0.0, 1.0):
        found = view.evidence.log_likelihood(view.fixed(weight))
        assert found.tolist() == pytest.approx(judge(Gate.constant(weight), view.evidence).tolist())
    begins = read[0].features["begins"][0] == 1
    assert int(begins.sum()) == len(PROMPTS)
    assert (read[0].features["so far from large"][:, begins] == 0).all()


def test_scaled_models_steer_as_more_experts() -> None:
    """``a L + w (E - b S) = L + w (E - S) + w (1 - b) S + (a - 1) L``."""
    answers = make_answers("task0", 0)
    weight = torch.full((1, 40), 0.7, dtype=torch.float64)
    found = View.of(answers, ["task0"], scales=Scales(large=1.5, base=0.25)).evidence.log_likelihood(weight)
    zero, half = torch.zeros_like(weight), torch.full_like(weight, 0.5)
    expected = answers.evidence.log_likelihood(torch.cat([weight, zero, 0.75 * weight, half]))
    torch.testing.assert_close(found, expected)


def test_every_form_is_judged_on_answers_that_it_has_not_seen() -> None:
    answers = {f"task{number}": make_answers(f"task{number}", number) for number in range(2)}
    views = {name: see(task, list(answers)) for name, task in answers.items()}
    fixed = judge_fixed(views, [0.0, 1.0])
    rows = [make_row("all", "fixed", fixed, fixed)]
    forms = (
        Form("linear", strangers=True, familiar=PROMPT[0]),
        Form("products", crossed=True),
        Form("trees", trees=True),
        Form("base", scales=Scales(base=0.5), as_read=True),
        Form("biases", biases=True),
        Form("margins", objective="margins"),
        Form("said", objective="expectedly said"),
    )
    for form in forms:
        rows.append(make_row("all", form.name, judge_held_out(form, views, [1.0]), fixed))
    strangers = judge_strangers(Form("linear"), answers, list(answers), [1.0])
    rows.append(make_row("absent", "linear", strangers, fixed))
    report = {"answers": dict.fromkeys(answers, 40), "run": "made", "machine": {"commit": "none"}}
    text = as_markdown(rows, report)
    assert all(f"| {form.name} |" in text for form in forms)
    assert all(torch.isfinite(torch.tensor(row.above.mean)) for row in rows)
    assert (rows[0].above.mean, rows[0].above.error) == (0, 0)


def test_a_choice_takes_the_simplest_way_that_nothing_is_clearly_better_than() -> None:
    """Of two ways of which one is better on each task: each task its own, or the better mean for both."""
    likely, unlikely = torch.linspace(-1.0, -0.9, 20), torch.linspace(-3.0, -2.9, 20)
    said = torch.ones(20, dtype=torch.bool)
    simple = {"a": Judged(likely, said), "b": Judged(unlikely - 9, ~said)}
    other = {"a": Judged(unlikely, ~said), "b": Judged(likely, said)}
    for by_metric in (False, True):
        apart = judge_chosen([simple, other], [["a"], ["b"]], by_metric)
        assert apart["a"].exact.all()
        assert apart["b"].exact.all()
    together = judge_chosen([simple, other], [["a", "b"]], by_metric=False)
    assert torch.equal(together["a"].likelihoods, unlikely)
    assert torch.equal(together["b"].likelihoods, likely)
    tied = judge_chosen([simple, other], [["a", "b"]], by_metric=True)  # as many are said, and the answers are likelier
    assert torch.equal(tied["b"].likelihoods, likely)
