"""From a raw volume to square, normalised axial slices, and back.

Intensity and geometry follow Ouyang et al. 2020 (SSL-ALPNet). Ours: MR is scaled to 0..255 as well, so that
superpixels are comparable between scanners; resampling is low-passed; label classes compete instead of
overwriting each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fedcowpro.config import Modality, PrepareConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import inform
from fedcowpro.volume.resample import Taps, resample, taps_of
from fedcowpro.volume.volume import Volume

CROP_ONLY = 1.1  # up to this many times `size`, a slice is cropped rather than resampled
_FITTED = 1.5
BORDER = 1 / 16  # of a resampled slice, dropped on each side (512 -> 448 -> 256)
# Hounsfield units: air and fat lie below. MR has no such values, or a few where it was interpolated.
_CT_BELOW, _CT_SHARE = -20.0, 0.01
_AIR = (-1100.0, -800.0)  # HU of air and lung
_AT_ZERO, _MUCH = 5.0, 0.1
_CLIP_LOW, _CLIP_HIGH = (-260.0, -50.0), (150.0, 400.0)  # HU between which a CT clipped for soft tissue ends
_CLIPPED = (0.05, 0.001)  # share of voxels at its lower and upper end
_SAME = 1e-3  # relative difference of spacings that is rounding in the header


def fitted(pixel: float, other: float) -> bool:
    """Whether two sizes of pixels (mm) are so near that they tell the patients' sizes rather than the fields of view.

    Measured with one annotated CT of a large patient (1.59 mm) for six others (1.20 to 1.47 mm): at their own pixels
    the mean Dice is 0.69, at the same mm per pixel 0.56; with examples of 1.20 and 1.36 mm 0.01 to 0.02 more.
    """
    return max(pixel / other, other / pixel) <= _FITTED


@dataclass(frozen=True)
class Placement:
    """Where the prepared slices lie in a volume: one scale and one centred crop or pad, in plane only.

    Args:
        shape: (depth, height, width) of the volume in the internal frame.
        spacing: mm, same order.
        size: height and width of a prepared slice.
        pixel: mm per pixel of a prepared slice.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    size: int
    pixel: float

    @classmethod
    def choose(cls, volume: Volume, config: PrepareConfig) -> Placement:
        """Place slices by `config.spacing`, or by the volume's own (finer) in-plane spacing.

        Without a spacing asked for, a slice larger than 1.1 x `size` is resampled so that it fits after a
        border of 1/16 is dropped on each side.
        """
        shape = (volume.voxels.shape[0], volume.voxels.shape[1], volume.voxels.shape[2])
        pixel = config.spacing
        if pixel is None:
            pixel = min(volume.spacing[1:])
            extent = max(shape[1] * volume.spacing[1], shape[2] * volume.spacing[2]) / pixel
            if extent > CROP_ONLY * config.size:
                pixel *= extent * (1 - 2 * BORDER) / config.size
        return cls(shape, volume.spacing, config.size, float(pixel))

    @property
    def spacing_prepared(self) -> tuple[float, float, float]:
        """mm of a prepared voxel, (depth, height, width)."""
        return self.spacing[0], self.pixel, self.pixel

    @property
    def keeps_pixels(self) -> bool:
        """Whether prepared pixels are the volume's own, moved by whole pixels."""
        return all(scale == 1 for scale, _ in self._axes)

    def to_prepared_image(self, image: np.ndarray, fill: float) -> np.ndarray:
        """Resample (D, H, W) to float32 (D, size, size), low-passed when shrinking; `fill` lies outside."""
        return resample(image, self._forward, fill)

    def to_prepared_labels(self, labels: np.ndarray) -> np.ndarray:
        """Resample labels (D, H, W) to uint8 (D, size, size): a pixel takes the class that covers most of it.

        Background counts as a class; on a tie the smaller value wins. Outside the volume is background.
        """
        out = np.zeros((len(labels), self.size, self.size), np.uint8)
        best = 1 - resample(labels > 0, self._forward, 0)
        for value in np.unique(labels[labels > 0]):
            mask = labels == value
            present = mask.any(axis=(1, 2))
            coverage = resample(mask[present], self._forward, 0)
            wins = coverage > best[present]
            out[present] = np.where(wins, value, out[present])
            best[present] = np.where(wins, coverage, best[present])
        return out

    def to_native_scores(
        self, scores: np.ndarray, outside: float = 0.0, window: tuple[slice, slice] | None = None
    ) -> np.ndarray:
        """Resample scores (..., size, size) linearly to float32 (..., H, W), the leading axes being classes and slices.

        Args:
            scores: per class and slice.
            outside: value of native pixels that no prepared pixel reaches.
            window: rows and columns of the native grid to which the result is limited.
        """
        rows, columns = self._backward
        return resample(scores, (rows, columns) if window is None else (rows[window[0]], columns[window[1]]), outside)

    def native_window(self, rows: np.ndarray, columns: np.ndarray) -> tuple[slice, slice]:
        """Rows and columns of the native grid that are made of the prepared rows and columns given as bool (size,)."""
        reach = []
        for taps, used in zip(self._backward, (rows, columns), strict=True):
            found = np.flatnonzero((used[taps.source] & (taps.weight > 0)).any(axis=0) & taps.inside)
            reach.append(slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0))
        return reach[0], reach[1]

    def lost_fraction(self, labels: np.ndarray) -> float:
        """Share of the labelled voxels of (D, H, W) that the crop cuts off, 0..1."""
        rows, columns = self._backward
        total = np.count_nonzero(labels)
        kept = np.count_nonzero(labels[:, rows.inside][:, :, columns.inside])
        return 1 - kept / total if total else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; `from_json` restores an equal placement."""
        return {
            "shape": list(self.shape),
            "spacing": list(self.spacing),
            "size": self.size,
            "pixel": self.pixel,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Placement:
        """Inverse of `to_json`. Raises KeyError, TypeError or ValueError on other data."""
        depth, height, width = (int(n) for n in data["shape"])
        along_depth, along_height, along_width = (float(mm) for mm in data["spacing"])
        return cls(
            (depth, height, width),
            (along_depth, along_height, along_width),
            int(data["size"]),
            float(data["pixel"]),
        )

    @cached_property
    def _forward(self) -> tuple[Taps, Taps]:
        """Height and width: how prepared pixels are made from native ones."""
        rows, columns = (
            taps_of(scale * np.arange(self.size) + start, scale, n)
            for n, (scale, start) in zip(self.shape[1:], self._axes, strict=True)
        )
        return rows, columns

    @cached_property
    def _backward(self) -> tuple[Taps, Taps]:
        """Height and width: how native pixels are made from prepared ones."""
        rows, columns = (
            taps_of((np.arange(n) - start) / scale, 1 / scale, self.size)
            for n, (scale, start) in zip(self.shape[1:], self._axes, strict=True)
        )
        return rows, columns

    @property
    def _axes(self) -> list[tuple[float, float]]:
        """(scale, start) of height and width: prepared pixel i lies at native scale * i + start."""
        axes = []
        for n, spacing in zip(self.shape[1:], self.spacing[1:], strict=True):
            scale = self.pixel / spacing
            if abs(scale - 1) < _SAME:
                scale = 1.0
            resampled = round(n / scale)
            cut = (resampled - self.size) // 2
            axes.append((scale, scale * (cut - (resampled - 1) / 2) + (n - 1) / 2))
        return axes


def guess_modality(volume: Volume) -> Modality:
    """The modality that a volume's values look like."""
    return _by_values(volume.voxels)[0]


