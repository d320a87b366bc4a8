"""The page says what the numbers say, needs nothing from outside, and survives gaps."""

import base64
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.protocol import COLUMNS
from fedcowpro.evaluation.summary import by_group, by_organ, per_case, rounds_table, share_of_model, with_groups
from fedcowpro.reports.demo_report import sections
from fedcowpro.reports.demo_report.report import Overlay, write_report
from html_page import Page

pytestmark = pytest.mark.slow


def scores(rows: list[tuple[str, str, str, str, str, float]], **more: object) -> pd.DataFrame:
    """Rows (method, site, case, organ, protocol, dice)."""
    table = pd.DataFrame(rows, columns=["method", "site", "case", "organ", "protocol", "dice"])
    table = table.assign(**({"seed": 0, "support_site": "ct", "support_case": "c9", "support_slices": "3"} | more))
    return table.reindex(columns=[*COLUMNS, *(name for name in more if name not in COLUMNS)])


def results() -> pd.DataFrame:
    rows: list[tuple[str, str, str, str, str, float]] = []
    for site, shift in (("ct", 0.0), ("mr", 0.1)):
        for protocol, kinder in (("whole-volume", 0.0), ("gt-range", 0.05)):
            for case, step in (("c1", 0.0), ("c2", 0.02)):
                rows += [
                    ("untrained", site, case, "liver", protocol, 0.301 + shift + step + kinder),
                    ("fedcowpro", site, case, "liver", protocol, 0.611 + shift + step + kinder),
                    ("untrained", site, case, "spleen", protocol, 0.251 + shift + step + kinder),
                    ("fedcowpro", site, case, "spleen", protocol, 0.207 + shift + step + kinder),
                ]
    return scores(rows)


def rounds() -> list[dict[str, Any]]:
    return [
        {"round": r, "site": site, "losses": {"total": 2.0 / r, "cross_entropy": 1.0 / r}, "pseudo_dice": 0.5,
         "update_norm": 1.0, "update_cosine": 0.25, "seconds": 3.0,
         "bytes_down": 1_500_000, "bytes_up": 2_500_000}
        for r in (1, 2) for site in ("ct", "mr")
    ]  # fmt: skip


def overlay(site: str = "ct", caption: str = "query c1", size: int = 64) -> Overlay:
    y, x = np.mgrid[:size, :size] / size
    image = np.where((y - 0.5) ** 2 + (x - 0.5) ** 2 < 0.16, x, -1.0)
    truth = (((y - 0.5) ** 2 + (x - 0.4) ** 2) < 0.01).astype(np.uint8)
    return Overlay(site, {1: "liver", 2: "spleen"}, image, truth, image, np.roll(truth, 2, 1), truth, caption)


def page(path: Path, **changes: Any) -> tuple[Page, str]:
    given: dict[str, Any] = {
        "title": "Demo", "results": results(), "rounds": rounds(), "overlays": [overlay(), overlay("mr")],
        "facts": {"version": "0.1.0", "command: run": "fedcowpro demo --out x"}, "story": ["First.", "Then."],
    }  # fmt: skip
    write_report(path / "report.html", **(given | changes))
    html = (path / "report.html").read_text(encoding="utf-8")
    return Page(html), html


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, str]:
    return page(tmp_path_factory.mktemp("report"))


def test_page_has_sites_organs_and_numbers(whole: tuple[Page, str]) -> None:
    text = whole[0].text
    for expected in (
        "Site ct", "Site mr", "liver", "spleen", "0.286 0.419 +0.133", "0.386 0.519 +0.133", "2/4",
        "liver 0.311 0.621 +0.310 0.361 0.671 +0.310 2", "spleen 0.261 0.217 −0.044",
        "from 0.286 to 0.419 on ct and from 0.386 to 0.519 on mr", "2 sites (ct, mr)", "2 rounds",
        "without any organ label", "2.000 → 1.000", "6.0 3.0 3.00 5.00", "fedcowpro demo --out x",
        "version 0.1.0", "First.", "Then.", "not a medical device", "phantoms",
        "query c1", "Dice in this slice 0.",
    ):  # fmt: skip
        assert expected in text, expected


def test_page_needs_nothing_from_outside(whole: tuple[Page, str]) -> None:
    parsed, html = whole
    assert parsed.links
    assert all(link.startswith("data:image/") for link in parsed.links)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    assert "url(" not in html
    assert "@import" not in html
    for part in re.findall(r"svg\+xml;base64,([A-Za-z0-9+/=]+)", html):
        assert not re.search(rb'(href|src)="http', base64.b64decode(part))


