"""Procedural patients: reproducible, anatomically the right way round, and with values like a scanner's."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.phantom import ORGANS, Kind, Phantom, make_phantom, write_phantom, write_site

pytestmark = pytest.mark.slow

KINDS: tuple[Kind, ...] = ("ct", "t1", "t2", "brachy")


def small(kind: Kind, seed: int) -> Phantom:
    return make_phantom(kind, seed, size=56, depth=14)


def centre(phantom: Phantom, organ: str) -> np.ndarray:
    """Centre of an organ as a fraction of (depth, height, width)."""
    number = next(k for k, name in phantom.organs.items() if name == organ)
    return np.argwhere(phantom.labels == number).mean(0) / phantom.labels.shape


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bits_and_another_seed_another_patient(kind: Kind) -> None:
    first, again = make_phantom(kind, 3, size=48, depth=8), make_phantom.__wrapped__(kind, 3, size=48, depth=8)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.labels.tobytes() == again.labels.tobytes()
    other = make_phantom(kind, 4, size=48, depth=8)
    assert (other.labels != first.labels).mean() > 0.01
    assert other.spacing != first.spacing


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_types_and_names(kind: Kind) -> None:
    phantom = small(kind, 0)
    assert phantom.image.shape == phantom.labels.shape == (14, 56, 56)
    assert phantom.image.dtype == np.float32
    assert phantom.labels.dtype == np.uint8
    assert phantom.organs == ORGANS["pelvis" if kind == "brachy" else "abdomen"]
    assert phantom.modality == ("ct" if kind == "ct" else "mr")
    assert np.isfinite(phantom.image).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_every_organ_is_there(kind: Kind, seed: int) -> None:
    phantom = small(kind, seed)
    sizes = np.bincount(phantom.labels.ravel(), minlength=len(phantom.organs) + 1)
    assert len(sizes) == len(phantom.organs) + 1
    assert sizes.min() >= 5, dict(zip(phantom.organs.values(), sizes[1:], strict=True))


@pytest.mark.parametrize("kind", ["ct", "t1", "t2"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_abdomen_is_the_right_way_round(kind: Kind, seed: int) -> None:
    phantom = small(kind, seed)
    assert centre(phantom, "liver")[2] < 0.5 < centre(phantom, "spleen")[2]
    assert centre(phantom, "right kidney")[2] < 0.5 < centre(phantom, "left kidney")[2]
    assert centre(phantom, "stomach")[2] > 0.5
    assert centre(phantom, "liver")[0] > centre(phantom, "right kidney")[0]
    assert centre(phantom, "left kidney")[1] > centre(phantom, "stomach")[1]


def test_pelvis_is_the_right_way_round() -> None:
    phantom = small("brachy", 0)
    assert centre(phantom, "rectum")[1] > centre(phantom, "bladder")[1]
    columns = np.nonzero((phantom.labels == 4).any((0, 1)))[0]
    assert columns.min() < 28 < columns.max()


def test_ct_is_in_hounsfield_units() -> None:
    phantom = small("ct", 0)
    assert phantom.image.min() >= -1024
    assert phantom.image.max() > 350  # bone
    assert phantom.image[:, 0].mean() == pytest.approx(-1000, abs=10)
    assert 20 < np.median(phantom.image[phantom.labels == 1]) < 160


@pytest.mark.parametrize("kind", ["t1", "t2", "brachy"])
def test_mr_noise_is_rician(kind: Kind) -> None:
    phantom = make_phantom(kind, 0, size=72, depth=18)
    air = phantom.image[:, :5, :5]  # in a smaller phantom the pelvis reaches into this corner
    assert phantom.image.min() >= 0
    # A Rayleigh distribution has a mean of 1.91 standard deviations.
    assert air.mean() / air.std() == pytest.approx(1.91, abs=0.25)


def test_bladder_is_bright_and_liver_is_like_its_surroundings() -> None:
    pelvis = small("brachy", 0)
    assert np.median(pelvis.image[pelvis.labels == 1]) > 1.3 * np.median(pelvis.image[pelvis.labels == 4])
    abdomen = small("ct", 0)
    liver, spleen = (np.median(abdomen.image[abdomen.labels == k]) for k in (1, 4))
    assert abs(liver - spleen) < 70


def test_files_keep_pixels_spacing_and_sides(tmp_path: Path) -> None:
    phantom = small("ct", 0)
    image_path, label_path = write_phantom(phantom, tmp_path / "site", "7")
    assert (image_path.name, label_path.name) == ("image_7.nii.gz", "label_7.nii.gz")
    image, labels = nib.load(image_path), nib.load(label_path)
    assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
    assert np.allclose(image.affine, labels.affine)
    assert np.allclose(image.header.get_zooms(), phantom.spacing[::-1])
    back = np.asarray(image.dataobj)[:, ::-1].transpose(2, 1, 0)
    assert np.abs(back - phantom.image).max() <= 0.5
    assert np.array_equal(np.asarray(labels.dataobj)[:, ::-1].transpose(2, 1, 0), phantom.labels)
    liver = nib.affines.apply_affine(labels.affine, np.argwhere(np.asarray(labels.dataobj) == 1)).mean(0)
    assert liver[0] > 0  # world x grows to Right in RAS+, where the liver lies


def test_site_folder_has_a_pair_for_every_seed(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "site", "t2", range(2), size=32, depth=4)
    names = ["image_0.nii.gz", "image_1.nii.gz", "label_0.nii.gz", "label_1.nii.gz"]
    assert sorted(path.name for path in folder.iterdir()) == names


@pytest.mark.parametrize("wrong", [{"kind": "pet"}, {"seed": -1}, {"size": 8}, {"depth": 2}])
def test_wrong_requests_say_what_is_expected(wrong: dict[str, object]) -> None:
    request: dict[str, object] = {"kind": "ct", "seed": 0, "size": 32, "depth": 4, **wrong}
    with pytest.raises(FedCoWProError, match="expected"):
        make_phantom(**request)  # type: ignore[arg-type]
