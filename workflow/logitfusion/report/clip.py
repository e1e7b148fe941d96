"""The few-shot track in pictures: accuracy against shots, ablation, shift, uncertainty, example images, one table."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from logitfusion.evaluate.intervals import wilson_interval
from logitfusion.files import write_text
from logitfusion.report.page import interval_cell, page, write_tables
from logitfusion.report.style import COLOURS, GREY, colour, save_figure, use_style

MARKERS = "os^v*Px<>"
# What is drawn beside what, by the few-shot method behind a name; the shown method and CLIP itself are in both.
PARTS = ("zero_shot", "auxiliary_probe", "logit_sum", "amu", "amu_classes")
ABLATION = ("zero_shot", "auxiliary_probe", "logit_sum", "amu", "amu_no_a", "amu_no_m", "amu_no_u", "amu_classes")


def plot_shots(table: pd.DataFrame, track: dict[str, Any], path: str | Path) -> None:
    """A row a test set: accuracy against shots, AMU with its parts on the left, its rivals on the right.

    Lines are means over seeds, bands one standard deviation of them to both sides.
    """
    use_style()
    tasks = list(dict.fromkeys(table["task"]))
    related = [name for name, method in track["methods"].items() if method in PARTS]
    rivals = [name for name, method in track["methods"].items() if method not in ABLATION]
    columns = {"AMU and its parts": related}
    if rivals:
        columns["rivals"] = [*dict.fromkeys(filter(None, [track["clip"], track["shown"], *rivals]))]
    figure, axes = plt.subplots(
        len(tasks), len(columns), figsize=(5.6 * len(columns), 3.6 * len(tasks) + 0.4), squeeze=False, sharey="row"
    )
    for line, task in zip(axes, tasks, strict=True):
        for axis, (title, names) in zip(line, columns.items(), strict=True):
            for name, look in _looks(names, track).items():
                _draw_shots(axis, table[(table["task"] == task) & (table["method"] == name)], name, look, track)
            count = table[table["task"] == task]["n"].iloc[0]
            axis.set_title(f"{_named(task, track)}: {title} (n = {count}, {_seeds(track)})", fontsize=9)
            axis.set_xscale("log", base=2)
            axis.set_xticks(track["shots"], track["shots"])
            axis.minorticks_off()
            axis.set_xlabel("support images of each class (shots)")
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        line[0].set_ylabel("accuracy, mean ± std over seeds")
        line[0].set_ylim(*_limits(table[table["task"] == task]))
    for axis in axes[-1]:
        axis.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=3)
    save_figure(figure, path)


def _draw_shots(axis: plt.Axes, rows: pd.DataFrame, name: str, look: tuple[str, str], track: dict[str, Any]) -> None:
    means = _overall(rows, "accuracy").set_index("shots")["value"].sort_index()
    spread = rows[rows["metric"] == "accuracy_std"].set_index("shots")["value"].reindex(means.index).fillna(0.0)
    shade, marker = look
    thick = 2.4 if name == track["shown"] else 1.4
    shots, middle = means.index.to_numpy(float), means.to_numpy(float)
    style = ":" if name == track["clip"] else "-"
    axis.plot(shots, middle, label=name, color=shade, marker=marker, markersize=5, linewidth=thick, linestyle=style)
    if spread.any():
        wide = spread.to_numpy(float)
        axis.fill_between(shots, middle - wide, middle + wide, color=shade, alpha=0.13, linewidth=0)


def plot_ablation(table: pd.DataFrame, track: dict[str, Any], path: str | Path) -> None:
    """AMU, what is left of it without a part, and its parts alone: a row a test set, a column few, more, most shots."""
    names = [name for name, method in track["methods"].items() if method in ABLATION] or [track["shown"]]
    shots = sorted({track["shots"][place] for place in (0, len(track["shots"]) // 2, -1)})
    tasks = list(dict.fromkeys(table["task"]))
    use_style()
    figure, axes = plt.subplots(
        len(tasks), len(shots), figsize=(3.4 * len(shots) + 1.6, (0.3 * len(names) + 1.2) * len(tasks)),
        squeeze=False, sharey=True, sharex="row",
    )  # fmt: skip
    for line, task in zip(axes, tasks, strict=True):
        for axis, count in zip(line, shots, strict=True):
            rows = _overall(table[(table["task"] == task) & (table["shots"] == count)], "accuracy").set_index("method")
            axis.axvline(rows.loc[track["shown"], "value"], color=GREY, linestyle=":", linewidth=1, zorder=0)
            for position, (name, look) in enumerate(_looks(names, track).items()):
                _dot(axis, rows.loc[name], position, *look)
            axis.set_title(f"{_named(task, track)}, {count} shot{'s' if count > 1 else ''}", fontsize=9)
            axis.set_xlabel(_accuracy_label(rows), fontsize=9)
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            axis.set_yticks(range(len(names)), names)
            axis.set_ylim(len(names) - 0.5, -0.5)
    save_figure(figure, path)


def plot_shift(table: pd.DataFrame, track: dict[str, Any], path: str | Path) -> None:
    """All methods at the most shots on a data set (filled) and on the sets that are a shift of it (hollow)."""
    use_style()
    names, shots = list(track["methods"]), track["shots"][-1]
    shifted = {name: sets for name, sets in track["sets"].items() if len(sets) > 1}
    figure, axes = plt.subplots(
        1, max(len(shifted), 1), figsize=(5.4 * max(len(shifted), 1) + 1.2, 0.32 * len(names) + 1.8), squeeze=False
    )
    for axis, sets in zip(axes[0], shifted.values(), strict=False):
        for place, task in enumerate(sets):
            mine = table[(table["task"] == task) & (table["shots"] == shots)]
            rows = _overall(mine, "accuracy").set_index("method")
            fill = {"markerfacecolor": "white"} if place else {}
            offset = 0.16 if place else -0.16
            for position, name in enumerate(names):
                _dot(axis, rows.loc[name], position + offset, colour(place), "os^Dv"[place % 5], **fill)
            label = f"{task} (n = {rows['n'].iloc[0]})" + (", out of distribution" if place else "")
            axis.errorbar([], [], fmt="os^Dv"[place % 5], color=colour(place), label=label, **fill)
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xlabel(f"{_accuracy_label(rows)}; {shots} shots, {_seeds(track)}", fontsize=9)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2)
    if not shifted:
        axes[0, 0].set_axis_off()
        axes[0, 0].text(0, 0.5, "No data set of this run has a shifted one.", color=GREY)
    save_figure(figure, path)


def plot_uncertainty(
    answers: dict[str, pd.DataFrame], images: dict[str, pd.DataFrame], track: dict[str, Any], path: str | Path
) -> None:
    """A panel a test set: how often CLIP and the shown method are right, in tenths by AMU's uncertainty factor."""
    use_style()
    panels = [(origin, task) for origin, sets in track["sets"].items() for task in sets]
    columns = min(len(panels), 2)
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(5.6 * columns, 3.7 * lines), squeeze=False, sharey=True)
    for axis, (origin, task) in zip(axes.flat, panels, strict=False):
        seen = images[origin][images[origin]["set"] == task]
        mine = answers[origin]
        shown = mine[(mine["method"] == track["shown"]) & (mine["shots"] == track["shots"][-1]) & (mine["set"] == task)]
        right = {
            "CLIP alone": seen.set_index("id")["clip_answer"].eq(seen.set_index("id")["label"]),
            f"{track['shown']}, {track['shots'][-1]} shots": shown.groupby("id")["correct"].mean(),
        }
        factor = seen.set_index("id")["factor"]
        for position, (label, correct) in enumerate(right.items()):
            centres, shares, low, high = _binned(factor, correct.reindex(factor.index))
            place = np.arange(len(centres)) + 0.14 * position
            axis.errorbar(
                place, shares, yerr=[shares - low, high - shares], fmt="os"[position] + "-", color=colour(position),
                capsize=3, label=label,
            )  # fmt: skip
        axis.set_xticks(range(len(centres)), [f"{centre:.2f}" for centre in centres], fontsize=8)
        spans = [f"{seen[name].min():.2f} to {seen[name].max():.2f}" for name in ("factor", "factor_classes")]
        spans = f"u: {spans[0]} with the published reference, {spans[1]} relative to C"
        axis.set_title(f"{_named(task, track)} (n = {len(seen)})\n{spans}", fontsize=8.5)
        axis.set_xlabel("tenths of the images, by mean uncertainty factor u (right: CLIP is unsure)", fontsize=9)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.set_ylim(-0.02, 1.02)
    for axis in axes[:, 0]:
        axis.set_ylabel("share right, 95% interval")
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    axes[0, 0].legend(fontsize=8)
    save_figure(figure, path)