def test_pictures_have_alternatives_and_the_page_is_small(whole: tuple[Page, str]) -> None:
    parsed, html = whole
    # Two sites of dots, four curves, four panels per overlay.
    assert len(parsed.alts) == 2 + 4 + 8
    assert all(alt and ("ct" in alt or "mr" in alt or "each site" in alt) for alt in parsed.alts)
    assert len(html) < 1_000_000


def test_same_input_gives_the_same_page(whole: tuple[Page, str], tmp_path: Path) -> None:
    assert page(tmp_path)[1] == whole[1]


def test_names_are_escaped(tmp_path: Path) -> None:
    bad = "<b>$x$ & 'y'</b>"
    table = scores([(m, bad, bad, bad, "whole-volume", 0.5) for m in ("untrained", "fedcowpro")])
    parsed, html = page(
        tmp_path, title=bad, results=table, rounds=[{"round": 1, "site": bad, "losses": {"total": 1}}],
        story=[bad], overlays=[overlay(bad, bad)], facts={bad: bad, "command " + bad: bad},
    )  # fmt: skip
    assert "<b>" not in html
    assert "b" not in parsed.tags
    assert parsed.text.count(bad) >= 8


@pytest.mark.parametrize("kept", ["untrained", "fedcowpro"])
def test_a_missing_method_leaves_dashes(tmp_path: Path, kept: str) -> None:
    table = results()
    parsed, _ = page(tmp_path, results=table[table["method"] == kept], overlays=[], rounds=[])
    assert ("0.286 – –" if kept == "untrained" else "– 0.419 –") in parsed.text
    assert "went from" not in parsed.text
    assert "nan" not in parsed.text.lower()


def test_nothing_at_all_still_makes_a_page(tmp_path: Path) -> None:
    parsed, _ = page(tmp_path, results=results().iloc[:0], rounds=[], overlays=[], facts={}, story=[])
    for expected in ("no whole-volume results", "no pictures", "no results", "no training records"):
        assert expected in parsed.text


def test_only_one_protocol(tmp_path: Path) -> None:
    table = results()
    parsed, _ = page(tmp_path, results=table[table["protocol"] == "gt-range"], overlays=[])
    assert "no whole-volume results" in parsed.text
    assert "liver – – – 0.361 0.671 +0.310 2" in parsed.text


def test_undefined_dice_is_left_out_of_means(tmp_path: Path) -> None:
    table = results()
    table.loc[(table["case"] == "c2") & (table["organ"] == "liver"), "dice"] = math.nan
    table.loc[(table["site"] == "mr") & (table["organ"] == "spleen"), "dice"] = math.nan
    parsed, _ = page(tmp_path, results=table, overlays=[])
    assert "liver 0.301 0.611 +0.310 0.351 0.661 +0.310 1" in parsed.text
    assert "nan" not in parsed.text.lower()
    groups = by_group(with_groups(table), "whole-volume").set_index("group")
    assert groups.loc["mr", ["organs", "cases", "pairs", "better"]].tolist() == [1, 1, 1, 1]


def test_records_with_gaps(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"round": 1, "site": "ct"},
        {"round": 2, "site": "ct", "losses": None, "pseudo_dice": None, "seconds": "x"},
        {"round": 2, "site": "mr", "losses": {"total": 0.5}, "bytes_up": 10},
        {"event": "saved"}, {"round": 3},
    ]  # fmt: skip
    table = rounds_table(records)
    assert table[["site", "round"]].to_numpy().tolist() == [["ct", 1.0], ["ct", 2.0], ["mr", 2.0]]
    parsed, _ = page(tmp_path, rounds=records, overlays=[])
    assert "– → –" in parsed.text
    assert "nan" not in parsed.text.lower()


def test_traffic_is_told_as_a_share_of_the_model(tmp_path: Path) -> None:
    one = {"round": 1, "site": "ct", "seconds": 1.0, "bytes_down": 100_000, "bytes_up": 400_000}
    records: list[dict[str, Any]] = [
        {**one, "bytes_model": 1_000_000}, {**one, "round": 2, "bytes_down": 900_000, "bytes_model": 1_000_000},
        {**one, "site": "mr"}, {**one, "site": "t1", "bytes_model": 0},
    ]  # fmt: skip
    table = rounds_table(records)
    assert share_of_model(table) == pytest.approx((0.1 + 0.9 + 0.8) / 4)
    assert math.isnan(share_of_model(table[table["site"] != "ct"]))
    parsed, _ = page(tmp_path, rounds=records, overlays=[])
    assert "ct 2 2.0 1.0 1.00 0.80 0.45 mr 1 1.0 1.0 0.10 0.40 –" in parsed.text


