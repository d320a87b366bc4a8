"""Organs by name: in parameters, results, tables and masks; several volumes at once."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest

from common import PLAIN
from fedcowpro import OneShotSegmenter
from fedcowpro.core.errors import FedCoWProError, NotFittedError
from fedcowpro.oneshot.organ_names import ByOrgan, names_of
from fedcowpro.oneshot.prediction import Predictions


@pytest.mark.parametrize(
    ("organs", "names"),
    [
        (None, {}),
        ([2, 4], {2: "", 4: ""}),
        ({"liver": 1, "spleen": np.int64(4)}, {1: "liver", 4: "spleen"}),
        ({4: "spleen"}, {4: "spleen"}),
        (["liver", "spleen"], {1: "liver", 2: "spleen"}),
        ("liver", {1: "liver"}),
    ],
)
def test_organs_in_every_form(organs: object, names: dict[int, str]) -> None:
    assert names_of(organs) == names  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "organs", [[0], [256], [1, 1], ["liver", "liver"], {"a": 1, "b": 1}, {1: " "}, [True], [1.5], {"liver": "1"}]
)
def test_organs_that_make_no_sense(organs: object) -> None:
    with pytest.raises(FedCoWProError, match="organs="):
        names_of(organs)  # type: ignore[arg-type]


def test_values_are_found_by_name_too() -> None:
    found = ByOrgan({1: 7.0, 3: 8.0}, {1: "liver", 2: "spleen"})
    assert found["liver"] == found[1] == 7.0
    assert dict(found) == {1: 7.0, 3: 8.0}
    for key in ("spleen", "kidney", 2):
        with pytest.raises(KeyError, match="there are 1, 3, 'liver'"):
            found[key]  # type: ignore[index]


@pytest.fixture
def ours(tiny_checkpoint: Path, phantoms: Path) -> OneShotSegmenter:
    named = OneShotSegmenter.load(tiny_checkpoint, inference=PLAIN.model_dump(), organs={"liver": 1, "spleen": 4})
    return named.set_support(phantoms / "ct" / "image_1.nii.gz", phantoms / "ct" / "label_1.nii.gz")


def test_a_prediction_speaks_of_organs_by_name(ours: OneShotSegmenter, phantoms: Path, tmp_path: Path) -> None:
    found = ours.predict(phantoms / "ct" / "image_2.nii.gz")
    assert found.organs == (1, 4)
    assert found.millilitres["liver"] == found.millilitres[1]
    assert found.probability is not None
    assert np.array_equal(found.probability["spleen"], found.probability[4])
    assert "liver: " in repr(found)
    table = found.table()
    assert table["name"].tolist() == ["liver", "spleen"]
    assert table["voxels"].tolist() == [(found.labels == 1).sum(), (found.labels == 4).sum()]
    for image in (nib.load(found.save(tmp_path / "mask.nii.gz")), found.to_nibabel()):
        (extension,) = image.header.extensions
        labels = list(ElementTree.fromstring(extension.get_content()).iter("Label"))
        assert {label.attrib["Key"]: label.text for label in labels} == {"1": "liver", "4": "spleen"}
        assert np.array_equal(np.asanyarray(image.dataobj), found.labels)


@pytest.mark.parametrize("form", ["pattern", "folder", "list"])
def test_several_volumes_at_once(ours: OneShotSegmenter, phantoms: Path, tmp_path: Path, form: str) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in (2, 3):
        (scans / f"p{number}.nii.gz").symlink_to(phantoms / "ct" / f"image_{number}.nii.gz")
    paths = sorted(scans.iterdir())
    given = {"pattern": f"{scans}/p*.nii.gz", "folder": scans, "list": paths}[form]
    found = ours.predict(given)
    assert isinstance(found, Predictions)
    assert [Path(one.name) for one in found] == paths
    assert all(one.probability is None for one in found)
    for one, path in zip(found, paths, strict=True):
        assert np.array_equal(one.labels, ours.predict(path).labels)
    table = found.table()
    rows = sorted(table[["image", "name"]].values.tolist())
    assert rows == [[str(path), organ] for path in paths for organ in ("liver", "spleen")]
    masks = found.save(tmp_path / "masks")
    assert masks == [tmp_path / "masks" / f"p{number}_mask.nii.gz" for number in (2, 3)]
    assert np.array_equal(np.asanyarray(nib.load(masks[1]).dataobj), found[1].labels)


def test_arrays_have_no_names_to_save_under(ours: OneShotSegmenter, phantoms: Path, tmp_path: Path) -> None:
    image = nib.load(phantoms / "ct" / "image_2.nii.gz")
    arrays = [image.get_fdata(dtype=np.float32)] * 2
    found = ours.predict(arrays, spacing=image.header.get_zooms(), order="xyz")
    assert [one.name for one in found] == ["volume 0", "volume 1"]
    assert np.array_equal(found[0].labels, found[1].labels)
    again = ours.predict(arrays[0], spacing=image.header.get_zooms(), order="xyz")
    with pytest.raises(FedCoWProError, match="several images called image"):
        Predictions([again, again]).save(tmp_path / "masks")
    assert not (tmp_path / "masks").exists()


def test_an_array_in_nibabels_order_gives_the_files_mask(ours: OneShotSegmenter, phantoms: Path) -> None:
    image = nib.as_closest_canonical(nib.load(phantoms / "ct" / "image_2.nii.gz"))
    with pytest.warns(UserWarning, match="nibabel's axes"):
        found = ours.predict(image.get_fdata(dtype=np.float32), spacing=image.header.get_zooms())
    file = ours.predict(image)
    assert np.array_equal(found.labels, file.labels)
    assert found.millilitres == pytest.approx(file.millilitres)


def test_an_organ_that_the_mask_lacks_is_said(tiny_checkpoint: Path, phantoms: Path) -> None:
    example = phantoms / "ct" / "image_1.nii.gz", phantoms / "ct" / "label_1.nii.gz"
    some = OneShotSegmenter.load(tiny_checkpoint, organs={"liver": 1, "moon": 99})
    with pytest.warns(UserWarning, match=r"no voxel of label 99 \(moon\); its labels: 1, 2"):
        some.set_support(*example)
    none = OneShotSegmenter.load(tiny_checkpoint, organs={"moon": 99})
    with pytest.raises(FedCoWProError, match=r"no voxel of label 99 \(moon\)"):
        none.set_support(*example)
    with pytest.raises(NotFittedError):
        none.predict([example[0]])
