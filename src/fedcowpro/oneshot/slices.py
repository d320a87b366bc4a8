"""Which slices of an annotated volume serve as the example."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from fedcowpro.core.errors import FedCoWProError


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


def support_slices(slices_with_organ: Sequence[int], n: int = 3) -> list[int]:
    """The `n` annotated slices: at the middles of `n` equal parts of the organ's list of slices.

    Part i is represented by the slice at index int(f * len) with f = (2i + 1) / (2n); for n = 3 the fractions
    are 1/6, 1/2 and 5/6 (SSL-ALPNet, Ouyang et al. 2020). An organ on fewer than `n` slices repeats some.

    Args:
        slices_with_organ: ascending slice numbers that contain the organ.
        n: number of parts, at least 1.

    Raises:
        FedCoWProError: no slice contains the organ, or n < 1.
    """
    if n < 1:
        raise FedCoWProError(f"{n} support slices", "at least 1", "choose a positive number")
    if len(slices_with_organ) == 0:
        raise FedCoWProError(
            "a support scan without the organ", "at least one annotated slice", "choose another support scan"
        )
    # In integers: a product of the rounded fraction may end just below a whole number.
    return [int(slices_with_organ[(2 * i + 1) * len(slices_with_organ) // (2 * n)]) for i in range(n)]
