"""Cases among DICOM files: series under pseudonyms, and the segmentations that belong to them (extra `dicom`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import FoundScans
from fedcowpro.data.datasets.scan import LabelFile, LabelSource, Scan
from fedcowpro.volume.read import ending_of

if TYPE_CHECKING:
    from fedcowpro.volume.dicom import SegmentationFile, Series

_LOOKED_AT = 500  # files whose content is looked at to tell whether a folder holds DICOM at all


def holds_dicom(source: Path) -> bool:
    """Whether there is a DICOM file below the folder, by ending, or by content among the first files without one."""
    others = []
    for path in _walk(source):
        if path.suffix.lower() in (".dcm", ".dicom", ".ima"):
            return True
        others.append(path)
    from fedcowpro.volume.dicom.headers import is_dicom

    unnamed = (path for path in others if not path.suffix[1:].isalpha())
    return any(is_dicom(path) for path in islice(unnamed, _LOOKED_AT))


def dicom_scans(source: Path, key: Callable[[], bytes] | None, *, labelled: bool) -> FoundScans:
    """Every series below the folder under a pseudonym, with the segmentation that was drawn on it.

    Args:
        source: the folder.
        key: gives the site's secret.
        labelled: False leaves segmentations aside.

    Returns:
        The cases in the order of their files; no organs where no case has a segmentation.

    Raises:
        FedCoWProError: there are series but no key; the extra is not installed.
    """
    from fedcowpro.volume.dicom import find, pseudonym, redact, redacting_errors
    from fedcowpro.volume.dicom.seg_reader import SegmentationLabels

    found = find(source)
    if not found.series:
        return FoundScans((), None, found.notes, found.identifiers)
    secret = secret_of(source, key)
    drawn, notes = _drawn_on(found.series, found.segmentations) if labelled else ({}, [])
    with redacting_errors(found.identifiers):
        organs = _organs(list(drawn.values()))
    scans = [
        Scan(
            pseudonym(secret, series),
            series,
            SegmentationLabels(drawn[index], organs) if index in drawn else None,
            series.modality,
        )
        for index, series in enumerate(found.series)
    ]
    return FoundScans(
        tuple(scans),
        organs or None,
        (*found.notes, *(redact(note, found.identifiers) for note in notes)),
        found.identifiers,
    )


def secret_of(source: Path, key: Callable[[], bytes] | None) -> bytes:
    """The site's secret.

    Raises:
        FedCoWProError: there is none.
    """
    if key is None:
        raise FedCoWProError(
            f"{source} holds DICOM series, but there is no key for their pseudonyms",
            "the site's secret key",
            "from the command line it is made beside --out; a program gives Options(key=...)",
        )
    return key()


def the_series(path: Path) -> tuple[Series, tuple[str, ...]]:
    """The one series in a folder, and notes on what was left out.

    Raises:
        FedCoWProError: none, or several.
    """
    from fedcowpro.volume.dicom import find, redact

    found = find(path)
    if len(found.series) != 1:
        kinds = "; ".join(series.describe() for series in found.series) or "; ".join(found.notes) or "none"
        raise FedCoWProError(
            f"{redact(str(path), found.identifiers)}: {len(found.series)} DICOM volumes ({kinds})",
            "one volume in each folder that the pattern matches",
            "correct the pattern, or leave --images out to take every series under a pseudonym",
        )
    return found.series[0], found.notes


def labels_at(path: Path) -> LabelSource:
    """The label map in a file, or in a folder that holds one DICOM segmentation.

    Raises:
        FedCoWProError: a folder without exactly one segmentation.
    """
    if path.is_file() and ending_of(path):
        return LabelFile(path)
    from fedcowpro.volume.dicom.seg_reader import SegmentationLabels, find_segmentations

    if path.is_file():
        return SegmentationLabels(path)
    found = find_segmentations(path)
    if len(found) != 1:
        raise FedCoWProError(
            f"{path}: {len(found)} DICOM segmentations", "one in each folder", "correct the pattern of --labels"
        )
    return SegmentationLabels(found[0].path)


def _drawn_on(series: Sequence[Series], segmentations: Sequence[SegmentationFile]) -> tuple[dict[int, Path], list[str]]:
    """Index of a series -> its segmentation, and a note for each that was left out."""
    wanted: dict[int, list[Path]] = {}
    notes = []
    for one in segmentations:
        fitting = [index for index, image in enumerate(series) if image.uid in one.series]
        if len(fitting) == 1:
            wanted.setdefault(fitting[0], []).append(one.path)
        else:
            why = f"it refers to {len(fitting)} volumes" if fitting else "the series it refers to is not there"
            notes.append(f"{one.path}: segmentation left out, because {why}")
    for paths in wanted.values():
        if len(paths) > 1:
            names = ", ".join(str(path) for path in paths)
            notes.append(f"left out, because they belong to one volume: {names}; keep one of them")
    return {index: paths[0] for index, paths in wanted.items() if len(paths) == 1}, notes


def _organs(files: Sequence[Path]) -> dict[int, str]:
    """One naming for all segmentations: their own where they agree, else names numbered in alphabetical order."""
    from fedcowpro.volume.dicom.seg_reader import organs_of

    pairs = {(value, name.lower()) for file in files for value, name in organs_of(file).items()}
    names = {name for _, name in pairs}
    if len(pairs) == len(names) == len({value for value, _ in pairs}):
        return dict(sorted(pairs))
    return dict(enumerate(sorted(names), 1))


def _walk(source: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(source):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names) if not ending_of(Path(name)) and name[0] != ".")
