"""Charts of scores: differences per site, and every case. Methods differ by colour and by marker."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fedcowpro.evaluation.statistics.standard_error import Array
from fedcowpro.reports.comparison.settings import Difference
from fedcowpro.reports.toolkit.charts import INK, SITE_STYLES, STYLE, WIDTH, canvas, plain, svg

Line = Literal["-", "--", ":", "-."]
_LINES: tuple[Line, ...] = ("-", "--", ":", "-.")
_MORE_MARKERS = "<>*phX"
_LETTER = 0.09  # inches that a letter of a label takes


def styles(names: Sequence[str]) -> dict[str, tuple[str, str, Line]]:
    """Colour, marker and line style of each name; markers and lines change where a colour comes again."""
    n, colours = len(SITE_STYLES), [colour for colour, _ in SITE_STYLES]
    markers = [marker for _, marker in SITE_STYLES] + list(_MORE_MARKERS)
    return {
        name: (colours[i % n], markers[(i + i // len(markers)) % len(markers)], _LINES[i // n % len(_LINES)])
        for i, name in enumerate(names)
    }


def wrapped(label: str, width: int = 22) -> str:
    """A label on several lines, cut where it is too long even for three."""
    lines = [""]
    for word in plain(label).replace("/", "/\u200b").split(" "):
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    short = [line if len(line) <= width + 4 else line[: width + 2] + "…" for line in lines[:3]]
    return "\n".join([*short[:-1], short[-1] + " …"] if len(lines) > 3 else short)


def forest(places: Mapping[str, Mapping[str, Difference]], methods: Sequence[str], margin: float) -> str:
    """Difference of each method from the reference with its interval, or its few cases as ticks, at each place.

    Args:
        places: place -> method -> its comparison; the first place is all of them together.
        methods: in the order of their styles.
        margin: shaded on both sides of 0.

    Returns:
        SVG data URI.
    """
    look = styles(methods)
    step = 0.8 / max(len(methods), 1)
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1.2 + len(places) * max(0.45, 0.2 * len(methods)) + 0.24 * math.ceil(len(methods) / 2))
        axes.axvspan(-margin, margin, color="#eef1f4", linewidth=0, zorder=0)
        axes.axvline(0, color=INK, linewidth=1, zorder=1)
        for row, found in enumerate(places.values()):
            for index, method in enumerate(methods):
                if method not in found:
                    continue
                y, (colour, marker, _) = -row - (index - (len(methods) - 1) / 2) * step, look[method]
                one = found[method]
                if math.isfinite(one.interval.low):
                    axes.hlines(y, one.interval.low, one.interval.high, color=colour, linewidth=2.4 if not row else 1.4)
                axes.scatter(one.points, [y] * len(one.points), s=14, color=colour, marker="|", zorder=2)
                size = 62 if row == 0 else 34
                axes.scatter([one.difference], [y], s=size, color=colour, marker=marker, zorder=3)
        axes.set_yticks([-row for row in range(len(places))], [wrapped(place) for place in places])
        axes.set_ylim(-len(places) + 0.4, 0.6)
        axes.set_xlabel("Difference in mean Dice (method − reference)")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        handles = [
            Line2D([], [], color=colour, marker=marker, linewidth=1.4, label=wrapped(name, 30))
            for name, (colour, marker, _) in look.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns(methods), frameon=False)
        return svg(figure)


def spread(scores: Mapping[str, Mapping[str, Array]], methods: Sequence[str], title: str) -> str:
    """Every case a dot, per organ and method; seeds as ticks beside it, a line at the median.

    Args:
        scores: organ -> method -> Dice (seeds, cases), the same cases for all methods of an organ.
        methods: in the order of their styles.
        title: of the chart.

    Returns:
        SVG data URI.
    """
    look = styles(methods)
    most = max(values.shape[1] for of in scores.values() for values in of.values())
    lane = min(0.5, 0.2 + 0.012 * most)  # inches
    bands = [(organ, method) for organ, of in scores.items() for method in methods if method in of]
    gap = 0.6  # of a lane, between organs
    with mpl.rc_context(STYLE):
        height = (
            1.0 + lane * (len(bands) + gap * len(scores)) + 0.24 * math.ceil(len(methods) / legend_columns(methods))
        )
        figure, axes = canvas(height)
        y, ticks = 0.0, []
        for of in scores.values():
            top = y
            for method in (name for name in methods if name in of):
                colour, marker, _ = look[method]
                values, n = of[method], of[method].shape[1]
                heights = y + 0.38 - 0.76 * (np.arange(n) + 0.5) / n
                if len(values) > 1:
                    axes.hlines(
                        heights, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.35, linewidth=0.7
                    )
                    for seed in values:
                        axes.plot(seed, heights, "|", color=colour, markersize=3.5, markeredgewidth=0.8, alpha=0.7)
                means = values.mean(axis=0)
                axes.scatter(
                    means, heights, s=20 if n <= 20 else 11, color=colour, marker=marker, linewidth=0, zorder=3
                )
                axes.vlines(np.median(means), y - 0.44, y + 0.44, color=INK, linewidth=2, zorder=4)
                y -= 1
            ticks.append((top + y + 1) / 2)
            y -= gap
        axes.set_title(plain(title), loc="left", fontsize=12, fontweight="bold")
        axes.set_yticks(ticks, [wrapped(organ, 14) for organ in scores])
        axes.set(xlim=(-0.02, 1.02), ylim=(y + gap + 0.4, 0.6), xlabel="Dice")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        handles = [
            Line2D([], [], color=colour, marker=marker, linewidth=0, label=wrapped(name, 30))
            for name, (colour, marker, _) in look.items()
        ]
        handles.append(Line2D([], [], color=INK, linewidth=2, label="median"))
        labels = [*methods, "median"]
        figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns(labels), frameon=False)
        return svg(figure)


def legend_columns(names: Sequence[str]) -> int:
    """Entries of a legend that fit beside each other."""
    longest = max(min(len(name), 30) for name in names)
    return max(1, min(len(names), 4, int(WIDTH / (0.75 + _LETTER * longest))))
