"""RT structure sets: outlines enclose exactly the mask, on the slices of the series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from scipy import ndimage

from dicom_files import write_enhanced, write_series
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.dicom import Series, find_series
from fedcowpro.volume.dicom.contours import outlines
from fedcowpro.volume.dicom.structure_reader import read_structure_set
from fedcowpro.volume.dicom.structure_set import write_structure_set
from fedcowpro.volume.read import read_labels
from fedcowpro.volume.volume import Grid, Volume

pydicom = pytest.importorskip("pydicom")

RNG = np.random.default_rng(11)
SPACING = (4.0, 1.1, 0.9)
SHAPE = (5, 14, 17)
VOXELS = RNG.integers(-900, 1200, SHAPE).astype(np.float32)
ORGANS = {2: "liver", 5: "right kidney", 200: "portal and splenic vein"}
LABELS = RNG.choice(np.array([0, 2, 5, 200], np.uint8), SHAPE)
LABELS[2, 3:11, 3:14], LABELS[2, 5:9, 5:9], LABELS[2, 6:8, 6:8] = 2, 5, 2  # a part within a hole
LABELS[1] = 0


def filled(outline: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which pixels have their centre within a closed line of (row, column), by crossings on the way to the right."""
    rows, columns = np.indices(shape)
    crossings = np.zeros(shape, int)
    for (y0, x0), (y1, x1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        between = (rows > min(y0, y1)) & (rows < max(y0, y1))
        with np.errstate(divide="ignore", invalid="ignore"):
            crossings += between & (columns < x0 + (rows - y0) / (y1 - y0) * (x1 - x0))
    return crossings % 2 == 1


def area(outline: np.ndarray) -> float:
    y, x = outline.T
    return abs(float(y @ np.roll(x, 1) - x @ np.roll(y, 1))) / 2


@pytest.mark.parametrize("density", [0.3, 0.5, 0.7, 0.9])
def test_outlines_enclose_exactly_the_pixels(density: float) -> None:
    for seed in range(5):
        mask = np.random.default_rng(seed).random((23, 31)) < density
        found = outlines(mask)
        assert len(found) == ndimage.label(mask)[1]
        total = sum((filled(one, mask.shape) for one in found), np.zeros(mask.shape, int))
        np.testing.assert_array_equal(total, mask)  # each pixel in one outline
        assert sum(map(area, found)) == mask.sum()
        steps = np.concatenate([np.diff([*one, one[0]], axis=0) for one in found])
        assert (np.count_nonzero(steps, axis=1) == 1).all()  # along the edges of pixels


def test_outlines_turn_only_where_they_must() -> None:
    mask = np.zeros((9, 12), bool)
    mask[2:7, 3:10] = True
    (found,) = outlines(mask)
    assert sorted(map(tuple, found)) == [(1.5, 2.5), (1.5, 9.5), (6.5, 2.5), (6.5, 9.5)]
    mask[3:5, 5:7] = False
    (found,) = outlines(mask)
    assert area(found) == mask.sum()
    assert outlines(np.zeros((3, 3), bool)) == []


def regions(path: Path, series: Series, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """The voxels (slices, rows, columns) of each region, read from the file and the images it refers to alone."""
    made = pydicom.dcmread(path)
    planes = {}
    for file, frame in series.slices:
        image = pydicom.dcmread(file, stop_before_pixels=True)
        where, lie, apart, number = image, image, image, None
        if "NumberOfFrames" in image:
            where = image.PerFrameFunctionalGroupsSequence[frame].PlanePositionSequence[0]
            shared = image.SharedFunctionalGroupsSequence[0]
            lie, apart, number = shared.PlaneOrientationSequence[0], shared.PixelMeasuresSequence[0], frame + 1
        planes[image.SOPInstanceUID, number] = (
            np.array(where.ImagePositionPatient, float),
            np.array(lie.ImageOrientationPatient, float).reshape(2, 3),
            np.array(apart.PixelSpacing, float),
        )
    stack = [*planes]
    names = {one.ROINumber: one.ROIName for one in made.StructureSetROISequence}
    found = {}
    for region in made.ROIContourSequence:
        voxels = np.zeros((len(stack), *shape), bool)
        for contour in region.ContourSequence:
            (image,) = contour.ContourImageSequence
            key = image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber")
            corner, ways, apart = planes[key]
            points = np.array(contour.ContourData, float).reshape(-1, 3) - corner
            assert len(points) == contour.NumberOfContourPoints
            assert np.abs(points @ np.cross(*ways)).max() < 1e-2  # in the plane of its image
            pixels = np.stack([points @ ways[0] / apart[1], points @ ways[1] / apart[0]], axis=1)
            grid = np.indices(shape)[::-1].reshape(2, -1).T  # matplotlib's own filling, of x and y
            voxels[stack.index(key)] ^= Polygon([*pixels, pixels[0]]).contains_points(grid).reshape(shape)
        found[names[region.ReferencedROINumber]] = voxels
    return found


def expected(series: Series) -> dict[str, np.ndarray]:
    native = series.read().grid.to_native(LABELS).transpose(2, 1, 0)
    return {name: native == value for value, name in ORGANS.items()}


@pytest.mark.parametrize("axes", ["LPS", "LIA", "PIR"])
def test_another_reader_sees_the_mask(tmp_path: Path, axes: str) -> None:
    write_series(tmp_path / "series", VOXELS, SPACING, axes=axes)
    (series,) = find_series(tmp_path / "series")
    path = tmp_path / "new" / "structures.dcm"
    write_structure_set(path, LABELS, series, {**ORGANS, 7: "spleen"})
    wanted = expected(series)
    found = regions(path, series, next(iter(wanted.values())).shape[1:])
    assert not found.pop("spleen").any()
    assert list(found) == list(wanted)
    for name, voxels in wanted.items():
        np.testing.assert_array_equal(found[name], voxels)


def test_on_one_of_two_echoes_of_a_multi_frame_file(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "file.dcm", [VOXELS, VOXELS + 3], SPACING, axes="LPS")
    series = find_series(tmp_path)[1]
    write_structure_set(tmp_path / "made" / "structures.dcm", LABELS, series, ORGANS)
    found = regions(tmp_path / "made" / "structures.dcm", series, SHAPE[1:])
    for name, voxels in expected(series).items():
        np.testing.assert_array_equal(found[name], voxels)


@pytest.fixture
def series(tmp_path: Path) -> Series:
    write_series(tmp_path / "series", VOXELS, SPACING, axes="LPS")
    return find_series(tmp_path / "series")[0]


def test_it_belongs_to_the_patient_and_is_coded(tmp_path: Path, series: Series) -> None:
    write_structure_set(tmp_path / "a.dcm", LABELS, series, ORGANS)
    write_structure_set(tmp_path / "b.dcm", LABELS, series, ORGANS)
    image, made, again = (pydicom.dcmread(path) for path in (series.files[0], tmp_path / "a.dcm", tmp_path / "b.dcm"))
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert made[name].value == image[name].value
    assert made.SeriesInstanceUID not in (image.SeriesInstanceUID, image.StudyInstanceUID)
    assert (made.SOPInstanceUID, made.SeriesInstanceUID) == (again.SOPInstanceUID, again.SeriesInstanceUID)
    (frame,) = made.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (of_series,) = study.RTReferencedSeriesSequence
    assert of_series.SeriesInstanceUID == image.SeriesInstanceUID
    assert {one.ReferencedSOPInstanceUID for one in of_series.ContourImageSequence} == {
        pydicom.dcmread(file).SOPInstanceUID for file in series.files
    }
    codes = [one.RTROIIdentificationCodeSequence[0] for one in made.RTROIObservationsSequence]
    assert [one.CodeValue for one in codes] == ["10200004", "64033007", "91772007"]
    assert codes[1].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"
    assert list(made.ROIContourSequence[0].ROIDisplayColor) == [0xE6, 0x9F, 0x00]


@pytest.mark.parametrize("axes", ["LPS", "LIA", "PIR"])
def test_a_mask_comes_back_identical(tmp_path: Path, axes: str) -> None:
    write_series(tmp_path / "series", VOXELS, SPACING, axes=axes)
    (series,) = find_series(tmp_path / "series")
    path = tmp_path / "structures.dcm"
    write_structure_set(path, LABELS, series, ORGANS)
    image = series.read()
    np.testing.assert_array_equal(read_labels(path, image).voxels, LABELS)
    kidney = read_structure_set(path, image, {1: "Right Kidney", 9: "spleen"})
    np.testing.assert_array_equal(kidney.voxels, (LABELS == 5).astype(np.uint8))


@pytest.mark.filterwarnings("ignore:.*(oblique|tilted)")
def test_on_slices_of_a_tilted_gantry(tmp_path: Path) -> None:
    write_series(tmp_path / "series", VOXELS, SPACING, slant=(0, 1.0, 0))
    (series,) = find_series(tmp_path / "series")
    write_structure_set(tmp_path / "structures.dcm", LABELS, series, ORGANS)
    np.testing.assert_array_equal(read_labels(tmp_path / "structures.dcm", series.read()).voxels, LABELS)


def test_structure_sets_of_other_programs(tmp_path: Path, series: Series) -> None:
    """Regions by number; a hole as a second outline; marks are passed over; overlap and another image are refused."""
    path, image = tmp_path / "structures.dcm", series.read()
    write_structure_set(path, LABELS, series, ORGANS)
    made = pydicom.dcmread(path)
    for region in made.StructureSetROISequence:
        del region.ROIDescription
    first, second = made.ROIContourSequence[:2]
    corner, apart = np.array(pydicom.dcmread(series.files[2]).ImagePositionPatient, float), (0.9, 1.1)

    def box(left: float, top: float, right: float, bottom: float, kind: str = "CLOSED_PLANAR") -> pydicom.Dataset:
        contour = pydicom.Dataset()
        corners = np.array([(left, top, 0), (right, top, 0), (right, bottom, 0), (left, bottom, 0)])
        contour.ContourGeometricType, contour.NumberOfContourPoints = kind, 4
        contour.ContourData = [f"{x:.2f}" for x in (corner + corners * (*apart, 1)).ravel()]
        return contour

    first.ContourSequence = [box(1.5, 1.5, 9.5, 8.5), box(3.5, 3.5, 5.5, 5.5), box(0, 0, 1, 1, "POINT")]
    second.ContourSequence = [box(3.5, 3.5, 4.5, 4.5)]
    del made.ROIContourSequence[2]
    made.save_as(path)
    found = read_labels(path, image).voxels
    expected = np.zeros_like(found[2])
    expected[2:9, 2:10], expected[4:6, 4:6], expected[4, 4] = 1, 0, 2
    np.testing.assert_array_equal(found[2], expected)
    assert not found[[0, 1, 3, 4]].any()
    for contours, message in (
        ([box(2.5, 2.5, 4.5, 4.5)], "overlap"),
        ([box(3.5, 3.5, 40.5, 4.5)], "beyond the image"),
        ([box(3.5, 3.5, 4.5, 4.5, "OPEN_PLANAR")], "not closed"),
    ):
        second.ContourSequence = contours
        made.save_as(path)
        with pytest.raises(FedCoWProError, match=message):
            read_labels(path, image)
    second.ContourSequence = [box(3.5, 3.5, 4.5, 4.5)]
    made.save_as(path)
    affine = image.grid.affine.copy()
    affine[2, 3] += 1.5
    other = Volume(image.voxels, image.spacing, Grid(image.grid.shape, affine), "other")
    with pytest.raises(FedCoWProError, match="between the slices"):
        read_labels(path, other)
    with pytest.raises(FedCoWProError, match="not a structure set"):
        read_structure_set(series.files[0], image)


def test_what_cannot_be_written_is_refused(tmp_path: Path, series: Series) -> None:
    with pytest.raises(FedCoWProError, match="without a name"):
        write_structure_set(tmp_path / "a.dcm", LABELS, series, {2: "liver"})
    with pytest.raises(FedCoWProError, match="shape"):
        write_structure_set(tmp_path / "a.dcm", LABELS[1:], series, ORGANS)
    for file in series.files:
        image = pydicom.dcmread(file)
        del image.FrameOfReferenceUID
        image.save_as(file)
    with pytest.raises(FedCoWProError, match="no FrameOfReferenceUID"):
        write_structure_set(tmp_path / "a.dcm", LABELS, find_series(tmp_path / "series")[0], ORGANS)
    assert not (tmp_path / "a.dcm").exists()
