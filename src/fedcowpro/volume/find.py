"""The volumes that a path, a folder or a pattern stands for."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.dicom.headers import is_dicom
from fedcowpro.volume.read import ENDINGS

OWN_OUTPUT = ("_mask", "_probabilities")  # ends of names that `segment` writes; such files are no queries


def stem_of(path: Path) -> str:
    """A file's name without the ending of its format; a folder's name."""
    name = path.name
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return path.resolve().name if path.is_dir() else path.stem


def output_names(queries: Sequence[Path]) -> list[Path]:
    """What each query's results are called, without an ending: its own name, or with the folders that it lies in.

    Folders are kept, below the one that all queries have in common, only where two queries have one name, as
    `p1/ct.nii.gz` and `p2/ct.nii.gz`; then they are kept for all.
    """
    stems = [stem_of(query) for query in queries]
    if len(set(stems)) == len(stems):
        return [Path(stem) for stem in stems]
    # Not resolved: a link's own place is where its user looks for it.
    folders = [os.path.dirname(os.path.abspath(query)) for query in queries]
    shared = os.path.commonpath(folders)
    return [Path(os.path.relpath(folder, shared)) / stem for folder, stem in zip(folders, stems, strict=True)]


def find_volumes(given: Iterable[Path]) -> list[Path]:
    """Files, and folders with a DICOM series, in order and each once.

    A path with `*`, `?` or `[` that is no file is a pattern (`**` is any number of folders). A folder of DICOM files
    is one series; any other one stands for the volumes and DICOM folders directly in it, but for what `segment` wrote.

    Raises:
        FedCoWProError: a path that is not there, a pattern or a folder that stands for nothing.
    """
    found: dict[Path, None] = {}
    for path in given:
        if not path.exists() and glob.has_magic(str(path)):
            matches = sorted(map(Path, glob.glob(str(path), recursive=True)))
            matches = [match for match in matches if match.is_dir() or not _is_own(match)]
        elif path.exists():
            matches = [path]
        else:
            raise FedCoWProError(f"no file {path}", "a volume, a folder or a pattern", "check the path")
        inside = [volume for match in matches for volume in _inside(match)]
        if not inside:
            raise FedCoWProError(
                f"no volume at {path}", f"files with {', '.join(ENDINGS)}, or DICOM folders", "check the path"
            )
        found |= dict.fromkeys(inside)
    return list(found)


def _inside(path: Path) -> list[Path]:
    if not path.is_dir() or _is_series(path):
        return [path]
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    return [
        entry
        for entry in entries
        if (entry.is_dir() and _is_series(entry)) or (_is_volume(entry) and not _is_own(entry))
    ]


def _is_volume(path: Path) -> bool:
    return path.is_file() and path.name.endswith(ENDINGS)


def _is_own(path: Path) -> bool:
    return stem_of(path).endswith(OWN_OUTPUT)


def _is_series(folder: Path) -> bool:
    """Whether a folder has a DICOM file directly in it; the first file tells, volumes of other formats apart."""
    files = (file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith("."))
    return any(is_dicom(file) for file in files if not file.name.endswith(ENDINGS))
