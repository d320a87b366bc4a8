"""The question and its answer, in words and numbers."""

from __future__ import annotations

import math

from fedcowpro.evaluation.metrics import definition_of
from fedcowpro.evaluation.statistics.compare import Comparison, MethodResult
from fedcowpro.evaluation.statistics.intervals import FEWEST_STUDENTISED
from fedcowpro.reports.comparison import wording
from fedcowpro.reports.comparison.by_site import by_site
from fedcowpro.reports.comparison.figures import interval, p_phrase, p_text, percent, signed
from fedcowpro.reports.comparison.inputs import Inputs
from fedcowpro.reports.comparison.settings import ALPHA, MAIN, ComparisonSettings, Difference, against
from fedcowpro.reports.toolkit.blocks import Block, Cell, Heading, Items, Section, Table, Text, Value, Verdict
from fedcowpro.reports.toolkit.numbers import MISSING, count, listed, number

_NARROW = {"percentile": "percentile", "bca": "BCa"}


def lead(inputs: Inputs, comparison: Comparison | None) -> str:
    """The answer in two sentences."""
    if inputs.protocol is None:
        return wording.NO_SCORES
    if comparison is None:
        return wording.NO_COMMON if len(inputs.methods) > 1 else "There is no defined score."
    pairs = against(comparison, inputs.reference)
    if inputs.reference is not None and not pairs:
        if inputs.reference in [one.method for one in comparison.methods]:
            return "No method but the reference has a defined score, so nothing is compared."
        return f"The reference '{inputs.reference}' has no defined score, so nothing is compared."
    if len(comparison.methods) == 1:
        (one,) = comparison.methods
        where = f"{inputs.protocol} Dice of '{one.method}': {number(one.mean)}"
        return f"Mean {where} over {count(one.cases, 'case')}, {count(one.seeds, 'seed')}. Nothing is compared."
    better = [pair for pair in pairs if pair.pair.significant and pair.difference > 0]
    worse = [pair for pair in pairs if pair.pair.significant and pair.difference < 0]
    others = [pair for pair in pairs if not pair.pair.significant]
    parts = [
        f"{word}: " + ", ".join(f"'{pair.method}' ({signed(pair.difference)})" for pair in chosen)
        for word, chosen in (("shown better", better), ("shown worse", worse), ("no difference shown", others))
        if chosen
    ]
    return (
        f"Against '{inputs.reference}', mean {inputs.protocol} Dice over {count(comparison.cases, 'case')}: "
        f"{'; '.join(parts)}."
    )


def answer(inputs: Inputs, comparison: Comparison | None, settings: ComparisonSettings) -> Section:
    """Which method is better than the reference, by how much, and how far that carries."""
    blocks: list[Block] = [Text(question) for question in inputs.questions or _question(inputs)]
    if inputs.protocol is None or comparison is None:
        blocks += [Text(lead(inputs, comparison)), *_cautions((*inputs.cautions, *inputs.notes))]
        return Section("Question and answer", tuple(blocks))
    pairs = against(comparison, inputs.reference)
    if inputs.reference is None:
        blocks.append(Text(wording.ONE_METHOD.format(method=comparison.methods[0].method)))
    elif not pairs:
        blocks.append(Text(lead(inputs, comparison)))
    else:
        blocks.append(Text(f"Compared with '{inputs.reference}' ({inputs.why})."))
    means = {result.method: result for result in comparison.methods}
    blocks += [_finding(pair, means, comparison) for pair in pairs]
    blocks.append(numbers(inputs, comparison, pairs))
    blocks += [Text(note, "note") for note in _explanations(inputs, comparison, settings, pairs)]
    narrow = [wording.NARROW.format(name=name)] if (name := _NARROW.get(settings.interval)) else []
    blocks += _cautions((*comparison.cautions, *narrow, *_conflicts(pairs), *inputs.cautions, *inputs.notes))
    blocks += by_site(inputs, comparison, settings, pairs)
    return Section("Question and answer", tuple(blocks))


def _question(inputs: Inputs) -> list[str]:
    others = [f"'{name}'" for name in inputs.methods if name != inputs.reference]
    if inputs.reference is None:
        return []
    what = f"Does {others[0]}" if len(others) == 1 else f"Do {listed(others)} each"
    return [f"{what} segment better or worse than '{inputs.reference}', by Dice on the same cases?"]


def _finding(pair: Difference, means: dict[str, MethodResult], comparison: Comparison) -> Verdict:
    found, reference = pair.pair, means[pair.pair.first]
    word = "better" if pair.difference > 0 else "worse"
    if found.significant:
        verdict = f"'{pair.method}' is {word} than '{found.first}': shown."
    else:
        verdict = f"A difference between '{pair.method}' and '{found.first}': not shown."
    seeds = sorted({means[pair.method].seeds, reference.seeds})
    limits = interval(pair.interval, sign=True, points=pair.points)
    spread = f"its cases: {limits}" if pair.points else f"{_level(found.interval.confidence)} interval {limits}"
    text = (
        f"Mean Dice {number(means[pair.method].mean)} against {number(reference.mean)}, a difference of "
        f"{signed(pair.difference)} ({spread}) over {count(comparison.cases, 'case')} and "
        f"{' or '.join(map(str, seeds))} seed{'s' if seeds != [1] else ''}; "
        f"{p_phrase('adjusted p', found.p_adjusted, ALPHA)}; rank-biserial correlation "
        f"{signed(pair.rank_biserial, 2)}, Cohen's dz {signed(pair.dz, 2)}; better in {count(pair.wins, 'case')}, "
        f"worse in {pair.losses}, equal in {found.ties}. {_equivalence(pair)}"
    )
    return Verdict(verdict, text.strip(), found.significant)


