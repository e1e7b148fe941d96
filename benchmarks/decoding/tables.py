"""Tables of what was measured, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from timing import spread, words

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


def as_markdown(report: dict[str, Any]) -> str:
    """All tables of a report, and where its numbers are from."""
    parts = [
        _table(_DECODING, decoding := report.get("decoding", [])),
        [_decoding_words(decoding)] if decoding else [],
        _table(_RIVALS, decoding),
        _table(_GRAPHS, graphs := report.get("graphs", [])),
        [_GRAPH_WORDS] if graphs else [],
        _table(_MEMORY, decoding),
        _table(_READING, report.get("reading", [])),
        _table(_TRAINING, report.get("training", [])),
        _table(_SOLVER, solver := report.get("solver", [])),
        _table(_KERNELS, [row for row in solver if row["kernels"]]),
        report["left out"],
        [_speed_words(report["speed"]), words(report)],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    head = f"| {' | '.join(name for name, _ in columns)} |"
    lines = [f"| {' | '.join(show(row) for _, show in columns)} |" for row in rows]
    return [head, "|" + " --- |" * len(columns), *lines]


def _ratio(name: str, to: str) -> Callable[[Row], str]:
    return lambda row: spread(row[f"ratio to {to}"][name])


def _milliseconds(name: str, digits: int) -> Callable[[Row], str]:
    return lambda row: spread(row["milliseconds"][name], digits)


def _gigabytes(value: float | None) -> str:
    return "" if value is None else f"{value / 1e9:.3g}"


def _before(row: Row, name: str) -> str:
    """Milliseconds of a step without CUDA graphs, where there are some."""
    values = row["milliseconds a step"].get(f"{name}, without graphs")
    return "" if values is None else spread(values, 1)


_DECODING: tuple[Column, ...] = (
    ("decoding", lambda row: row["pair"]),
    ("batch", lambda row: str(row["batch"])),
    ("large alone, ms a step", lambda row: spread(row["milliseconds a step"]["large alone"], 1)),
    ("without graphs", lambda row: _before(row, "large alone")),
    ("its floor", lambda row: f"{row['floor milliseconds a step']['large alone']:.1f}"),
    ("fused, ms a step", lambda row: spread(row["milliseconds a step"]["fused"], 1)),
    ("without graphs", lambda row: _before(row, "fused")),
    ("its floor", lambda row: f"{row['floor milliseconds a step']['fused']:.1f}"),
    ("fused, tokens a second", lambda row: spread(row["tokens a second"]["fused"], 0)),
    ("fused / large", _ratio("fused", "large alone")),
    ("floor by bytes", lambda row: f"{row['floor by bytes']:.2f}"),
    ("solver's share", lambda row: format(row["solver's share"], ".1%")),
    ("a gate's share", lambda row: format(row["a gate's share"], ".1%")),
    ("speculative / large", _ratio("fused, speculative", "large alone")),
    ("accepted", lambda row: f"{row['accepted share']:.2f}"),
    ("tokens a round", lambda row: f"{row['tokens a round']:.2f}"),
)
_RIVALS: tuple[Column, ...] = (
    ("others", lambda row: row["pair"]),
    ("batch", lambda row: str(row["batch"])),
    ("transformers generate / large", _ratio("transformers generate, large alone", "large alone")),
    ("proxy-tuning / large", _ratio("proxy-tuning", "large alone")),
    ("naive proxy-tuning / fused", _ratio("naive proxy-tuning", "fused")),
    ("naive loop / fused", _ratio("naive loop", "fused")),
    ("without caches / fused", _ratio("naive loop without caches", "fused")),
)
_GRAPHS: tuple[Column, ...] = (
    ("CUDA graphs alone, ms a step", lambda row: row["pair"]),
    ("batch", lambda row: str(row["batch"])),
    ("large alone", lambda row: spread(row["milliseconds a step"]["large alone"], 1)),
    ("large, base and experts", lambda row: spread(row["milliseconds a step"]["fused"], 1)),
)
_GRAPH_WORDS = "The models' graphs one after the other, with full caches: nothing is solved, chosen or written down."
_MEMORY: tuple[Column, ...] = (
    ("memory, GB", lambda row: row["pair"]),
    ("batch", lambda row: str(row["batch"])),
    ("weights", lambda row: _gigabytes(sum(row["bytes"].values()))),
    ("peak, fused", lambda row: _gigabytes(row["peak bytes"]["fused"])),
    ("planned", lambda row: _gigabytes(row["predicted bytes"])),
    ("peak, speculative", lambda row: _gigabytes(row["peak bytes"]["fused, speculative"])),
    ("peak, naive loop", lambda row: _gigabytes(row["peak bytes"]["naive loop"])),
)
_READING: tuple[Column, ...] = (
    ("teacher's cache", lambda row: row["teacher"]),
    ("texts x tokens", lambda row: f"{row['texts']} x {row['tokens']}"),
    ("batch", lambda row: str(row["batch"])),
    ("tokens a second", lambda row: spread(row["tokens a second"], 0)),
    ("floor's", lambda row: f"{row['floor tokens a second']:.0f}"),
    ("weights, GB", lambda row: _gigabytes(row["bytes"])),
    ("peak, GB", lambda row: _gigabytes(row["peak bytes"])),
    ("planned, GB", lambda row: _gigabytes(row["predicted bytes"])),
)
_TRAINING: tuple[Column, ...] = (
    ("training", lambda row: row["training"]),
    ("texts x tokens of a step", lambda row: f"{row['batch']} x {row['tokens']}"),
    *_READING[3:],
)
_SOLVER: tuple[Column, ...] = (
    ("solver", lambda row: f"V = {row['vocabulary']:,}"),
    ("rows", lambda row: str(row["rows"])),
    ("naive grid, ms", _milliseconds("naive", 0)),
    ("solve_weights, ms", _milliseconds("solve_weights", 1)),
    ("faster", lambda row: spread(row["faster than naive"]["solve_weights"], 1)),
    ("3 experts one_hot, ms", _milliseconds("solve_weights, 3 experts one_hot", 0)),
    ("3 judged, ms", _milliseconds("solve_weights, 3 experts judged", 0)),
    ("newton, ms", _milliseconds("solve_weights, newton", 0)),
    ("newton / grid", lambda row: spread(row["newton to grid"]["newton"], 1)),
    ("gate, ms", _milliseconds("solve_weights, gate", 1)),
    ("times one logsumexp", lambda row: spread(row["times one logsumexp"]["solve_weights"], 1)),
    ("floor by bytes, ms", lambda row: f"{row['floor milliseconds by bytes']:.2g}"),
)
_KERNELS: tuple[Column, ...] = (
    ("kernels", lambda row: f"V = {row['vocabulary']:,}"),
    ("rows", lambda row: str(row["rows"])),
    ("solve_weights, ms", _milliseconds("solve_weights", 2)),
    ("without kernels, ms", _milliseconds("without kernels", 2)),
    ("3 judged, ms", _milliseconds("solve_weights, 3 experts judged", 2)),
    ("without kernels, ms", _milliseconds("without kernels, 3 experts judged", 2)),
    ("floor by bytes, ms", lambda row: f"{row['floor milliseconds by bytes']:.2g}"),
    ("launches", lambda row: str(row["kernels"]["launches"]["solve_weights"])),
    ("without kernels", lambda row: str(row["kernels"]["launches"]["without kernels"])),
    ("same weights, all selections", lambda row: row["kernels"]["same rows"]),
    ("losses' roots apart", lambda row: format(row["kernels"]["losses' roots apart"], ".1g")),
)


def _decoding_words(rows: Sequence[Row]) -> str:
    return (
        f"{rows[0]['tokens']} tokens a row after {rows[0]['prompt tokens']} of a prompt, whose pass is included."
        " A floor is the longer of reading (weights, keys and values) and calculating."
    )


def _speed_words(speed: dict[str, float]) -> str:
    return (
        f"The device reads {speed['bytes'] / 1e9:,.0f} GB and does {speed['operations'] / 1e12:,.2f} T operations a"
        " second (a sum, a matrix product)."
    )
