"""The page about a site: sound volumes raise no warning, each kind of spoiled volume raises its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from test_report import Page

from common import ORGANS, SMALL
from fedcowpro.config import Modality, PrepareConfig, SuperpixelConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.prepare import prepare
from fedcowpro.data.preparation.site import Site
from fedcowpro.reports.site_report.case_facts import BINS, CaseFacts, covered, measure
from fedcowpro.reports.site_report.findings import OUTLIER, TRAIN_SLICES, findings, histogram_distance, outlyingness
from fedcowpro.reports.site_report.inspect import inspect

pytestmark = pytest.mark.slow

Volumes = Mapping[str, nib.Nifti1Image]
Spoil = Callable[[dict[str, nib.Nifti1Image]], dict[str, nib.Nifti1Image]]


# What comes along with a spoiled volume.
FOLLOWS = {
    "Inverted contrast": {"Few superpixels"},
    "Wrong modality": {"Few superpixels"},
    "Different grey values": {"Few superpixels"},
    "Nearly empty volume": {"Different grey values", "Few superpixels", "Implausible size"},
    "Few usable slices": {"Different grey values", "Few slices to train on"},
    "Nominal spacing": {"Implausible size"},  # phantoms of 64 pixels are 64 mm wide then
}


def prepared(
    folder: Path,
    volumes: Volumes,
    modality: Modality,
    *,
    labels: Volumes | None = None,
    organs: Mapping[int, str] = ORGANS,
    **options: object,
) -> Site:
    """A site of these volumes, all for training."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    for kind, group in (("image", volumes), ("label", labels or {})):
        for case, volume in group.items():
            nib.save(volume, raw / f"{kind}_{case}.nii.gz")
    config = PrepareConfig.model_validate({"modality": modality, "size": 64, "superpixels": SMALL} | options)
    return prepare(raw, folder / "site", config, workers=1, progress=False, organs=organs if labels else None)


def read(folder: Path, kind: str = "image") -> dict[str, nib.Nifti1Image]:
    """Case -> its volume, in memory."""
    files = sorted(folder.glob(f"{kind}_*.nii.gz"))
    loaded = {file.name.split("_")[1].split(".")[0]: nib.load(file) for file in files}
    return {case: nib.Nifti1Image(np.asarray(image.dataobj), image.affine) for case, image in loaded.items()}


def changed(volume: nib.Nifti1Image, change: Callable[[np.ndarray], np.ndarray]) -> nib.Nifti1Image:
    return nib.Nifti1Image(change(np.asarray(volume.dataobj).astype(np.float32)), volume.affine)