def test_real_data_does_not_speak_of_phantoms(tmp_path: Path) -> None:
    parsed, _ = page(tmp_path, overlays=[], synthetic=False)
    assert "phantom" not in parsed.text
    assert "not a medical device" in parsed.text


def test_too_many_pictures_are_left_out_aloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = len(page(tmp_path, overlays=[overlay()])[1]) - len(page(tmp_path, overlays=[])[1])
    monkeypatch.setattr(sections, "PICTURE_BYTES", int(1.5 * one))
    parsed, _ = page(tmp_path, overlays=[overlay()] * 4)
    assert "Left out to keep this page small: 3 more." in parsed.text


def test_results_without_a_column_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FedCoWProError, match="without column site"):
        page(tmp_path, results=results().drop(columns="site"))


def test_overlay_refuses_arrays_that_do_not_fit() -> None:
    one = overlay()
    with pytest.raises(FedCoWProError, match="site 'ct'"):
        replace(one, prediction=one.prediction[1:])


def test_a_flat_slice_and_an_organ_at_the_border_can_be_drawn(tmp_path: Path) -> None:
    labels = np.ones((32, 48), np.uint8)
    flat = np.zeros((32, 48), np.float16)
    drawn = Overlay("ct", {1: "liver"}, flat, labels, flat, labels * 0, labels * 0, "")
    parsed, _ = page(tmp_path, overlays=[drawn])
    assert "liver Dice in this slice –" in parsed.text


def test_seeds_and_support_cases_are_averaged_per_case_first() -> None:
    low, high, other = (("fedcowpro", "ct", *rest) for rest in (
        ("a", "liver", "gt-range", 0.2), ("b", "liver", "gt-range", 0.9), ("a", "liver", "gt-range", 0.4),
    ))  # fmt: skip
    first, second = scores([low, high]), scores([other], seed=1, support_case="c8")
    table = with_groups(pd.concat([first, second]))
    assert per_case(table, "gt-range")["after"].tolist() == pytest.approx([0.3, 0.9])
    organ = by_organ(table, "gt-range").iloc[0]
    assert (organ["after"], organ["cases"]) == (pytest.approx(0.6), 2)


def test_different_settings_are_not_averaged() -> None:
    rows = [("fedcowpro", site, "a", "liver", "gt-range", 0.2) for site in ("ct", "mr")]
    few, many = scores(rows, quadrants="no"), scores(rows[:1], support_slices="all", quadrants="no")
    groups = with_groups(pd.concat([few, many]))["group"].tolist()
    assert groups == ["ct, support_slices 3", "mr", "ct, support_slices all"]


def shifted(one: Overlay, by: int, site: str) -> Overlay:
    return replace(one, prediction=np.roll(one.truth, by, 1), site=site)


def test_pictures_say_whether_this_slice_got_better_or_worse(tmp_path: Path) -> None:
    """A site's mean may rise while the slice that is shown falls."""
    near, far = 1, 4
    items = [
        *(shifted(overlay(), by, "north") for by in (far, near)),
        *(shifted(overlay(), by, "south") for by in (near, far)),
        *(shifted(overlay(), by, "west") for by in (far, far)),
        overlay("east"),
    ]
    found, _ = page(tmp_path, overlays=items)
    assert re.search(r"Site north: mean Dice in this slice 0\.\d\d before, 0\.\d\d after training, better", found.text)
    assert re.search(r"Site south: mean Dice in this slice 0\.\d\d before, 0\.\d\d after training, worse", found.text)
    assert re.search(r"Site west: mean Dice .* after training, as before", found.text)
    assert "Site east" in found.text


def test_volumes_stand_beside_dice(tmp_path: Path) -> None:
    rows = [("fedcowpro", "ct", f"c{n}", "liver", "whole-volume", 0.7) for n in range(4)]
    table = scores(rows).assign(relative_volume_error=[0.1, -0.2, 0.0, 0.3])
    found, html = page(tmp_path, results=table)
    assert "volume found after training against the true one" in html
    assert "limits of agreement" in found.text
    _, html = page(tmp_path, results=scores(rows))
    assert "volume found after training" not in html


def test_organs_have_one_colour_on_pages_and_pictures(tmp_path: Path) -> None:
    from fedcowpro.volume.organ_colours import organ_colours

    _, html = page(tmp_path)
    colours = organ_colours({6: "liver", 1: "spleen"})
    assert f"background:{colours[6]}" in html
