"""A NIfTI file, its grid and its voxels, with every doubt about the file said by name."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.volume import Grid

_SHORTEST = 1e-4  # mm between voxels
_FURTHEST = 1e8  # mm
_FLAT = 1e-3  # volume of the cell that three axes of unit length span: below it two axes are one
# Norm of a quaternion's vector part above 1 that is rounding; more is nonsense.
_ROUNDED = 1e-4


def open_nifti(path: Path) -> nib.Nifti1Image:
    """Parse a file from its bytes: a gzip stream is so checked to its end, checksum included."""
    expected = "a NIfTI file (.nii or .nii.gz)"
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise FedCoWProError(f"{path}: file ending", expected, "convert the volume to NIfTI, for example with dcm2niix")
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise FedCoWProError(
                f"{path}: a link to a file that is not there", expected, "fetch the file that it leads to"
            ) from error
        raise FedCoWProError(f"no file {path}", expected, "check the path") from error
    except OSError as error:
        raise FedCoWProError(
            f"{path} cannot be read: {error.strerror}", expected, "check what it is and its rights"
        ) from error
    zipped = raw[:2] == b"\x1f\x8b"  # by content: files are renamed without being packed or unpacked
    if zipped:
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise FedCoWProError(
                f"{path}: not a whole gzip file ({error})", expected, "copy or export the file again"
            ) from error
    header = header_of(raw)
    if header is None:
        lacking = "not a whole gzip file" if path.suffix.lower() == ".gz" and not zipped else "no NIfTI header inside"
        raise FedCoWProError(
            f"{path}: {lacking}",
            expected,
            "convert the volume to NIfTI, for example with dcm2niix",
        )
    try:
        kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        claimed = math.prod(map(int, header.get_data_shape())) * header.get_data_dtype().itemsize
        if not 0 <= claimed <= len(raw) - int(header["vox_offset"]):
            raise FedCoWProError(
                f"{path}: fewer voxels than the header says ({len(raw)} bytes for {claimed})", "a whole file",
                "copy or export the file again",
            )  # fmt: skip
        image: nib.Nifti1Image = kind.from_bytes(header.binaryblock + raw[len(header.binaryblock) :])
        return image
    except FedCoWProError:
        raise
    except Exception as error:  # of any kind: a header is any 348 bytes
        raise FedCoWProError(
            f"{path}: broken NIfTI header ({error})", expected, "copy or export the file again"
        ) from error


def header_of(start: bytes) -> nib.Nifti1Header | None:
    """The NIfTI header at the start of a file's content; None = there is none.

    The qform is put right where it is longer than a rotation can be: by rounding it is shortened; beside an sform,
    which decides, nonsense is taken for 'not set'.
    """
    kind = nib.Nifti1Header if start[344:347] == b"n+1" else nib.Nifti2Header if start[4:7] == b"n+2" else None
    if kind is None or len(start) < kind.sizeof_hdr:
        return None
    try:
        header = kind(start[: kind.sizeof_hdr], check=False)
        parts = np.array([float(header[f"quatern_{name}"]) for name in "bcd"])
        length, sform = float(np.linalg.norm(parts)), int(header["sform_code"]) > 0
    except (ValueError, OverflowError, nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError):
        return None
    if 1 < length <= 1 + _ROUNDED:
        # nibabel tolerates less than this; toward 0, so that rounding to the header's type cannot bring it back.
        for name, value in zip("bcd", parts / length * (1 - 1e-7), strict=True):
            header[f"quatern_{name}"] = value
    elif sform and not (length <= 1 and usable(_rotation(header))):
        header["qform_code"] = 0
    return header


def _rotation(header: nib.Nifti1Header) -> np.ndarray:
    try:
        return np.asarray(header.get_qform(), dtype=np.float64)
    except (ValueError, FloatingPointError, nib.spatialimages.HeaderDataError):
        return np.full((4, 4), np.nan)


def grid_of(image: nib.Nifti1Image, path: Path) -> Grid:
    """The grid of a 3-D image; `path` names it in errors. Trailing axes of length 1 are dropped."""
    header = image.header
    try:
        shape, unit = tuple(int(n) for n in image.shape), header.get_xyzt_units()[0]
    except (nib.spatialimages.HeaderDataError, KeyError, ValueError, OverflowError) as error:
        raise FedCoWProError(
            f"{path}: broken NIfTI header ({error})", "a NIfTI file (.nii or .nii.gz)", "copy or export the file again"
        ) from error
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise FedCoWProError(
            f"{path}: {len(shape)}-D data of shape {shape}",
            "one 3-D volume",
            "split a series into its volumes and give one of them",
        )
    if unit not in ("mm", "unknown"):
        raise FedCoWProError(f"{path}: lengths in {unit}", "millimetres", "rewrite the header in millimetres")
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    if sform_code <= 0 and qform_code <= 0:
        raise FedCoWProError(
            f"{path}: no orientation (sform and qform codes are 0)",
            "a file that says how it lies in space",
            "export the volume again with its orientation, or set the sform",
        )
    affine = np.asarray(image.affine, dtype=np.float64)
    if not usable(affine):
        raise FedCoWProError(
            f"{path}: affine is singular or not finite",
            "an invertible affine in mm",
            "export the volume again with its orientation",
        )
    qform = _rotation(header) if qform_code > 0 and sform_code > 0 else None
    return Grid((shape[0], shape[1], shape[2]), affine, max(sform_code, 0), qform, max(qform_code, 0))


def usable(affine: np.ndarray) -> bool:
    """Whether an affine (4, 4) is finite and says where three different axes lie, within 100 km of the scanner."""
    if not np.isfinite(affine).all() or np.abs(affine).max() > _FURTHEST:
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() < _SHORTEST:
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / lengths)) > _FLAT and np.isfinite(nib.io_orientation(affine)).all())


def voxels_of(image: nib.Nifti1Image, path: Path) -> np.ndarray:
    """Scaled voxels in native order, 3-D."""
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        kind = "complex" if dtype.kind == "c" else "RGB"
        raise FedCoWProError(
            f"{path}: {kind} voxels ({dtype})",
            "one real number per voxel",
            "save the magnitude or one channel as a volume of its own",
        )
    try:
        data = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, OverflowError, MemoryError) as error:
        raise FedCoWProError(
            f"{path}: fewer voxels than the header says ({error})",
            "a whole file",
            "copy or export the file again",
        ) from error
    return data.reshape(data.shape[:3])
