"""Label maps -> DICOM segmentation objects, on the slices of the series that they belong to."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedcowpro import __version__
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.volume.dicom.headers import slices_of
from fedcowpro.volume.dicom.library import library, quiet
from fedcowpro.volume.dicom.organ_codes import CATEGORY, code_of
from fedcowpro.volume.dicom.reading import Layout, layout_of
from fedcowpro.volume.dicom.series import Series

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

NAME = "FedCoWPro"
# Patient and study attributes that must be there but may be empty; anonymisers remove them altogether.
MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)


def write_segmentation(
    path: Path,
    labels_dhw: np.ndarray,
    series: Series,
    organs: Mapping[int, str],
    *,
    series_number: int = 900,
    description: str = "",
) -> None:
    """Write a label map as a binary DICOM segmentation: one segment per organ, coded in SNOMED CT.

    It belongs to the patient and study of `series` and carries their attributes, as an archive needs. Equal labels on
    equal images get equal UIDs. The file appears whole or not at all; missing parent folders are made.

    Args:
        path: the file.
        labels_dhw: uint8 (depth, height, width) on the grid of `series`; 0 is background.
        series: the images.
        organs: label value -> name; an organ without voxels becomes an empty segment.
        series_number: of the new series.
        description: of the content, shown by viewers; at most 64 characters.

    Raises:
        FedCoWProError: another shape or type, a label without organ, images that lack what the object must refer to,
            files that have changed.
    """
    content = io.BytesIO()
    _object(labels_dhw, series, organs, series_number, description).save_as(content)
    write_atomic(Path(path), content.getvalue())


def require_referable(series: Series) -> None:
    """Refuse images that a segmentation cannot refer to, as `write_segmentation` would; reads no pixels.

    Raises:
        FedCoWProError: images that lack what the object must refer to.
    """
    sample = np.zeros(layout_of(series.slices, series.name).grid.internal_shape, np.uint8)
    sample[0, 0, 0] = 1  # an object without a pixel is written in another way
    _object(sample, series, {1: "organ"}, 900, "")


def _object(
    labels_dhw: np.ndarray, series: Series, organs: Mapping[int, str], series_number: int, description: str
) -> Any:
    """The object that `write_segmentation` writes."""
    hd = library("highdicom")
    layout = layout_of(series.slices, series.name)
    require_fitting(labels_dhw, layout, organs, series.name)
    values = sorted(organs)
    numbers = np.zeros(256, np.uint8)
    numbers[values] = np.arange(1, len(values) + 1)
    frames = numbers[layout.grid.to_native(labels_dhw).transpose(2, 1, 0)]
    with quiet():
        sources, positions = _sources(hd, layout, series.name)
        digest = hashlib.sha256(f"{series.uid} {series.number} {sorted(organs.items())} {frames.shape}".encode())
        digest.update(frames.tobytes())
        try:
            made = hd.seg.Segmentation(
                source_images=sources,
                pixel_array=frames,
                plane_positions=positions,
                segmentation_type="BINARY",
                segment_descriptions=[_segment(hd, i, value, organs[value]) for i, value in enumerate(values, 1)],
                series_instance_uid=uid_of("series", digest.hexdigest()),
                series_number=series_number,
                sop_instance_uid=uid_of("instance", digest.hexdigest()),
                instance_number=1,
                manufacturer=NAME,
                manufacturer_model_name=NAME,
                software_versions=__version__,
                device_serial_number="0",
                content_label="SEGMENTATION",
                content_description=description[:64] or None,
                series_description=NAME,
            )
        except (AttributeError, ValueError, TypeError, KeyError) as error:
            # The text of an error may quote a header; the name of a missing attribute is harmless.
            lacks = f"no {error.name}" if isinstance(error, AttributeError) and error.name else type(error).__name__
            raise FedCoWProError(
                f"{series.name}: headers that a segmentation cannot refer to ({lacks})",
                "images as the scanner or the archive exports them",
                "write the mask as NIfTI, or export the series again",
            ) from None
    return made


def _segment(hd: Any, number: int, value: int, organ: str) -> Any:
    code, side = code_of(organ)
    algorithm = hd.AlgorithmIdentificationSequence(
        name=NAME, version=__version__, family=hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence")
    )
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=organ[:64],
        segmented_property_category=hd.sr.CodedConcept(CATEGORY[0], "SCT", CATEGORY[1]),
        segmented_property_type=hd.sr.CodedConcept(code[0], "SCT", code[1]),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
    )
    segment.SegmentDescription = f"label {value}"  # segments count 1, 2, 3; label values need not
    if side is not None:
        modifier = [hd.sr.CodedConcept(side[0], "SCT", side[1])]
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = modifier
    return segment


def require_fitting(labels: np.ndarray, layout: Layout, organs: Mapping[int, str], name: str) -> None:
    """Refuse labels of another type or shape than the slices', and labels without a name."""
    if labels.dtype != np.uint8:
        raise FedCoWProError(f"labels of type {labels.dtype}", "uint8 labels", "convert the labels to uint8")
    if labels.shape != layout.grid.internal_shape:
        raise FedCoWProError(
            f"labels of shape {labels.shape}",
            f"the (depth, height, width) {layout.grid.internal_shape} of {name}",
            "bring the labels onto the grid of the series first",
        )
    if not organs or not all(0 < value < 256 and organ.strip() for value, organ in organs.items()):
        raise FedCoWProError(f"organs {dict(organs)}", "label values in 1..255 with a name each", "correct them")
    unnamed = sorted(set(np.unique(labels).tolist()) - {0, *organs})
    if unnamed:
        raise FedCoWProError(
            f"label value(s) {', '.join(map(str, unnamed))} without a name", "an organ for each value", "name them"
        )


def _sources(hd: Any, layout: Layout, name: str) -> tuple[list[Dataset], list[Any] | None]:
    """The images that the slices are in, and the slices' positions where a file holds more frames than them."""
    headers = list(layout.headers.values())
    for header in headers:
        for attribute in MAY_BE_EMPTY:
            if attribute not in header:
                setattr(header, attribute, "")
    if not headers[0].get("FrameOfReferenceUID"):
        raise FedCoWProError(
            f"{name}: no FrameOfReferenceUID", "images of a known frame of reference", "write the mask as NIfTI"
        )
    if all(int(header.get("NumberOfFrames") or 1) == 1 for header in headers):
        return [layout.headers[file] for file, _ in layout.slices], None
    if len(headers) > 1:
        raise FedCoWProError(
            f"{name}: one volume in {len(headers)} multi-frame files", "one file", "write the mask as NIfTI"
        )
    frames = slices_of(headers[0])
    places = [frames[index].get("ImagePositionPatient") for _, index in layout.slices]
    return headers, [hd.PlanePositionSequence("PATIENT", [float(x) for x in place]) for place in places]


def uid_of(what: str, digest: str) -> str:
    """A UID made from a UUID, as the standard has it, that is a function of the content."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{NAME} {__version__} {what} {digest}').int}"
