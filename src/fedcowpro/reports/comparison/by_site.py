"""The difference between methods at each site alone."""

from __future__ import annotations

from functools import partial

from fedcowpro.evaluation.statistics.compare import Comparison
from fedcowpro.reports.comparison import wording
from fedcowpro.reports.comparison.charts import forest
from fedcowpro.reports.comparison.figures import interval, signed
from fedcowpro.reports.comparison.inputs import Inputs
from fedcowpro.reports.comparison.settings import ComparisonSettings, Difference, against, strata, stratum_name
from fedcowpro.reports.toolkit.blocks import Block, Chart, Heading, Items, Text, Value, columns
from fedcowpro.reports.toolkit.numbers import MISSING


def by_site(
    inputs: Inputs, comparison: Comparison, settings: ComparisonSettings, pairs: list[Difference]
) -> list[Block]:
    """A chart and a table of all sites and of each, and where one says the opposite; nothing with a single site."""
    rows = inputs.rows[inputs.rows["protocol"] == inputs.protocol]
    groups = strata(rows)
    if not pairs or len(groups) < 2:
        return []
    found: dict[str, tuple[int, dict[str, Difference]]] = {
        "all sites": (comparison.cases, {pair.method: pair for pair in pairs})
    }
    for site, modality, part in groups:
        name = stratum_name(site, modality, groups)
        if (one := settings.compare(part)) is not None:
            found[name] = (one.cases, {pair.method: pair for pair in against(one, inputs.reference)})
    table = [
        (
            place,
            str(cases),
            *(
                Value(
                    signed(of[pair.method].difference),
                    interval(of[pair.method].interval, sign=True, points=of[pair.method].points),
                )
                if pair.method in of
                else MISSING
                for pair in pairs
            ),
        )
        for place, (cases, of) in found.items()
    ]
    draw = partial(
        forest, {place: of for place, (_, of) in found.items()}, [pair.method for pair in pairs], settings.margin
    )
    alt = f"Difference of each method from {inputs.reference} with its interval, for all sites and for each"
    head = ("Site", "Cases", *(f"{pair.method} − {inputs.reference}" for pair in pairs))
    odd = [
        f"'{method}' at {place}: the difference has the other sign than over all sites, and its interval leaves out 0."
        for place, (_, of) in found.items()
        for method, one in of.items()
        if one.leaves_out_zero and one.difference * found["all sites"][1][method].difference < 0
    ]
    blocks: list[Block] = [Items(tuple(odd))] if odd else []
    chart = Chart(draw, alt, wide=True)
    return [Heading("Site by site"), Text(wording.SITES), *blocks, chart, *columns(head, table, 2)]
