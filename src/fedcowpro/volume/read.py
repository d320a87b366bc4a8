"""Any file format that holds a volume, told apart by name, and DICOM by content."""

from __future__ import annotations

from pathlib import Path

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume import nifti
from fedcowpro.volume.dicom.headers import is_dicom
from fedcowpro.volume.parse import grid_of, open_nifti
from fedcowpro.volume.volume import Volume

NIFTI, ITK = (".nii", ".nii.gz"), (".nrrd", ".nhdr", ".mha", ".mhd")
ENDINGS = NIFTI + ITK


def read_volume(path: Path) -> Volume:
    """Read one scalar 3-D volume: NIfTI, NRRD, MetaImage, or a folder (or file) of one DICOM series.

    Returns:
        Volume with float32 voxels (depth, height, width).

    Raises:
        FedCoWProError: as `nifti.read_image`; an unknown format; a folder with no or several series; an extra
            that is not installed.
    """
    path = Path(path)
    if path.name.endswith(NIFTI):
        return nifti.read_image(path)
    if path.name.endswith(ITK):
        from fedcowpro.volume.itk import read_image

        return read_image(path)
    if path.is_dir() or _is_dicom(path):
        from fedcowpro.volume.dicom import read_image

        return read_image(path)
    raise _unknown(path)


def read_labels(path: Path, like: Volume) -> Volume:
    """Read the label map of an image from NIfTI, NRRD, MetaImage or a DICOM segmentation; uint8, 0 is background.

    Raises:
        FedCoWProError: as `nifti.read_labels`; an unknown format; an extra that is not installed.
    """
    path = Path(path)
    if path.name.endswith(NIFTI):
        return nifti.read_labels(path, like)
    if path.name.endswith(ITK):
        from fedcowpro.volume import itk

        return itk.read_labels(path, like)
    if _is_dicom(path):
        from fedcowpro.volume.dicom.seg_reader import read_segmentation

        return read_segmentation(path, like)
    raise _unknown(path)


def require_volume(path: Path) -> None:
    """Refuse early, without reading voxels, what `read_volume` would refuse by its name or header.

    Raises:
        FedCoWProError: no such file or folder, an unknown format, a broken NIfTI file.
    """
    path = Path(path)
    if path.name.endswith(NIFTI):
        grid_of(open_nifti(path), path)
    elif not path.exists():
        raise FedCoWProError(f"no file {path}", "a volume", "check the path")
    elif not (path.name.endswith(ITK) or is_series(path)):
        raise _unknown(path)


def is_series(path: Path) -> bool:
    """Whether a path is one of DICOM images: a folder, or a file by its content."""
    return path.is_dir() or (path.is_file() and is_dicom(path))


def _is_dicom(path: Path) -> bool:
    """By content, as DICOM files are called anything; a file that is not there, by its name."""
    return is_dicom(path) if path.is_file() else path.suffix.lower() in (".dcm", ".dicom", ".ima")


def _unknown(path: Path) -> FedCoWProError:
    if not path.exists():
        return FedCoWProError(f"no file {path}", "a volume", "check the path")
    return FedCoWProError(
        f"{path}: unknown format",
        f"a volume ({', '.join(ENDINGS)}), a folder with one DICOM series, or for labels a DICOM segmentation",
        "convert it, for example with dcm2niix",
    )
