"""Any file format that holds a volume, told apart by name, and DICOM by content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume import nifti
from fedcowpro.volume.dicom.headers import is_dicom
from fedcowpro.volume.parse import grid_of, open_nifti
from fedcowpro.volume.volume import Volume

NIFTI, ITK = (".nii", ".nii.gz"), (".nrrd", ".nhdr", ".mha", ".mhd")
ENDINGS = NIFTI + ITK
DICOM_ENDINGS = (".dcm", ".dicom", ".ima")


def ending_of(path: PurePath, endings: tuple[str, ...] = ENDINGS) -> str:
    """The ending of a file's name among `endings`, whatever its case; '' = none of them."""
    name = path.name.lower()
    found = max((ending for ending in endings if name.endswith(ending)), key=len, default="")
    return path.name[len(name) - len(found) :] if found else ""


def read_volume(path: Path) -> Volume:
    """Read one scalar 3-D volume: NIfTI, NRRD, MetaImage, or a folder (or file) of one DICOM series.

    Returns:
        Volume with float32 voxels (depth, height, width).

    Raises:
        FedCoWProError: as `nifti.read_image`; an unknown format; a folder with no or several series; an extra
            that is not installed.
    """
    path = Path(path)
    with reading(path):
        if ending_of(path, NIFTI):
            return nifti.read_image(path)
        if ending_of(path, ITK):
            from fedcowpro.volume.itk import read_image

            return read_image(path)
        if path.is_dir() or _is_dicom(path):
            from fedcowpro.volume.dicom import read_image

            return read_image(path)
    raise _unknown(path)


def read_labels(path: Path, like: Volume) -> Volume:
    """Read the label map of an image; uint8, 0 is background.

    From NIfTI, NRRD, MetaImage, a DICOM segmentation or an RT structure set.

    Raises:
        FedCoWProError: as `nifti.read_labels`; an unknown format; an extra that is not installed.
    """
    path = Path(path)
    with reading(path):
        if ending_of(path, NIFTI):
            return nifti.read_labels(path, like)
        if ending_of(path, ITK):
            from fedcowpro.volume import itk

            return itk.read_labels(path, like)
        if _is_dicom(path):
            from fedcowpro.volume.dicom.headers import STRUCTURE_SET_CLASS, kind_of, read_header

            if path.is_file() and kind_of(read_header(path)) == STRUCTURE_SET_CLASS:
                from fedcowpro.volume.dicom.structure_reader import read_structure_set

                return read_structure_set(path, like)
            from fedcowpro.volume.dicom.seg_reader import read_segmentation

            return read_segmentation(path, like)
    raise _unknown(path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Any error within is the file's: the libraries that parse it name no set of errors.

    Raises:
        FedCoWProError: in place of any other error. It does not quote that error, which may quote a header.
    """
    try:
        yield
    except FedCoWProError:
        raise
    except OSError as error:
        raise FedCoWProError(
            f"{path}: {error.strerror or 'cannot be read'}",
            "a file that can be read",
            "check what it is and its rights",
        ) from error
    except Exception as error:
        raise FedCoWProError(
            f"{path}: damaged, or of a kind that cannot be read ({type(error).__name__})", "a whole volume",
            "export the volume again, or convert it, for example with dcm2niix",
        ) from error  # fmt: skip


def require_volume(path: Path) -> None:
    """Refuse early, without reading voxels, what `read_volume` would refuse by its name or header.

    Raises:
        FedCoWProError: no such file or folder, an unknown format, a broken NIfTI file.
    """
    path = Path(path)
    if ending_of(path, NIFTI):
        with reading(path):
            grid_of(open_nifti(path), path)
    elif not path.exists():
        raise missing(path)
    elif not (ending_of(path, ITK) or is_series(path)):
        raise _unknown(path)


def is_series(path: Path) -> bool:
    """Whether a path is one of DICOM images: a folder, or a file by its content."""
    return path.is_dir() or (path.is_file() and is_dicom(path))


def missing(path: Path) -> FedCoWProError:
    """The error for a path that is not there."""
    if path.is_symlink():
        return FedCoWProError(
            f"{path}: a link to a file that is not there", "a volume", "fetch the file that it leads to"
        )
    return FedCoWProError(f"no file {path}", "a volume", "check the path")


def _is_dicom(path: Path) -> bool:
    """By content, as DICOM files are called anything; a file that is not there, by its name."""
    return is_dicom(path) if path.is_file() else bool(ending_of(path, DICOM_ENDINGS))


def _unknown(path: Path) -> FedCoWProError:
    if not path.exists():
        return missing(path)
    return FedCoWProError(
        f"{path}: unknown format",
        f"a volume ({', '.join(ENDINGS)}), a folder with one DICOM series, or for labels DICOM SEG or RTSTRUCT",
        "convert it, for example with dcm2niix",
    )
