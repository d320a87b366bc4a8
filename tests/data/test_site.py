"""A site folder is read as it was written, and a folder that is none, or is broken, is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedcowpro import __version__
from fedcowpro.config import PrepareConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.manifest import CaseRecord, Manifest
from fedcowpro.data.preparation.site import Site
from fedcowpro.volume.preprocess import Placement

CONFIG = PrepareConfig(modality="mr", size=32)
RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(3, 32, 32)).astype(np.float16)
SEGMENTS = RNG.integers(0, 3, (3, 32, 32)).astype(np.uint16)
LABELS = RNG.integers(0, 3, (3, 32, 32)).astype(np.uint8)
PLACE = Placement((3, 40, 40), (5.0, 1.0, 1.0), 32, 1.0)
AREAS = ((120, 99), (), (100, 700))  # min_area is 100


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Three cases by hand: a training, a support and a query case, the last two with labels."""
    root, records = tmp_path / "site", []
    for name, role in (("b", "train"), ("a", "support"), ("c", "query")):
        folder = root / "cases" / name
        folder.mkdir(parents=True)
        np.save(folder / "image.npy", IMAGE)
        np.save(folder / "superpixels.npy", SEGMENTS)
        case = {
            "id": name,
            "modality": "mr",
            "guessed": "mr",
            "depth": 3,
            "spacing": (5.0, 1.0, 1.0),
            "source": "0" * 64,
            "areas": AREAS,
        }
        extra = {
            "placement": PLACE.to_json(),
            "inputs": "1" * 64,
            "label_values": None,
            "cropped_labels": None,
        }
        (folder / "case.json").write_text(json.dumps(case | extra))
        records.append(CaseRecord(**case, role=role))
    (root / "labels").mkdir()
    for name in "ac":
        np.save(root / "labels" / f"{name}.npy", LABELS)
    (root / "labels" / "organs.json").write_text('{"1": "liver", "2": "spleen"}')
    manifest = Manifest(
        version=2,
        fedcowpro=__version__,
        dataset="folder",
        settings=CONFIG,
        cases=tuple(records),
    )
    (root / "manifest.json").write_text(manifest.model_dump_json())
    return root


def test_arrays_come_back_as_written(site: Path) -> None:
    opened = Site.open(site)
    np.testing.assert_array_equal(opened.image("b"), IMAGE)
    np.testing.assert_array_equal(opened.image_slice("b", 1), IMAGE[1])
    np.testing.assert_array_equal(opened.superpixel_slice("a", 2), SEGMENTS[2])
    np.testing.assert_array_equal(opened.labels("a"), LABELS)
    assert opened.image("b").dtype == opened.image_slice("b", 0).dtype == np.float32
    assert opened.superpixel_slice("b", 0).dtype == np.uint16
    assert opened.labels("a").dtype == np.uint8


def test_what_a_read_gives_does_not_hold_the_file(site: Path) -> None:
    opened = Site.open(site)
    for array in (opened.superpixel_slice("b", 0), opened.image_slice("b", 0), opened.labels("a")):
        assert type(array) is np.ndarray
        assert array.base is None
        array += 1  # and may be written to
    np.testing.assert_array_equal(opened.superpixel_slice("b", 0), SEGMENTS[0])


def test_facts_of_the_site(site: Path) -> None:
    opened = Site.open(site)
    assert (opened.modalities, opened.size) == (("mr",), 32)
    assert [case.id for case in opened.cases] == ["b", "a", "c"]
    assert opened.with_role("train") == ("b",)
    assert opened.with_role("support") == ("a",)
    assert opened.with_role("query") == ("c",)
    assert opened.labelled_cases == ("a", "c")
    assert opened.organs == {1: "liver", 2: "spleen"}
    assert opened.spacing("a") == (5.0, 1.0, 1.0)
    assert opened.place("a") == PLACE


def test_training_slices_have_usable_segments_of_training_cases_only(site: Path) -> None:
    opened = Site.open(site)
    assert opened.train_slices() == [("b", 0, (1,)), ("b", 2, (1, 2))]
    assert opened.n_train_slices == 2


def test_training_needs_no_labels(site: Path) -> None:
    digest = Site.open(site).digest
    shutil.rmtree(site / "labels")
    opened = Site.open(site)
    assert opened.digest == digest
    assert opened.n_train_slices == 2
    assert opened.labelled_cases == ()
    assert opened.organs == {}
    with pytest.raises(FedCoWProError, match=r"case 'a' of .* has no labels"):
        opened.labels("a")


def test_digest_tells_roles_apart(site: Path) -> None:
    digest = Site.open(site).digest
    manifest = site / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"query"', '"train"'))
    assert Site.open(site).digest != digest


def test_unknown_cases_and_slices_are_refused(site: Path) -> None:
    opened = Site.open(site)
    for read in (opened.image, opened.labels, opened.place, opened.spacing):
        with pytest.raises(FedCoWProError, match="no case 'x'"):
            read("x")
    for z in (-1, 3):
        with pytest.raises(FedCoWProError, match=f"slice {z} of case 'b'"):
            opened.image_slice("b", z)
        with pytest.raises(FedCoWProError, match=f"slice {z} of case 'b'"):
            opened.superpixel_slice("b", z)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-500])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "none": (shutil.rmtree, "no folder"),
    "something else": (
        lambda site: shutil.rmtree(site / "cases") or (site / "manifest.json").unlink(),
        "is not a site folder",
    ),
    "unfinished": (lambda site: (site / "manifest.json").unlink(), "not finished"),
    "no json": (lambda site: (site / "manifest.json").write_text("{"), r"manifest\.json is damaged"),
    "field": (lambda site: (site / "manifest.json").write_text("{}"), r"manifest\.json is damaged"),
    "lost case": (lambda site: shutil.rmtree(site / "cases" / "c"), r"c/image\.npy is damaged"),
    "cut image": (lambda site: truncate(site / "cases" / "a" / "image.npy"), r"a/image\.npy is damaged"),
    "empty": (
        lambda site: (site / "cases" / "a" / "superpixels.npy").write_bytes(b""),
        r"superpixels\.npy is damaged",
    ),
    "type": (
        lambda site: np.save(site / "cases" / "a" / "image.npy", SEGMENTS),
        "uint16 .* instead of float16",
    ),
    "shape": (
        lambda site: np.save(site / "cases" / "a" / "image.npy", IMAGE[1:]),
        r"\(2, 32, 32\) instead of",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_folders_are_refused(site: Path, kind: str) -> None:
    change, message = BROKEN[kind]
    change(site)
    with pytest.raises(FedCoWProError, match=message):
        Site.open(site)


def test_a_manifest_of_another_version_is_refused(site: Path) -> None:
    manifest = site / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 1}))
    with pytest.raises(FedCoWProError, match=r"another version .*version"):
        Site.open(site)


def test_damaged_labels_are_noticed_when_they_are_read(site: Path) -> None:
    truncate(site / "labels" / "a.npy")
    (site / "labels" / "organs.json").write_text("[1]")
    opened = Site.open(site)
    with pytest.raises(FedCoWProError, match=r"a\.npy is damaged"):
        opened.labels("a")
    with pytest.raises(FedCoWProError, match=r"organs\.json is damaged"):
        _ = opened.organs
