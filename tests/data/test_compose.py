"""Site folders made of cases of other site folders."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from common import SMALL
from fedcowpro.config import PrepareConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.compose import Part, compose_site
from fedcowpro.data.preparation.prepare import prepare
from fedcowpro.data.preparation.site import Site


@pytest.fixture(scope="module")
def mr_site(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Patients 1 and 2, with the names of liver and spleen exchanged, so that values differ from those of `ct_site`."""
    config = PrepareConfig(modality="mr", size=64, superpixels=SMALL)
    out = tmp_path_factory.mktemp("mr") / "site"
    organs = {1: "spleen", 4: "liver", 5: "stomach"}
    return prepare(phantoms / "t2", out, config, organs=organs, workers=1, progress=False)


def linked(one: Path, other: Path) -> bool:
    return os.stat(one).st_ino == os.stat(other).st_ino


def test_a_composed_site_reads_like_its_parts(ct_site: Site, mr_site: Site, tmp_path: Path) -> None:
    parts = [
        Part(mr_site, "2", "mr-2", "train"),
        Part(ct_site, "3", "ct-3", "support"),
        Part(ct_site, "1", "q", "query"),
    ]
    site = compose_site(tmp_path / "deep" / "site", parts)
    assert [(case.id, case.role, case.modality) for case in site.cases] == [
        ("mr-2", "train", "mr"), ("ct-3", "support", "ct"), ("q", "query", "ct"),
    ]  # fmt: skip
    assert site.modalities == ("ct", "mr")
    assert site.manifest.settings == ct_site.manifest.settings.model_copy(update={"modality": None})
    assert len(site.train_slices()) == sum(case == "2" for case, _, _ in mr_site.train_slices())
    for part in parts:
        assert np.array_equal(site.image(part.id), part.site.image(part.case))
        assert np.array_equal(site.superpixel_slice(part.id, 4), part.site.superpixel_slice(part.case, 4))
        assert site.place(part.id) == part.site.place(part.case)
        for name in ("image.npy", "superpixels.npy"):
            assert linked(site.path / "cases" / part.id / name, part.site.path / "cases" / part.case / name)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_organs_are_joined_by_name_and_labels_follow(ct_site: Site, mr_site: Site, tmp_path: Path) -> None:
    site = compose_site(tmp_path / "site", [Part(ct_site, "2", "a", "train"), Part(mr_site, "1", "b", "query")])
    values = {name: value for value, name in site.organs.items()}
    assert set(values) == {*ct_site.organs.values(), "stomach"}
    for part, labelled in ((ct_site, ("a", "2")), (mr_site, ("b", "1"))):
        new, old = site.labels(labelled[0]), part.labels(labelled[1])
        for value, name in part.organs.items():
            assert np.array_equal(new == values[name], old == value), name
    assert (site.labels("b") == values["liver"]).any()
    assert linked(site.path / "labels" / "a.npy", ct_site.path / "labels" / "2.npy")  # its values did not change


def test_equal_parts_give_an_equal_digest(ct_site: Site, tmp_path: Path) -> None:
    parts = [Part(ct_site, "1", "x", "train"), Part(ct_site, "2", "y", "train")]
    first, second = (compose_site(tmp_path / name, parts) for name in ("one", "two"))
    assert first.digest == second.digest
    assert compose_site(tmp_path / "three", parts[::-1]).digest != first.digest


def test_slices_left_out_of_training_stay_left_out(phantoms: Path, tmp_path: Path) -> None:
    config = PrepareConfig(modality="mr", size=64, superpixels=SMALL)
    source = prepare(
        phantoms / "t2",
        tmp_path / "pool",
        config,
        organs={1: "liver"},
        test_organs=["liver"],
        workers=1,
        progress=False,
    )
    assert source.record("1").left_out
    site = compose_site(tmp_path / "site", [Part(source, "1", "1", "train"), Part(source, "2", "2", "query")])
    assert site.record("1").left_out == source.record("1").left_out
    assert site.record("2").left_out == ()
    assert site.train_slices() == [entry for entry in source.train_slices() if entry[0] == "1"]


def test_without_hard_links_arrays_are_copied(ct_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    site = compose_site(tmp_path / "site", [Part(ct_site, "2", "2", "query")])
    assert np.array_equal(site.image("2"), ct_site.image("2"))
    assert np.array_equal(site.labels("2"), ct_site.labels("2"))


def test_a_site_that_is_there_is_kept(ct_site: Site, tmp_path: Path) -> None:
    parts = [Part(ct_site, "1", "1", "train")]
    before = os.stat(compose_site(tmp_path / "site", parts).path / "manifest.json").st_mtime_ns
    assert os.stat(compose_site(tmp_path / "site", parts).path / "manifest.json").st_mtime_ns == before
    with pytest.raises(FedCoWProError, match="other cases, roles or settings"):
        compose_site(tmp_path / "site", [Part(ct_site, "2", "2", "train")])


def test_what_an_interruption_left_does_not_matter(
    ct_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    parts = [Part(ct_site, "1", "1", "train")]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            compose_site(tmp_path / "site", parts)
    assert not (tmp_path / "site").exists()
    assert compose_site(tmp_path / "site", parts).n_train_slices


def test_mistakes_are_named(ct_site: Site, mr_site: Site, phantoms: Path, tmp_path: Path) -> None:
    other = prepare(
        phantoms / "ct", tmp_path / "other", PrepareConfig(modality="ct", size=96), cases=["1"], workers=1,
        organs={1: "liver"}, progress=False,
    )  # fmt: skip
    bare = tmp_path / "bare"
    shutil.copytree(ct_site.path, bare)
    (bare / "labels" / "3.npy").unlink()
    wrong = {
        "at least one case": [],
        "repeated or unfit ids: x": [Part(ct_site, "1", "x", "train"), Part(mr_site, "1", "x", "train")],
        r"unfit ids: \.\./x": [Part(ct_site, "1", "../x", "train")],
        "has no case '9'": [Part(ct_site, "9", "9", "train")],
        r"different settings \(size, superpixels\)": [Part(ct_site, "1", "1", "train"), Part(other, "1", "2", "train")],
        "query case without labels": [Part(Site.open(bare), "3", "3", "query")],
    }
    for message, parts in wrong.items():
        with pytest.raises(FedCoWProError, match=message):
            compose_site(tmp_path / "site", parts)
    assert not (tmp_path / "site").exists()
