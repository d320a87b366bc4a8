"""The volumes that a path, a folder or a pattern stands for."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import inform
from fedcowpro.volume.dicom.headers import is_dicom, is_directory_file
from fedcowpro.volume.read import DICOM_ENDINGS, ENDINGS, ending_of

OWN_OUTPUT = ("_mask", "_probabilities")  # ends of names that `segment` writes; such files are no queries
_PAPERS = (".json", ".csv", ".txt", ".md", ".pdf", ".xlsx", ".html", ".yaml", ".yml", ".png", ".jpg", ".log")


def stem_of(path: Path) -> str:
    """A file's name without the ending of its format; a folder's name.

    Only endings that are known are cut: a DICOM file named by its UID has the number of its image behind the last dot.
    """
    if path.is_dir():
        return path.resolve().name
    return path.name.removesuffix(ending_of(path, (*ENDINGS, *DICOM_ENDINGS))) or path.name


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
    is one series; any other one stands for the volumes and DICOM folders directly in it. Where both are in one folder,
    it stands for the volumes, and for itself if its DICOM files make one. A folder with a DICOMDIR, as CDs have, stands
    for every series below it. Links that lead nowhere are kept: reading them says so. A warning names what is passed
    over, with the reason; hidden files and documents are not worth one.

    Raises:
        FedCoWProError: a path that is not there, a pattern or a folder that stands for nothing.
    """
    found: dict[Path, None] = {}
    for path in given:
        if not _is_there(path) and glob.has_magic(str(path)):
            matches = sorted(map(Path, glob.glob(str(path), recursive=True)))
            matches = [match for match in matches if match.is_dir() or not _is_own(match)]
        elif _is_there(path):
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
    if not path.is_dir():
        return [path]
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    if any(is_directory_file(entry) for entry in entries):
        below = [Path(folder) for folder, _, _ in os.walk(path)]
        return sorted(folder for folder in below if _dicom_in(folder))
    volumes = [entry for entry in entries if ending_of(entry) and not entry.is_dir()]
    dicom = _dicom_in(path)
    if dicom and not volumes:
        return [path]
    own = [entry for entry in volumes if _is_own(entry)]
    taken = [entry for entry in entries if entry in volumes and entry not in own]
    taken += [entry for entry in entries if entry.is_dir() and _dicom_in(entry)]
    if dicom:
        from fedcowpro.volume.dicom.discover import find_in
        from fedcowpro.volume.dicom.redaction import redact

        among = find_in(dicom)
        if len(among.series) == 1 and not any(entry.is_dir() for entry in entries):
            taken.append(path)
        else:
            reason = "; ".join(among.notes) or f"{len(among.series)} DICOM volumes beside other files"
            _pass_over([Path(redact(str(file), among.identifiers)) for file in dicom], reason)
    _pass_over(own, "named as what `segment` writes; give them by name to segment them")
    others = [entry for entry in entries if entry not in [*taken, *own, *dicom] and entry.suffix.lower() not in _PAPERS]
    _pass_over([entry for entry in others if not entry.is_dir()], "no volume by its name or content")
    _pass_over([entry for entry in others if entry.is_dir()], "a folder without a DICOM series directly in it")
    return sorted(taken)


def _pass_over(paths: Sequence[Path], reason: str) -> None:
    if paths:
        names = ", ".join(path.name for path in paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
        inform(f"{paths[0].parent}: passed over {names}: {reason}", stacklevel=4)


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _is_own(path: Path) -> bool:
    return stem_of(path).endswith(OWN_OUTPUT)


def _dicom_in(folder: Path) -> list[Path]:
    """The DICOM files directly in a folder, but for its directory."""
    files = (file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith("."))
    return [file for file in files if not ending_of(file) and not is_directory_file(file) and is_dicom(file)]
