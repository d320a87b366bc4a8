"""Charts of the report as SVG data URIs; drawn through matplotlib's objects, without pyplot."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedcowpro.evaluation.statistics.agreement import agreement
from fedcowpro.evaluation.statistics.standard_error import Array

# Okabe & Ito, "Color Universal Design": told apart with every common colour vision.
INK, GREY = "#1f2933", "#8a94a0"
ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
SITE_STYLES = ((BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"), (SKY, "P"))
WIDTH = 5.4  # inches; about 390 CSS pixels at the 72 dpi of SVG, so that a phone shows the text at full size

STYLE: Any = {  # keys of rcParams, which stubs list one by one
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": 11,
    "svg.fonttype": "none",  # text stays text: smaller, and sharp in print
    "svg.hashsalt": "fedcowpro",  # the same input gives the same bytes
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": "#c3cad2",
    "grid.color": "#e4e8ec",
    "axes.axisbelow": True,
}


def canvas(height: float) -> tuple[Figure, Axes]:
    """An empty chart of `WIDTH` and a height in inches; call it within `STYLE`."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    return figure, axes


def svg(figure: Figure) -> str:
    """The figure as SVG data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def site_styles(sites: list[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each site."""
    return {site: SITE_STYLES[i % len(SITE_STYLES)] for i, site in enumerate(sites)}


def plain(label: str) -> str:
    """A label that matplotlib does not take for mathematics."""
    return label.replace("$", r"\$")


def dumbbells(scores: pd.DataFrame, title: str) -> str:
    """Before and after, one row per organ: every case a small dot, the means large and joined.

    Args:
        scores: rows (organ, case) of one group with columns `before` and `after` (0..1, NaN where undefined).
        title: title of the chart.

    Returns:
        SVG data URI.
    """
    organs = sorted(scores["organ"].unique(), reverse=True)
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1.4 + 0.62 * len(organs))
        for y, organ in enumerate(organs):
            rows = scores[scores["organ"] == organ]
            # Cases lie side by side below the means, so that no dot hides another.
            lanes = y - 0.16 - 0.26 * (np.arange(len(rows)) + 0.5) / len(rows)
            axes.hlines(lanes, rows["before"], rows["after"], color="#d5dae0", linewidth=0.8)
            axes.scatter(rows["before"], lanes, s=13, facecolor="white", edgecolor=ORANGE, linewidth=1.0, zorder=2)
            axes.scatter(rows["after"], lanes, s=13, color=BLUE, zorder=3)
            before, after = rows["before"].mean(), rows["after"].mean()
            if math.isfinite(before) and math.isfinite(after):
                axes.plot([before, after], [y + 0.1] * 2, color=INK, linewidth=2.2, zorder=3)
            first = y == len(organs) - 1
            axes.scatter(
                [before],
                [y + 0.1],
                s=72,
                facecolor="white",
                edgecolor=ORANGE,
                linewidth=2.2,
                zorder=4,
                label="before (untrained)" if first else None,
            )
            axes.scatter([after], [y + 0.1], s=80, color=BLUE, zorder=5, label="after (FedCoWPro)" if first else None)
        axes.set_title(plain(title), loc="left", fontsize=12, fontweight="bold")
        axes.set_yticks(range(len(organs)), [plain(organ) for organ in organs])
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(organs) - 0.5), xlabel="Dice, whole volume")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        figure.legend(loc="outside lower right", ncols=2, frameon=False, handletextpad=0.3)
        return svg(figure)


def volume_agreement(volumes: Mapping[str, Mapping[str, Array]], title: str) -> str:
    """Bland and Altman's differences: every case a dot, a line at the mean, a bar from limit to limit.

    Args:
        volumes: organ -> method -> (predicted - true) volume in percent of their mean (cases,).
        title: of the chart.

    Returns:
        SVG data URI.
    """
    methods = list(dict.fromkeys(method for of in volumes.values() for method in of))
    looks = {method: SITE_STYLES[i % len(SITE_STYLES)] for i, method in enumerate(methods)}
    lanes = sum(map(len, volumes.values())) + 0.6 * len(volumes)
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1.3 + 0.3 * lanes)
        axes.axvline(0, color=INK, linewidth=1, zorder=1)
        y, ticks = 0.0, []
        for of in volumes.values():
            top = y
            for method, values in of.items():
                (colour, marker), found = looks[method], agreement(values)
                heights = y + 0.3 - 0.6 * (np.arange(len(values)) + 0.5) / len(values)
                if math.isfinite(found.low):
                    axes.barh(y, found.high - found.low, 0.8, found.low, color=colour, alpha=0.16, zorder=0)
                axes.scatter(values, heights, s=14, color=colour, marker=marker, linewidth=0, zorder=3)
                axes.vlines(found.bias, y - 0.42, y + 0.42, color=colour, linewidth=2.2, zorder=4)
                y -= 1
            ticks.append((top + y + 1) / 2)
            y -= 0.6
        axes.set_title(plain(title), loc="left", fontsize=12, fontweight="bold")
        axes.set_yticks(ticks, [plain(organ) for organ in volumes])
        axes.set(ylim=(y + 1.0, 0.6), xlabel="found − true volume, % of their mean")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(axis="x")
        if len(methods) > 1:
            for method, (colour, marker) in looks.items():
                axes.scatter([], [], color=colour, marker=marker, label=plain(method))
            figure.legend(loc="outside lower center", ncols=3, frameon=False)
        return svg(figure)


def curves(
    table: pd.DataFrame, value: str, label: str, *, low: float | None = None, high: float | None = None
) -> str | None:
    """One line per site over the rounds; None when no site has the value.

    Args:
        table: columns site, round and `value`.
        value: column drawn upwards.
        label: title of the chart.
        low: value that the axis reaches down to at least, so that small wobbles look small.
        high: value that it reaches up to at least.

    Returns:
        SVG data URI.
    """
    known = table.dropna(subset=[value])
    if known.empty:
        return None
    sites = sorted(table["site"].unique())
    with mpl.rc_context(STYLE):
        figure, axes = canvas(3.0)
        for site, (colour, marker) in site_styles(sites).items():
            rows = known[known["site"] == site]
            axes.plot(
                rows["round"],
                rows[value],
                color=colour,
                marker=marker,
                markersize=5,
                linewidth=1.8,
                label=plain(site),
            )
        axes.set_title(label, loc="left", fontsize=12, fontweight="bold")
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(y=0.08)
        bottom, top = axes.get_ylim()
        axes.set_ylim(
            bottom if low is None else min(low, bottom if known[value].min() < low else low),
            top if high is None else max(high, known[value].max()),
        )
        axes.grid(axis="y")
        # Long names in one line would run over the chart's edge.
        columns = 4 if sum(map(len, sites[:4])) <= 24 else 2
        figure.legend(loc="outside lower right", ncols=columns, frameon=False)
        return svg(figure)
