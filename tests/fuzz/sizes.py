"""How many inputs a test tries: a few in ``make test``, many in ``make fuzz-test``."""

from __future__ import annotations

import pytest


def inputs(few: int, many: int) -> pytest.MarkDecorator:
    """The argument ``inputs`` of a test; the few are the first of the many."""
    values = [pytest.param(few, id="few"), pytest.param(many, id="many", marks=pytest.mark.fuzz)]
    return pytest.mark.parametrize("inputs", values)
