"""What people did with volumes, on the disk: each change is there before its request is answered.

PROJECT/project.json                       format, and the key of the one bench where no token tells people apart
PROJECT/benches/<bench>/bench.json         labels, the page's settings, open volumes in order
PROJECT/benches/<bench>/files/<upload>/    files that were sent, until their volume is closed
PROJECT/benches/<bench>/volumes/<volume>/  volume.json, slice_0012.npz, result.npz, before.npz
PROJECT/benches/<bench>/closed/<volume>/   the same of closed volumes of the data folder, until they are opened again
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import secrets
import shutil
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal
from zipfile import BadZipFile

import numpy as np

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.oneshot.segmentation import Segmentation

try:
    import fcntl
except ImportError:  # Windows, where two servers on one project are not told apart
    fcntl = None  # type: ignore[assignment]

Ends = tuple[int | None, int | None]
_FORMAT = 1
_SLICE = re.compile(r"slice_(\d+)\.npz")


@dataclass(frozen=True)
class Origin:
    """Where a volume came from.

    Attributes:
        kind: the data folder, or files that were sent.
        place: path in the data folder, or name of the folder of the files.
        series: which of several DICOM volumes.
    """

    kind: Literal["data", "upload"]
    place: str
    series: int = 0


@dataclass(frozen=True)
class Work:
    """What was done with a volume; fields as of `OpenVolume`."""

    drawn: dict[int, np.ndarray] = field(default_factory=dict)
    extents: dict[int, Ends] = field(default_factory=dict)
    result: Segmentation | None = None
    before: Segmentation | None = None


@dataclass(frozen=True)
class VolumeStore:
    """The folder of one volume."""

    folder: Path

    def describe(self, name: str, origin: Origin, voxels: np.ndarray, names: Mapping[int, str]) -> None:
        """Write what the volume is, and the names of its labels."""
        record = {"name": name, "origin": asdict(origin), "voxels": image_digest(voxels), "names": names}
        self._write({**self.record(), **record})

    def record(self) -> dict[str, Any]:
        """What `describe` wrote."""
        return _read_json(self.folder / "volume.json") or {}

    def fits(self, voxels: np.ndarray) -> bool:
        """Whether these are the voxels of the image that was worked on."""
        return bool(self.record().get("voxels") == image_digest(voxels))

    def write_slices(self, slices: Mapping[int, np.ndarray]) -> None:
        """Write slices as they are drawn."""
        for number, labels in slices.items():
            write_atomic(self._slice(number), _packed(labels=labels))

    def drop_slices(self, numbers: Collection[int]) -> None:
        """Slices are not known any more."""
        for number in numbers:
            self._slice(number).unlink(missing_ok=True)

    def write_ends(self, extents: Mapping[int, Ends]) -> None:
        """Write first and last slices."""
        self._write({**self.record(), "extents": dict(extents)})

    def write_masks(self, result: Segmentation | None, before: Segmentation | None) -> None:
        """Write the masks, and those of before."""
        for name, found in (("result", result), ("before", before)):
            path = self.folder / f"{name}.npz"
            if found is None:
                path.unlink(missing_ok=True)
            else:
                sure = [found.confidence[organ] for organ in found.organs]
                content = _packed(
                    labels=found.labels,
                    organs=found.organs,
                    sure=sure,
                    slices=found.slice_confidence,
                    doubts=json.dumps({organ: list(said) for organ, said in found.doubts.items()}),
                )
                write_atomic(path, content)

    def read(self) -> Work:
        """All of it.

        Raises:
            FedCoWProError: damaged files.
        """
        drawn = {}
        for path in sorted(self.folder.glob("slice_*.npz")):
            if match := _SLICE.fullmatch(path.name):
                drawn[int(match[1])] = _unpacked(path)["labels"]
        extents = {int(value): tuple(ends) for value, ends in self.record().get("extents", {}).items()}
        return Work(drawn, extents, self._masks("result"), self._masks("before"))

    def _masks(self, name: str) -> Segmentation | None:
        path = self.folder / f"{name}.npz"
        if not path.exists():
            return None
        found = _unpacked(path)
        organs = tuple(int(organ) for organ in found["organs"])
        confidence = {organ: float(value) for organ, value in zip(organs, found["sure"], strict=True)}
        doubts = {int(organ): tuple(said) for organ, said in json.loads(str(found["doubts"])).items()}
        return Segmentation(organs, found["labels"], None, confidence, found["slices"], doubts)

    def _slice(self, number: int) -> Path:
        return self.folder / f"slice_{number:04d}.npz"

    def _write(self, record: Mapping[str, Any]) -> None:
        write_atomic(self.folder / "volume.json", json.dumps(record, indent=1))


@dataclass(frozen=True)
class Bench:
    """One person's work.

    Attributes:
        folder: existing, private.
    """

    folder: Path

    def state(self) -> dict[str, Any]:
        """Labels, settings and open volumes as they were written."""
        return _read_json(self.folder / "bench.json") or {}

    def write(self, names: Mapping[int, str], settings: Mapping[str, Any], volumes: Sequence[str]) -> None:
        """Write them."""
        state = {"labels": dict(names), "settings": dict(settings), "volumes": list(volumes)}
        write_atomic(self.folder / "bench.json", json.dumps(state, indent=1))

    def upload_folder(self) -> Path:
        """A new folder for files that are sent."""
        folder = self.folder / "files" / secrets.token_hex(8)
        folder.mkdir(mode=0o700, parents=True)
        return folder

    def files_of(self, origin: Origin) -> list[Path]:
        """Files that were sent."""
        folder = self.folder / "files" / origin.place
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def drop_files(self, kept: Collection[str]) -> None:
        """Remove files that were sent and never became a volume."""
        for folder in (self.folder / "files").glob("*"):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def volume(self, key: str) -> VolumeStore:
        """The store of an open volume, old or new."""
        folder = self.folder / "volumes" / key
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return VolumeStore(folder)

    def close(self, key: str) -> None:
        """Put a volume of the data folder away; the work on others goes with their files."""
        store = self.volume(key)
        if store.record().get("origin", {}).get("kind") == "data" and any(store.folder.glob("*.npz")):
            away = self.folder / "closed"
            away.mkdir(mode=0o700, exist_ok=True)
            store.folder.rename(away / key)
        else:
            shutil.rmtree(store.folder, ignore_errors=True)

    def reopen(self, origin: Origin, voxels: np.ndarray) -> str | None:
        """The key of a volume that was closed and is now opened again, with its work; None = there is none."""
        for folder in (self.folder / "closed").glob("*"):
            store = VolumeStore(folder)
            if store.record().get("origin") == asdict(origin) and store.fits(voxels):
                target = self.folder / "volumes" / folder.name
                target.parent.mkdir(mode=0o700, exist_ok=True)
                folder.rename(target)
                return folder.name
        return None


class Project:
    """A folder with the benches of those who use a server; one server at a time.

    Args:
        folder: made where missing.

    Raises:
        FedCoWProError: a folder with other things in it, of a later version, or in use by another server.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        record = _read_json(folder / "project.json")
        if record is None and any(path.name != "lock" for path in folder.iterdir()):
            raise FedCoWProError(
                f"{folder}: a folder that is no project", "a new or empty folder, or a project", "correct --project"
            )
        if record is not None and record.get("format") != _FORMAT:
            raise FedCoWProError(
                f"{folder}: a project of format {record.get('format')}", f"format {_FORMAT}",
                "use the version that made it, or another --project",
            )  # fmt: skip
        self._lock: IO[str] = (folder / "lock").open("w")
        if fcntl is not None:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._lock.close()
                raise FedCoWProError(
                    f"{folder} is in use by another server", "one server for a project",
                    "open that server's page, or give another --project",
                ) from None  # fmt: skip
        if record is None:
            record = {"format": _FORMAT, "key": secrets.token_urlsafe(32)}
            write_atomic(folder / "project.json", json.dumps(record))
            (folder / "project.json").chmod(0o600)
        self.key: str = record["key"]

    def knows(self, key: str) -> bool:
        """Whether somebody with this key has worked here."""
        return self._folder(key).is_dir()

    def bench(self, key: str) -> Bench:
        """The bench of somebody, old or new."""
        folder = self._folder(key)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Bench(folder)

    def close(self) -> None:
        """Let another server have it."""
        self._lock.close()

    def _folder(self, key: str) -> Path:
        return self.root / "benches" / hashlib.sha256(key.encode()).hexdigest()[:32]


def image_digest(voxels: np.ndarray) -> str:
    """Tells an image from another one: its shape, and a checksum of its voxels."""
    return f"{'x'.join(map(str, voxels.shape))}-{zlib.crc32(np.ascontiguousarray(voxels).data):08x}"


def _packed(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _unpacked(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, BadZipFile, EOFError, zlib.error) as error:
        raise FedCoWProError(
            f"{path.name}: {error}", "a file that this page wrote", "delete it, or copy it again"
        ) from error


def _read_json(path: Path) -> dict[str, Any] | None:
    """None where there is no file; an unreadable one is the user's to see, not to be written over."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise FedCoWProError(f"{path}: {error}", "a file that this page wrote", "restore it, or delete it") from error
    return found
