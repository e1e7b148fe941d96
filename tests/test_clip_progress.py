"""How far a fit is, told by methods that take long."""

from __future__ import annotations

import pytest
from fewshot_features import make_problem

from logitfusion.clip import fit_method
from logitfusion.clip.fitting.left_out import left_out_logits
from logitfusion.clip.methods.progress import listening
from logitfusion.progress.pace import ShareLines


@pytest.mark.parametrize("name", ["amu", "amu_classes", "stacking"])
@pytest.mark.parametrize("fit", [fit_method, left_out_logits])
def test_a_fit_goes_from_start_to_end_and_never_back(name: str, fit: object) -> None:
    told: list[float] = []
    support = make_problem(classes=3).support
    settings = {"iterations": 20} if name == "stacking" else {"epochs": 2}
    with listening(lambda done, total: told.append(done / total)):
        watched = fit(name, support, settings, seed=0)
    assert told == sorted(told)
    assert told[0] < 0.3
    assert told[-1] == pytest.approx(1.0)
    if fit is left_out_logits:
        assert watched.logits.equal(fit(name, support, settings, seed=0).logits)


def test_lines_tell_the_time_left_and_nothing_of_short_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = [0.0], []
    monkeypatch.setattr("logitfusion.progress.pace.time.monotonic", lambda: now[0])
    tell = ShareLines("fitting amu", lines.append)
    for second, done in ((5, 0.1), (30, 0.25), (40, 0.3), (120, 1.0)):
        now[0] = second
        tell(done, 1.0)
    assert lines == ["fitting amu: 25 %, 90 s left"]
