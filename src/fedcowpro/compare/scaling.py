"""What trainings cost against the number of clients."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import stats

from fedcowpro.compare import wording
from fedcowpro.compare.blocks import Block, Chart, Grid, Items, Section, Text, count, listed
from fedcowpro.compare.evidence import Evidence
from fedcowpro.compare.training_charts import scatter
from fedcowpro.evaluate.markup import MISSING, number

Numbers = npt.NDArray[np.float64]


def scaling(evidence: Evidence) -> Section | None:
    """Seconds per round and memory against the number of clients, with the line of least squares."""
    costs = evidence.costs
    if costs is None or costs["clients"].nunique() < 2:
        return None
    constant, varying = [], []
    for column in ("cases", "local_steps"):
        values = sorted(set(costs[column].dropna()))
        name = column.replace("_", " ")
        if len(values) == 1:
            constant.append(f"{name}: {values[0]:g}")
        else:
            varying.append(f"{name}: {', '.join(f'{value:g}' for value in values)}")
    fixed = f"The same in all of them: {listed(constant)}." if constant else ""
    if varying:
        fixed += f" Different too, so that the line is not of clients alone: {listed(varying)}."
    blocks: list[Block] = [Text(wording.SCALING.format(fixed=fixed).strip())]
    lines: list[str] = []
    wanted = (("seconds_per_round", "Seconds per round", "s"), ("peak_rss_mb", "Peak memory (MB)", "MB"))
    for column, title, unit in wanted:
        known = costs.dropna(subset=[column])
        if known["clients"].nunique() < 2:
            continue
        line = fit_line(known["clients"].to_numpy(float), known[column].to_numpy(float))
        series = {
            str(arms): list(zip(part["clients"], part[column], strict=True))
            for arms, part in known.groupby("arms", sort=False)
        }
        blocks.append(
            Chart(partial(scatter, series, "Clients", title, line=line[:2], zero=True), f"{title} against clients")
        )
        lines.append(slope_text(title, unit, len(known), *line))
    blocks.append(Items(tuple(lines)))
    head = ("Method", "Seed", "Clients", "Cases", "Rounds", "Local steps", "Seconds per round", "Peak memory (MB)")
    table = tuple(
        (
            str(row.arms),
            *(number(float(value), 0) for value in (row.seed, row.clients, row.cases, row.rounds, row.local_steps)),
            number(float(row.seconds_per_round), 2),
            number(float(row.peak_rss_mb), 0),
        )
        for row in costs.itertuples()
    )
    return Section("Cost and the number of clients", (*blocks, Grid(head, table)))


def fit_line(x: Numbers, y: Numbers) -> tuple[float, float, float]:
    """Intercept and slope of the line of least squares, and half the width of the slope's 95% interval.

    The last is NaN with fewer than three points or without a spread around the line.
    """
    found = stats.linregress(x, y)
    freedom = len(x) - 2
    half = float(stats.t.ppf(0.975, freedom) * found.stderr) if freedom > 0 and found.stderr > 0 else math.nan
    return float(found.intercept), float(found.slope), half


def slope_text(title: str, unit: str, n: int, intercept: float, slope: float, half: float) -> str:
    """The line in words."""
    limits = f" (95% interval {_signed(slope - half)} to {_signed(slope + half)})" if math.isfinite(half) else ""
    return (
        f"{title}: {_signed(slope)} {unit} for each further client{limits}; the line begins at "
        f"{_signed(intercept)} {unit} for none. "
        f"{count(n, 'training')}."
    )


def _signed(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else MISSING
