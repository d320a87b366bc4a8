"""Curves of trainings, with a panel per method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fedcowpro.reports.comparison.charts import Line, legend_columns, styles, wrapped
from fedcowpro.reports.comparison.trainings import Training
from fedcowpro.reports.toolkit.charts import BLUE, GREY, STYLE, WIDTH, svg

MANY = 12  # clients; more are not told apart
_PANEL = 1.75  # inches


def curves(
    groups: Sequence[tuple[str, Sequence[Training]]],
    value: str,
    title: str,
    *,
    low: float | None = None,
    high: float | None = None,
) -> str:
    """A value over the rounds, a panel per method, a line per client with a band from its lowest to highest seed.

    Args:
        groups: label of a panel and its trainings.
        value: column of `Training.rounds` that one of them has.
        title: of the chart.
        low, high: what the axis reaches down and up to at least.

    Returns:
        SVG data URI.
    """
    tables = {label: pd.concat([run.rounds for run in runs]).dropna(subset=[value]) for label, runs in groups}
    tables = {label: table for label, table in tables.items() if len(table)}
    clients = sorted({str(site) for table in tables.values() for site in table["site"]})
    look = styles(clients) if len(clients) <= MANY else {}
    across = 1 if len(tables) == 1 else 2
    down = math.ceil(len(tables) / across)
    with mpl.rc_context(STYLE):
        height = 0.8 + down * (_PANEL if across == 2 else 2.2) + (0.24 * math.ceil(len(look) / 3) if look else 0.24)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes, (label, table) in zip(panels.flat, tables.items(), strict=False):
            _panel(axes, table, value, look)
            if across == 2:
                axes.set_title(wrapped(label, 26), loc="left", fontsize=9)
        for axes in panels.flat[len(tables) :]:
            axes.set_visible(False)
        for axes in panels.flat[max(0, len(tables) - across) : len(tables)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("round", fontsize=10)
        values = pd.concat(list(tables.values()))[value]
        bottom = values.min() if low is None else min(low, values.min())
        top = values.max() if high is None else max(high, values.max())
        margin = 0.04 * max(top - bottom, 1e-9)
        panels[0, 0].set_ylim(bottom - margin, top + margin)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        names = [wrapped(name, 20) for name in look] or ["a client and run", "mean of all"]
        figure.legend(handles=_handles(look), loc="outside lower center", ncols=legend_columns(names), frameon=False)
        return svg(figure)


def _panel(axes: Axes, table: pd.DataFrame, value: str, look: Mapping[str, tuple[str, str, Line]]) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9)
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if not look:
        for _, one in table.groupby(["site", table.groupby(["site", "round"]).cumcount()]):
            axes.plot(one["round"], one[value], color=GREY, linewidth=0.6, alpha=0.5)
        mean = table.groupby("round")[value].mean()
        axes.plot(mean.index, mean, color=BLUE, linewidth=2)
        return
    for site, one in table.groupby("site"):
        colour, marker, line = look[str(site)]
        over = one.groupby("round")[value].agg(["mean", "min", "max"])
        axes.fill_between(over.index, over["min"], over["max"], color=colour, alpha=0.15, linewidth=0)
        every = max(1, len(over) // 6)
        axes.plot(over.index, over["mean"], color=colour, linestyle=line, marker=marker, markersize=3.5,
                  markevery=every, linewidth=1.4)  # fmt: skip


def _handles(look: Mapping[str, tuple[str, str, Line]]) -> list[Line2D]:
    if not look:
        each = Line2D([], [], color=GREY, linewidth=0.8, label="a client and run")
        return [each, Line2D([], [], color=BLUE, linewidth=2, label="mean of all")]
    return [
        Line2D([], [], color=colour, marker=marker, linestyle=line, markersize=4, label=wrapped(name, 20))
        for name, (colour, marker, line) in look.items()
    ]
