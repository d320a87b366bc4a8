"""Tables of scores: per site, modality and organ with marks; the other metrics; counts and what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from fedcowpro.evaluation.metrics import METRICS, definition_of
from fedcowpro.evaluation.statistics.compare import Comparison
from fedcowpro.evaluation.statistics.hypotheses import fewest_cases, holm
from fedcowpro.evaluation.statistics.standard_error import Array
from fedcowpro.reports.comparison import wording
from fedcowpro.reports.comparison.answer import numbers
from fedcowpro.reports.comparison.figures import digits, interval, percent, signed
from fedcowpro.reports.comparison.inputs import Inputs
from fedcowpro.reports.comparison.settings import ALPHA, MAIN, ComparisonSettings, against, modality_name
from fedcowpro.reports.toolkit.blocks import Block, Cell, Heading, Items, Section, Table, Text, Value, columns
from fedcowpro.reports.toolkit.numbers import MISSING, number

PLACE = ["site", "modality", "organ"]
_VOLUME = "relative_volume_error"
BETTER, WORSE = "▲", "▼"


def tables(inputs: Inputs, settings: ComparisonSettings) -> Section:
    """Scores of every protocol."""
    blocks: list[Block] = []
    for protocol in inputs.protocols:
        rows = inputs.rows[inputs.rows["protocol"] == protocol]
        blocks += [Heading(f"Dice, {protocol}"), Text(f"In this protocol {wording.PROTOCOLS[protocol]}.")]
        whole = settings.compare(rows)
        if protocol != inputs.protocol and whole is not None:
            blocks += [numbers(inputs, whole, against(whole, inputs.reference)), Text(wording.SECOND, "note")]
        blocks += _dice(inputs, rows, settings)
        blocks.append(Heading(f"Other metrics, {protocol}"))
        blocks += _metrics(inputs, rows, settings, whole)
        blocks.append(Heading(f"What was scored, {protocol}"))
        blocks.append(_counts(inputs, rows, whole))
    return Section("Scores", (*blocks, *_definitions(inputs, settings)))


def _dice(inputs: Inputs, rows: pd.DataFrame, settings: ComparisonSettings) -> list[Block]:
    places = [(place, part, settings.compare(part)) for place, part in rows.groupby(PLACE, sort=True)]
    marks, tests = _marks([found for _, _, found in places], inputs.reference)
    table: list[list[Cell]] = []
    for (place, _, found), marked in zip(places, marks, strict=True):
        site, kind, organ = map(str, place)
        line: list[Cell] = [site, modality_name(kind) or MISSING, organ, _cases(found)]
        results = {result.method: result for result in found.methods} if found else {}
        for method in inputs.methods:
            one = results.get(method)
            line.append(
                MISSING
                if one is None
                else Value(number(one.mean), interval(one.interval, points=one.points), marked.get(method, ""))
            )
        table.append(line)
    head = ("Site", "Modality", "Organ", "Cases", *inputs.methods)
    level = percent(1 - ALPHA)
    if tests:
        legend = wording.MARKS.format(
            confidence=level, reference=inputs.reference, alpha=ALPHA, tests=f"{tests} comparisons"
        )
        legend += _reach([found.cases for _, _, found in places if found], tests)
    else:
        legend = wording.PLAIN_MEANS.format(confidence=level)
    return [*columns(head, table, 4, 4, words=3), Text(legend, "note")]


def _reach(cases: list[int], tests: int) -> str:
    """Where there are too few cases for a mark; nothing where there are enough everywhere."""
    needed = fewest_cases(tests, ALPHA)
    if max(cases) < needed:
        return wording.NO_MARKS.format(cases=max(cases), tests=tests, needed=needed)
    return wording.FEW_MARKS.format(needed=needed) if min(cases) < needed else ""


def _marks(found: list[Comparison | None], reference: str | None) -> tuple[list[dict[str, str]], int]:
    """Per place and method whether it is better or worse than the reference; and how many tests that took."""
    pairs = [(index, pair) for index, one in enumerate(found) if one for pair in against(one, reference)]
    adjusted = holm([pair.pair.p for _, pair in pairs])
    marks: list[dict[str, str]] = [{} for _ in found]
    for (index, pair), p in zip(pairs, adjusted, strict=True):
        if p <= ALPHA:
            marks[index][pair.method] = BETTER if pair.difference > 0 else WORSE
    return marks, len(pairs)


def _cases(found: Comparison | None) -> str:
    if found is None:
        return "0"
    return f"{found.cases} of {found.missing.of_cases}" if found.missing.cases else str(found.cases)


def _metrics(
    inputs: Inputs, rows: pd.DataFrame, settings: ComparisonSettings, of_dice: Comparison | None
) -> list[Block]:
    names = _metric_names(inputs)
    cells: dict[str, dict[str, Cell]] = {method: {} for method in inputs.methods}
    for metric in names:
        whole = of_dice if metric == MAIN else settings.compare(rows, metric)
        found = None if whole else settings.cells(rows, metric)
        by_case = {name: values.mean(axis=0) for name, values in found.values.items()} if found else {}
        for method in inputs.methods:
            cells[method][metric] = _central(by_case, method, metric)
        for one in whole.methods if whole else ():
            places = digits(metric)
            cells[one.method][metric] = Value(
                number(one.mean, places), interval(one.interval, places, points=one.points)
            )
    head = ["Method", *(_label(metric) for metric in names)]
    rest: dict[str, tuple[str, ...]] = dict.fromkeys(inputs.methods, ())
    if _VOLUME in names:
        head.append("Volume bias")
        biased = settings.cells(rows, _VOLUME, signed=True)
        for method in inputs.methods:
            known = biased is not None and method in biased.values
            rest[method] = (signed(float(biased.values[method].mean())) if biased and known else MISSING,)
    table = tuple((method, *(cells[method][metric] for metric in names), *rest[method]) for method in inputs.methods)
    return [Table(tuple(head), table), Text(wording.MORE_METRICS, "note")]


def _definitions(inputs: Inputs, settings: ComparisonSettings) -> list[Block]:
    """What the metrics are, and how infinite distances are shown."""
    said = [definition_of(metric, inputs.tolerance) for metric in _metric_names(inputs)]
    if _VOLUME in _metric_names(inputs):
        said += [wording.VOLUME_ERROR, wording.VOLUME_BIAS]
    if np.isinf(inputs.rows["hd95"]).any():
        said.append(wording.HD95 if settings.infinite is None else wording.STAND_IN.format(infinite=settings.infinite))
    return [Heading("Definitions"), Items(tuple(said))]


def _central(values: Mapping[str, Array], method: str, metric: str) -> Cell:
    """Mean over cases, or the median where some are infinite; from values (cases,) of each method."""
    if method not in values:
        return MISSING
    by_case, places = values[method], digits(metric)
    if infinite := int(np.isinf(by_case).sum()):
        middle = float(np.median(by_case))
        return Value("∞" if math.isinf(middle) else number(middle, places), f"median; ∞ in {infinite}")
    # Another method has infinite values: then a median stands beside a median.
    if any(np.isinf(others).any() for others in values.values()):
        return Value(number(float(np.median(by_case)), places), "median")
    return number(float(by_case.mean()), places)


def _counts(inputs: Inputs, rows: pd.DataFrame, whole: Comparison | None) -> Table:
    cells = rows[["site", "case", "organ"]].drop_duplicates()
    table = []
    for method in inputs.methods:
        mine = rows[rows["method"] == method]
        own = mine[["site", "case", "organ"]].drop_duplicates()
        table.append(
            (
                method,
                ", ".join(map(str, sorted(mine["seed"].unique()))) or MISSING,
                str(mine["site"].nunique()),
                str(len(mine[["site", "case"]].drop_duplicates())),
                str(mine["organ"].nunique()),
                str(mine["support_case"].nunique()),
                str(len(mine)),
                str(int(mine[MAIN].isna().sum())),
                f"{len(cells) - len(own)} of {len(cells)}",
                f"{whole.missing.by_method.get(method, len(cells))} of {whole.missing.of_cells}" if whole else MISSING,
            )
        )
    head = (
        "Method", "Seeds", "Sites", "Cases", "Organs", "Support cases", "Scores", "Dice not defined",
        "Case-organ pairs missing", "Not usable for every seed",
    )  # fmt: skip
    return Table(head, tuple(table))


def _metric_names(inputs: Inputs) -> list[str]:
    """Metrics that are recorded and comparable."""
    return [metric for metric in METRICS if metric not in inputs.metrics_left_out and inputs.rows[metric].notna().any()]


def _label(metric: str) -> str:
    found = METRICS[metric]
    if metric == _VOLUME:
        return "Volume error"
    return f"{found.label} ({found.unit})" if found.unit else found.label
