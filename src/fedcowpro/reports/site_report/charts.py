"""Charts of a site's cases: grey values, superpixels, and how well these fit organs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from fedcowpro.reports.toolkit.charts import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    STYLE,
    VERMILLION,
    canvas,
    plain,
    svg,
)

MOST_ROWS = 30  # cases in one chart; beyond, those that lie furthest from the median
_STANDING_OUT = (VERMILLION, ORANGE, PURPLE, GREEN, BLUE)


def histograms(shares: Mapping[str, npt.NDArray[np.float64]], apart: Sequence[str], title: str) -> str:
    """Histograms of grey values of all cases; those named in `apart` stand out.

    Args:
        shares: case -> (bins,), shares of the body's voxels over grey values 0..255.
        apart: cases to draw in colour and to name, at most as many as there are colours.
        title: title of the chart.

    Returns:
        SVG data URI.
    """
    colours = dict(zip(apart, _STANDING_OUT, strict=False))
    with mpl.rc_context(STYLE):
        figure, axes = canvas(3.2)
        rest = [case for case in shares if case not in colours]
        for case, histogram in shares.items():
            edges = np.linspace(0, 255, len(histogram) + 1)
            colour = colours.get(case)
            axes.plot(
                (edges[1:] + edges[:-1]) / 2,
                100 * histogram,
                color=colour or (GREY if colours else BLUE),
                linewidth=1.8 if colour else 1.0,
                alpha=1 if colour else 0.6,
                zorder=3 if colour else 2,
                label=plain(f"case {case}") if colour else "the other cases" if case == rest[0] else None,
            )
        axes.set_title(plain(title), loc="left", fontsize=12, fontweight="bold")
        axes.set(xlim=(0, 255), ylim=(0, None), xlabel="grey value, darkest to brightest voxel of the case")
        axes.set_ylabel("% of the body", fontsize=10)
        axes.grid(axis="y")
        if colours:
            figure.legend(loc="outside lower right", ncols=3, frameon=False)
        return svg(figure)


def spans(values: Mapping[str, npt.NDArray[np.int64]], title: str, label: str, *, log: bool = False) -> str:
    """One row per case: the median as a dot, the tenth to the ninetieth percentile as a line.

    Args:
        values: case -> values; cases without values are left out.
        title: title of the chart.
        label: what the axis shows.
        log: logarithmic axis.

    Returns:
        SVG data URI.
    """
    known = {case: np.percentile(each, (10, 50, 90)) for case, each in values.items() if len(each)}
    total = len(known)
    if total > MOST_ROWS:
        typical = np.median([middle for _, middle, _ in known.values()])
        known = dict(sorted(known.items(), key=lambda item: -abs(item[1][1] - typical))[:MOST_ROWS])
        title = f"{title} ({MOST_ROWS} most unusual of {total} cases)"
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1.1 + 0.24 * max(len(known), 2))
        for y, (low, middle, high) in enumerate(reversed(known.values())):
            axes.hlines(y, low, high, color="#9fb8cf", linewidth=3)
            axes.scatter([middle], [y], s=30, color=BLUE, zorder=3)
        axes.set_title(plain(title), loc="left", fontsize=12, fontweight="bold")
        axes.set_yticks(range(len(known)), [plain(f"case {case}") for case in reversed(known)], fontsize=9.5)
        axes.set(ylim=(-0.7, len(known) - 0.3), xlabel=label)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="x")
        return svg(figure)


def organ_dots(
    scores: Mapping[str, Sequence[float]], title: str, label: str, chance: Mapping[str, float] | None = None
) -> str:
    """One row per organ: a small dot per case, the mean large, and a tick where chance would be.

    Args:
        scores: organ -> values of its cases, 0..1.
        title: title of the chart.
        label: what the axis shows.
        chance: organ -> value that means nothing.

    Returns:
        SVG data URI.
    """
    organs = list(scores)[::-1]
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1.3 + 0.4 * len(organs))
        for y, organ in enumerate(organs):
            known = [score for score in scores[organ] if math.isfinite(score)]
            first = y == len(organs) - 1
            lanes = y - 0.12 - 0.2 * (np.arange(len(known)) + 0.5) / max(len(known), 1)
            axes.scatter(
                known, lanes, s=12, color=BLUE, alpha=0.55, linewidth=0, label="single cases" if first else None
            )
            if known:
                axes.scatter([np.mean(known)], [y + 0.12], s=72, color=BLUE, zorder=3, label="mean" if first else None)
            if chance is not None:
                axes.plot(
                    [chance[organ]] * 2,
                    [y - 0.38, y + 0.34],
                    color=INK,
                    linewidth=1.4,
                    label="by chance" if first else None,
                )
        axes.set_title(plain(title), loc="left", fontsize=12, fontweight="bold")
        axes.set_yticks(range(len(organs)), [plain(organ) for organ in organs])
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(organs) - 0.4), xlabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        figure.legend(loc="outside lower right", ncols=3, frameon=False, handletextpad=0.3)
        return svg(figure)
