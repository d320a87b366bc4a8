"""Images and label maps as NIfTI files, in and out."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import nibabel as nib
import numpy as np

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.volume.checks import image_volume, label_volume
from fedcowpro.volume.organ_colours import organ_colours
from fedcowpro.volume.parse import grid_of, open_nifti, voxels_of
from fedcowpro.volume.volume import Grid, Volume

_NAMES_CODE = 0  # of the header extension, as TotalSegmentator writes it


def read_image(path: Path) -> Volume:
    """Read one scalar 3-D volume, whatever the order and direction of the file's axes.

    A trailing axis of length 1 is dropped. An oblique volume is taken along its nearest patient axes, with a
    warning.

    Returns:
        Volume with float32 voxels (depth, height, width), the file's intensity scaling applied.

    Raises:
        FedCoWProError: missing, damaged or non-NIfTI file; 2-D or 4-D data; complex or RGB voxels; no or
            singular affine; units other than mm; fewer than 3 slices; NaN or infinite voxels; no contrast.
    """
    path = Path(path)
    image = open_nifti(path)
    grid = grid_of(image, path)
    with np.errstate(over="ignore"):
        voxels = voxels_of(image, path).astype(np.float32)
    return image_volume(voxels, grid, str(path))


def read_labels(path: Path, like: Volume) -> Volume:
    """Read the label map of an image.

    Returns:
        Volume with uint8 voxels (depth, height, width); 0 is background.

    Raises:
        FedCoWProError: what `read_image` refuses in a file, another shape or affine than the image's,
            values that are not whole numbers in 0..255.
    """
    path = Path(path)
    image = open_nifti(path)
    grid = grid_of(image, path)
    return label_volume(voxels_of(image, path), grid, like, str(path))


def label_names(path: Path) -> dict[int, str]:
    """Names of label values in a file's header, as `write_labels` and TotalSegmentator write them; none = no table.

    Raises:
        FedCoWProError: missing, damaged or non-NIfTI file.
    """
    for extension in open_nifti(Path(path)).header.extensions:
        try:
            table = ElementTree.fromstring(bytes(extension.get_content()).rstrip(b"\0"))
        except (ElementTree.ParseError, TypeError, ValueError):  # of another kind
            continue
        found = [(one.get("Key", ""), " ".join((one.text or "").split())) for one in table.iter("Label")]
        return {int(key): name for key, name in found if key.isdecimal() and 0 < int(key) < 256 and name}
    return {}


def write_labels(path: Path, labels_dhw: np.ndarray, grid: Grid, names: Mapping[int, str] | None = None) -> None:
    """Write a label map on the native grid: the file's shape, affine and form codes, uint8.

    The file appears whole or not at all. Missing parent folders are made.

    Args:
        path: ends with .nii or .nii.gz.
        labels_dhw: uint8 (depth, height, width).
        grid: the grid of the image it belongs to.
        names: of label values, for the header (see `nifti_of`).

    Raises:
        FedCoWProError: another file ending, or a shape or dtype that does not fit.
    """
    if labels_dhw.dtype != np.uint8:
        raise FedCoWProError(f"labels of type {labels_dhw.dtype}", "uint8 labels", "convert the labels to uint8")
    _write(Path(path), nifti_of(labels_dhw, grid, names))


def write_probabilities(path: Path, probs: np.ndarray, grid: Grid) -> None:
    """Write scores or probabilities as float32 on the native grid; classes become the fourth axis.

    Args:
        path: ends with .nii or .nii.gz.
        probs: (depth, height, width) or (classes, depth, height, width).
        grid: the grid of the image they belong to.

    Raises:
        FedCoWProError: another file ending, or a shape that does not fit.
    """
    probs = probs.astype(np.float32, copy=False)
    native = (
        _on_grid(probs, grid) if probs.ndim == 3 else np.stack([_on_grid(channel, grid) for channel in probs], axis=-1)
    )
    _write(Path(path), _image(native, grid))


def nifti_of(array_dhw: np.ndarray, grid: Grid, names: Mapping[int, str] | None = None) -> nib.Nifti1Image:
    """An array (depth, height, width) as an image on the native grid.

    Args:
        names: of label values. They become a header extension, the table of labels that Connectome Workbench reads and
            TotalSegmentator writes.

    Raises:
        FedCoWProError: a shape that does not fit.
    """
    image = _image(_on_grid(array_dhw, grid), grid)
    if names:
        image.header.extensions.append(nib.nifti1.Nifti1Extension(_NAMES_CODE, _name_table(names)))
    return image


def _name_table(names: Mapping[int, str]) -> bytes:
    root = ElementTree.Element("CaretExtension")
    volume = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    table = ElementTree.SubElement(volume, "LabelTable")
    for value, colour in organ_colours(names).items():
        channels = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
        parts = dict(zip(("Red", "Green", "Blue"), (f"{channel:.4f}" for channel in channels), strict=True))
        label = ElementTree.SubElement(table, "Label", {"Key": str(value), **parts, "Alpha": "1"})
        label.text = names[value]
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _on_grid(array: np.ndarray, grid: Grid) -> np.ndarray:
    if array.shape != grid.internal_shape:
        raise FedCoWProError(
            f"array of shape {array.shape}",
            f"the grid's (depth, height, width) {grid.internal_shape}",
            "bring the array onto the native grid first",
        )
    return grid.to_native(array)


def _image(native: np.ndarray, grid: Grid) -> nib.Nifti1Image:
    image = nib.Nifti1Image(native, grid.affine)
    image.set_sform(grid.affine if grid.sform_code else None, grid.sform_code)
    image.set_qform(grid.affine if grid.qform is None else grid.qform, grid.qform_code)
    image.header.set_xyzt_units("mm")
    return image


def _write(path: Path, image: nib.Nifti1Image) -> None:
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise FedCoWProError(f"output {path}", "a name ending with .nii or .nii.gz", "choose such a name")
    raw = image.to_bytes()
    # A fixed time stamp makes equal results equal files.
    write_atomic(path, gzip.compress(raw, compresslevel=6, mtime=0) if path.suffix.lower() == ".gz" else raw)
