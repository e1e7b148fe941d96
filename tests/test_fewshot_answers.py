"""What is said of images and of methods: answers, the comparison and what it recommends, heads of older files."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from fewshot_features import make_problem

from logitfusion.clip import fit_method
from logitfusion.clip.answers import answer
from logitfusion.clip.calibration import Calibration
from logitfusion.clip.fitting.compare import Comparison, choose_methods, compare_left_out, compare_methods
from logitfusion.clip.fitting.describe import describe_comparison
from logitfusion.clip.fitting.left_out import LeftOut

NAMES = list("abc")


def left_out(right: list[int], labels: torch.Tensor) -> LeftOut:
    """A method that has these images right."""
    answers = torch.where(torch.tensor(right, dtype=torch.bool), labels, (labels + 1) % 2)
    return LeftOut(torch.nn.functional.one_hot(answers, 2).float(), torch.ones(len(labels), dtype=torch.bool))


@pytest.mark.parametrize(
    ("ours", "other", "recommended"),
    [
        ([1] * 30 + [0] * 10, [1] * 40, "other"),  # clearly better
        ([1] * 39 + [0], [1] * 40, "ours"),  # ahead by chance
        ([0] * 20 + [1] * 20, [0] * 40, "ours"),
        ([0] * 25 + [1] * 5 + [0] * 10, [0] * 40, "zero_shot"),  # nothing right that CLIP alone has not
    ],
)
def test_the_expected_method_is_recommended_unless_another_is_clearly_better(
    ours: list[int], other: list[int], recommended: str
) -> None:
    labels = torch.arange(40) % 2
    clip = [0] * 25 + [1] * 5 + [0] * 10
    found = {name: left_out(right, labels) for name, right in (("zero_shot", clip), ("ours", ours), ("other", other))}
    comparison = compare_left_out(found, labels, "ours")
    assert comparison.recommended == recommended
    assert comparison.n == 40
    assert [score.right for score in comparison.scores] == [5, sum(ours), sum(other)]
    said = list(describe_comparison(comparison, "ours"))
    assert any(recommended in line for line in said[-1:])
    assert ("--method" in said[-1]) == (recommended != "ours")
    assert Comparison.load(json.loads(json.dumps(comparison.dump()))) == comparison


def test_methods_are_compared_on_the_same_images() -> None:
    problem = make_problem(classes=3, shots=(5, 5, 1), views=1)
    methods, not_tried = choose_methods(problem.support, {}, dear=False)
    found = compare_methods(problem.support, {"gda": None}, expected="gda", seed=0, not_tried={"x": "y"})
    assert (found.n, found.expected, found.not_tried) == (10, "gda", {"x": "y"})
    assert [score.method for score in found.scores] == ["zero_shot", "gda"]
    alone = problem.support.zero_shot()[:10, 0].argmax(-1)
    assert found.score("zero_shot").right == int((alone == problem.support.labels[:10]).sum())
    assert not not_tried
    assert "logit_sum" in methods
    single = make_problem(classes=3, shots=1, views=1).support
    assert compare_methods(single, {"gda": None}, expected="gda", seed=0).recommended is None


def test_answers_are_calibrated_and_none_of_these_below_the_threshold() -> None:
    problem = make_problem(classes=3, shots=6, views=1, test=10)
    head = fit_method("gda", problem.support, seed=0)
    own = Calibration(temperature=20.0, threshold=0.6, error=0.1, error_by_chance=0.1, n=18)
    facts = {"calibration": own.dump(), "clip_calibration": Calibration(2.0).dump(), "digests": ["7", "x"]}
    encoded = SimpleNamespace(
        clip=problem.clip[:, None],
        auxiliary=None,
        ids=[f"{number}.png" for number in range(30)],
        digests=[str(number) for number in range(30)],
        skipped={"broken.png": "no image"},
    )
    zero_shot = problem.clip @ (100.0 * problem.support.classifier)
    *found, broken = answer(head, {"class_names": NAMES, "metadata": facts}, encoded, zero_shot, top=2)
    expected = (head.logits(problem.clip).double() / 20.0).softmax(-1)
    assert {one.label is None for one in found} == {True, False}
    for one, chances, clip in zip(found, expected, (zero_shot.double() / 2.0).softmax(-1), strict=True):
        assert one.probability == pytest.approx(float(chances.max()))
        assert one.label == (NAMES[int(chances.argmax())] if chances.max() >= 0.6 else None)
        assert [name for name, _ in one.top] == [NAMES[label] for label in chances.argsort(descending=True)[:2]]
        entropy = -float((chances * chances.log()).sum()) / torch.tensor(3.0).log().item()
        assert one.uncertainty == pytest.approx(entropy, abs=1e-6)
        assert (one.clip_label, one.clip_probability) == (NAMES[int(clip.argmax())], pytest.approx(float(clip.max())))
        assert one.learnt == (one.path == "7.png")
    assert len({round(one.uncertainty, 6) for one in found}) > 20
    assert broken.as_row() == {"path": "broken.png", "error": "no image"}
    everything = answer(head, {"class_names": NAMES, "metadata": facts}, encoded, zero_shot, none_below=0.0)
    assert all(one.label is not None for one in everything[:-1])
