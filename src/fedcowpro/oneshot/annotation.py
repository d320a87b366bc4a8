"""What a user has drawn in a volume, whole or in part."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import inform
from fedcowpro.data.datasets.dataset_json import unknown_value
from fedcowpro.oneshot.extent import Extent, Extents, outside, read_extents
from fedcowpro.volume.accept import Given, Order, Painted, as_labels, as_volume, known_slices
from fedcowpro.volume.checks import UNKNOWN, mark_unknown
from fedcowpro.volume.volume import Volume


@dataclass(frozen=True, eq=False)
class Annotation:
    """Labels of a volume, of all its slices or of some.

    A slice that is not painted is unknown, not background. A painted slice is complete: what carries no label there
    is none of the labelled organs.

    Attributes:
        labels: (depth, height, width) of the volume; 0 is background, other values are organs. What lies outside the
            painted slices is ignored.
        painted: which slices are known.
        unknown: whether voxels with the label `UNKNOWN` are neither background nor an organ.
        name: how messages call it, usually a path.
        extents: per organ, as far as it is known, the first and the last slice that it may be on.
    """

    labels: UInt8[np.ndarray, "d h w"]
    painted: Bool[np.ndarray, " d"]
    name: str = "the annotation"
    unknown: bool = False
    extents: Extents = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels, painted = self.labels, self.painted
        if labels.ndim != 3 or labels.dtype != np.uint8 or painted.shape != labels.shape[:1] or painted.dtype != bool:
            raise FedCoWProError(
                f"{self.name}: labels {labels.dtype} {labels.shape}, painted {painted.dtype} {painted.shape}",
                "uint8 (depth, height, width), and one bool for each slice",
                "convert the arrays",
            )
        for organ, beyond in zip(self.extents, outside(list(self.extents), self.extents, len(labels)), strict=True):
            shown = np.flatnonzero(beyond & painted)
            if (odd := shown[(labels[shown] == organ).any(axis=(1, 2))]).size:
                first, last = self.extents[organ]
                raise FedCoWProError(
                    f"{self.name}: label {organ} on slice {odd[0]} (from foot to head)",
                    f"an extent that holds it; it was given as slices {first} to {last}",
                    "correct the extent, or erase the label there",
                )

    @classmethod
    def whole(cls, labels: UInt8[np.ndarray, "d h w"], name: str = "the annotation") -> Annotation:
        """The labels of every slice."""
        return cls(labels, np.ones(len(labels), bool), name)

    @property
    def hidden(self) -> Bool[np.ndarray, "d h w"]:
        """Voxels of which nobody knows what they are."""
        return (self.labels == UNKNOWN) & self.unknown

    @property
    def is_whole(self) -> bool:
        """Whether every slice is known."""
        return bool(self.painted.all())

    def bare(self, organs: Collection[int]) -> Bool[np.ndarray, " d"]:
        """Slices that lie beyond the known ends of each of these organs."""
        return np.asarray(outside(list(organs), self.extents, len(self.labels)).all(axis=0))

    def require_fits(self, volume: Volume) -> None:
        """Raises FedCoWProError where the labels have another shape than the volume."""
        if self.labels.shape != volume.voxels.shape:
            raise FedCoWProError(
                f"{self.name}: labels of shape {self.labels.shape}",
                f"{volume.voxels.shape}, the shape of {volume.name}",
                "give the labels on the volume's own grid, as (depth, height, width)",
            )

    def require_organs(self, organs: Collection[int]) -> None:
        """Say which of the organs that are asked for are not in the labels of a whole annotation.

        Args:
            organs: label values, as a mapping with their names; nothing asks for all.

        Raises:
            FedCoWProError: none of them is.
        """
        shown = [int(value) for value in np.unique(self.labels) if value]
        names = organs if isinstance(organs, Mapping) else {}
        lacking = [
            f"label {value} ({names[value]})" if names.get(value) else f"label {value}"
            for value in organs
            if value not in shown
        ]
        if not lacking:
            return
        got = f"{self.name}: no voxel of {', '.join(lacking)}; its labels: {', '.join(map(str, shown)) or 'none'}"
        if len(lacking) == len(organs):
            raise FedCoWProError(got, "an organ that is asked for", "name label values that the mask has")
        if self.is_whole:
            inform(got, stacklevel=3)

    def only(self, organs: Collection[int]) -> Annotation:
        """With these label values alone, the others being background; all where none is given."""
        if not organs:
            return self
        kept = [*organs, UNKNOWN] if self.unknown else [*organs]
        labels = np.where(np.isin(self.labels, kept), self.labels, np.uint8(0))
        extents = {organ: ends for organ, ends in self.extents.items() if organ in organs}
        return replace(self, labels=labels, extents=extents)


def read_example(
    image: Given,
    mask: Given,
    *,
    spacing: Sequence[float] | None = None,
    order: Order | None = None,
    painted: Painted | None = None,
    extent: Mapping[int | str, Extent] | None = None,
    names: Mapping[int, str] | None = None,
) -> tuple[Volume, Annotation]:
    """An annotated volume in whatever form a user has it: array, nibabel image, path.

    Voxels that the data set beside a mask's file declares unknown are marked so.

    Args:
        image: the volume.
        mask: its label map; every whole number 1..255 is an organ. An array lies on the image's own axes.
        spacing, order: of an array (see `as_volume`).
        painted: see `known_slices`; where extents are given, None = 'labelled'.
        extent, names: ends of organs along the body's axis, and names of label values (see `read_extents`).

    Raises:
        FedCoWProError: what cannot be read, or an image and a mask that do not match.
    """
    volume = as_volume(image, spacing, order=order)
    unknown = unknown_value(Path(mask)) if isinstance(mask, str | PathLike) else None
    labels = mark_unknown(as_labels(mask, volume), unknown)
    extents = read_extents(extent, volume, names)
    known = known_slices("labelled" if extents and painted is None else painted, labels)
    return volume, Annotation(labels.voxels, known, labels.name, unknown is not None, extents)
