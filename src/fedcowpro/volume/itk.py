"""NRRD and MetaImage files through SimpleITK (extra `itk`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.checks import image_volume, label_volume
from fedcowpro.volume.volume import Grid, Volume

if TYPE_CHECKING:
    import SimpleITK

_EXPECTED = "a NRRD (.nrrd, .nhdr) or MetaImage (.mha, .mhd) file with one scalar 3-D volume"
# Of NRRD's patient spaces those that the reader turns right; 'left-anterior-superior' some versions of it do not.
_SPACES = ("left-posterior-superior", "lps", "right-anterior-superior", "ras")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_image(path: Path) -> Volume:
    """Read one scalar 3-D volume, whatever the order and direction of the file's axes.

    Returns:
        Volume with float32 voxels (depth, height, width).

    Raises:
        FedCoWProError: SimpleITK is not installed; missing, damaged or incomplete file; vectors, colours, complex
            numbers, 2-D or 4-D data; a NRRD file that is not in patient space; as `image_volume`.
    """
    path = Path(path)
    voxels, grid = _read(path)
    with np.errstate(over="ignore"):
        return image_volume(voxels.astype(np.float32), grid, str(path))


def read_labels(path: Path, like: Volume) -> Volume:
    """Read the label map of an image.

    Returns:
        Volume with uint8 voxels (depth, height, width); 0 is background.

    Raises:
        FedCoWProError: what `read_image` refuses in a file; as `label_volume`.
    """
    path = Path(path)
    voxels, grid = _read(path)
    return label_volume(voxels, grid, like, str(path))


def library() -> ModuleType:
    """SimpleITK.

    Raises:
        FedCoWProError: it is not installed.
    """
    try:
        return import_module("SimpleITK")
    except ImportError as error:
        raise FedCoWProError(
            "no package 'SimpleITK'", "it is needed for NRRD and MetaImage files", "pip install 'fedcowpro[itk]'"
        ) from error


def reader_of(path: Path) -> SimpleITK.ImageFileReader:
    """SimpleITK's reader of a file, by its ending in upper or lower case.

    Raises:
        FedCoWProError: SimpleITK is not installed; a name that it cannot take.
    """
    reader = library().ImageFileReader()
    if any("\ud800" <= letter <= "\udfff" for letter in str(path)):
        # SimpleITK would end the whole process.
        raise FedCoWProError(f"{path}: a name that is not UTF-8", _EXPECTED, "rename the file, or its folder")
    reader.SetImageIO("NrrdImageIO" if path.suffix.lower() in (".nrrd", ".nhdr") else "MetaImageIO")
    reader.SetFileName(str(path))
    return reader


def _read(path: Path) -> tuple[np.ndarray, Grid]:
    """Voxels in the order of the file's axes, and their grid."""
    sitk = library()
    if not path.is_file():
        raise FedCoWProError(f"no file {path}", _EXPECTED, "check the path")
    reader = reader_of(path)
    try:
        with _silent_stderr():
            reader.ReadImageInformation()
            _require_scalar_volume(reader, path)
            image = reader.Execute()
    except RuntimeError as error:
        raise FedCoWProError(
            f"{path}: damaged or incomplete, or its data file is missing", _EXPECTED, "copy or export the file again"
        ) from error
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    columns, rows, slices = image.GetSize()
    voxels = sitk.GetArrayViewFromImage(image).transpose(2, 1, 0).copy()
    return voxels, Grid((columns, rows, slices), _LPS_TO_RAS @ affine)


def _require_scalar_volume(reader: SimpleITK.ImageFileReader, path: Path) -> None:
    components, dimension = reader.GetNumberOfComponents(), reader.GetDimension()
    if components != 1:
        raise FedCoWProError(
            f"{path}: {components} numbers per voxel (vectors, colours, complex numbers or a 4-D series)",
            _EXPECTED,
            "save one channel, or one time point, as a volume of its own",
        )
    if dimension != 3:
        raise FedCoWProError(f"{path}: {dimension}-D data", _EXPECTED, "give one 3-D volume")
    space = _nrrd_space(path) if path.suffix.lower() in (".nrrd", ".nhdr") else _SPACES[0]
    if space not in _SPACES:
        raise FedCoWProError(
            f"{path}: space {space}",
            f"a file that says how it lies in the patient: {_SPACES[0]} or {_SPACES[2]}",
            "export the volume again with its orientation",
        )


def _nrrd_space(path: Path) -> str:
    """What a NRRD header names as its space; 'none' where it names none. The header ends with an empty line."""
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                break
            if line.startswith(b"space:"):
                return line.partition(b":")[2].strip().decode("latin-1").lower()
    return "none"


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Nothing on standard error within: the C++ readers write there what the exception says as well."""
    try:
        kept = os.dup(2)
    except OSError:  # closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
