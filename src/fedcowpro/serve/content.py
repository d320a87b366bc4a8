"""Files of unknown origin -> a volume, checked by their content before memory is spent on them."""

from __future__ import annotations

import gzip
import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import nibabel as nib

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import collecting
from fedcowpro.serve.limits import Limits, Refused, size_text
from fedcowpro.volume.dicom.headers import MOST_FRAMES, examining, is_dicom, read_header
from fedcowpro.volume.dicom.library import library, quiet
from fedcowpro.volume.nifti import read_image
from fedcowpro.volume.parse import grid_of, open_nifti
from fedcowpro.volume.preprocess import modality_of
from fedcowpro.volume.read import reading
from fedcowpro.volume.volume import Volume

if TYPE_CHECKING:
    from fedcowpro.volume.dicom import Series

_BLOCK = 1 << 20
_KEPT = 48  # letters of a file's name; the last ones have its number and ending
_HEADERS = {b"n+1": (nib.Nifti1Header, 348), b"n+2": (nib.Nifti2Header, 540)}
_SLACK = 1 << 20  # bytes that a NIfTI file may have beyond what its header claims
_DEFLATED = "1.2.840.10008.1.2.1.99"  # the whole dataset is one compressed stream of unknown size
_KINDS = "a NIfTI volume, the files of a DICOM series, or a zip archive of them"


def stored_name(number: int, name: str) -> str:
    """A file name for something that came as `name`: it cannot leave its folder and is not too long for any disk."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    kept = "".join("_" if letter in '<>:"|?*' else letter for letter in last if letter.isprintable())[-_KEPT:]
    return f"{number:05d}-{kept}" if kept else f"{number:05d}"


def stem_for_header(name: str) -> str:
    """What of a volume's name may stand in a header as a file's name."""
    stem = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._") or "volume"


@dataclass(frozen=True)
class Contents:
    """What files hold: a NIfTI file, or DICOM volumes to choose from, and notes on what was left out."""

    nifti: Path | None = None
    series: tuple[Series, ...] = ()
    notes: tuple[str, ...] = ()

    def size(self, number: int, name: str) -> tuple[int, int]:
        """Voxels and axial slices of the volume, by headers.

        Raises:
            FedCoWProError: a NIfTI file without one 3-D volume in a known place.
        """
        if self.nifti is None:
            columns, rows, slices = self.series[number].size
            return columns * rows * slices, slices
        with _named(str(self.nifti), name):
            shape = grid_of(open_nifti(self.nifti), self.nifti).internal_shape
        return math.prod(shape), shape[0]


def examine(files: Sequence[Path], work: Path, limits: Limits) -> Contents:
    """Tell files apart by content and unpack them, within limits.

    Args:
        files: those of one upload or folder.
        work: existing private folder for what is unpacked.
        limits: of sizes and numbers.

    Raises:
        Refused: neither NIfTI nor DICOM; several volumes; more bytes than allowed or than a header claims.
        FedCoWProError: damaged files.
    """
    if not files:
        raise Refused(400, "no file", _KINDS, "choose a file")
    if len(files) > limits.files:
        raise Refused(413, f"{len(files)} files", f"at most {limits.files}", "give the files of one series")
    if len(files) == 1 and _start(files[0])[:4] == b"PK\x03\x04":
        files = _unzip(files[0], work, limits)
    volumes = [file for file in files if _is_nifti(_start(file))]
    if len(volumes) > 1 or (volumes and any(is_dicom(file) for file in files)):
        raise Refused(
            400, f"{len(volumes)} NIfTI volume(s) among {len(files)} files", "one NIfTI volume, or one DICOM series",
            "open them one by one",
        )  # fmt: skip
    if len(files) == 1 and volumes:
        return Contents(nifti=_plain_nifti(files[0], work, limits))
    dicom = [file for file in files if is_dicom(file)]
    if not dicom:
        raise Refused(415, "content of another type", _KINDS, "convert it, for example with dcm2niix")
    return _series(dicom, limits)


def read(found: Contents, number: int, name: str) -> tuple[Volume, Series | None, tuple[str, ...]]:
    """Read the volume under a new name; `number` chooses among DICOM volumes. The last part is what to tell the user.

    Raises:
        FedCoWProError: as `nifti.read_image` and `Series.read`.
    """
    series = found.series[number] if found.series else None
    with collecting() as said:
        own = series.name if series is not None else str(found.nifti)
        with _named(own, name), reading(found.nifti or Path(name)):
            volume = series.read() if series is not None else read_image(found.nifti)  # type: ignore[arg-type]
        volume = replace(volume, name=name)
        modality_of(volume)
    notes = (*found.notes, *(note.replace(own, name) for note in said))
    return volume, series, tuple(dict.fromkeys(notes))


@contextmanager
def _named(own: str, name: str) -> Iterator[None]:
    """Errors from within call the volume as its user does, not by its place on this machine."""
    try:
        yield
    except FedCoWProError as error:
        FedCoWProError.__init__(error, *(part.replace(own, name) for part in (error.got, error.expected, error.remedy)))
        raise


def _start(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(544)


def _is_nifti(start: bytes) -> bool:
    """Whether a file starts as NIfTI, or as a gzip stream, which then must hold NIfTI."""
    return start[:2] == b"\x1f\x8b" or _header(start) is not None


def _header(start: bytes) -> nib.Nifti1Header | None:
    """The NIfTI header at the start of a file; None = there is none."""
    found = _HEADERS.get(start[344:347] if start[344:347] == b"n+1" else start[4:7])
    if found is None:
        return None
    kind, size = found
    try:
        return kind.from_fileobj(io.BytesIO(start[:size]), check=False)
    except (nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError, ValueError):
        return None


def _plain_nifti(file: Path, work: Path, limits: Limits) -> Path:
    """A copy without compression in `work`; the header's claim is checked before the rest is read."""
    out = work / "volume.nii"
    packed = _start(file)[:2] == b"\x1f\x8b"
    try:
        with gzip.open(file) if packed else file.open("rb") as stream, out.open("wb") as target:
            start = stream.read(544)
            header = _header(start)
            if header is None:
                raise Refused(415, "content of another type", _KINDS, "convert it, for example with dcm2niix")
            claimed = _claim(header, limits)
            target.write(start)
            _copy(
                cast("IO[bytes]", stream),
                target,
                claimed + _SLACK - len(start),
                f"more bytes than its header's {size_text(claimed)}",
            )
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Refused(400, "not a whole gzip file", "a whole file", "copy or export the file again") from None
    return out


