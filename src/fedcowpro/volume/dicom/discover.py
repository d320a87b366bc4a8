"""Which volumes and segmentations there are among the files of a folder, from headers only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedcowpro.config import Modality
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import inform
from fedcowpro.volume.checks import MIN_SLICES
from fedcowpro.volume.dicom.headers import SEGMENTATION_CLASSES, examining, is_dicom, kind_of, read_header, slices_of
from fedcowpro.volume.dicom.library import library
from fedcowpro.volume.dicom.pixels import is_colour
from fedcowpro.volume.dicom.redaction import identifiers_of, redact, redacting_errors
from fedcowpro.volume.dicom.series import Identity, Series
from fedcowpro.volume.dicom.split import Part, Slice, parts_of, slices_in
from fedcowpro.volume.dicom.stack import places
from fedcowpro.volume.volume import Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_MODALITIES: dict[str, Modality | None] = {"CT": "ct", "MR": "mr", "OT": None, "": None}


@dataclass(frozen=True)
class SegmentationFile:
    """A DICOM segmentation.

    Attributes:
        path: the file.
        series: SeriesInstanceUID of each series that it was drawn on.
    """

    path: Path
    series: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class FoundSeries:
    """What a folder holds.

    Attributes:
        series: the volumes, in the order in which their series are met.
        segmentations: in the order of their paths.
        notes: what was left out and why, without anything that leads to a patient but paths.
        damaged: DICOM files that cannot be read.
        identifiers: what names the patients; `redact` takes it out of messages, because folders may be named by it.
    """

    series: tuple[Series, ...]
    segmentations: tuple[SegmentationFile, ...] = ()
    notes: tuple[str, ...] = ()
    damaged: tuple[Path, ...] = field(default=(), repr=False)
    identifiers: frozenset[str] = field(default=frozenset(), repr=False)


def find_series(folder: Path) -> list[Series]:
    """The volumes in a folder tree; `find` also says what was left out.

    Raises:
        FedCoWProError: no such folder; the extra is not installed.
    """
    return list(find(folder).series)


def find(folder: Path) -> FoundSeries:
    """The volumes and segmentations in a folder tree. Files are told by content; those that are not DICOM, and
    DICOMDIR, reports and other objects without pixels, are passed over.

    Raises:
        FedCoWProError: no such folder; the extra is not installed.
    """
    folder = Path(folder)
    library("pydicom")
    if not folder.is_dir():
        raise FedCoWProError(f"no folder {folder}", "a folder of DICOM files", "check the path; unpack archives first")
    return find_in(_walk(folder))


def read_image(path: Path) -> Volume:
    """Read the one volume in a folder, or in a multi-frame file.

    Raises:
        FedCoWProError: no or several volumes; a damaged file; a file with one slice; as `Series.read`.
    """
    path = Path(path)
    library("pydicom")
    if not path.is_dir():
        header = read_header(path)
        if kind_of(header) in SEGMENTATION_CLASSES:
            raise FedCoWProError(f"{path}: a segmentation", "an image", "give the series that it was drawn on")
        with examining(path):
            single = "Rows" in header and len(slices_of(header)) < MIN_SLICES
        if single:
            raise FedCoWProError(
                f"{path}: a file with a single slice",
                "a whole volume",
                f"give the folder of its series, {path.parent}",
            )
    found = find(path) if path.is_dir() else find_in([path])
    with redacting_errors(found.identifiers):
        volume = _the_volume(found, path)
    for note in found.notes:
        inform(note, stacklevel=2)
    return volume


def _the_volume(found: FoundSeries, path: Path) -> Volume:
    if found.damaged:
        raise FedCoWProError(
            f"{found.damaged[0]}: damaged or incomplete DICOM file", "whole files", "export or copy the series again"
        )
    if len(found.series) == 1:
        return found.series[0].read()
    if not found.series:
        raise FedCoWProError(
            f"{path} holds no DICOM volume ({'; '.join(found.notes) or 'no DICOM images'})",
            f"at least {MIN_SLICES} parallel slices of one CT or MR series",
            "point at the folder of the series",
        )
    listed = "".join(f"\n    {one.describe()}; first file {one.files[0]}" for one in found.series)
    raise FedCoWProError(
        f"{path} holds {len(found.series)} DICOM volumes:{listed}",
        "one volume",
        "put the files of the one that you want into a folder of their own, or prepare the folder as a site",
    )


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if path.is_file():
                yield path


class _LeftOut:
    """Files that were left out, by reason."""

    def __init__(self) -> None:
        self._paths: dict[str, list[Path]] = {}

    def add(self, path: Path, reason: str) -> None:
        self._paths.setdefault(reason, []).append(path)

    def notes(self) -> tuple[str, ...]:
        return tuple(
            f"left out {paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: {reason}"
            for reason, paths in self._paths.items()
        )


def find_in(paths: Iterable[Path]) -> FoundSeries:
    """The volumes and segmentations among files, as `find`."""
    left_out, damaged, segmentations = _LeftOut(), [], []
    identifiers: dict[str, frozenset[str]] = {}  # by the patient's number and name
    by_series: dict[tuple[Identity, str, Modality | None], list[Slice]] = {}
    for path in paths:
        if not is_dicom(path):
            continue
        try:
            header = read_header(path)
            with examining(path):
                patient = f"{header.get('PatientID')} {header.get('PatientName')}"
                if patient not in identifiers:
                    identifiers[patient] = identifiers_of(header)
                if kind_of(header) in SEGMENTATION_CLASSES:
                    segmentations.append(_segmentation(header, path))
                elif "Rows" in header:
                    slices = slices_in(header, path)
                    if reason := _unusable(header) or ("" if slices else "no position, orientation or pixel spacing"):
                        left_out.add(path, reason)
                    else:
                        by_series.setdefault(_belongs(header), []).extend(slices or ())
        except FedCoWProError:
            damaged.append(path)
            left_out.add(path, "damaged or incomplete DICOM file")
    series: list[Series] = []
    for owner, slices in by_series.items():
        parts, others = parts_of(slices)
        series += [_series(part, *owner, number if len(parts) > 1 else 0) for number, part in enumerate(parts, 1)]
        for reason, members in others:
            for one in members:
                left_out.add(one.file, reason)
    every = frozenset().union(*identifiers.values())
    return FoundSeries(
        tuple(replace(one, identifiers=every) for one in series),
        tuple(segmentations),
        tuple(redact(note, every) for note in left_out.notes()),
        tuple(damaged),
        every,
    )


def _segmentation(header: Dataset, path: Path) -> SegmentationFile:
    referred = header.get("ReferencedSeriesSequence") or []
    return SegmentationFile(path, tuple(str(one.SeriesInstanceUID) for one in referred))


def _unusable(header: Dataset) -> str:
    """Why an image is no part of a volume; '' = it may be."""
    kind = str(header.get("ImageType") or "")
    modality = str(header.get("Modality") or "")
    if modality not in _MODALITIES:
        return f"modality {modality[:16]}"
    if is_colour(header):
        return "colour image"
    if "LOCALIZER" in kind:
        return "localiser"
    if "MOSAIC" in kind:
        return "mosaic of slices; convert it with dcm2niix"
    return "" if header.get("SeriesInstanceUID") else "no SeriesInstanceUID"


def _belongs(header: Dataset) -> tuple[Identity, str, Modality | None]:
    """Whose and which series. The patient counts, as anonymisers may have given several the same UIDs."""
    identity = Identity(str(header.get("PatientID") or ""), str(header.get("StudyInstanceUID") or ""))
    return identity, str(header.SeriesInstanceUID), _MODALITIES[str(header.get("Modality") or "")]


def _series(part: Part, identity: Identity, uid: str, modality: Modality | None, number: int) -> Series:
    planes = [one.plane for one in part.slices]
    first, positions = planes[0], len(places(planes))
    between = (planes[-1].height - first.height) / max(1, positions - 1)
    return Series(
        slices=tuple((one.file, one.frame) for one in part.slices),
        uid=uid,
        modality=modality,
        size=(first.size[1], first.size[0], positions),
        spacing=(first.spacing[1], first.spacing[0], between),
        number=number,
        kind=part.kind,
        identity=identity,
    )
