"""Which slices of an annotated volume serve as the example."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from fedcowpro.errors import FedCoWProError
from fedcowpro.evaluate.protocol import support_slices


def slices_of(labels: UInt8[np.ndarray, "d h w"], organ: int) -> list[int]:
    """Ascending numbers of the slices that show an organ.

    Raises:
        FedCoWProError: none does.
    """
    found = np.flatnonzero((labels == organ).any(axis=(1, 2)))
    if len(found) == 0:
        raise FedCoWProError(
            f"the support mask has no voxel of label {organ}",
            "at least one",
            "give a mask that shows the organ",
        )
    return [int(z) for z in found]


def pick_slices(slices: Sequence[int], wanted: int | str) -> list[int]:
    """Support slices of an organ: all, or those at the middles of n equal parts of its list of slices."""
    return list(slices) if wanted == "all" else support_slices(slices, int(wanted))


def empty_slices(shown: Bool[np.ndarray, " d"], wanted: int) -> list[int]:
    """Of `wanted` slices at the middles of equal parts of a volume, all where it has no more, those without an organ.

    Args:
        shown: which slices show one.
    """
    spread = set(support_slices(range(len(shown)), wanted)) if wanted else set()
    return sorted(z for z in spread if not shown[z])
