"""A volume on the page: what was drawn on its slices, what the network says of the others, and its bytes for viewers.

Pages hold voxels in RAS order, x fastest: x grows to the patient's right, y to anterior, z to superior.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from fedcowpro.core.notes import collecting
from fedcowpro.serve.limits import Refused
from fedcowpro.volume.preprocess import modality_of
from fedcowpro.volume.volume import Volume

if TYPE_CHECKING:
    from fedcowpro.config import Modality
    from fedcowpro.oneshot.encoded import EncodedVolume
    from fedcowpro.oneshot.segmentation import Segmentation
    from fedcowpro.volume.dicom import Series

_WINDOW = {"ct": (-160.0, 240.0)}  # Hounsfield units in which abdomens are read
_PERCENTILES = (0.5, 99.5)
# Of a volume: float32 voxels, the labels of two kinds, and a transient copy for the viewer.
BYTES_PER_VOXEL = 4 + 1 + 1 + 2
BYTES_PER_SLICE = 2 << 20  # of features and prepared slices, about
# mm per pixel and size of the slices that features were made of; None = the volume's own, the settings' size.
Like = tuple[float | None, int | None]
OWN: Like = (None, None)


@dataclass
class OpenVolume:
    """A volume of a session.

    Attributes:
        volume: the image.
        series: the DICOM series that it came from.
        folder: private folder that goes when the volume is closed.
        notes: what its user should know of it, as slices that were left out.
        drawn: slice number -> labels uint8 (height, width). What is not in it is unknown, not background.
        result: of the last segmentation.
        before: the one before it was refined.
        encoded: features, kept between segmentations.
        encoded_like: what they were made of.
        lock: held while `drawn` and `result` change.
    """

    volume: Volume
    series: Series | None = None
    folder: Path | None = None
    notes: tuple[str, ...] = ()
    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    drawn: dict[int, np.ndarray] = field(default_factory=dict)
    result: Segmentation | None = None
    before: Segmentation | None = None
    encoded: EncodedVolume | None = None
    encoded_like: Like | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        with collecting():  # `notes` have them
            self.modality: Modality = modality_of(self.volume)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(depth, height, width)."""
        depth, height, width = self.volume.voxels.shape
        return depth, height, width

    def memory(self) -> int:
        """Bytes in use, about; of features also those that are still to come."""
        return self.volume.voxels.size * BYTES_PER_VOXEL + self.shape[0] * BYTES_PER_SLICE

    def draw(self, numbers: Collection[int], body: bytes, known: Collection[int]) -> None:
        """Take slices as drawn.

        Args:
            numbers: slices in the body's order.
            body: a label per pixel and slice, in RAS order.
            known: label values that have a name.

        Raises:
            Refused: slices that are not there, a body of another length, labels without a name.
        """
        _depth, height, width = self.shape
        self._require_slices(numbers)
        if len(body) != len(numbers) * height * width:
            raise Refused(
                400, f"{len(body)} bytes", f"{len(numbers)} slices of {width} x {height} pixels", "send whole slices"
            )
        slices = np.frombuffer(body, np.uint8).reshape(len(numbers), height, width)[:, ::-1, ::-1]
        if unknown := set(np.unique(slices).tolist()) - {0, *known}:
            raise Refused(400, f"label {min(unknown)}", "labels of the list", "add the label first")
        with self.lock:
            self.drawn |= {number: one.copy() for number, one in zip(numbers, slices, strict=True)}

    def forget(self, numbers: Collection[int]) -> None:
        """Slices are unknown again, or what was predicted.

        Raises:
            Refused: slices that are not there.
        """
        self._require_slices(numbers)
        with self.lock:
            for number in numbers:
                self.drawn.pop(number, None)

    def exchange(self) -> None:
        """Show the masks of before refining, or again those of after.

        Raises:
            Refused: the volume was not refined.
        """
        with self.lock:
            if self.before is None:
                raise Refused(
                    409, "no earlier masks", "a volume that was segmented and then refined", "refine it first"
                )
            self.result, self.before = self.before, self.result

    def labels(self) -> np.ndarray:
        """uint8 (depth, height, width): drawn slices as they were drawn, the others as predicted."""
        return self.annotation()[0]

    def annotation(self) -> tuple[np.ndarray, np.ndarray]:
        """`labels`, and which slices were drawn, bool (depth,)."""
        painted = np.zeros(self.shape[0], bool)
        with self.lock:
            labels = np.zeros(self.shape, np.uint8) if self.result is None else self.result.labels.copy()
            for number, one in self.drawn.items():
                labels[number], painted[number] = one, True
        return labels, painted

    def to_json(self) -> dict[str, Any]:
        """What the page needs to show it; confidence is null where it is not known."""
        depth, height, width = self.shape
        result = self.result
        labels = self.labels()
        millilitre = self.volume.grid.millilitres
        counts = np.bincount(labels.ravel(), minlength=256)
        return {
            "id": self.id,
            "refined": self.before is not None,
            "name": self.volume.name,
            "modality": self.modality,
            "size": [width, height, depth],
            "spacing": [round(mm, 4) for mm in reversed(self.volume.spacing)],
            "oblique": self.volume.grid.oblique,
            "dicom": self.series is not None,
            "painted": sorted(self.drawn),
            "segmented": result is not None,
            "notes": list(self.notes),
            "volumes": {value: round(int(counts[value]) * millilitre, 2) for value in range(1, 256) if counts[value]},
            "confidence": {}
            if result is None
            else {organ: _number(result.confidence[organ]) for organ in result.organs},
            "doubts": {} if result is None else {organ: list(said) for organ, said in result.doubts.items()},
            "slices": {}
            if result is None
            else {
                organ: [_number(value) for value in row]
                for organ, row in zip(result.organs, result.slice_confidence, strict=True)
            },
        }

    def _require_slices(self, numbers: Collection[int]) -> None:
        if not numbers or min(numbers) < 0 or max(numbers) >= self.shape[0] or len(set(numbers)) < len(numbers):
            raise Refused(
                400, f"slices {sorted(numbers)}", f"different numbers in 0..{self.shape[0] - 1}", "correct them"
            )


def to_page(labels: np.ndarray) -> bytes:
    """(depth, height, width) as bytes in RAS order."""
    return labels[:, ::-1, ::-1].tobytes()


def viewer_image(opened: OpenVolume) -> bytes:
    """The image as an uncompressed NIfTI file in RAS order, int16, with a window to start with."""
    voxels = opened.volume.voxels
    low, high = float(voxels.min()), float(voxels.max())
    slope, start = 1.0, 0.0
    if low < -32768 or high > 32767 or not np.array_equal(voxels, np.round(voxels)):
        slope, start = (high - low) / 65534, (high + low) / 2
    stored = np.round((voxels[:, ::-1, ::-1] - np.float32(start)) / np.float32(slope)).astype(np.int16)
    _depth, height, width = voxels.shape
    # From (x, y, z) of this file to (depth, height, width) of the volume.
    to_internal = np.array([[0, 0, 1, 0], [0, -1, 0, height - 1], [-1, 0, 0, width - 1], [0, 0, 0, 1]], float)
    image = nib.Nifti1Image(stored.transpose(2, 1, 0), opened.volume.grid.internal_affine @ to_internal)
    image.header.set_slope_inter(slope, start)
    image.header.set_xyzt_units("mm")
    sample = voxels[:, ::4, ::4]
    window = _WINDOW.get(opened.modality) or tuple(np.percentile(sample, _PERCENTILES))
    image.header["cal_min"], image.header["cal_max"] = window
    return bytes(image.to_bytes())


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)