def modality_of(volume: Volume, said: Modality | None = None) -> Modality:
    """What the user or the data set says, else the file's header, else what the values look like.

    A warning says where the values are another modality's, or tell none for sure.

    Args:
        said: by the user or the data set; None = nothing.
    """
    guessed, sure = _by_values(volume.voxels)
    told = said or volume.modality
    low, high = float(volume.voxels.min()), float(volume.voxels.max())
    if told is None:
        if not sure:
            inform(
                f"{volume.name}: taken for {guessed.upper()} by its values ({low:g}..{high:g}), which do not tell for "
                "sure; say --modality ct or mr (modality= in Python) if it is another",
                stacklevel=2,
            )
    elif sure and guessed != told:
        looks = "lie as Hounsfield units do" if guessed == "ct" else "are no Hounsfield units"
        inform(
            f"{volume.name}: taken for {told.upper()}, but its values ({low:g}..{high:g}) {looks}; "
            "check its modality, and that it was exported with its rescaling",
            stacklevel=2,
        )
    return told or guessed


def _by_values(voxels: np.ndarray) -> tuple[Modality, bool]:
    """The modality that values look like, and whether they are plain.

    Without clearly negative values it is MR. With air or lung at about -1000, and nothing but padding below, it is CT;
    so it is with the ends of a window of soft tissue, at both of which values pile up.
    MR with negative values (interpolation, phase, subtraction) has its background at 0, values where CT has none, or
    few and small ones.
    """
    if float((voxels < _CT_BELOW).mean()) < _CT_SHARE:
        return "mr", True
    below = voxels < _AIR[0]
    stray = float((below & (voxels != voxels.min())).mean())
    if float(((voxels >= _AIR[0]) & (voxels <= _AIR[1])).mean()) >= _CT_SHARE and stray < _CT_SHARE:
        return "ct", True
    if _is_windowed(voxels):
        return "ct", True
    low, high = np.percentile(voxels, (1, 99))
    if stray >= _CT_SHARE or float((np.abs(voxels) <= _AT_ZERO).mean()) >= _MUCH or low > -_MUCH * high:
        return "mr", False
    return "ct", False


