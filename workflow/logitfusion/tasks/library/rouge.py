"""ROUGE of generated texts, for definitions (Lin 2004)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from rouge_score.rouge_scorer import RougeScorer


def rouge2(references: Sequence[str], predictions: Sequence[str]) -> float:
    """F of the bigrams that two texts share, whose words are stemmed and whose spacing does not count."""
    reference, prediction = (" ".join(text.split()) for text in (references[0], predictions[0]))
    return _scorer().score(reference, prediction)["rouge2"].fmeasure


@functools.cache
def _scorer() -> RougeScorer:
    return RougeScorer(["rouge2"], use_stemmer=True)