def _binned(
    factor: pd.Series, correct: pd.Series, bins: int = 10
) -> tuple[list[float], np.ndarray, np.ndarray, np.ndarray]:
    """Mean factor, share right and its Wilson interval, in bins of equally many images."""
    order = factor.sort_values(kind="stable").index
    parts = [part for part in np.array_split(np.asarray(order, dtype=object), min(bins, len(order))) if len(part)]
    centres = [float(factor.loc[part].mean()) for part in parts]
    shares = [float(correct.loc[part].mean()) for part in parts]
    middle, counts = np.array(shares), [len(part) for part in parts]
    low, high = np.array([wilson_interval(share * n, n) for share, n in zip(shares, counts, strict=True)]).T
    return centres, middle, np.minimum(low, middle), np.maximum(high, middle)


def write_fewshot_summary(
    table: pd.DataFrame, track: dict[str, Any], html_path: str | Path, markdown_path: str | Path
) -> None:
    """Methods down; accuracy at each number of shots, mean ± std over seeds, then gains over the baselines."""
    rows = [
        {"test set": _named(task, track), "method": name} | _cells(table, task, name, track)
        for task in dict.fromkeys(table["task"])
        for name in track["methods"]
    ]
    first, most = table.iloc[0], track["shots"][-1]
    counts = table.groupby("task", sort=False)["n"].first()
    uses = "; ".join(f"{name}: {text}" for name, text in track["auxiliaries"].items()) or "none"
    note = (
        f"Accuracy in %, mean ± standard deviation over {_seeds(track)} ({', '.join(map(str, track['seeds']))}) at each"
        f" number of shots; gains at {most} shots are paired, with {first['confidence']:.0%} bootstrap intervals over"
        f" test images and seeds. n = {', '.join(f'{count} ({task})' for task, count in counts.items())}; last step,"
        " one configuration for all sets and shots or cross-validation on the support set; test images are read by the"
        " evaluation alone. ECE: expected calibration error. Oracle: the best test epoch in place of the last, what"
        f" choosing on test data would have reported. CLIP: {track['encoder']}. Extra pre-training of the auxiliary, of"
        f" which CLIP's own rows know nothing: {uses}; methods that use it: {', '.join(track['assisted']) or 'none'}."
        f" Run {first['run']}, config {first['config']}, commit {first['commit']}."
    )
    write_tables(pd.DataFrame(rows).fillna(""), note, html_path, markdown_path)


