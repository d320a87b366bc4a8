"""Label maps -> DICOM RT structure sets: the outlines of organs on the slices of the series that they belong to.

Written with pydicom: highdicom writes no structure sets, and rt-utils 1.2.7 draws its lines through the centres of
pixels, so that small organs shrink, joins holes anywhere, and needs OpenCV.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedcowpro import __version__
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.volume.dicom.contours import outlines
from fedcowpro.volume.dicom.headers import STRUCTURE_SET_CLASS, slices_of
from fedcowpro.volume.dicom.library import library, quiet
from fedcowpro.volume.dicom.organ_codes import code_of
from fedcowpro.volume.dicom.reading import Layout, layout_of
from fedcowpro.volume.dicom.seg_writer import MAY_BE_EMPTY, NAME, require_fitting, uid_of
from fedcowpro.volume.dicom.series import Series
from fedcowpro.volume.dicom.stack import Plane, plane_of
from fedcowpro.volume.organ_colours import organ_colours

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # what a structure set calls a study by
_OF_STUDY = ("StudyInstanceUID", "ReferringPhysicianName", "StudyDescription")


def write_structure_set(path: Path, labels_dhw: np.ndarray, series: Series, organs: Mapping[int, str]) -> None:
    """Write a label map as an RT structure set: one region per organ, named, coloured, and coded in SNOMED CT.

    Outlines run along the edges of pixels, so that they enclose the mask's area and the centres of its pixels. It
    belongs to the patient and study of `series`. Equal labels on equal images get equal UIDs. The file appears whole or
    not at all; missing parent folders are made.

    Args:
        path: the file.
        labels_dhw: uint8 (depth, height, width) on the grid of `series`; 0 is background.
        series: the images.
        organs: label value -> name; an organ without voxels becomes a region without outlines.

    Raises:
        FedCoWProError: another shape or type, a label without organ, images without what the object must refer to,
            files that have changed.
    """
    pydicom = library("pydicom")
    layout = layout_of(series.slices, series.name)
    require_fitting(labels_dhw, layout, organs, series.name)
    content = io.BytesIO()
    with quiet():
        made = _object(pydicom, labels_dhw, layout, series, organs)
        pydicom.dcmwrite(content, made, enforce_file_format=True)
    write_atomic(Path(path), content.getvalue())


def _object(pydicom: Any, labels: np.ndarray, layout: Layout, series: Series, organs: Mapping[int, str]) -> Dataset:
    header = layout.headers[layout.slices[0][0]]
    frame = str(header.get("FrameOfReferenceUID") or "")
    if not frame or not header.get("StudyInstanceUID"):
        raise FedCoWProError(
            f"{series.name}: no FrameOfReferenceUID or StudyInstanceUID", "images of a known frame of reference",
            "write the mask as NIfTI",
        )  # fmt: skip
    digest = hashlib.sha256(f"{series.uid} {series.number} {sorted(organs.items())} {labels.shape}".encode())
    digest.update(labels.tobytes())
    now = datetime.now()
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    # Contours of large organs are longer than what an explicit length has room for.
    made.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = STRUCTURE_SET_CLASS
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid_of("structure set", digest.hexdigest())
    if "SpecificCharacterSet" in header:
        made.SpecificCharacterSet = header.SpecificCharacterSet
    for name in (*MAY_BE_EMPTY, *_OF_STUDY):
        setattr(made, name, header.get(name, ""))
    made.Modality = "RTSTRUCT"
    made.SeriesInstanceUID = uid_of("structure set's series", digest.hexdigest())
    made.SeriesNumber, made.InstanceNumber = 901, 1
    made.SeriesDescription = made.Manufacturer = made.ManufacturerModelName = NAME
    made.SoftwareVersions, made.OperatorsName = __version__, ""
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = frame, ""
    made.StructureSetLabel = NAME
    made.StructureSetDate, made.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.InstanceCreationDate, made.InstanceCreationTime = made.StructureSetDate, made.StructureSetTime

    images = [_image(pydicom, layout, place) for place in range(len(layout.slices))]
    of_series = _item(pydicom, SeriesInstanceUID=header.SeriesInstanceUID, ContourImageSequence=images)
    of_study = _item(
        pydicom,
        ReferencedSOPClassUID=_STUDY_CLASS,
        ReferencedSOPInstanceUID=header.StudyInstanceUID,
        RTReferencedSeriesSequence=[of_series],
    )
    made.ReferencedFrameOfReferenceSequence = [
        _item(pydicom, FrameOfReferenceUID=frame, RTReferencedStudySequence=[of_study])
    ]
    colours = organ_colours(organs)
    planes = _planes(layout)
    native = layout.grid.to_native(labels).transpose(2, 1, 0)  # (slices, rows, columns)
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
    for number, value in enumerate(sorted(organs), 1):
        made.StructureSetROISequence.append(
            _item(
                pydicom,
                ROINumber=number,
                ReferencedFrameOfReferenceUID=frame,
                ROIName=organs[value][:64],
                ROIDescription=f"label {value}",
                ROIGenerationAlgorithm="AUTOMATIC",
            )
        )
        contours = [
            _item(
                pydicom,
                ContourImageSequence=[_image(pydicom, layout, place)],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(outline),
                ContourData=_places(outline, planes[place]),
            )
            for place in np.flatnonzero((native == value).any(axis=(1, 2))).tolist()
            for outline in outlines(native[place] == value)
        ]
        colour = [int(colours[value][start : start + 2], 16) for start in (1, 3, 5)]
        made.ROIContourSequence.append(
            _item(pydicom, ROIDisplayColor=colour, ContourSequence=contours, ReferencedROINumber=number)
        )
        made.RTROIObservationsSequence.append(
            _item(
                pydicom,
                ObservationNumber=number,
                ReferencedROINumber=number,
                RTROIIdentificationCodeSequence=[_code(pydicom, organs[value])],
                RTROIInterpretedType="ORGAN",
                ROIInterpreter="",
            )
        )
    return made


def _item(pydicom: Any, **attributes: object) -> Dataset:
    item = pydicom.Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    return item


def _image(pydicom: Any, layout: Layout, place: int) -> Dataset:
    """A reference to the image that shows a slice."""
    file, index = layout.slices[place]
    header = layout.headers[file]
    item = _item(pydicom, ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)
    if int(header.get("NumberOfFrames") or 1) > 1:
        item.ReferencedFrameNumber = index + 1
    return item


def _code(pydicom: Any, organ: str) -> Dataset:
    code, side = code_of(organ)
    item = _item(pydicom, CodeValue=code[0], CodingSchemeDesignator="SCT", CodeMeaning=code[1])
    if side is not None:
        modifier = _item(pydicom, CodeValue=side[0], CodingSchemeDesignator="SCT", CodeMeaning=side[1])
        item.SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return item


def _planes(layout: Layout) -> list[Plane]:
    """Where each slice lies."""
    attributes = {file: slices_of(header) for file, header in layout.headers.items()}
    planes = [plane_of(attributes[file][index]) for file, index in layout.slices]
    assert None not in planes  # `layout_of` has looked
    return planes  # type: ignore[return-value]


def _places(outline: np.ndarray, plane: Plane) -> list[str]:
    """Corners (row, column) as x, y, z in mm to Left, Posterior, Superior, one after another."""
    down, right = np.array(plane.down) * plane.spacing[0], np.array(plane.right) * plane.spacing[1]
    points = np.array(plane.position) + outline[:, :1] * down + outline[:, 1:] * right
    return [f"{length:.3f}" for length in points.ravel()]
