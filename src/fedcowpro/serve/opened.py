"""A volume on the page: what was drawn on its slices, what the network says of the others, and its bytes for viewers.

Pages hold voxels in RAS order, x fastest: x grows to the patient's right, y to anterior, z to superior.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from fedcowpro.core.notes import collecting
from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.extent import outside
from fedcowpro.oneshot.interpolation import interpolate_shapes
from fedcowpro.oneshot.segmentation import Segmentation
from fedcowpro.serve.limits import Refused
from fedcowpro.serve.store import Ends, VolumeStore
from fedcowpro.volume.preprocess import modality_of
from fedcowpro.volume.volume import Volume

if TYPE_CHECKING:
    from fedcowpro.config import Modality
    from fedcowpro.oneshot.encoded import EncodedVolume
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
        folders: private folders that go when the volume is closed.
        place: path in the data folder; '' = its files were sent.
        has_mask: whether a label map lies beside it there.
        notes: what its user should know of it, as slices that were left out.
        drawn: slice number -> labels uint8 (height, width). What is not in it is unknown, not background.
        extents: label value -> its first and last slice; None = an end that is not known.
        result: of the last segmentation.
        before: the one before it was refined, or shapes were interpolated.
        encoded: features, kept between segmentations.
        encoded_like: what they were made of.
        store: where `drawn`, `extents` and `result` are kept; None = nowhere.
        lock: held while these change.
    """

    volume: Volume
    series: Series | None = None
    folders: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    place: str = ""
    has_mask: bool = False
    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    drawn: dict[int, np.ndarray] = field(default_factory=dict)
    extents: dict[int, Ends] = field(default_factory=dict)
    result: Segmentation | None = None
    before: Segmentation | None = None
    encoded: EncodedVolume | None = None
    encoded_like: Like | None = None
    store: VolumeStore | None = None
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

    def go_on(self, store: VolumeStore) -> None:
        """Take up the work that is in a store, and keep it there.

        Raises:
            FedCoWProError: damaged files.
        """
        work = store.read()
        with self.lock:
            self.drawn, self.extents, self.result, self.before = work.drawn, work.extents, work.result, work.before
            self.store = store

    def draw(self, numbers: Collection[int], body: bytes, known: Collection[int]) -> None:
        """Take slices as drawn; an organ that is drawn beyond an end reaches to there.

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
            drawn = {number: one.copy() for number, one in zip(numbers, slices, strict=True)}
            if self.store is not None:
                self.store.write_slices(drawn)
            self.drawn |= drawn
            self._take_ends({value: self._reaching(value, ends, numbers) for value, ends in self.extents.items()})

    def forget(self, numbers: Collection[int]) -> None:
        """Slices are unknown again, or what was predicted.

        Raises:
            Refused: slices that are not there.
        """
        self._require_slices(numbers)
        with self.lock:
            if self.store is not None:
                self.store.drop_slices(numbers)
            for number in numbers:
                self.drawn.pop(number, None)

    def end(self, extents: Mapping[int, Ends]) -> None:
        """Take first and last slices of organs instead of those that were known.

        Raises:
            Refused: slices that are not there, a first one after the last, or an organ that is drawn beyond an end.
        """
        depth = self.shape[0]
        with self.lock:
            for value, (first, last) in extents.items():
                if not 0 <= (first or 0) <= (depth - 1 if last is None else last) < depth:
                    raise Refused(
                        400, f"label {value} from slice {first} to {last}", f"two slices in 0..{depth - 1}, in order",
                        "set the other end first",
                    )  # fmt: skip
                if self._reaching(value, (first, last), self.drawn.keys()) != (first, last):
                    raise Refused(
                        409, f"label {value} from slice {first} to {last}, and drawn beyond",
                        "an end beyond every slice on which it is drawn", "erase it there first",
                    )  # fmt: skip
            self._take_ends({value: ends for value, ends in extents.items() if ends != (None, None)})

    def keep_ends_of(self, values: Collection[int]) -> None:
        """Forget the ends of other labels."""
        with self.lock:
            self._take_ends({value: ends for value, ends in self.extents.items() if value in values})

    def _take_ends(self, extents: dict[int, Ends]) -> None:
        if self.store is not None and extents != self.extents:
            self.store.write_ends(extents)
        self.extents = extents

    def take(self, result: Segmentation, before: Segmentation | None = None) -> None:
        """Take masks, and those of before."""
        with self.lock:
            self._take(result, before)

    def _take(self, result: Segmentation, before: Segmentation | None) -> None:
        if self.store is not None:
            self.store.write_masks(result, before)
        self.result, self.before = result, before

    def _reaching(self, value: int, ends: Ends, numbers: Collection[int]) -> Ends:
        """Ends that hold all of these slices on which a label is drawn."""
        shown = [number for number in numbers if (self.drawn[number] == value).any()]
        first, last = ends
        return (
            None if first is None else min([first, *shown]),
            None if last is None else max([last, *shown]),
        )

    def exchange(self) -> None:
        """Show the masks of before refining or interpolating, or again those of after.

        Raises:
            Refused: the volume was not refined.
        """
        with self.lock:
            if self.before is None:
                raise Refused(
                    409, "no earlier masks", "a volume that was segmented and then refined", "refine it first"
                )
            assert self.result is not None
            self._take(self.before, self.result)

    def know(self, labels: np.ndarray) -> None:
        """Take labels (depth, height, width) for drawn on every slice."""
        drawn = {number: one.copy() for number, one in enumerate(labels)}
        with self.lock:
            if self.store is not None:
                self.store.write_slices(drawn)
            self.drawn = drawn
            self._take_ends({value: self._reaching(value, ends, drawn.keys()) for value, ends in self.extents.items()})

    def start_from(self, labels: np.ndarray) -> None:
        """Take labels (depth, height, width) for masks that are to be corrected; nobody knows how good they are."""
        organs = tuple(int(value) for value in np.unique(labels) if value)
        unknown = np.full((len(organs), len(labels)), np.nan, np.float32)
        with self.lock:
            before = self.result
            self._take(Segmentation(organs, labels, None, dict.fromkeys(organs, math.nan), unknown), before)

    def interpolate(self) -> None:
        """Shapes between the drawn slices as masks, which can be exchanged for those of before.

        Raises:
            FedCoWProError: nothing was drawn.
        """
        annotation = self.annotation()
        self.start_from(interpolate_shapes(annotation, self.volume.spacing))

    def labels(self) -> np.ndarray:
        """uint8 (depth, height, width): drawn slices as they were drawn, the others as predicted."""
        return self.annotation().labels

    def annotation(self, masks: Segmentation | None = None) -> Annotation:
        """`labels`, which slices were drawn, and the ends; what is predicted beyond these is left out.

        Args:
            masks: instead of those that the volume has.
        """
        painted = np.zeros(self.shape[0], bool)
        with self.lock:
            found = masks or self.result
            labels = np.zeros(self.shape, np.uint8) if found is None else found.labels.copy()
            depth = self.shape[0]
            extents = {
                value: (first or 0, depth - 1 if last is None else last)
                for value, (first, last) in self.extents.items()
            }
            for value, beyond in zip(extents, outside(list(extents), extents, depth), strict=True):
                labels[beyond] *= labels[beyond] != value
            for number, one in self.drawn.items():
                labels[number], painted[number] = one, True
        return Annotation(labels, painted, self.volume.name, extents=extents)

    def to_json(self) -> dict[str, Any]:
        """What the page needs to show it; confidence is null where it is not known."""
        depth, height, width = self.shape
        result = self.result
        annotation = self.annotation()
        labels = annotation.labels
        millilitre = self.volume.grid.millilitres
        each = (np.bincount(one.ravel(), minlength=256) for one in labels)  # all at once would be made int64
        counts = sum(each, np.zeros(256, np.int64))
        return {
            "id": self.id,
            "refined": self.before is not None,
            "name": self.volume.name,
            "modality": self.modality,
            "size": [width, height, depth],
            "spacing": [round(mm, 4) for mm in reversed(self.volume.spacing)],
            "oblique": self.volume.grid.oblique,
            "dicom": self.series is not None,
            "sent": not self.place,
            "mask": self.has_mask,
            "painted": sorted(self.drawn),
            "extents": self.extents,
            "segmented": result is not None,
            "notes": list(self.notes),
            "volumes": {value: round(int(counts[value]) * millilitre, 2) for value in range(1, 256) if counts[value]},
            "confidence": {}
            if result is None
            else {organ: _number(result.confidence[organ]) for organ in result.organs},
            "doubts": {} if result is None else {organ: list(result.doubts.get(organ, ())) for organ in result.organs},
            "slices": {}
            if result is None
            else {
                organ: [None if beyond else _number(value) for value, beyond in zip(row, cut, strict=True)]
                for organ, row, cut in zip(
                    result.organs,
                    result.slice_confidence,
                    outside(result.organs, annotation.extents, depth),
                    strict=True,
                )
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
    image.header["cal_min"], image.header["cal_max"] = window_of(opened)
    return bytes(image.to_bytes())


def window_of(opened: OpenVolume) -> tuple[float, float]:
    """The values that are shown black and white to start with."""
    if opened.modality in _WINDOW:
        return _WINDOW[opened.modality]
    low, high = np.percentile(opened.volume.voxels[:, ::4, ::4], _PERCENTILES)
    return float(low), float(high)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)