def _is_windowed(voxels: np.ndarray) -> bool:
    """Whether values end as those of a CT that was clipped to soft tissue, as published ones often are."""
    ends = float(voxels.min()), float(voxels.max())
    windows, shares = (_CLIP_LOW, _CLIP_HIGH), _CLIPPED
    return all(
        window[0] <= end <= window[1] and float((voxels == end).mean()) >= share
        for end, window, share in zip(ends, windows, shares, strict=True)
    )


def grey_levels(volume: Volume, config: PrepareConfig) -> tuple[np.ndarray, Placement]:
    """Prepared slices in grey levels 0..255, from which superpixels are made.

    CT: clipped to `config.window` (HU), which becomes 0..255. MR: clipped above at `config.percentile` of the
    whole volume; the volume's minimum becomes 0 and the clip 255. Padding takes the volume's minimum. Where
    `config` leaves the modality open, the values decide.

    Returns:
        float32 (depth, size, size) and its placement.

    Raises:
        FedCoWProError: no contrast is left after clipping.
    """
    voxels = volume.voxels
    if (config.modality or volume.modality or guess_modality(volume)) == "ct":
        low, high = config.window
        expected, remedy = f"a CT in Hounsfield units within {low:g}..{high:g}", "check modality and window"
    else:
        low, high = float(voxels.min()), float(np.percentile(voxels, config.percentile))
        expected, remedy = "an MR volume with contrast", "check the file, or raise the percentile"
    clipped = np.clip(voxels, low, high)
    least, most = float(clipped.min()), float(clipped.max())
    if least == most:
        raise FedCoWProError(f"{volume.name}: constant after clipping to {low:g}..{high:g}", expected, remedy)
    clipped = (clipped - np.float32(low)) / (np.float32(high) - np.float32(low)) * 255
    placement = Placement.choose(volume, config)
    grey = placement.to_prepared_image(clipped, fill=float(clipped.min()))
    if grey.min() == grey.max():
        raise FedCoWProError(
            f"{volume.name}: the central {config.size} x {config.size} pixels are constant",
            expected,
            "ask for a coarser spacing or a larger size",
        )
    return grey, placement


def normalise(grey: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over all voxels of a prepared volume, padding included; float32."""
    mean, deviation = grey.mean(dtype=np.float64), grey.std(dtype=np.float64)
    return ((grey - mean) / deviation).astype(np.float32)


def preprocess(volume: Volume, config: PrepareConfig) -> tuple[np.ndarray, Placement]:
    """The network's input: `grey_levels`, then `normalise`.

    Returns:
        float32 (depth, size, size) with zero mean and unit variance, and its placement.

    Raises:
        FedCoWProError: no contrast is left after clipping.
    """
    grey, placement = grey_levels(volume, config)
    return normalise(grey), placement