def _equivalence(pair: Difference) -> str:
    """What the margin says."""
    found, shown = pair.equivalence, pair.pair.significant
    if found is None or not math.isfinite(found.interval.low):
        return ""
    limits = f"the {_level(found.interval.confidence)} interval, {interval(found.interval, sign=True)}"
    if found.equivalent:
        if shown:
            return f"There is a difference, but a small one: {limits}, lies within ±{found.margin:g}."
        return f"Equivalent within ±{found.margin:g}: {limits}, lies inside."
    if not shown:
        return (
            f"That is no evidence of equality: equivalence within ±{found.margin:g} is not shown either ({limits}, "
            "does not lie inside)."
        )
    beyond = pair.interval.low > found.margin or pair.interval.high < -found.margin
    return f"The whole interval lies beyond the margin of ±{found.margin:g}." if beyond else ""


def numbers(inputs: Inputs, comparison: Comparison, pairs: list[Difference]) -> Table:
    """Every method with its mean, and against the reference."""
    by_name = {pair.method: pair for pair in pairs}
    head = ["Method", "Mean Dice", "Cases, seeds"]
    if pairs:
        head += ["Difference", "Adjusted p", "Rank-biserial", "Better / worse / equal", f"Within ±{_margin(pairs):g}"]
    rows = []
    for one in comparison.methods:
        row: list[Cell] = [
            one.method,
            Value(number(one.mean), interval(one.interval, points=one.points)),
            f"{one.cases}, {one.seeds}",
        ]
        if pairs and one.method == inputs.reference:
            row += ["reference", *[MISSING] * 4]
        elif pairs:
            row += _pair_cells(by_name[one.method])
        rows.append(tuple(row))
    return Table(tuple(head), tuple(rows))


def _pair_cells(pair: Difference) -> list[Cell]:
    found, same = pair.pair, pair.equivalence
    verdict = ("yes" if same.equivalent else "not shown") if same else MISSING
    return [
        Value(signed(pair.difference), interval(pair.interval, sign=True, points=pair.points)),
        Value(p_text(found.p_adjusted, ALPHA), f"p {p_text(found.p, ALPHA)}"),
        Value(signed(pair.rank_biserial, 2), f"dz {signed(pair.dz, 2)}"),
        f"{pair.wins} / {pair.losses} / {found.ties}",
        Value(verdict, interval(same.interval, sign=True) if same else ""),
    ]


def _explanations(
    inputs: Inputs, comparison: Comparison, settings: ComparisonSettings, pairs: list[Difference]
) -> list[str]:
    level = _level(1 - comparison.alpha)
    said = [
        wording.METHOD.format(
            metric=definition_of(MAIN),
            protocol=comparison.protocol,
            meaning=wording.PROTOCOLS[comparison.protocol],
            confidence=level,
            interval=wording.INTERVALS[settings.interval].format(
                resamples=comparison.resamples, seed=settings.seed, few=FEWEST_STUDENTISED
            ),
            tests=wording.TESTS.format(
                pairs=count(len(pairs), "comparison"),
                alpha=comparison.alpha,
                gate=wording.GATE if comparison.omnibus else "",
            )
            if pairs
            else "",
        ).strip()
    ]
    if (omnibus := comparison.omnibus) is not None:
        f = "infinite" if math.isinf(omnibus.statistic) else f"{omnibus.statistic:.2f}"
        said.append(
            f"All methods at once ({omnibus.name}): F = {f} with {omnibus.freedom[0]} and {omnibus.freedom[1]} degrees "
            f"of freedom, {p_phrase('p', omnibus.p, comparison.alpha)}."
        )
        if omnibus.p <= comparison.alpha and pairs and not any(pair.pair.significant for pair in pairs):
            said[-1] += f" {wording.SOME_DIFFER}"
    if pairs:
        said.append(wording.NUMBERS.format(confidence=level))
        said.append(
            wording.MARGIN.format(
                margin=settings.margin, confidence=_level(1 - 2 * comparison.alpha), alpha=comparison.alpha
            )
        )
    if inputs.rows["site"].nunique() > 1:
        said.append(wording.POOLED)
    return said


def _conflicts(pairs: list[Difference]) -> list[str]:
    """Where interval and test do not say the same, the test counts; a reader should know."""
    said = []
    for pair in pairs:
        outside = pair.leaves_out_zero
        if outside != pair.pair.significant and math.isfinite(pair.interval.low):
            said.append(
                f"'{pair.method}': the interval of the difference {'leaves out' if outside else 'includes'} 0, yet the "
                f"corrected test {'does not pass' if outside else 'passes'}; the test counts."
            )
    return said


def _cautions(said: tuple[str, ...]) -> list[Block]:
    return [Heading("Read this with care"), Items(tuple(dict.fromkeys(said)))] if said else []


def _margin(pairs: list[Difference]) -> float:
    found = pairs[0].equivalence
    return found.margin if found else math.nan


def _level(confidence: float) -> str:
    return percent(round(confidence, 6))
