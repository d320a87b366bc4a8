"""Sources are told apart or put together rightly, and what cannot be compared is refused or stated."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import scores, table, write_run, write_study
from test_answer import Written, grid

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.episodes import Episode, Episodes, Example
from fedcowpro.evaluation.protocol import write_results
from fedcowpro.federated.monitoring.rounds import RoundRecord, SiteRecord, append_round, update_geometry
from fedcowpro.reports.comparison.trainings import read_training, with_drift

SMALL: dict[str, Any] = {"cases": 6}


def means(page: str) -> dict[str, list[str]]:
    return grid(page, "Method | Mean Dice")


def write_episodes(csv: Path, digest: str) -> None:
    example = Example(site="ct", case="s1", slices={"liver": (1,)})
    episode = Episode(site="ct", support_slices=3, supports=(example,), queries=("c1",), organs=("liver",))
    Episodes(version=1, fedcowpro="0.1.0", digests={"ct": digest}, episodes=(episode,)).save(
        csv.with_suffix(".episodes.json")
    )


def test_methods_of_one_name_are_named_by_their_files(tmp_path: Path, written: Written) -> None:
    one = table(tmp_path / "one.csv", scores({"fedcowpro": 0.0}, **SMALL))
    two = table(tmp_path / "two.csv", scores({"fedcowpro": 0.1}, **SMALL))
    page = written(one, two)
    assert list(means(page)) == ["one", "two"]
    assert "'fedcowpro' of one and two are different methods, here named 'one' and 'two'." in page
    (tmp_path / "x").mkdir()
    again = table(tmp_path / "x" / "one.csv", scores({"fedcowpro": 0.1}, **SMALL))
    assert set(means(written(one, again))) == {f"{tmp_path.name}/one", "x/one"}


def test_seeds_in_several_files_are_one_method(tmp_path: Path, written: Written) -> None:
    files = [table(tmp_path / f"seed{s}.csv", scores({"a": 0.0, "b": 0.1}, seeds=[s], **SMALL)) for s in (0, 1, 2)]
    whole = table(tmp_path / "all.csv", scores({"a": 0.0, "b": 0.1}, seeds=[0, 1, 2], **SMALL))
    page = written(*files, reference="a")
    assert means(page)["b"][1] == "6, 3"
    for name in ("a", "b"):  # noise differs between the two ways of making seeds, cases do not
        assert float(means(page)[name][0][:5]) == pytest.approx(
            float(means(written(whole, reference="a"))[name][0][:5]), abs=0.02
        )
    assert "'b' is put together from seed0, seed1 and seed2." in page


def test_equal_scores_in_two_files_count_once(tmp_path: Path, written: Written) -> None:
    shared = scores({"untrained": 0.0}, **SMALL)
    one = table(tmp_path / "one.csv", [*shared, *scores({"a": 0.1}, **SMALL)])
    two = table(tmp_path / "two.csv", [*shared, *scores({"b": 0.2}, **SMALL)])
    page = written(one, two)
    assert list(means(page)) == ["untrained", "a", "b"]
    assert "18 scores found in more than one table, with equal values, count once." in page


def test_a_score_twice_in_one_table_is_refused(tmp_path: Path, written: Written) -> None:
    rows = scores({"a": 0.0, "b": 0.1}, **SMALL)
    with pytest.raises(FedCoWProError, match="two rows of method b, seed 0"):
        written(table(tmp_path / "one.csv", [*rows, rows[18]]), reference="a")


def test_a_reference_without_any_defined_score_compares_nothing(tmp_path: Path, written: Written) -> None:
    rows = [replace(row, dice=math.nan) if row.method == "a" else row for row in scores({"a": 0.0, "b": 0.1}, **SMALL)]
    page = written(table(tmp_path / "one.csv", rows), reference="a")
    assert "The reference 'a' has no defined score, so nothing is compared." in page
    assert "shown" not in page[: page.index("## Scores")]
    page = written(table(tmp_path / "two.csv", rows), reference="b")
    assert "No method but the reference has a defined score, so nothing is compared." in page


def test_other_supports_are_refused(tmp_path: Path, written: Written) -> None:
    one = table(tmp_path / "one.csv", scores({"a": 0.0}, **SMALL))
    for change in ({"support_case": "s2"}, {"support_slices": "all"}):
        two = table(tmp_path / "two.csv", scores({"b": 0.0}, support=change, **SMALL))
        with pytest.raises(FedCoWProError, match="methods with different supports, as for case c1 of site ct"):
            written(one, two)


def test_supports_that_only_one_method_was_given_are_left_out_aloud(tmp_path: Path, written: Written) -> None:
    both = scores({"a": 0.0, "b": 0.1}, **SMALL)
    more = scores({"a": 0.4}, support={"support_case": "s2"}, **SMALL)
    page = written(table(tmp_path / "one.csv", [*both, *more]), reference="a")
    assert "18 scores of 54 left out: methods were given other supports" in page
    assert means(page) == means(written(table(tmp_path / "two.csv", both), reference="a"))


def test_arms_of_one_study_may_have_other_supports(tmp_path: Path, written: Written) -> None:
    rows = [*scores({"three": 0.0}, **SMALL), *scores({"all": 0.1}, support={"support_slices": "all"}, **SMALL)]
    page = written(write_study(tmp_path / "study", rows, {"three": [], "all": []}, compare="three"))
    assert "The study gave its arms different supports (support slices)" in page
    assert means(page)["all"][1] == "6, 3"


def test_one_method_with_two_settings_is_refused(tmp_path: Path, written: Written) -> None:
    rows = scores({"a": 0.0, "b": 0.1}, **SMALL)
    mixed = [replace(row, options={"refine": "0" if row.case == "c1" and row.method == "b" else "4"}) for row in rows]
    with pytest.raises(FedCoWProError, match="'b' was scored with refine 0 and 4 at site ct"):
        written(table(tmp_path / "a.csv", mixed))


def test_settings_that_differ_between_methods_are_told(tmp_path: Path, written: Written) -> None:
    rows = scores({"a": 0.0}, **SMALL) + scores({"b": 0.1}, options={"refine": "0"}, **SMALL)
    page = written(table(tmp_path / "a.csv", rows))
    assert "Methods were scored with different settings, which is part of any difference: refine (a: 12; b: 0)." in page


def test_nsd_of_two_tolerances_is_left_out(tmp_path: Path, written: Written) -> None:
    rows = scores({"a": 0.0}, every_metric=True, **SMALL)
    rows += scores({"b": 0.1}, options={"tolerance_mm": "5"}, every_metric=True, **SMALL)
    page = written(table(tmp_path / "a.csv", rows))
    assert "NSD is left out: it was scored with tolerances of 2 and 5 mm." in page
    assert "| NSD" not in page
    assert "within 2 mm" in written(table(tmp_path / "b.csv", rows[:18]))


def test_sites_of_other_digests_are_refused(tmp_path: Path, written: Written) -> None:
    one = table(tmp_path / "one.csv", scores({"a": 0.0}, **SMALL))
    two = table(tmp_path / "two.csv", scores({"b": 0.0}, **SMALL))
    assert "was not checked: no episode file beside one and two" in written(one, two)
    write_episodes(one, "1" * 16)
    write_episodes(two, "1" * 16)
    page = written(one, two)
    assert "was not checked" not in page
    assert "| ct | 1111111111111111 |" in page
    assert f"--episodes {tmp_path / 'two.episodes.json'}" in page
    write_episodes(two, "2" * 16)
    with pytest.raises(FedCoWProError, match=r"site 'ct' has the digest 1{16} in one and 2{16} in two"):
        written(one, two)


def test_missing_cells_are_left_out_for_all_and_counted(tmp_path: Path, written: Written) -> None:
    rows = scores({"a": 0.0, "b": 0.1}, **SMALL)
    rows = [row for row in rows if not (row.method == "b" and row.case == "c6" and row.seed == 2)]
    rows = [replace(row, dice=math.nan) if (row.method, row.case, row.seed) == ("a", "c5", 0) else row for row in rows]
    page = written(table(tmp_path / "a.csv", rows), reference="a")
    assert means(page)["b"][1] == "4, 3"
    scored = grid(page, "Method | Seeds")
    assert scored["a"][5:] == ["18", "1", "0 of 6", "1 of 6"]
    assert scored["b"][5:] == ["17", "0", "0 of 6", "1 of 6"]
    assert "2 of 6 scores per case and organ left out for all methods" in page
    assert grid(page, "Site | Modality")["ct"][2] == "4 of 6"


def test_infinite_distances_are_shown_as_medians(tmp_path: Path, written: Written) -> None:
    rows = scores({"a": 0.0, "b": 0.1}, every_metric=True, **SMALL)
    rows = [replace(row, hd95=math.inf) if (row.method, row.case) == ("a", "c1") else row for row in rows]
    path = table(tmp_path / "a.csv", rows)
    cells = grid(written(path), "Method | Dice")
    of_a = np.array([row.hd95 for row in rows if row.method == "a"]).reshape(3, 6).mean(axis=0)
    assert cells["a"][5] == f"{np.median(of_a):.1f} (median; ∞ in 1)"
    assert cells["b"][5].endswith("(median)")
    page = written(path, infinite=100.0)
    assert "An infinite HD95 counts as 100 mm." in page
    assert grid(page, "Method | Dice")["a"][5].startswith(f"{np.where(np.isinf(of_a), 100, of_a).mean():.1f} (")


def test_scores_with_a_support_of_another_site_are_left_out_aloud(tmp_path: Path, written: Written) -> None:
    own = scores({"a": 0.0, "b": 0.1}, sites=["ct", "mr"], **SMALL)
    crossed = [replace(row, support_site="mr" if row.site == "ct" else "ct", dice=row.dice - 0.2) for row in own]
    page = written(table(tmp_path / "a.csv", [*own, *crossed]), reference="a")
    assert means(page) == means(written(table(tmp_path / "b.csv", own), reference="a"))
    assert "72 scores with a support of another site are left out." in page


def test_several_annotated_cases_are_averaged_aloud(tmp_path: Path, written: Written) -> None:
    rows = [
        row
        for case in ("s1", "s2", "s3")
        for row in scores({"a": 0.0, "b": 0.1}, support={"support_case": case}, **SMALL)
    ]
    page = written(table(tmp_path / "a.csv", rows), reference="a")
    assert "Up to 3 support cases are averaged; intervals take them as given." in page


def test_a_run_folder_brings_scores_training_and_modality(tmp_path: Path, written: Written) -> None:
    run = write_run(tmp_path / "run", ["ct", "mr"], seed=1)
    write_results(run / "results.csv", scores({"untrained": 0.0, "fedcowpro": 0.2}, seeds=[1], **SMALL))
    page = written(run)
    assert "| ct | CT | liver |" in page
    assert grid(page, "Method | Client")["fedcowpro"][:2] == ["mr", "1"]
    assert f"fedcowpro evaluate --model {run}" in page
    assert "| fedcowpro | 1 |" in page
    other = write_run(tmp_path / "other", ["ct", "mr"], seed=2)
    (other / "config.yaml").write_text("seed: 2\nmodel: {encoder: lite0}\n")
    write_results(other / "results.csv", scores({"fedcowpro": 0.3}, seeds=[2], **SMALL))
    assert list(means(written(run, other))) == ["untrained", "fedcowpro (run)", "other"]


def test_training_alone_makes_a_page(tmp_path: Path, written: Written) -> None:
    page = written(write_run(tmp_path / "run", ["ct", "mr"], seed=0))
    assert page.startswith("# Comparison of trainings\n\nThere are no scores")
    assert "## Training" in page


def test_a_study_says_what_it_lacks_and_costs(tmp_path: Path, written: Written) -> None:
    rows = scores({"untrained": 0.0, "two": 0.1, "six": 0.1}, **SMALL)
    rows = [row for row in rows if not (row.method == "six" and row.seed == 2)]
    clients = {"untrained": [], "two": ["ct-1", "mr-2"], "six": [f"client-{n}" for n in range(6)]}
    folder = write_study(tmp_path / "study", rows, clients, "untrained", {"ct": "ct"})
    record = json.loads((folder / "study.json").read_text())
    record["failed"] = ["arm 'six', seed 2"]
    (folder / "study.json").write_text(json.dumps(record))
    page = written(folder)
    for expected in (
        "Do more clients segment better?", "Compared with 'untrained' (as the study names it).",
        "The study 'example' is not complete: 1 trial of 9 without scores ('six' seed 2).",
        "Arms are compared on the seeds that all of them have: 0 and 1. Left out: 2 trials with other seeds.",
        "Runs of the study 'example' failed: arm 'six', seed 2.", "| ct | CT | liver |",
        "fedcowpro study run example.yaml --out example",
    ):  # fmt: skip
        assert expected in page, expected
    for method, found in means(page).items():
        expected = np.mean([row.dice for row in rows if row.method == method and row.seed < 2])
        assert found[0].startswith(f"{expected:.3f} "), (method, found)


def test_drift_is_the_distance_from_the_mean_update(tmp_path: Path) -> None:
    """Against the vectors themselves, by way of the file that a run writes."""
    rng = np.random.default_rng(0)
    before = {"w": np.zeros((3, 4)), "b": np.zeros(5)}
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    after = {site: {name: rng.normal(0.2, 1, array.shape) for name, array in before.items()} for site in weights}
    mean = {name: sum(weights[site] * after[site][name] for site in weights) for name in before}
    records = []
    for site, weight in weights.items():
        norm, cosine = update_geometry(before, after[site], mean)  # type: ignore[arg-type]
        records.append(SiteRecord(site, weight, 10, 1, {"total": 1.0}, 0.5, norm, cosine, 1.0, 1, 1))
    run = write_run(tmp_path / "run", ["a"], seed=0, rounds=0)
    append_round(run / "metrics.jsonl", RoundRecord(1, tuple(records), {"d": "no reply"}))
    found = read_training(run)
    flat = {site: np.concatenate([part[name].ravel() for name in before]) for site, part in after.items()}
    centre = np.concatenate([np.ravel(mean[name]) for name in before])
    expected = [np.linalg.norm(flat[site] - centre) / np.linalg.norm(centre) for site in "abc"]
    assert found.rounds["drift"].tolist() == pytest.approx(expected)
    assert found.left_out == {"d": 1}


def test_drift_of_gaps_is_not_known() -> None:
    lines = [
        {"site": "a", "round": 1, "weight": 1.0, "update_norm": 2.0, "update_cosine": 1.0},
        {"site": "a", "round": 2, "weight": 1.0, "update_norm": 0.0, "update_cosine": None},
        {"site": "a", "round": 3, "update_norm": 1.0, "update_cosine": 1.0},
    ]
    first, second, third = with_drift(lines)["drift"]
    assert first == 0
    assert math.isnan(second)
    assert math.isnan(third)


def test_a_log_cut_short_is_read_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ["ct"], seed=0, rounds=2)
    log = run / "metrics.jsonl"
    log.write_text(log.read_text() + '{"kind": "si')
    assert len(read_training(run).rounds) == 2
    log.write_text('{"kind": "si\n' + log.read_text())
    with pytest.raises(FedCoWProError, match=r"metrics\.jsonl, line 1"):
        read_training(run)


WRONG: dict[str, tuple[Callable[[Path], list[Path]], dict[str, object], str]] = {
    "nothing": (lambda root: [], {}, "nothing to compare"),
    "no such path": (lambda root: [root / "none"], {}, "none is not there"),
    "another folder": (lambda root: [root], {}, "is no table, run or study"),
    "no scores": (lambda root: [table(root / "a.csv", [])], {}, "neither scores nor training records"),
    "no such reference": (
        lambda root: [table(root / "a.csv", scores({"a": 0.0, "b": 0.0}, **SMALL))],
        {"reference": "c"},
        "reference 'c'\n.*one of a, b",
    ),
    "no such protocol": (
        lambda root: [table(root / "a.csv", scores({"a": 0.0, "b": 0.0}, **SMALL))],
        {"protocol": "gt-range"},
        "protocol 'gt-range'",
    ),
    "a margin below 0": (
        lambda root: [table(root / "a.csv", scores({"a": 0.0, "b": 0.0}, **SMALL))],
        {"margin": -0.1},
        "a margin of -0.1",
    ),
    "infinite infinity": (
        lambda root: [table(root / "a.csv", scores({"a": 0.0}, **SMALL))],
        {"infinite": math.inf},
        "inf mm",
    ),
    "another ending": (
        lambda root: [table(root / "a.csv", scores({"a": 0.0}, **SMALL))],
        {"name": "page.pdf"},
        r"\.html or \.md",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_named_and_leave_an_old_page_alone(name: str, tmp_path: Path, written: Written) -> None:
    make, options, message = WRONG[name]
    old = tmp_path / "page.md"
    old.write_text("old")
    with pytest.raises(FedCoWProError, match=message):
        written(*make(tmp_path), **options)
    assert old.read_text() == "old"
    assert not list(tmp_path.glob(".page*"))
