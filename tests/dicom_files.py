"""DICOM files from arrays, for tests: classic and enhanced series, in any orientation and compression."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from fedcowpro.volume.volume import Grid

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, generate_uid  # noqa: E402

NAME, NUMBER = "Quux^Zebedee", "PID-74656"  # a patient, to look for where none may be
CLASSES = {"ct": "1.2.840.10008.5.1.4.1.1.2", "mr": "1.2.840.10008.5.1.4.1.1.4"}
ENHANCED = {"ct": "1.2.840.10008.5.1.4.1.1.2.1", "mr": "1.2.840.10008.5.1.4.1.1.4.1"}
INTERCEPT = {"ct": -1024.0, "mr": 0.0}
LPS = np.array([-1.0, -1.0, 1.0])
Edit = Callable[[Dataset, int], None]


def grid_for(
    shape_dhw: Sequence[int],
    spacing_dhw: Sequence[float],
    axes: str = "LPS",
    rotation: np.ndarray | None = None,
    origin: Sequence[float] = (-101.5, 33.25, -410.0),
) -> Grid:
    """A grid (columns, rows, slices) whose axes point to the letters `axes`, then turned by `rotation` (RAS)."""
    order = ["SI", "PA", "LR"]
    along = [next(i for i, pair in enumerate(order) if letter in pair) for letter in axes]
    unit = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    affine = np.eye(4)
    for column, (letter, axis) in enumerate(zip(axes, along, strict=True)):
        affine[:3, column] = np.array(unit[letter]) * spacing_dhw[axis]
    if rotation is not None:
        affine[:3, :3] = rotation @ affine[:3, :3]
    affine[:3, 3] = origin
    columns, rows, slices = (int(shape_dhw[axis]) for axis in along)
    return Grid((columns, rows, slices), affine)


def write_series(
    folder: Path,
    voxels_dhw: np.ndarray,
    spacing_dhw: Sequence[float],
    *,
    modality: str = "ct",
    patient: tuple[str, str] = (NAME, NUMBER),
    series: str = "1",
    grid: Grid | None = None,
    axes: str = "LPS",
    slope: float = 1.0,
    slant: Sequence[float] = (0, 0, 0),
    tags: Mapping[str, Any] | None = None,
    edit: Edit | None = None,
    seed: int = 0,
    prefix: str = "",
) -> list[Path]:
    """Write one file a slice, named and numbered in random order; returns the files in order of the slices.

    Args:
        folder: made where it is missing.
        voxels_dhw: (depth, height, width) in HU or the scanner's units; rounded to what int16 can hold.
        spacing_dhw: mm.
        modality: 'ct' or 'mr'.
        patient: name and id.
        series: series of equal text get equal UIDs; the patient's id enters as well.
        grid: where slices lie; None = `axes` at a fixed origin.
        axes: directions of columns, rows, slices.
        slope: of the stored values.
        slant: mm (RAS) that each slice is shifted against the one before.
        tags: attributes of all slices.
        edit: changes the dataset of a slice, by its number, before it is written.
        seed: of the order of names.
        prefix: of the file names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    grid = grid_for(voxels_dhw.shape, spacing_dhw, axes) if grid is None else grid
    frames = grid.to_native(voxels_dhw).transpose(2, 1, 0)
    stored = np.round((frames - INTERCEPT[modality]) / slope).astype(np.int16)
    order = np.random.default_rng(seed).permutation(len(stored))
    files = []
    for index, pixels in enumerate(stored):
        dataset = _dataset(CLASSES[modality], modality, patient, series, f"slice {index}")
        position = grid.affine[:3, 3] + index * (grid.affine[:3, 2] + slant)
        _place(dataset, grid, position)
        dataset.InstanceNumber = int(order[index]) + 1
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, INTERCEPT[modality]
        _pixels(dataset, pixels)
        for name, value in (tags or {}).items():
            setattr(dataset, name, value)
        if edit is not None:
            edit(dataset, index)
        files.append(folder / f"{prefix}{order[index]:04d}")
        dataset.save_as(files[-1], enforce_file_format=True)
    return files