def _cells(table: pd.DataFrame, task: str, name: str, track: dict[str, Any]) -> dict[str, str]:
    mine = table[(table["task"] == task) & (table["method"] == name)]
    means, spread = _overall(mine, "accuracy").set_index("shots"), mine[mine["metric"] == "accuracy_std"]
    spread = spread.set_index("shots")["value"]
    cells = {}
    for shots in track["shots"]:
        around = f" ± {100 * spread[shots]:.1f}" if shots in spread.index else ""
        cells[f"{shots} shot{'s' if shots > 1 else ''}"] = f"{100 * means.loc[shots, 'value']:.1f}{around}"
    last = mine[mine["shots"] == track["shots"][-1]]
    for other in track["baselines"]:
        gain = last[last["metric"] == f"gain_over_{other}"]
        cells[f"gain over {other}"] = "" if gain.empty else interval_cell(_percent(gain.iloc[0]), digits=1)
    if track["oracle"]:
        oracle = last[last["metric"] == "oracle_accuracy"]["value"]
        cells["oracle"] = "" if oracle.empty else f"{100 * oracle.iloc[0]:.1f}"
    cells["ECE"] = f"{last[last['metric'] == 'calibration_error']['value'].iloc[0]:.2f}"
    cells["s a fit"] = f"{last[last['metric'] == 'seconds_of_fitting']['value'].iloc[0]:.2f}"
    return cells