def only_last(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Spoils the last case."""
    return lambda volumes: volumes | {max(volumes): changed(volumes[max(volumes)], change)}


def every(affine: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Gives every case another affine."""
    return lambda volumes: {case: nib.Nifti1Image(v.dataobj, affine(v.affine)) for case, v in volumes.items()}


def body_kept(part: tuple[slice, ...]) -> Callable[[np.ndarray], np.ndarray]:
    def change(voxels: np.ndarray) -> np.ndarray:
        out = np.full_like(voxels, voxels.min())
        out[part] = voxels[part]
        return out

    return change


def hot_spot(voxels: np.ndarray) -> np.ndarray:
    """A hundredth of the voxels is three times as bright as the rest: MR's upper clip follows them."""
    out = voxels.copy()
    out[24:40, 24:40, :2] = 3 * voxels.max()
    return out


def warned(site: Site) -> dict[str, tuple[str, ...]]:
    found = findings([measure(site, case.id) for case in site.cases], site.n_train_slices, site.organs)
    return {finding.name: finding.cases for finding in found if finding.serious}


def test_sound_volumes_raise_no_warning(phantoms: Path, tmp_path: Path) -> None:
    assert warned(prepared(tmp_path, read(phantoms / "ct"), "ct")) == {}
    (tmp_path / "t2").mkdir()
    assert warned(prepared(tmp_path / "t2", read(phantoms / "t2"), "mr")).keys() == {"Few slices to train on"}


@pytest.mark.parametrize(
    ("kind", "modality", "spoil", "name", "cases"),
    [
        ("ct", "ct", only_last(lambda v: v.max() + v.min() - v), "Inverted contrast", "3"),
        ("t2", "mr", only_last(lambda v: v.max() - v), "Inverted contrast", "2"),
        ("ct", "ct", only_last(lambda v: v + 1024), "Wrong modality", "3"),
        ("ct", "mr", lambda volumes: volumes, "Wrong modality", "123"),
        ("t2", "ct", lambda volumes: volumes, "Wrong modality", "12"),
        ("ct", "ct", only_last(body_kept(np.s_[28:36, 28:36, :])), "Nearly empty volume", "3"),
        ("ct", "ct", only_last(body_kept(np.s_[:, :, :3])), "Few usable slices", "3"),
        ("t2", "mr", only_last(hot_spot), "Different grey values", "12"),
        ("ct", "ct", every(lambda affine: affine @ np.diag([1 / 3, 1 / 3, 1 / 3, 1])), "Implausible size", "123"),
        ("ct", "ct", every(lambda affine: np.eye(4)), "Nominal spacing", "123"),
        ("ct", "ct", lambda volumes: volumes | {"9": volumes["1"]}, "Duplicate cases", "19"),
        ("ct", "ct", lambda volumes: volumes | {"9": changed(volumes["1"], np.copy)}, "Duplicate cases", "19"),
        ("ct", "ct", lambda volumes: {"1": volumes["1"]}, "Few slices to train on", ""),
    ],
)
def test_spoiled_volumes_raise_their_warning(
    phantoms: Path, tmp_path: Path, kind: str, modality: Modality, spoil: Spoil, name: str, cases: str
) -> None:
    found = warned(prepared(tmp_path, spoil(read(phantoms / kind)), modality))
    assert found[name] == tuple(cases)
    two_cases = {"Few slices to train on"} if kind == "t2" else set()
    assert found.keys() - {name} <= FOLLOWS.get(name, set()) | two_cases


def test_labels_that_the_crop_cuts_off(phantoms: Path, tmp_path: Path) -> None:
    images, labels = ({"1": read(phantoms / "ct", kind)["1"]} for kind in ("image", "label"))
    own = float(np.linalg.norm(images["1"].affine[:3, 0]))
    found = warned(prepared(tmp_path, images, "ct", labels=labels, size=32, spacing=own))
    assert found["Labels cut off"] == ("1",)


def test_large_superpixels_are_few_and_do_not_show_organs(phantoms: Path, tmp_path: Path) -> None:
    images, labels = (read(phantoms / "ct", kind) for kind in ("image", "label"))
    site = prepared(tmp_path, images, "ct", labels=labels, superpixels=SuperpixelConfig(min_size=600))
    assert warned(site) == {"Few superpixels": ("1", "2", "3")}
    found = findings([measure(site, case.id) for case in site.cases], site.n_train_slices, site.organs)
    assert "spleen (0." in found[-1].text
    assert not found[-1].serious


def test_one_spacing_for_all_is_a_note(ct_site: Site) -> None:
    cases = [replace(measure(ct_site, "1"), digest=str(i)) for i in range(4)]
    cases = [replace(case, record=case.record.model_copy(update={"id": str(i)})) for i, case in enumerate(cases)]
    names = {finding.name: finding.serious for finding in findings(cases, TRAIN_SLICES, {})}
    assert names["The same spacing everywhere"] is False
    assert "The same spacing everywhere" not in {finding.name for finding in findings(cases[:3], TRAIN_SLICES, {})}


def test_volumes_that_leave_the_slices_empty_are_noted(phantoms: Path, tmp_path: Path) -> None:
    images = {"1": read(phantoms / "ct")["1"]}
    site = prepared(tmp_path, images, "ct", size=128)
    found = {finding.name: finding for finding in findings([measure(site, "1")], TRAIN_SLICES, {})}
    note = found["Small in the slices"]
    assert (note.serious, note.cases) == (False, ("1",))
    spacing = float(note.text.split("--spacing ")[1].split()[0])
    assert spacing == pytest.approx(site.spacing("1")[2] / 2, rel=0.05)
    filled = prepared(tmp_path / "filled", images, "ct", size=128, spacing=spacing)
    assert measure(filled, "1").shown > 0.95


def test_histogram_distance_is_in_grey_values() -> None:
    one, other = np.zeros(BINS), np.zeros(BINS)
    one[10], other[26] = 1, 1
    assert histogram_distance(one, other) == pytest.approx(16 * 255 / BINS)
    assert histogram_distance((one + other) / 2, other) == pytest.approx(8 * 255 / BINS)


def test_an_odd_case_does_not_make_the_others_odd(ct_site: Site) -> None:
    facts = measure(ct_site, "1")
    odd = replace(facts, histogram=facts.histogram[::-1].copy())
    assert histogram_distance(facts.histogram, odd.histogram) > OUTLIER
    distances = outlyingness([facts, replace(facts), odd])
    assert distances[:2] == [0, 0]
    assert distances[2] > OUTLIER
    mr = replace(odd, record=odd.record.model_copy(update={"modality": "mr"}))
    assert outlyingness([facts, replace(facts), mr]) == [0, 0, 0]  # modalities are not compared


def test_facts_of_a_case(ct_site: Site) -> None:
    facts = measure(ct_site, "1")
    segments = np.stack([ct_site.superpixel_slice("1", z) for z in range(facts.record.depth)])
    assert facts.histogram.sum() == pytest.approx(1)
    assert facts.body == pytest.approx((segments > 0).mean())
    assert facts.corners < facts.centre
    first = np.flatnonzero((segments[5] > 0).any(axis=0))
    assert facts.width == pytest.approx((first[-1] - first[0] + 1) * facts.record.spacing[2], rel=0.2)
    assert facts.areas.sum() == np.count_nonzero(segments)
    assert facts.usable == sum(any(area >= SMALL.min_area for area in plane) for plane in facts.record.areas)
    assert facts.labels == (1, 2, 3, 4)
    assert facts.whole.pixels(1) == np.count_nonzero(ct_site.labels("1") == 1)
    assert 0.3 < facts.single(1) <= 1


def test_padding_is_not_the_image(phantoms: Path, tmp_path: Path) -> None:
    """An inverted volume in a larger slice: the padding is as dark as before, the image's corners are bright."""
    site = prepared(tmp_path, only_last(lambda v: v.max() - v)(read(phantoms / "t2")), "mr", size=96)
    assert covered(site, "1") == (slice(16, 80), slice(16, 80))
    assert warned(site)["Inverted contrast"] == ("2",)


@pytest.fixture(scope="module")
def page(ct_site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, tuple[str, ...]]:
    out = tmp_path_factory.mktemp("page") / "new" / "site.html"
    lines = inspect(ct_site, out, progress=False)
    assert [file.name for file in out.parent.iterdir()] == ["site.html"]
    return out.read_text(encoding="utf-8"), lines


def test_page_says_what_was_measured(page: tuple[str, tuple[str, ...]], ct_site: Site) -> None:
    html, lines = page
    shown = Page(html)
    assert lines[0].startswith("Few slices to train on: Training draws from 10 slices")
    facts = measure(ct_site, "2")
    union = np.mean([measure(ct_site, case).whole.best_union(1) for case in "123"])
    for expected in (
        "Site ct", "3 CT cases, 1 for training with 10 slices to draw from. 1 warning",
        "Warning: Few slices to train on", "Training never reads them", "2 train CT 10 100%", f"{facts.width:.0f}",
        f"liver 3 {union:.3f}", "Boundary recall", "within 2 pixels", "tenth to the ninetieth", "site digest",
        ct_site.digest, "method merging, scale 1500.0, sigma 1.5, min_size 40",
    ):  # fmt: skip
        assert expected in shown.text or expected in html, expected
    assert "worst" in shown.text
    assert all(shown.alts)


def test_page_needs_nothing_else_and_is_the_same_every_time(
    page: tuple[str, tuple[str, ...]], ct_site: Site, tmp_path: Path
) -> None:
    assert all(link.startswith("data:image/") for link in Page(page[0]).links)
    assert "<script" not in page[0]
    inspect(ct_site, tmp_path / "again.html", workers=1, progress=False)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page[0]


def test_page_without_labels_and_without_pictures(phantoms: Path, tmp_path: Path) -> None:
    site = prepared(tmp_path, read(phantoms / "ct"), "ct")
    assert inspect(site, tmp_path / "page.html", shown=0, progress=False) == ()
    text = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "No case has labels" in text
    assert "There are no pictures" in text
    assert "Nothing stands out" in text


def test_names_are_escaped(phantoms: Path, tmp_path: Path) -> None:
    images, labels = ({"1": read(phantoms / "ct", kind)["1"]} for kind in ("image", "label"))
    site = prepared(tmp_path, images, "ct", labels=labels, organs={1: "a <b> & $c"})
    inspect(site, tmp_path / "page.html", shown=1, progress=False)
    assert Page((tmp_path / "page.html").read_text(encoding="utf-8")).text.count("a <b> & $c") > 2


def test_mistakes_are_refused(ct_site: Site, tmp_path: Path) -> None:
    with pytest.raises(FedCoWProError, match="is a folder"):
        inspect(ct_site, tmp_path, progress=False)
    with pytest.raises(FedCoWProError, match="at least 1"):
        inspect(ct_site, tmp_path / "page.html", workers=0, progress=False)


@pytest.mark.parametrize(
    ("folder", "modality", "cases"), [("chaos_mr_t2", "mr", ("1", "20")), ("chaos_ct", "ct", ("chaosct",))]
)
def test_real_volumes_raise_no_warning(
    real_data: Path, tmp_path: Path, folder: str, modality: Modality, cases: tuple[str, ...]
) -> None:
    config = PrepareConfig(modality=modality, superpixels=SuperpixelConfig(method="merging"))
    site = prepare(real_data / folder, tmp_path / "site", config, cases=cases, workers=1, progress=False)
    facts: list[CaseFacts] = [measure(site, case) for case in cases]
    assert [finding.name for finding in findings(facts, site.n_train_slices, {}) if finding.serious] == []
    assert min(case.whole.best_union(1) for case in facts) > 0.8