def write_enhanced(
    path: Path,
    volumes_dhw: Sequence[np.ndarray],
    spacing_dhw: Sequence[float],
    *,
    modality: str = "mr",
    axes: str = "LPS",
    slopes: Sequence[float] = (1.0,),
    seed: int = 0,
) -> Path:
    """Write volumes (echoes) of one shape into one multi-frame file, frames in random order, each with its slope."""
    grid = grid_for(volumes_dhw[0].shape, spacing_dhw, axes)
    dataset = _dataset(ENHANCED[modality], modality, (NAME, NUMBER), "enhanced", "file")
    dataset.SharedFunctionalGroupsSequence = [Dataset()]
    shared = dataset.SharedFunctionalGroupsSequence[0]
    place = Dataset()
    _place(place, grid, grid.affine[:3, 3])
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient, measures.PixelSpacing = place.ImageOrientationPatient, place.PixelSpacing
    measures.SliceThickness = float(np.linalg.norm(grid.affine[:3, 2]))
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    frames = []
    for echo, voxels in enumerate(volumes_dhw):
        for index, pixels in enumerate(grid.to_native(voxels).transpose(2, 1, 0)):
            groups = Dataset()
            groups.FrameContentSequence = [Dataset()]
            groups.FrameContentSequence[0].DimensionIndexValues = [index + 1, echo + 1]
            groups.PlanePositionSequence = [Dataset()]
            position = grid.affine[:3, 3] + index * grid.affine[:3, 2]
            groups.PlanePositionSequence[0].ImagePositionPatient = [float(x) for x in position * LPS]
            groups.PixelValueTransformationSequence = [Dataset()]
            slope = slopes[index % len(slopes)]
            groups.PixelValueTransformationSequence[0].RescaleSlope = slope
            groups.PixelValueTransformationSequence[0].RescaleIntercept = INTERCEPT[modality]
            if modality == "mr":
                groups.MREchoSequence = [Dataset()]
                groups.MREchoSequence[0].EffectiveEchoTime = 2.3 * (echo + 1)
            frames.append((groups, np.round((pixels - INTERCEPT[modality]) / slope).astype(np.int16)))
    order = np.random.default_rng(seed).permutation(len(frames))
    dataset.PerFrameFunctionalGroupsSequence = [frames[i][0] for i in order]
    _pixels(dataset, np.stack([frames[i][1] for i in order]))
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def compress(path: Path, syntax: str) -> None:
    """Encode a file's pixels again with gdcm; `syntax` as gdcm names it, for example 'JPEGLosslessProcess14_1'."""
    gdcm = pytest.importorskip("gdcm")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def uid(*parts: str) -> str:
    """A UID that is a function of its parts."""
    return generate_uid(entropy_srcs=["fedcowpro tests", *parts])


def _dataset(kind: str, modality: str, patient: tuple[str, str], series: str, instance: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = uid(patient[1], series, instance)
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(patient[1], "study"), uid(patient[1], series)
    dataset.FrameOfReferenceUID = uid(patient[1], "frame of reference")
    dataset.PatientName, dataset.PatientID = patient
    dataset.PatientBirthDate, dataset.PatientSex = "19010203", "O"
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "7", "ACC-74656", NAME
    dataset.StudyDate, dataset.StudyTime = "20010203", "040506"
    dataset.SeriesDescription = f"abdomen {patient[0]}"
    dataset.Modality = modality.upper()
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "ct" else "M"]
    dataset.SeriesNumber = 3
    return dataset


def _place(dataset: Dataset, grid: Grid, position: np.ndarray) -> None:
    sizes = nib.affines.voxel_sizes(grid.affine)
    cosines = (grid.affine[:3, :2] / sizes[:2]).T * LPS
    dataset.ImageOrientationPatient = [f"{x:.10f}"[:16] for x in cosines.ravel()]
    dataset.ImagePositionPatient = [f"{x:.6f}"[:16] for x in position * LPS]
    dataset.PixelSpacing = [f"{x:.8g}" for x in (sizes[1], sizes[0])]
    dataset.SliceThickness = f"{sizes[2]:.8g}"


def _pixels(dataset: Dataset, pixels: np.ndarray) -> None:
    """Stored values, int16 (rows, columns) or (frames, rows, columns)."""
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelData = pixels.tobytes()