def _claim(header: nib.Nifti1Header, limits: Limits) -> int:
    """Bytes that a file must have by its header."""
    try:
        shape = [int(n) for n in header.get_data_shape()]
        size, offset = int(header.get_data_dtype().itemsize), int(header["vox_offset"])
    except (nib.spatialimages.HeaderDataError, ValueError, OverflowError, KeyError):
        raise Refused(400, "a broken NIfTI header", "a whole NIfTI file", "export the file again") from None
    voxels = math.prod(shape) if shape and min(shape) > 0 else 0
    if not voxels or offset < 0 or offset > limits.expanded:
        raise Refused(400, f"a NIfTI header with shape {shape}", "a volume", "export the file again")
    _require_size(voxels * max(size, 4), limits)
    return voxels * size + offset


def _require_size(size: int, limits: Limits) -> None:
    if size > limits.expanded:
        raise Refused(
            413, f"a volume of {size_text(size)}", f"at most {size_text(limits.expanded)} in memory",
            "crop or resample it, or start the server with a larger --max-volume",
        )  # fmt: skip


def _copy(source: IO[bytes], target: IO[bytes], most: int, what: str) -> int:
    """Copy blocks; refuse more than `most` bytes. Returns the number of bytes."""
    done = 0
    while block := source.read(_BLOCK):
        done += len(block)
        if done > most:
            raise Refused(413, what, "a file that is as large as it says", "check where the file comes from")
        target.write(block)
    return done


def _unzip(archive: Path, work: Path, limits: Limits) -> list[Path]:
    """The files of an archive, each as `stored_name` calls it; archives in archives stay packed."""
    out = work / "unpacked"
    out.mkdir()
    files, left = [], limits.expanded
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = [one for one in packed.infolist() if not one.is_dir()]
            if len(entries) > limits.files:
                raise Refused(413, f"{len(entries)} files", f"at most {limits.files}", "give one series")
            _require_size(sum(one.file_size for one in entries), limits)
            for number, entry in enumerate(entries):
                if entry.flag_bits & 1:
                    raise Refused(415, "an encrypted archive", "one without password", "unpack it first")
                files.append(out / stored_name(number, entry.filename))
                with packed.open(entry) as source, files[-1].open("wb") as target:
                    left -= _copy(source, target, min(left, entry.file_size), "an archive larger than it says")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        raise Refused(400, "a damaged zip archive", "a whole archive", "pack it again") from None
    volumes = [file for file in files if _is_nifti(_start(file))]
    if len(volumes) > 1:
        raise Refused(400, f"{len(volumes)} NIfTI volumes in one archive", "one", "give them one by one")
    return volumes or files


def _series(files: list[Path], limits: Limits) -> Contents:
    """The volumes among DICOM files. What their headers claim is added up before pixels are read."""
    library("pydicom")
    from fedcowpro.volume.dicom.discover import find_in

    _require_size(sum(_pixels(files)) * 4, limits)
    found = find_in(files)
    if found.damaged:
        raise Refused(400, "a damaged or incomplete DICOM file", "whole files", "export the series again")
    if not found.series:
        raise Refused(
            400, "DICOM files that make no volume", "at least 3 parallel slices of one CT or MR series",
            "give the files of one series",
        )  # fmt: skip
    return Contents(series=found.series, notes=found.notes)


def _pixels(files: Sequence[Path]) -> Iterator[int]:
    """Pixels of each file by its header."""
    from pydicom.filereader import read_file_meta_info

    for file in files:
        with quiet():
            try:
                deflated = str(read_file_meta_info(file).get("TransferSyntaxUID")) == _DEFLATED
            except Exception:  # without the part that names it, pydicom takes none for deflated
                deflated = False
        if deflated:
            raise Refused(415, "a deflated DICOM file", "another transfer syntax", "export it uncompressed")
        header = read_header(file)
        with examining(file):
            frames = int(header.get("NumberOfFrames") or 1)
            size = int(header.get("Rows") or 0) * int(header.get("Columns") or 0)
        if not 0 <= frames <= MOST_FRAMES:
            raise Refused(413, f"a DICOM file of {frames} frames", f"at most {MOST_FRAMES}", "give one volume")
        yield frames * size
