"""Label maps as PNG files, one a slice, on the DICOM files of an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedcowpro.config import Modality
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import inform
from fedcowpro.data.datasets.borders import better_way_round
from fedcowpro.volume.checks import label_volume
from fedcowpro.volume.volume import Volume

if TYPE_CHECKING:
    from fedcowpro.volume.dicom import Series


@dataclass(frozen=True)
class DicomFolder:
    """The one DICOM volume in a folder.

    Attributes:
        path: the folder.
        files: its files; each must be a slice of the volume.
    """

    path: Path
    files: tuple[Path, ...]

    def read(self) -> Volume:
        """The image.

        Raises:
            FedCoWProError: as `read_volume`; a file that is no slice of the volume.
        """
        return self.series().read()

    def series(self) -> Series:
        """The volume's slices; raises as `read`, for what headers show."""
        from fedcowpro.volume.dicom import find

        found = find(self.path)
        used = {file for series in found.series for file in series.files}
        strange = [file for file in self.files if file not in used]
        if len(found.series) == 1 and not strange:
            return found.series[0]
        raise FedCoWProError(
            f"{strange[0]} is no slice of a volume" if strange else f"{self.path}: {len(found.series)} volumes",
            f"DICOM files of one volume in {self.path}",
            "copy the folder again, and remove files that belong to something else",
        )


@dataclass(frozen=True)
class Band:
    """Grey values that stand for one label, both ends included."""

    low: int
    high: int
    label: int


@dataclass(frozen=True)
class PngMasks:
    """The label map of a DICOM volume as grey PNG files.

    Attributes:
        case: how warnings call it.
        image: the volume's folder; its files in the order in which the masks belong to them.
        files: the masks, as many.
        bands: which greys mean what; 0 is background, any other grey is an error.
        modality: of the image.
    """

    case: str
    image: DicomFolder
    files: tuple[Path, ...]
    bands: tuple[Band, ...]
    modality: Modality

    def read(self, like: Volume) -> Volume:
        """The label map, with a warning where it would fit the image clearly better another way round.

        Raises:
            FedCoWProError: a damaged file, a grey without meaning, a mask of another size than its slice, DICOM
                files that are no slice of the volume.
        """
        slices = {file: index for index, file in enumerate(self.image.series().files)}
        name = str(self.files[0].parent)
        columns, rows, depth = like.grid.shape
        if not depth == len(slices) == len(self.files):
            raise FedCoWProError(
                f"{self.image.path}: a volume of {depth} slices in {len(slices)} files",
                f"one file a slice, and as many masks in {name}",
                "copy the folder again, and remove files that are there twice",
            )
        native = np.zeros(like.grid.shape, np.uint8)
        for file, mask in zip(self.image.files, self.files, strict=True):
            labels = _labels(mask, self.bands)
            if labels.shape != (rows, columns):
                raise FedCoWProError(
                    f"{mask}: {labels.shape[0]} rows and {labels.shape[1]} columns",
                    f"{rows} and {columns}, as in {file}",
                    "copy the mask again",
                )
            native[:, :, slices[file]] = labels.T
        volume = label_volume(native, like.grid, like, name)
        way = better_way_round(like.voxels, volume.voxels, self.modality)
        if way is not None:
            inform(
                f"case {self.case}: the borders in {name} fit the image's edges clearly better with {way}; check the "
                "names of its files, or leave the case out",
                stacklevel=2,
            )
        return volume


def _labels(file: Path, bands: tuple[Band, ...]) -> np.ndarray:
    """uint8 (rows, columns)."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            grey = image.mode in ("1", "L", "P")
            values = np.array(image.convert("L")) if grey else np.empty(0)
    except (OSError, SyntaxError, ValueError) as error:
        raise FedCoWProError(f"{file}: damaged ({error})", "a whole PNG file", "copy the mask again") from error
    if not grey:
        raise FedCoWProError(f"{file}: no image of 8-bit greys", "one grey value a pixel", "copy the mask again")
    table = np.zeros(256, np.uint8)
    for band in bands:
        table[band.low : band.high + 1] = band.label
    labels = table[values]
    unknown = np.unique(values[(labels == 0) & (values > 0)])
    if unknown.size:
        known = ", ".join(f"{band.low}..{band.high}" if band.low < band.high else str(band.low) for band in bands)
        raise FedCoWProError(
            f"{file}: grey value(s) {', '.join(map(str, unknown[:5]))}",
            f"0 or one of {known}",
            "copy the mask again; a file that was scaled or compressed with loss cannot be used",
        )
    return labels
