"""The data folder: what is in it, and that no path leads out of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath

from fedcowpro.data.datasets.pairing import is_label_map, pair
from fedcowpro.serve.limits import Refused
from fedcowpro.volume.dicom.headers import is_dicom, is_directory_file
from fedcowpro.volume.read import NIFTI, ending_of

_LOOKED_AT = 8  # files of a folder that are opened to see whether it holds DICOM
_LISTED = 2000


@dataclass(frozen=True)
class Entry:
    """A line of the listing.

    Attributes:
        name: of the file or folder.
        path: from the data folder, with '/'.
        kind: 'folder', 'nifti', 'series' for a folder that holds DICOM files itself, or 'unusable'.
        size: bytes of a file, else 0.
        why: an entry is unusable.
    """

    name: str
    path: str
    kind: str
    size: int
    why: str = ""

    @property
    def is_image(self) -> bool:
        """Whether it is a NIfTI file that by its name is no label map."""
        return self.kind == "nifti" and not is_label_map(PurePath(self.path))


@dataclass(frozen=True)
class DataFolder:
    """A folder whose volumes the page may open.

    Args:
        root: existing folder.
    """

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(os.path.abspath(self.root)))

    def resolve(self, relative: str) -> Path:
        """The real path of a file or folder inside.

        Raises:
            Refused: absolute paths, '..', a link that leads out, nothing there. All with one message, so that an
                answer does not tell what lies outside.
        """
        refusal = Refused(
            404, "no such file or folder in the data folder", "a path as the listing shows it", "choose from the list"
        )
        parts = Path(relative).parts
        if "\0" in relative or "\\" in relative or Path(relative).is_absolute():
            raise refusal
        if any(part == ".." or part.startswith(".") for part in parts):
            raise refusal
        try:
            path = self.root.joinpath(*parts).resolve(strict=True)
        except (OSError, RuntimeError):
            raise refusal from None
        if not self._holds(path) or not (path.is_dir() or path.is_file()):
            raise refusal
        return path

    def files(self, relative: str) -> list[Path]:
        """A file, or all files of a folder that is to be one DICOM series; links that lead out are left out."""
        path = self.resolve(relative)
        if path.is_file():
            return [path]
        found = (one for one in sorted(path.iterdir()) if not one.name.startswith("."))
        return [one for one in found if one.is_file() and self._holds(one.resolve())]

    def listing(self, relative: str = "") -> list[Entry]:
        """Folders, NIfTI files and folders with DICOM files, by name; hidden ones and links that lead out are not.

        What cannot be opened though it is called a volume is listed with the reason.
        """
        folder = self.resolve(relative)
        if not folder.is_dir():
            raise Refused(404, "no such folder in the data folder", "a folder", "choose from the list")
        entries = []
        for path in islice(sorted(folder.iterdir(), key=lambda one: one.name.lower()), _LISTED):
            named = bool(ending_of(path, NIFTI))
            if path.name.startswith(".") or not self._is_inside(path):
                if named and self._is_dangling(path):
                    entries.append(_unusable(path, "a link to a file that is not there"))
                continue
            place = "/".join([*Path(relative).parts, path.name])
            if not _can_be_sent(path.name):
                if named or path.is_dir():
                    entries.append(_unusable(path, "a name that is not UTF-8; rename it to open it here"))
            elif path.is_dir():
                entries.append(Entry(path.name, place, "series" if self._has_dicom(path) else "folder", 0))
            elif named and path.is_file():
                entries.append(Entry(path.name, place, "nifti", path.stat().st_size))
        return entries

    def images(self, relative: str = "") -> list[str]:
        """Paths of the NIfTI images directly in a folder; label maps, by their names, are none."""
        return [entry.path for entry in self.listing(relative) if entry.is_image]

    def mask_of(self, place: str) -> Path | None:
        """The label map that lies beside an image, told by names and grids; None = there is none, or no single one."""
        folder = PurePath(place).parent.as_posix()
        entries = [entry.path for entry in self.listing("" if folder == "." else folder) if entry.kind == "nifti"]
        maps = [self.root / path for path in entries if is_label_map(PurePath(path))]
        images = {path: self.root / path for path in entries if not is_label_map(PurePath(path))}
        if place not in images or not maps:
            return None
        return pair(images, maps, self.root)[0].get(place)

    def has_dicom(self, relative: str) -> bool:
        """Whether a folder holds DICOM files itself."""
        return self._has_dicom(self.resolve(relative))

    def _holds(self, path: Path) -> bool:
        return path.is_relative_to(self.root.resolve())

    def _is_inside(self, path: Path) -> bool:
        try:
            return self._holds(path.resolve(strict=True))
        except (OSError, RuntimeError):  # a link to nowhere, or in a circle
            return False

    def _is_dangling(self, path: Path) -> bool:
        """Whether a link leads to a place inside where nothing is; of places outside nothing is told."""
        try:
            return path.is_symlink() and not path.exists() and self._holds(path.resolve())
        except (OSError, RuntimeError):
            return False

    def _has_dicom(self, folder: Path) -> bool:
        try:
            files = (one for one in sorted(folder.iterdir()) if one.is_file() and self._is_inside(one))
            files = (one for one in files if not is_directory_file(one))
            return any(is_dicom(one) for one in islice(files, _LOOKED_AT))
        except OSError:
            return False


def _unusable(path: Path, why: str) -> Entry:
    name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
    return Entry(name, "", "unusable", 0, why)


def _can_be_sent(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
