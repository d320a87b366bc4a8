"""DICOM series as volumes: what was written is read, in every orientation; what cannot be a volume is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_files import Edit, compress, grid_for, write_enhanced, write_series
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume import nifti
from fedcowpro.volume.dicom import find, find_series, read_image
from fedcowpro.volume.read import read_volume

RNG = np.random.default_rng(5)
SPACING = (4.0, 1.1, 0.9)
VOXELS = RNG.integers(-900, 1200, (6, 8, 9)).astype(np.float32)  # (depth, height, width), HU
AXES = [a + b + c for a in "LRPASI" for b in "LRPASI" for c in "LRPASI" if len({*map("LRPASI".index, a + b + c)}) == 3]
AXES = [axes for axes in AXES if all(len({*pair} & {*axes}) == 1 for pair in ("LR", "PA", "SI"))]


def test_slices_are_ordered_by_position_and_scaled(tmp_path: Path) -> None:
    files = write_series(tmp_path, VOXELS, SPACING)
    assert [file.name for file in files] != sorted(file.name for file in files)
    series = find_series(tmp_path)[0]
    assert series.files == tuple(files)
    assert (series.modality, series.size, series.number) == ("ct", (9, 8, 6), 0)
    np.testing.assert_allclose(series.spacing, (0.9, 1.1, 4))

    volume = read_volume(tmp_path)

    np.testing.assert_array_equal(volume.voxels, VOXELS)
    assert volume.voxels.dtype == np.float32
    np.testing.assert_allclose(volume.spacing, SPACING)
    np.testing.assert_allclose(volume.grid.affine, grid_for(VOXELS.shape, SPACING).affine, atol=1e-6)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(series)).read().voxels, VOXELS)


def turned(about: int, degrees: float) -> np.ndarray:
    """A rotation about the x, y or z axis."""
    return nib.eulerangles.euler2mat(*(np.eye(3)[about] * np.deg2rad(degrees))[::-1])


@settings(max_examples=40, deadline=None)
@given(
    axes=st.sampled_from(AXES),
    about=st.sampled_from([0, 1, 2]),
    degrees=st.floats(-20, 20),
    shape=st.tuples(*[st.integers(3, 6)] * 3),
    seed=st.integers(0, 99),
)
@pytest.mark.filterwarnings("ignore:.*oblique")
def test_any_orientation_gives_the_same_internal_frame(
    tmp_path_factory: pytest.TempPathFactory, axes: str, about: int, degrees: float, shape: tuple[int, ...], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("series")
    voxels = np.random.default_rng(seed).integers(-500, 500, shape).astype(np.float32)
    grid = grid_for(shape, SPACING, axes, turned(about, degrees))
    write_series(folder, voxels, SPACING, modality="mr", grid=grid, seed=seed)
    volume = read_image(folder)
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_allclose(volume.spacing, SPACING, rtol=1e-5)
    # The same voxels lie at the same places, whichever way the slices are counted.
    corner = np.array(shape) - 1
    for index in (np.zeros(3, int), corner):
        marks = np.zeros(shape, bool)
        marks[tuple(index)] = True
        there = [g.affine @ [*np.argwhere(g.to_native(marks))[0], 1] for g in (grid, volume.grid)]
        np.testing.assert_allclose(*there, atol=1e-4)


@pytest.mark.parametrize("axes", ["LPS", "RAS", "LIA", "PIR", "SAR"])
def test_another_reader_finds_the_same_voxels_at_the_same_places(tmp_path: Path, axes: str) -> None:
    sitk = pytest.importorskip("SimpleITK")
    grid = grid_for(VOXELS.shape, SPACING, axes, turned(1, 0.5))
    write_series(tmp_path, VOXELS, SPACING, grid=grid)
    volume = read_image(tmp_path)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    for index in ((0, 0, 0), (3, 1, 2), tuple(n - 1 for n in volume.grid.shape)):
        place = (volume.grid.affine @ [*index, 1])[:3] * [-1, -1, 1]
        there = image.TransformPhysicalPointToIndex(place)
        assert image[there] == volume.grid.to_native(volume.voxels)[index]
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(there), place, atol=1e-4)


def test_a_mask_returns_to_the_slices(tmp_path: Path) -> None:
    """NIfTI written on the grid of a DICOM series lies where the series lies."""
    write_series(tmp_path / "coronal", VOXELS, SPACING, axes="LIA")
    volume = read_image(tmp_path / "coronal")
    labels = (VOXELS > 0).astype(np.uint8)
    nifti.write_labels(tmp_path / "mask.nii.gz", labels, volume.grid)
    back = nib.load(tmp_path / "mask.nii.gz")
    assert nib.aff2axcodes(back.affine) in (tuple("LIA"), tuple("LIP"))
    np.testing.assert_allclose(back.get_qform(), back.get_sform(), atol=1e-4)
    np.testing.assert_array_equal(nifti.read_labels(tmp_path / "mask.nii.gz", volume).voxels, labels)


@pytest.mark.parametrize(
    "syntax", ["RLELossless", "JPEG2000Lossless", "JPEGLSLossless", "JPEGLosslessProcess14_1", "JPEGLosslessProcess14"]
)
@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_compressed_pixels(tmp_path: Path, syntax: str, modality: str) -> None:
    for file in write_series(tmp_path, VOXELS, SPACING, modality=modality):  # signed for CT and MR
        compress(file, syntax)
    np.testing.assert_array_equal(read_image(tmp_path).voxels, VOXELS)
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(FedCoWProError, match=rf"{file.name}: damaged or incomplete"):
        read_image(tmp_path)


def test_each_slice_has_its_own_slope(tmp_path: Path) -> None:
    def edit(dataset: Any, index: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 + index, -index

    write_series(tmp_path, VOXELS, SPACING, modality="mr", edit=edit)
    expected = VOXELS * np.arange(1, 7)[:, None, None] - np.arange(6)[:, None, None]
    np.testing.assert_allclose(read_image(tmp_path).voxels, expected)


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_inverse_display_turns_mr_but_not_hounsfield_units(tmp_path: Path, modality: str) -> None:
    write_series(tmp_path, VOXELS, SPACING, modality=modality, tags={"PhotometricInterpretation": "MONOCHROME1"})
    expected = VOXELS if modality == "ct" else VOXELS.max() + VOXELS.min() - VOXELS
    np.testing.assert_array_equal(read_image(tmp_path).voxels, expected)


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_a_multi_frame_file(tmp_path: Path, modality: str) -> None:
    path = write_enhanced(tmp_path / "file.dcm", [VOXELS], SPACING, modality=modality, axes="PSL", slopes=(1, 0.5))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    np.testing.assert_allclose(volume.grid.affine, grid_for(VOXELS.shape, SPACING, "PSL").affine, atol=1e-5)
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.dcmread(path)
    dataset.compress(pydicom.uid.RLELossless)
    dataset.save_as(path)
    np.testing.assert_array_equal(read_volume(path).voxels, VOXELS)


def test_a_multi_frame_file_with_two_echoes(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "file.dcm", [VOXELS, VOXELS[::-1] + 7], SPACING)
    first, second = find_series(tmp_path)
    np.testing.assert_array_equal(first.read().voxels, VOXELS)
    np.testing.assert_array_equal(second.read().voxels, VOXELS[::-1] + 7)
    assert (first.kind, second.kind) == ("echo time 2.30", "echo time 4.60")
    with pytest.raises(FedCoWProError, match="2 DICOM volumes"):
        read_volume(path)


def test_files_without_preamble(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    for file in write_series(tmp_path, VOXELS, SPACING):
        dataset = pydicom.dcmread(file)
        bare = pydicom.dataset.Dataset(dataset)
        bare.save_as(file, implicit_vr=True, little_endian=True)
    assert file.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read_image(tmp_path).voxels, VOXELS)


def test_copies_are_dropped_and_differing_slices_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path, VOXELS, SPACING)
    (tmp_path / "again").write_bytes(files[2].read_bytes())
    with pytest.warns(UserWarning, match=r"1 slice\(s\) are there more than once"):
        np.testing.assert_array_equal(read_image(tmp_path).voxels, VOXELS)
    write_series(tmp_path / "other", VOXELS + 1, SPACING)
    with pytest.raises(FedCoWProError, match=r"different slices at one position \(-410\.00 mm\)"):
        read_image(tmp_path)


def test_a_missing_slice_is_named(tmp_path: Path) -> None:
    files = write_series(tmp_path, VOXELS, SPACING)
    files[3].unlink()
    with pytest.raises(FedCoWProError, match="missing slices: 1 between") as caught:
        read_image(tmp_path)
    assert all(part in caught.value.got for part in (files[2].name, files[4].name, "-402.00 mm", "-394.00 mm"))
    assert caught.value.expected == "a slice every 4 mm"


def shifted(millimetres: np.ndarray) -> Edit:
    """Moves slices, by mm to Left, Posterior, Superior per slice."""

    def edit(dataset: Any, index: int) -> None:
        place = np.array(dataset.ImagePositionPatient, float) + millimetres[index]
        dataset.ImagePositionPatient = [f"{x:.4f}" for x in place]

    return edit


@pytest.mark.parametrize(
    ("millimetres", "message"),
    [
        (np.outer([0, 1, 0, 1, 0, 0], [0, 0, 1]), "uneven distances between slices, 3 to 5 mm"),
        (np.outer([0, 0, 0, 4, 8, 12], [0, 0, 1]), "uneven distances between slices, 4 to 8 mm"),
        (np.outer([0, 0, 2, 0, 0, 0], [1, 0, 0]), "shifted against each other"),
        (np.outer(range(6), [0, 9, 0]), "shifted against each other"),  # 66 degrees
    ],
)
def test_slices_that_form_no_grid_are_refused(tmp_path: Path, millimetres: np.ndarray, message: str) -> None:
    write_series(tmp_path, VOXELS, SPACING, edit=shifted(millimetres))
    with pytest.raises(FedCoWProError, match=message) as caught:
        read_image(tmp_path)
    assert str(tmp_path) in caught.value.got
    assert "NIfTI" in caught.value.remedy


def test_rounded_positions_are_accepted(tmp_path: Path) -> None:
    jitter = RNG.uniform(-0.3, 0.3, (6, 1)) * [0, 0, 1]
    jitter[[0, -1]] = 0
    write_series(tmp_path, VOXELS, SPACING, edit=shifted(jitter))
    np.testing.assert_allclose(read_image(tmp_path).spacing, SPACING)


@pytest.mark.filterwarnings("ignore:.*oblique")
def test_a_gantry_tilt_stays_in_the_grid(tmp_path: Path) -> None:
    """Slices that are turned about the x axis by 15 degrees and moved along z."""
    turn = turned(0, 15)
    grid = grid_for(VOXELS.shape, SPACING, "LPS", turn)
    slant = np.array([0, 0, SPACING[0]]) - grid.affine[:3, 2]
    files = write_series(tmp_path / "series", VOXELS, SPACING, grid=grid, slant=slant)
    with pytest.warns(UserWarning, match=r"gantry was tilted by 15\.0 degrees"):
        volume = read_image(tmp_path / "series")
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    np.testing.assert_allclose(volume.spacing, SPACING, rtol=1e-6)
    # The header of the last slice says where its first pixel is; so does the grid.
    pydicom = pytest.importorskip("pydicom")
    place = np.array(pydicom.dcmread(files[-1]).ImagePositionPatient) * [-1, -1, 1]
    np.testing.assert_allclose((volume.grid.affine @ [0, 0, 5, 1])[:3], place, atol=1e-4)

    labels = (VOXELS > 100).astype(np.uint8)
    nifti.write_labels(tmp_path / "mask.nii.gz", labels, volume.grid)
    back = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(back.affine, volume.grid.affine, atol=1e-4)
    assert int(back.header["qform_code"]) == 0  # a qform cannot be slanted
    np.testing.assert_array_equal(nifti.read_labels(tmp_path / "mask.nii.gz", volume).voxels, labels)


def test_a_tilt_below_a_degree_is_no_news(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    write_series(tmp_path, VOXELS, SPACING, slant=(0, 0.05, 0))
    np.testing.assert_array_equal(read_image(tmp_path).voxels, VOXELS)
    assert not recwarn.list


def truncated(path: Path, size: int = -40) -> None:
    path.write_bytes(path.read_bytes()[:size])


def edited(path: Path, **tags: object) -> None:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    if "TransferSyntaxUID" in tags:
        dataset.file_meta.TransferSyntaxUID = tags["TransferSyntaxUID"]
        del dataset["TransferSyntaxUID"]
    dataset.save_as(path)


DAMAGE = {
    "truncated pixels": (truncated, "cannot be decoded"),
    "truncated header": (lambda path: truncated(path, 700), "damaged or incomplete DICOM file"),
    "no pixels": (lambda path: edited(path, PixelData=None), "no pixel data"),
    "look-up table": (
        lambda path: edited(path, ModalityLUTSequence=[pytest.importorskip("pydicom").Dataset()]),
        "look-up table",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_named(tmp_path: Path, kind: str) -> None:
    harm, message = DAMAGE[kind]
    file = write_series(tmp_path, VOXELS, SPACING)[2]
    harm(file)
    with pytest.raises(FedCoWProError, match=message) as caught:
        read_image(tmp_path)
    assert str(file) in caught.value.got


def test_a_transfer_syntax_without_decoder(tmp_path: Path) -> None:
    for file in write_series(tmp_path, VOXELS, SPACING):
        compress(file, "RLELossless")
    raw = file.read_bytes()
    for other, message in (
        (b"1.2.840.10008.1.2.4.106", "no decoder|can be decoded"),
        (b"1.2.840.10008.1.2.4.100", "no image that"),
    ):
        # MPEG-2, and one that no decoder here knows; the text of the UID is padded to the length it had.
        file.write_bytes(raw)
        pydicom = pytest.importorskip("pydicom")
        dataset = pydicom.dcmread(file)
        dataset.file_meta.TransferSyntaxUID = other.decode()
        pydicom.dcmwrite(file, dataset, enforce_file_format=True)
        with pytest.raises(FedCoWProError, match=message) as caught:
            read_image(tmp_path)
        assert file.name in caught.value.got
        assert "uncompressed" in caught.value.remedy


@pytest.mark.parametrize(("slices", "axes"), [(1, "LPS"), (2, "LPS")])
def test_too_few_slices(tmp_path: Path, slices: int, axes: str) -> None:
    write_series(tmp_path, VOXELS[:slices], SPACING, axes=axes)
    with pytest.raises(FedCoWProError, match=r"fewer than 3 parallel slices"):
        read_image(tmp_path)


def test_what_is_no_folder_of_one_series_is_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path / "one", VOXELS, SPACING)
    (tmp_path / "text.dcm").write_text("not an image")
    (tmp_path / "empty").mkdir()
    for path, message in (
        (files[0], "a file with a single slice"),
        (tmp_path / "text.dcm", "not a DICOM file"),
        (tmp_path / "gone.dcm", "no file"),
        (tmp_path / "empty", "no DICOM images"),
    ):
        with pytest.raises(FedCoWProError, match=message) as caught:
            read_image(path)
        assert str(path) in caught.value.got
    with pytest.raises(FedCoWProError, match="no folder"):
        find(tmp_path / "gone")
    with pytest.raises(FedCoWProError) as caught:
        read_image(files[0])
    assert str(tmp_path / "one") in caught.value.remedy


def test_files_that_change_after_they_were_listed(tmp_path: Path) -> None:
    files = write_series(tmp_path, VOXELS, SPACING)
    series = find_series(tmp_path)[0]
    edited(files[1], ImagePositionPatient=[0, 0, 900])
    with pytest.raises(FedCoWProError, match="not the slice that was found there"):
        series.read()
    files[1].unlink()
    with pytest.raises(FedCoWProError, match=f"no file .*{files[1].name}"):
        series.read()
