"""How scores spread: every case of every organ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd

from fedcowpro.evaluation.statistics.agreement import agreement, volume_differences
from fedcowpro.evaluation.statistics.standard_error import Array
from fedcowpro.reports.comparison import wording
from fedcowpro.reports.comparison.charts import spread
from fedcowpro.reports.comparison.figures import signed
from fedcowpro.reports.comparison.inputs import Inputs
from fedcowpro.reports.comparison.settings import MAIN, ComparisonSettings, strata, stratum_name
from fedcowpro.reports.toolkit.blocks import Block, Cell, Chart, Section, Text, Value, columns
from fedcowpro.reports.toolkit.charts import volume_agreement
from fedcowpro.reports.toolkit.numbers import MISSING, number

_VOLUME = "relative_volume_error"


def distributions(inputs: Inputs, settings: ComparisonSettings) -> Section | None:
    """Charts per site: Dice and volume of every case of every organ and method."""
    rows = inputs.rows[inputs.rows["protocol"] == inputs.protocol]
    groups, blocks = strata(rows), list[Chart]()
    table: list[tuple[Cell, ...]] = []
    agreed: list[tuple[Cell, ...]] = []
    for site, modality, part in groups:
        scores: dict[str, dict[str, Array]] = {}
        volumes: dict[str, dict[str, Array]] = {}
        for organ, of_organ in part.groupby("organ", sort=True):
            if (cells := settings.cells(of_organ, MAIN)) is not None:
                scores[str(organ)] = dict(cells.values)
            if _VOLUME not in inputs.metrics_left_out and (errors := settings.cells(of_organ, _VOLUME, signed=True)):
                volumes[str(organ)] = {
                    method: volume_differences(of.mean(axis=0)) for method, of in errors.values.items()
                }
        if not scores:
            continue
        name = stratum_name(site, modality, groups)
        alt = f"Site {name}: Dice of every case for each organ and method, with the median; numbers in the table below"
        title = f"Site {name}" + (f", {modality}" if modality and name == site else "")
        blocks.append(Chart(partial(spread, scores, inputs.methods, title), alt))
        if volumes:
            alt = f"Site {name}: volume found against the true one for each case, organ and method"
            blocks.append(Chart(partial(volume_agreement, volumes, f"{title}: volumes"), alt))
            agreed += [(name, organ, *_agreement(of, inputs.methods)) for organ, of in volumes.items()]
        table += [(name, organ, *_quartiles(of, inputs.methods)) for organ, of in scores.items()]
    if not blocks:
        return None
    note = Text(wording.SPREAD.format(protocol=inputs.protocol))
    grids = columns(("Site", "Organ", *inputs.methods), table, 2, words=2)
    more: list[Block] = []
    if agreed:
        more = [Text(wording.AGREEMENT, "note"), *columns(("Site", "Organ", *inputs.methods), agreed, 2, words=2)]
    return Section("Every case", (note, *blocks, Text("Median, with the quartiles below:", "note"), *grids, *more))


def _agreement(of: Mapping[str, Array], methods: Sequence[str]) -> list[Cell]:
    cells: list[Cell] = []
    for method in methods:
        if method not in of:
            cells.append(MISSING)
            continue
        found = agreement(of[method])
        limits = f"{signed(found.low, 0)} to {signed(found.high, 0)} %" if math.isfinite(found.low) else ""
        cells.append(Value(f"{signed(found.bias, 0)} %", limits))
    return cells


def _quartiles(of: dict[str, Array], methods: tuple[str, ...]) -> list[Cell]:
    cells: list[Cell] = []
    for method in methods:
        if method not in of:
            cells.append(MISSING)
            continue
        low, middle, high = pd.Series(of[method].mean(axis=0)).quantile([0.25, 0.5, 0.75])
        cells.append(Value(number(middle), f"{number(low)} to {number(high)}"))
    return cells
