"""A NIfTI file, its grid and its voxels, with every doubt about the file said by name."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.volume import Grid


def open_nifti(path: Path) -> nib.Nifti1Image:
    """Parse a file from its bytes: a gzip stream is so checked to its end, checksum included."""
    expected = "a NIfTI file (.nii or .nii.gz)"
    if not path.name.endswith((".nii", ".nii.gz")):
        raise FedCoWProError(f"{path}: file ending", expected, "convert the volume to NIfTI, for example with dcm2niix")
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise FedCoWProError(f"no file {path}", expected, "check the path") from error
    except OSError as error:
        raise FedCoWProError(
            f"{path} cannot be read: {error.strerror}", expected, "check what it is and its rights"
        ) from error
    if path.suffix == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise FedCoWProError(
                f"{path}: not a whole gzip file ({error})", expected, "copy or export the file again"
            ) from error
    kind = nib.Nifti1Image if raw[344:347] == b"n+1" else nib.Nifti2Image if raw[4:7] == b"n+2" else None
    if kind is None:
        raise FedCoWProError(
            f"{path}: no NIfTI header inside",
            expected,
            "convert the volume to NIfTI, for example with dcm2niix",
        )
    try:
        return kind.from_bytes(raw)
    except (
        nib.filebasedimages.ImageFileError,
        nib.spatialimages.HeaderDataError,
        OSError,
        ValueError,
    ) as error:
        raise FedCoWProError(
            f"{path}: broken NIfTI header ({error})", expected, "copy or export the file again"
        ) from error


def grid_of(image: nib.Nifti1Image, path: Path) -> Grid:
    """The grid of a 3-D image; `path` names it in errors. Trailing axes of length 1 are dropped."""
    header, shape = image.header, tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise FedCoWProError(
            f"{path}: {len(shape)}-D data of shape {shape}",
            "one 3-D volume",
            "split a series into its volumes and give one of them",
        )
    unit = header.get_xyzt_units()[0]
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
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise FedCoWProError(
            f"{path}: affine is singular or not finite",
            "an invertible affine in mm",
            "export the volume again with its orientation",
        )
    qform = np.asarray(header.get_qform(), dtype=np.float64) if qform_code > 0 else None
    return Grid((shape[0], shape[1], shape[2]), affine, max(sform_code, 0), qform, max(qform_code, 0))


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
    except (OSError, EOFError, ValueError) as error:
        raise FedCoWProError(
            f"{path}: fewer voxels than the header says ({error})",
            "a whole file",
            "copy or export the file again",
        ) from error
    return data.reshape(data.shape[:3])
