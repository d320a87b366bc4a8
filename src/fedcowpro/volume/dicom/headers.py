"""DICOM headers: which files are DICOM, and the attributes of each of their slices."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.dicom.library import library, quiet

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# CT and MR images: classic, enhanced, legacy converted enhanced.
IMAGE_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{tail}" for tail in ("2", "2.1", "2.2", "4", "4.1", "4.4"))
STRUCTURE_SET_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"  # outlines, as radiotherapy has them
SEGMENTATION_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.66.{tail}" for tail in ("4", "7"))  # by segment, label map
# Where scanners write the diffusion weighting besides the standard's place: Siemens, Philips, GE.
B_VALUES = (0x00189087, 0x0019100C, 0x20011003, 0x00431039)
MOST_FRAMES = 20_000  # of one file
_MAGIC_AT, _MAGIC = 128, b"DICM"
_FIRST = {(group, element) for group in (2, 8) for element in (0x00, 0x01, 0x02, 0x05, 0x08, 0x12, 0x16, 0x18)}
_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "PatientName",
    "Modality",
    "ImageType",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "EchoTime",
    "DiffusionGradientOrientation",
    "InversionTime",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "AcquisitionNumber",
    "AcquisitionTime",
    "ContentTime",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ReferencedSeriesSequence",
    *B_VALUES,
]


class Attributes:
    """The attributes of one slice: of its functional groups where the file has some, then of the file."""

    def __init__(self, *places: Dataset) -> None:
        self._places = places

    def get(self, *names: str | int) -> Any:
        """The value of the first attribute (keyword or tag) that is there and not empty; None = none is."""
        for name in names:
            for place in self._places:
                if name in place:
                    value = place[name].value
                    if value is not None and value != "":
                        return value
        return None


def is_dicom(path: Path) -> bool:
    """Whether a file's first bytes are those of DICOM, with or without the preamble; its name does not count."""
    with path.open("rb") as file:
        start = file.read(_MAGIC_AT + len(_MAGIC))
    if start[_MAGIC_AT:] == _MAGIC:
        return True
    if len(start) <= _MAGIC_AT:
        return False
    # Without preamble a file starts with one of the first elements of group 2 or 8: elements are in order. Then
    # comes the type in two letters, or a small even length.
    group, element, length = struct.unpack("<HHI", start[:8])
    typed = start[4:6].isalpha() and start[4:6].isupper()
    return (group, element) in _FIRST and (typed or (length % 2 == 0 and 0 < length <= 128))


def is_directory_file(path: Path) -> bool:
    """Whether a file is the table of contents of a CD, which the standard gives this name."""
    return path.name.upper() == "DICOMDIR" and path.is_file()


def read_header(path: Path, *, whole: bool = False) -> Dataset:
    """A DICOM file's header without its pixels.

    Args:
        path: the file.
        whole: all attributes, not only those that say what and where its slices are.

    Raises:
        FedCoWProError: no DICOM file, or a damaged one.
    """
    return read_dataset(path, stop_before_pixels=True, specific_tags=None if whole else _TAGS)


def read_dataset(path: Path, **options: Any) -> Dataset:
    """A DICOM file as pydicom reads it with these options.

    Raises:
        FedCoWProError: no DICOM file, or a damaged one.
    """
    if not path.is_file():
        raise FedCoWProError(f"no file {path}", "a DICOM file", "check the path")
    if not is_dicom(path):
        raise FedCoWProError(f"{path}: not a DICOM file", "a DICOM file", "check the path and the file's format")
    with examining(path):
        dataset: Dataset = library("pydicom").dcmread(path, force=True, **options)
        kind = kind_of(dataset)
        # pydicom ends without a word where a file ends early.
        if not kind or (kind in IMAGE_CLASSES + SEGMENTATION_CLASSES and "Columns" not in dataset):
            raise EOFError
    return dataset


@contextmanager
def examining(path: Path) -> Iterator[None]:
    """Any error within is this file's damage. pydicom reads values when they are used and names no set of errors.

    Raises:
        FedCoWProError: a damaged file. It does not quote pydicom's error, which may quote a header.
    """
    try:
        with quiet():
            yield
    except FedCoWProError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's; pydicom's own have no number
            raise
        raise FedCoWProError(
            f"{path}: damaged or incomplete DICOM file", "a whole file", "export or copy the file again"
        ) from None


def kind_of(header: Dataset) -> str:
    """The UID that says what kind of object a file holds."""
    meta = getattr(header, "file_meta", None) or {}
    return str(header.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")


def slices_of(header: Dataset) -> list[Attributes]:
    """The attributes of each of a file's slices (frames).

    Raises:
        ValueError: a header that claims more frames than any volume has.
    """
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        frames = int(header.get("NumberOfFrames") or 1)
        if frames > MOST_FRAMES:
            raise ValueError
        return [Attributes(header)] * frames
    shared = [group for item in header.get("SharedFunctionalGroupsSequence") or [] for group in _groups(item)]
    return [Attributes(*_groups(frame), *shared, header) for frame in frames]


def _groups(item: Dataset) -> list[Dataset]:
    return [element.value[0] for element in item if element.VR == "SQ" and element.value]