def _percent(row: pd.Series) -> pd.Series:
    return pd.Series({name: 100 * row[name] for name in ("value", "ci_low", "ci_high")})


def write_examples(
    answers: dict[str, pd.DataFrame],
    images: dict[str, pd.DataFrame],
    find: Callable[[str, str], bytes | None],
    track: dict[str, Any],
    path: str | Path,
) -> None:
    """A page of test images where the shown method's answer is right and CLIP's was not, and the other way round.

    Args:
        find: set and image id -> a small PNG of it, or None.
    """
    shots, seed = track["shots"][-1], track["seeds"][0]
    sections = []
    for origin, sets in track["sets"].items():
        classes, everything = track["classes"][origin], answers[origin]
        mine = everything[(everything["method"] == track["shown"]) & (everything["shots"] == shots)]
        mine = mine[mine["seed"] == seed]
        for task in sets:
            seen = images[origin][images[origin]["set"] == task]
            both = mine[mine["set"] == task].merge(seen.drop(columns="label"), on=["set", "id"], validate="1:1")
            before, after = both["clip_answer"] == both["label"], both["correct"]
            for title, chosen in (("wrong to right", ~before & after), ("right to wrong", before & ~after)):
                cards = [_card(row, classes, find, track["shown"]) for row in both[chosen].head(8).itertuples()]
                sections.append(
                    f"<h3>{html.escape(_named(task, track))}: {title}, {int(chosen.sum())} of {len(both)}</h3>"
                    f'<div class="cards">{"".join(cards)}</div>'
                )
    note = (
        f"Test images whose answer {track['shown']} ({shots} shots, seed {seed}) changes: the first of each kind. u is"
        " the uncertainty factor of CLIP on the image, with the published reference."
    )
    write_text(path, page("".join(sections), note))


def _card(row: Any, classes: list[str], find: Callable[[str, str], bytes | None], shown: str) -> str:
    content = find(row.set, row.id)
    picture = (
        "" if content is None else f'<img alt="" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
    )
    lines = [
        f"<b>{html.escape(classes[row.label])}</b>",
        f"CLIP: {html.escape(classes[row.clip_answer])}",
        f"{html.escape(shown)}: {html.escape(classes[row.answer])}",
        f"u = {row.factor:.2f}",
    ]
    return f"<figure>{picture}<figcaption>{'<br>'.join(lines)}</figcaption></figure>"


def _overall(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Means over seeds, the rows that have an interval."""
    return rows[(rows["metric"] == metric) & rows["ci_low"].notna()]


def _looks(names: list[str], track: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Name -> colour and marker; CLIP itself is grey and the shown method black, wherever they are."""
    fixed = {track["clip"]: (GREY, "."), track["shown"]: ("#000000", "D")}
    others = [name for name in names if name not in fixed]
    looks = {name: (COLOURS[place % 6], MARKERS[place % len(MARKERS)]) for place, name in enumerate(others)}
    return {name: (fixed | looks)[name] for name in names}


def _dot(axis: plt.Axes, row: pd.Series, height: float, shade: str, marker: str, **more: Any) -> None:
    errors = [[row["value"] - row["ci_low"]], [row["ci_high"] - row["value"]]]
    size = {".": 9}.get(marker, 5.5)
    axis.errorbar(row["value"], height, xerr=errors, fmt=marker, color=shade, capsize=2.5, markersize=size, **more)


def _accuracy_label(rows: pd.DataFrame) -> str:
    return f"accuracy, {rows['confidence'].iloc[0]:.0%} interval"


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    values = table[table["metric"] == "accuracy"]["value"]
    room = 0.06 * max(values.max() - values.min(), 0.05)
    return max(values.min() - room, 0.0), min(values.max() + room, 1.0)


def _named(task: str, track: dict[str, Any]) -> str:
    return task if task in track["sets"] else f"{task} (shift)"


def _seeds(track: dict[str, Any]) -> str:
    return f"{len(track['seeds'])} seed{'s' if len(track['seeds']) > 1 else ''}"
