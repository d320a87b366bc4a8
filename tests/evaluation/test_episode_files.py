"""Episodes: roles choose them, files carry them, and other sites than theirs are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import ORGANS
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import Episode, load_episodes, plan_episodes
from fedcowpro.oneshot.slices import pick_slices, slices_of

NAMES = tuple(ORGANS.values())


def planned(site: Site, **options: Any) -> tuple[Episode, ...]:
    return plan_episodes({"here": site}, **options).episodes


def parts(site: Site, **options: Any) -> list[tuple[str, tuple[str, ...]]]:
    """(supports, queries) of each episode."""
    return [(episode.support_case, episode.queries) for episode in planned(site, **options)]


def test_roles_choose(ct_site: Site) -> None:
    assert parts(ct_site) == [("1", ("3",))]
    assert parts(ct_site, supports=["2"]) == [("2", ("3",))]
    assert parts(ct_site, queries=["2"]) == [("1", ("2",))]
    assert parts(ct_site, supports=["1", "2"]) == [("1+2", ("3",))]
    assert parts(ct_site, every_support=True) == [("1", ("3",)), ("3", ("1",))]  # 2 trains
    (episode,) = planned(ct_site, organs=["spleen", "liver"])
    assert episode.organs == ("liver", "spleen")


@pytest.mark.parametrize("slices", [1, 3, "all"])
def test_slices_are_the_published_ones(ct_site: Site, slices: Any) -> None:
    (episode,) = planned(ct_site, slices=slices)
    assert episode.support_slices == slices
    for value, organ in ORGANS.items():
        expected = pick_slices(slices_of(ct_site.labels("1"), value), slices)
        assert list(episode.supports[0].slices[organ]) == expected


def without_roles(site: Site, target: Path) -> Site:
    shutil.copytree(site.path, target)
    manifest = json.loads((target / "manifest.json").read_text())
    for case in manifest["cases"]:
        case["role"] = "train"
    (target / "manifest.json").write_text(json.dumps(manifest))
    return Site.open(target)


def test_without_roles_the_first_labelled_case_supports(ct_site: Site, tmp_path: Path) -> None:
    site = without_roles(ct_site, tmp_path / "site")
    assert parts(site) == [("1", ("2", "3"))]
    assert parts(site, every_support=True) == [("1", ("2", "3")), ("2", ("1", "3")), ("3", ("1", "2"))]
    (site.path / "labels" / "1.npy").unlink()
    assert parts(site) == [("2", ("3",))]
    (site.path / "labels" / "2.npy").unlink()
    with pytest.raises(FedCoWProError, match="labelled cases"):
        parts(site)


def test_every_site_supports_every_site(ct_site: Site, tmp_path: Path) -> None:
    sites = {"a": ct_site, "b": without_roles(ct_site, tmp_path / "b")}
    plan = plan_episodes(sites, cross=True)
    found = [(e.support_site, e.support_case, e.site, e.queries) for e in plan.episodes]
    assert found == [
        ("a", "1", "a", ("3",)), ("b", "1", "a", ("3",)),
        ("a", "1", "b", ("1", "2", "3")), ("b", "1", "b", ("2", "3")),
    ]  # fmt: skip


def test_an_organ_that_no_example_shows_is_not_asked_for(ct_site: Site, tmp_path: Path) -> None:
    shutil.copytree(ct_site.path, tmp_path / "site")
    labels = ct_site.labels("1")
    np.save(tmp_path / "site" / "labels" / "1.npy", np.where(labels == 4, 0, labels).astype(np.uint8))
    (episode,) = planned(Site.open(tmp_path / "site"))
    assert episode.organs == NAMES[:3]


def test_a_file_brings_back_the_same_episodes(ct_site: Site, tmp_path: Path) -> None:
    plan = plan_episodes({"here": ct_site}, every_support=True)
    plan.save(tmp_path / "new" / "e.json")
    assert load_episodes(tmp_path / "new" / "e.json") == plan
    plan.require_sites({"here": ct_site, "more": ct_site})
    with pytest.raises(FedCoWProError, match="no site 'here'"):
        plan.require_sites({"there": ct_site})
    # Roles and superpixels are of the training; an image or a label is what scores depend on.
    plan.require_sites({"here": without_roles(ct_site, tmp_path / "roles")})
    for part in ("cases/1/superpixels.npy", "cases/1/image.npy", "labels/1.npy"):
        folder = tmp_path / part.replace("/", "-")
        shutil.copytree(ct_site.path, folder)
        array = np.load(folder / part)
        array[0, 0, 0] += 1
        np.save(folder / part, array)
        if part.endswith("superpixels.npy"):
            plan.require_sites({"here": Site.open(folder)})
        else:
            with pytest.raises(FedCoWProError, match="for which the episodes were made"):
                plan.require_sites({"here": Site.open(folder)})


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FedCoWProError, match="no file"):
        load_episodes(tmp_path / "e.json")
    for text in ("{", "{}", '{"version": 2}'):
        (tmp_path / "e.json").write_text(text)
        with pytest.raises(FedCoWProError, match=r"e\.json"):
            load_episodes(tmp_path / "e.json")


def test_a_support_without_any_organ_is_refused(ct_site: Site, tmp_path: Path) -> None:
    shutil.copytree(ct_site.path, tmp_path / "site")
    np.save(tmp_path / "site" / "labels" / "1.npy", np.zeros_like(ct_site.labels("1")))
    with pytest.raises(FedCoWProError, match=r"support case '1' .* shows none of"):
        planned(Site.open(tmp_path / "site"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"supports": ["9"]}, "support 9"),
        ({"queries": ["9"]}, r"queries \['9'\]"),
        ({"supports": ["3"]}, "support 3, queries"),
        ({"queries": ["1", "2"]}, "support 1, queries"),
        ({"organs": ["liver", "heart"]}, r"no organ \['heart'\]"),
        ({"supports": ["1"], "every_support": True}, "one of the two"),
    ],
)
def test_impossible_episodes_are_refused(ct_site: Site, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FedCoWProError, match=message):
        planned(ct_site, **options)
