"""What trainings cost against the number of clients."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from fedcowpro.reports.comparison import wording
from fedcowpro.reports.comparison.evidence import Evidence
from fedcowpro.reports.comparison.training_charts import scatter
from fedcowpro.reports.toolkit.blocks import Block, Chart, Grid, Items, Section, Text, count
from fedcowpro.reports.toolkit.html import MISSING, number

Numbers = npt.NDArray[np.float64]


def scaling(evidence: Evidence) -> Section | None:
    """CPU seconds per round and memory against the number of clients, with a line of least squares per series."""
    costs = evidence.costs
    if costs is None or costs["clients"].nunique() < 2:
        return None
    costs = costs.assign(cpu_per_round=costs["cpu_seconds"] / costs["measured_rounds"])
    series = _series(costs)
    blocks: list[Block] = [Text(wording.SCALING)]
    lines: list[str] = []
    wanted = (("cpu_per_round", "CPU seconds per round", "s"), ("peak_rss_mb", "Peak memory (MB)", "MB"))
    for column, title, unit in wanted:
        points, fitted = {}, {}
        for name, rows in series.items():
            known = rows.dropna(subset=[column])
            x, y = known["clients"].to_numpy(float), known[column].to_numpy(float)
            if len(known):
                points[name] = list(zip(x, y, strict=True))
            if len(np.unique(x)) > 2:
                line = fit_line(x, y)
                fitted[name] = line[:2]
                # Of memory, which is flat, a share of explained spread says nothing.
                fits = f", R² {stats.pearsonr(x, y).statistic ** 2:.3f}" if unit == "s" else ""
                lines.append(slope_text(f"{title}, {name}", unit, f"{count(len(known), 'training')}{fits}", *line))
        if points:
            chart = partial(scatter, points, "Clients", title, lines=fitted, zero=True)
            blocks.append(Chart(chart, f"{title} against clients"))
    if lines:
        blocks.append(Items(tuple(lines)))
    head = (
        "Method", "Seed", "Clients", "Cases", "Rounds", "Local steps", "CPU seconds per round", "Seconds per round",
        "Peak memory (MB)",
    )  # fmt: skip
    table = tuple(
        (
            str(row.arms),
            *(number(float(value), 0) for value in (row.seed, row.clients, row.cases, row.rounds, row.local_steps)),
            number(float(row.cpu_per_round), 2),
            number(float(row.seconds_per_round), 2),
            number(float(row.peak_rss_mb), 0),
        )
        for row in costs.itertuples()
    )
    return Section("Cost and the number of clients", (*blocks, Grid(head, table)))


def _series(costs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Trainings that differ in the number of clients and in what necessarily goes with it.

    Those with the same cases in all (a training may be in both kinds), and those with the same cases and steps per
    client; only where there are more than two numbers of clients. Otherwise each arm for itself.
    """
    each = costs["cases"] / costs["clients"]
    found = {f"{cases:g} cases in all": rows for cases, rows in costs.groupby("cases")}
    found |= {
        f"{cases:g} cases and {steps:g} steps per client": rows
        for (cases, steps), rows in costs.groupby([each, "local_steps"])
    }
    series = {name: rows for name, rows in found.items() if rows["clients"].nunique() > 2}
    return series or {str(arms): rows for arms, rows in costs.groupby("arms", sort=False)}


def fit_line(x: Numbers, y: Numbers) -> tuple[float, float, float]:
    """Intercept and slope of the line of least squares, and half the width of the slope's 95% interval.

    The last is NaN with fewer than three points or without a spread around the line.
    """
    found = stats.linregress(x, y)
    freedom = len(x) - 2
    half = float(stats.t.ppf(0.975, freedom) * found.stderr) if freedom > 0 and found.stderr > 0 else math.nan
    return float(found.intercept), float(found.slope), half


def slope_text(title: str, unit: str, basis: str, intercept: float, slope: float, half: float) -> str:
    """The line in words."""
    limits = f" (95% interval {_signed(slope - half)} to {_signed(slope + half)})" if math.isfinite(half) else ""
    return (
        f"{title}: {_signed(slope)} {unit} for each further client{limits}; the line begins at "
        f"{_signed(intercept)} {unit} for none. {basis}."
    )


def _signed(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else MISSING
