"""The page says what the statistics say, and nothing that they do not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made import RESAMPLES, scores, table

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.protocol import read_results
from fedcowpro.evaluation.statistics.compare import Comparison, compare
from fedcowpro.reports.comparison.figures import p_text, signed
from fedcowpro.reports.comparison.settings import ComparisonSettings, against
from fedcowpro.reports.comparison.tables import _marks

Written = Callable[..., str]
BOTH, TWO = ("gt-range", "whole-volume"), ("liver", "spleen")
METHODS = {"plain": 0.0, "better": 0.08, "worse": -0.08, "same": 0.0}


def judged(path: Path, protocol: str = "whole-volume", reference: str = "plain", **options: object) -> Comparison:
    """What the statistics alone say."""
    return compare(
        read_results(path), np.random.default_rng(0), protocol=protocol, reference=reference, margin=0.02,
        resamples=RESAMPLES, **options,
    )  # type: ignore[arg-type]  # fmt: skip


def grid(page: str, first: str) -> dict[str, list[str]]:
    """The first table whose first heading and second heading are these; row name -> cells."""
    lines = page.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = cells
    return rows


def finding(page: str, method: str) -> str:
    return next(line for line in page.splitlines() if line.startswith("**") and f"'{method}'" in line)


def test_known_differences_are_shown_and_others_are_not(tmp_path: Path, written: Written) -> None:
    page = written(table(tmp_path / "a.csv", scores(METHODS)), reference="plain")
    assert finding(page, "better").startswith("**'better' is better than 'plain': shown.**")
    assert finding(page, "worse").startswith("**'worse' is worse than 'plain': shown.**")
    same = finding(page, "same")
    assert same.startswith("**A difference between 'same' and 'plain': not shown.**")
    assert "Equivalent within ±0.02: the 90% interval" in same
    assert "lies inside" in same
    assert "beyond the margin of ±0.02" in finding(page, "better")
    summary = page.splitlines()[2]
    assert re.fullmatch(
        r"Against 'plain', mean whole-volume Dice over 14 cases: shown better: 'better' \(\+0\.0\d\d\); "
        r"shown worse: 'worse' \(−0\.0\d\d\); no difference shown: 'same' \([+−]?0\.00\d\)\.",
        summary,
    )


def test_no_difference_is_not_called_equality(tmp_path: Path, written: Written) -> None:
    rows = scores({"plain": 0.0, "other": 0.0}, noise=0.2, seeds=[0, 1])
    page = written(table(tmp_path / "a.csv", rows), reference="plain", margin=0.005)
    said = finding(page, "other")
    assert "not shown.**" in said
    assert "That is no evidence of equality: equivalence within ±0.005 is not shown either" in said


def test_a_small_difference_is_called_small(tmp_path: Path, written: Written) -> None:
    rows = scores({"plain": 0.0, "other": 0.01}, noise=0.002)
    said = finding(written(table(tmp_path / "a.csv", rows), reference="plain"), "other")
    assert "'other' is better than 'plain': shown." in said
    assert "There is a difference, but a small one" in said


def test_printed_numbers_are_those_of_the_statistics(tmp_path: Path, written: Written) -> None:
    path = table(tmp_path / "a.csv", scores(METHODS, noise=0.05))
    page, found = written(path, reference="plain"), judged(path)
    rows = grid(page, "Method | Mean Dice")
    for pair in found.pairs:
        mean, _, difference, p, effect, cases, margin = rows[pair.second]
        low, high = -pair.interval.high, -pair.interval.low
        assert difference == f"{signed(-pair.difference)} ({signed(low)} to {signed(high)})"
        assert p == f"{p_text(pair.p_adjusted)} (p {p_text(pair.p)})"
        assert effect == f"{signed(-pair.rank_biserial, 2)} (dz {signed(-pair.dz, 2)})"
        assert cases == f"{pair.losses} / {pair.wins} / {pair.ties}"
        assert pair.equivalence is not None
        assert margin.startswith("yes" if pair.equivalence.equivalent else "not shown")
        (of_method,) = (one for one in found.methods if one.method == pair.second)
        assert mean == f"{of_method.mean:.3f} ({of_method.interval.low:.3f} to {of_method.interval.high:.3f})"
        said = finding(page, pair.second)
        assert f"95% interval {signed(low)} to {signed(high)})" in said
        assert ("not shown.**" in said) != pair.significant
    assert rows["plain"][2:] == ["reference", "–", "–", "–", "–"]
    assert found.omnibus is not None
    assert f"F = {found.omnibus.statistic:.2f} with 3 and {3 * 13} degrees of freedom" in page


@pytest.mark.parametrize(
    ("interval", "words"),
    [("t", "Student's t, with the error"), ("percentile", "percentile bootstrap"), ("bca", "(BCa) bootstrap")],
)
def test_other_intervals_are_named_and_cautioned(interval: str, words: str, tmp_path: Path, written: Written) -> None:
    path = table(tmp_path / "a.csv", scores(METHODS))
    page, usual = written(path, reference="plain", interval=interval), written(path, reference="plain")
    found = judged(path, interval=interval)
    for result in found.methods:
        assert result.interval.method == interval
        text = f"{result.mean:.3f} ({result.interval.low:.3f} to {result.interval.high:.3f})"
        assert grid(page, "Method | Mean Dice")[result.method][0] == text
    for pair in found.pairs:
        assert f"{signed(-pair.interval.high)} to {signed(-pair.interval.low)}" in finding(page, pair.second)
    assert words in page
    assert words not in usual
    assert "studentised" not in page
    assert ("too narrow with few cases" in page) == (interval != "t")
    assert "too narrow with few cases" not in usual
    with pytest.raises(FedCoWProError, match="interval 'hdi'"):
        written(path, interval="hdi")


def test_a_site_that_says_the_opposite_is_named(tmp_path: Path, written: Written) -> None:
    rows = scores({"plain": 0.0, "other": 0.1}, sites=["ct", "mr"])
    turned = [replace(row, dice=row.dice - 0.15) if (row.method, row.site) == ("other", "mr") else row for row in rows]
    page = written(table(tmp_path / "a.csv", turned), reference="plain")
    sites = grid(page, "Site | Cases | other − plain")
    for site, cases in (("all sites", "28"), ("ct", "14"), ("mr", "14")):
        assert sites[site][0] == cases
    part = [row for row in turned if row.site == "mr"]
    (pair,) = judged(table(tmp_path / "mr.csv", part)).pairs
    low, high = signed(-pair.interval.high), signed(-pair.interval.low)
    assert sites["mr"][1] == f"{signed(-pair.difference)} ({low} to {high})"
    assert "'other' at mr: the difference has the other sign than over all sites" in page


def test_one_method_compares_nothing(tmp_path: Path, written: Written) -> None:
    page = written(table(tmp_path / "a.csv", scores({"only": 0.0}, seeds=[0])))
    assert page.startswith("# Scores of only\n")
    assert "There is one method only, 'only': nothing is compared." in page
    assert "One seed of only" in page
    assert "shown." not in page


def test_few_cases_and_seeds_are_cautioned(tmp_path: Path, written: Written) -> None:
    rows = scores({"plain": 0.0, "other": 0.3}, cases=3, seeds=[0])
    page = written(table(tmp_path / "a.csv", rows), reference="plain")
    assert "no pair could become significant" in page
    assert "One seed of plain, other" in page
    assert "'other' and 'plain': not shown." in page or "'plain': not shown." in page
    single = written(table(tmp_path / "b.csv", [row for row in rows if row.case == "c1"]), reference="plain")
    assert "A single case gives no interval." in single
    assert "nan" not in single.lower().replace("nanmean", "")


def test_the_reference_is_chosen_and_told(tmp_path: Path, written: Written) -> None:
    path = table(tmp_path / "a.csv", scores({"new": 0.1, "untrained": 0.0}))
    assert "Compared with 'untrained' (the encoder before any training)." in written(path)
    page = written(path, reference="new")
    assert "Does 'untrained' segment better or worse than 'new', by Dice on the same cases?" in page
    assert "Compared with 'new' (as asked for)." in page
    other = table(tmp_path / "b.csv", scores({"one": 0.1, "two": 0.0}))
    assert "Compared with 'one' (the first one named)." in written(other)


def test_the_protocol_of_the_answer_can_be_chosen(tmp_path: Path, written: Written) -> None:
    path = table(tmp_path / "a.csv", scores(METHODS, noise=0.04, protocols=BOTH))
    page = written(path, reference="plain", protocol="gt-range")
    (first, *_) = judged(path, "gt-range").pairs
    assert grid(page, "Method | Mean Dice")["better"][2].startswith(signed(-first.difference))
    assert page.index("### Dice, gt-range") < page.index("### Dice, whole-volume")


def test_cells_are_means_of_the_table_and_marks_are_corrected(tmp_path: Path, written: Written) -> None:
    """Every number of the tables of scores, from the CSV alone."""
    rows = scores({"plain": 0.0, "other": 0.04}, sites=["ct", "mr"], organs=TWO, protocols=BOTH, noise=0.03)
    path = table(tmp_path / "a.csv", rows)
    page = written(path, reference="plain")
    frame = read_results(path)
    marks = []
    for protocol in ("whole-volume", "gt-range"):
        section = page[page.index(f"### Dice, {protocol}") :]
        section = section[section.index("| Site | Modality") :].split("\n\n")[0].splitlines()[2:]
        assert len(section) == 4
        for line in section:
            site, modality, organ, cases, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            part = frame[(frame.site == site) & (frame.organ == organ) & (frame.protocol == protocol)]
            assert (modality, cases) == ("–", "14")
            found = judged(table_of(part, tmp_path), protocol)
            for cell, method in zip(cells, ("plain", "other"), strict=True):
                mean, mark, low, high = re.fullmatch(r"([\d.]+) ?([▲▼]?) \(([\d.]+) to ([\d.]+)\)", cell).groups()  # type: ignore[union-attr]
                own = part[part.method == method].groupby(["case", "seed"])["dice"].mean().groupby("case").mean()
                assert float(mean) == pytest.approx(own.mean(), abs=5e-4)
                (one,) = (result for result in found.methods if result.method == method)
                assert (low, high) == (f"{one.interval.low:.3f}", f"{one.interval.high:.3f}")
                if protocol == "whole-volume" and method == "other":
                    marks.append((found.pairs[0].p, mark))
    smallest = sorted(p for p, _ in marks)
    for p, mark in marks:  # Holm: the k-th smallest of 4 times (4 - k)
        passed = all(q * (4 - k) <= 0.05 for k, q in enumerate(smallest) if q <= p)
        assert mark == ("▲" if passed else "")
    assert any(p <= 0.05 and not mark for p, mark in marks)  # without the correction there would be one
    assert any(mark for _, mark in marks)


def table_of(part: pd.DataFrame, folder: Path) -> Path:
    part.to_csv(folder / "part.csv", index=False, na_rep="nan")
    return folder / "part.csv"


def equal_methods(generator: np.random.Generator, cases: int = 12) -> pd.DataFrame:
    """Scores of four methods between which there is no difference, with lucky networks and undefined scores."""
    names = ("a", "b", "c", "d")
    levels = {"liver": 0.8, "spleen": 0.6}
    keys = [(m, s, str(c), o) for m in names for s in range(3) for c in range(cases) for o in levels]
    table = pd.DataFrame(keys, columns=["method", "seed", "case", "organ"])
    ease = generator.beta(8, 2, cases) - 0.8
    luck = dict(zip(product(names, range(3)), generator.normal(0, 0.01, 12), strict=True))
    level = [levels[o] + ease[int(c)] + luck[m, s] for m, s, c, o in keys]
    dice = np.clip(level + generator.normal(0, 0.03, len(keys)), 0, 1)
    dice[generator.random(len(keys)) < 0.001] = np.nan
    return table.assign(
        site=np.where(table["case"].astype(int) < cases // 2, "ct", "mr"), modality="", protocol="whole-volume",
        dice=dice, support_site="x", support_case="s", support_slices="3",
    )  # fmt: skip


@pytest.mark.slow
def test_a_page_on_equal_methods_is_seldom_wrong() -> None:
    """The whole way from a table to verdicts and marks: pooling, missing scores, seeds, corrections, the first test."""
    settings, generator, repeats = ComparisonSettings("a", 0.02, 0, resamples=39), np.random.default_rng(6), 150
    verdicts, marks = 0, 0
    for _ in range(repeats):
        rows = equal_methods(generator)
        found = settings.compare(rows)
        assert found is not None
        verdicts += any(pair.pair.significant for pair in against(found, "a"))
        of_organs = [settings.compare(part) for _, part in rows.groupby("organ")]
        marks += any(_marks(of_organs, "a")[0])
    at_most = 0.05 + 2 * math.sqrt(0.05 * 0.95 / repeats)
    assert verdicts / repeats < at_most
    assert marks / repeats < at_most
