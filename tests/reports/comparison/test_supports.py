"""Another annotated case gives another score: the page says how much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made import scores, table, write_study
from test_answer import Written, grid

from fedcowpro.evaluation.protocol import Row, read_results
from fedcowpro.reports.comparison.supports import per_support

SHIFTS = {"s1": 0.0, "s2": -0.1, "s3": 0.06}


def in_turn(methods: dict[str, float]) -> list[Row]:
    """Each of three annotated cases with the same queries; what a case gives is its shift."""
    rows = []
    for case, shift in SHIFTS.items():
        shifted = {name: value + shift for name, value in methods.items()}
        rows += scores(shifted, cases=6, support={"support_case": case}, noise=0.001, organs=("liver", "spleen"))
    return rows


def test_mean_and_spread_over_annotated_cases(tmp_path: Path, written: Written) -> None:
    path = table(tmp_path / "a.csv", in_turn({"a": 0.0, "b": 0.05}))
    page = written(path)
    assert "## Choice of the annotated case" in page
    rows = read_results(path)
    means = {
        (method, case): part.groupby("case")["dice"].mean().mean()
        for (method, case), part in rows.groupby(["method", "support_case"])
    }
    found = grid(page, "Site | Annotated cases")["ct"]
    assert found[0] == "3"
    for cell, method in zip(found[1:], ("a", "b"), strict=True):
        of = [means[method, case] for case in SHIFTS]
        assert cell == (f"{np.mean(of):.3f} (SD {np.std(of, ddof=1):.3f}; {of[1]:.3f} (s2) to {of[2]:.3f} (s3))")
    assert "Up to 3 support cases are averaged; intervals take them as given." in page
    html = written(path, name="page.html")
    assert "Mean Dice with each annotated case in turn" in html


def test_one_annotated_case_has_no_spread(tmp_path: Path, written: Written) -> None:
    assert "Choice of the annotated case" not in written(table(tmp_path / "a.csv", scores({"a": 0.0, "b": 0.1})))


def test_annotated_cases_are_compared_on_what_all_methods_have(tmp_path: Path) -> None:
    rows = read_results(table(tmp_path / "a.csv", in_turn({"a": 0.0, "b": 0.05})))
    lost = (rows["method"] == "b") & (rows["support_case"] == "s1") & (rows["seed"] == 2) & (rows["case"] == "c3")
    found = per_support(rows[~lost])
    kept = rows[~((rows["support_case"] == "s1") & (rows["case"] == "c3"))]
    expected = kept[(kept["method"] == "a") & (kept["support_case"] == "s1") & (kept["seed"] == 0)]
    assert found["a"].loc["s1", 0] == pytest.approx(expected.groupby("case")["dice"].mean().mean())
    assert list(found.columns) == [(method, seed) for method in ("a", "b") for seed in (0, 1, 2)]


def test_arms_with_other_examples_by_design_have_no_spread(tmp_path: Path, written: Written) -> None:
    one = scores({"first": 0.0}, support={"support_case": "s1"})
    two = scores({"second": 0.0}, support={"support_case": "s2"})
    study = write_study(tmp_path / "study", [*one, *two], {"first": [], "second": []}, "first")
    page = written(study)
    assert "that is part of what is compared" in page
    assert "Choice of the annotated case" not in page
