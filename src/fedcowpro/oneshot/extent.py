"""Where an organ begins and ends along the body's axis, as far as a person said so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral

import nibabel as nib
import numpy as np
from jaxtyping import Bool

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.volume import Volume

End = int | str | None
Extent = tuple[End, End]
Extents = Mapping[int, tuple[int, int]]
_NEAR = 1e-3  # mm by which a slice may lie beyond an end that is given in mm


def read_extents(
    given: Mapping[int | str, Extent] | None, volume: Volume, names: Mapping[int, str] | None = None
) -> dict[int, tuple[int, int]]:
    """First and last slice of organs, numbered from foot to head (`Volume`'s own order).

    Args:
        given: per organ, by label value or name, the two ends, in any order: slice numbers along the file's or array's
            own axis, counted from 0; or texts like '-12.5mm', the place along the axis that grows to the patient's
            head, as viewers show it (of an array: mm from its first slice). None = this end is not known.
        volume: the image.
        names: of label values.

    Raises:
        FedCoWProError: an unknown name, slices that are not there, no slice between the ends, or other types.
    """
    return {_value(key, names or {}): _slices(key, extent, volume) for key, extent in (given or {}).items()}


def beyond(extent: tuple[int, int], depth: int) -> tuple[int, ...]:
    """The slices just beyond each end, where the volume has them: no part of the organ is there."""
    return tuple(z for z in (extent[0] - 1, extent[1] + 1) if 0 <= z < depth)


def outside(organs: Sequence[int], extents: Extents, depth: int) -> Bool[np.ndarray, "k d"]:
    """Which slices lie beyond the ends of each organ; none of one whose ends nobody said."""
    slices = np.arange(depth)
    ends = [extents.get(organ, (0, depth - 1)) for organ in organs]
    return np.array([(slices < first) | (slices > last) for first, last in ends]).reshape(len(organs), depth)


def _value(key: int | str, names: Mapping[int, str]) -> int:
    if isinstance(key, Integral) or (isinstance(key, str) and key.isdigit()):
        return int(key)
    found = [value for value, name in names.items() if name == key]
    if len(found) != 1:
        known = ", ".join(f"{value} ({name})" for value, name in names.items())
        raise FedCoWProError(
            f"extent of '{key}'", f"a label value or a name that is known{f': {known}' if known else ''}",
            "give the label value, or name the labels",
        )  # fmt: skip
    return found[0]


def _slices(key: int | str, extent: Extent, volume: Volume) -> tuple[int, int]:
    if isinstance(extent, str) or len(tuple(extent)) != 2:
        raise FedCoWProError(f"extent of {key}: {extent}", "two ends: (first, last)", "as in (12, 40)")
    inside = np.ones(len(volume.voxels), bool)
    lower, upper = extent
    texts = [end for end in (lower, upper) if isinstance(end, str)]
    if texts:
        place = _heights(volume)
        ends = [_mm(key, end) for end in (lower, upper)]
        if None not in ends and ends[0] > ends[1]:  # type: ignore[operator]
            ends.reverse()
    else:
        place = _own_numbers(volume)
        ends = [_number(key, end, len(place)) for end in (lower, upper)]
        if None not in ends and ends[0] > ends[1]:  # type: ignore[operator]
            ends.reverse()
    if ends[0] is not None:
        inside &= place >= ends[0] - _NEAR
    if ends[1] is not None:
        inside &= place <= ends[1] + _NEAR
    found = np.flatnonzero(inside)
    if len(found) == 0:
        raise FedCoWProError(
            f"extent of {key}: no slice of {volume.name} between {lower} and {upper}",
            f"ends within {place.min():.1f} and {place.max():.1f} mm", "correct the extent",
        )  # fmt: skip
    return int(found[0]), int(found[-1])


def _mm(key: int | str, end: End) -> float | None:
    if end is None:
        return None
    try:
        if isinstance(end, str) and end.strip().endswith("mm") and np.isfinite(value := float(end.strip()[:-2])):
            return value
    except ValueError:
        pass
    raise FedCoWProError(f"extent of {key}: '{end}'", "mm for both ends, as in '-12.5mm'", "correct it")


def _number(key: int | str, end: End, count: int) -> int | None:
    if end is None:
        return None
    if not isinstance(end, Integral) or isinstance(end, bool) or not 0 <= end < count:
        raise FedCoWProError(
            f"extent of {key}: {end}", f"slice numbers in 0..{count - 1}, or texts in mm", "count slices from 0"
        )
    return int(end)


def _own_numbers(volume: Volume) -> np.ndarray:
    """Of each slice from foot to head its number along the file's or array's own axis (depth,)."""
    grid = volume.grid
    axis = int(np.flatnonzero(nib.io_orientation(grid.affine)[:, 0] == 2)[0])
    shape = [1, 1, 1]
    shape[axis] = grid.shape[axis]
    return grid.to_internal(np.arange(grid.shape[axis]).reshape(shape))[:, 0, 0]


def _heights(volume: Volume) -> np.ndarray:
    """mm along the axis to the head of the centre of each slice (depth,)."""
    depth, height, width = volume.voxels.shape
    middle = [np.arange(depth), np.full(depth, (height - 1) / 2), np.full(depth, (width - 1) / 2)]
    return np.asarray(nib.affines.apply_affine(volume.grid.internal_affine, np.stack(middle, axis=1))[:, 2])
