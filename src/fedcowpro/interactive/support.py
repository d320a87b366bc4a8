"""What a user has drawn, and what the network compares other slices with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, UInt8

from fedcowpro.errors import FedCoWProError
from fedcowpro.guidance import Anatomy, Atlas, Place, place_of
from fedcowpro.infer import Bank, Encoded, Group, OneShotPredictor, join, pick_slices, slices_of
from fedcowpro.interactive.encoded import EncodedVolume
from fedcowpro.volume.preprocess import Placement


@dataclass(frozen=True, eq=False)
class Annotation:
    """Labels of a volume, of all its slices or of some.

    A slice that is not painted is unknown, not background. A painted slice is complete: what carries no label there
    is none of the labelled organs.

    Attributes:
        labels: (depth, height, width) of the volume; 0 is background, other values are organs. What lies outside the
            painted slices is ignored.
        painted: which slices are known.
        name: how messages call it, usually a path.
    """

    labels: UInt8[np.ndarray, "d h w"]
    painted: Bool[np.ndarray, " d"]
    name: str = "the annotation"

    def __post_init__(self) -> None:
        labels, painted = self.labels, self.painted
        if labels.ndim != 3 or labels.dtype != np.uint8 or painted.shape != labels.shape[:1] or painted.dtype != bool:
            raise FedCoWProError(
                f"{self.name}: labels {labels.dtype} {labels.shape}, painted {painted.dtype} {painted.shape}",
                "uint8 (depth, height, width), and one bool for each slice",
                "convert the arrays",
            )

    @classmethod
    def whole(cls, labels: UInt8[np.ndarray, "d h w"], name: str = "the annotation") -> Annotation:
        """The labels of every slice."""
        return cls(labels, np.ones(len(labels), bool), name)

    @property
    def is_whole(self) -> bool:
        """Whether every slice is known."""
        return bool(self.painted.all())

    def only(self, organs: Collection[int]) -> Annotation:
        """With these label values alone, the others being background; all where none is given."""
        if not organs:
            return self
        labels = np.where(np.isin(self.labels, list(organs)), self.labels, np.uint8(0))
        return replace(self, labels=labels)


@dataclass(frozen=True)
class Marks:
    """An annotation on the prepared slices that the prototypes are taken from.

    Attributes:
        numbers: those slices, ascending.
        labels: of each of them (n, size, size).
        shows: per organ the slices that show it and may be used for it, ascending.
        empty: slices on which nothing was painted: background of every organ.
        is_whole: whether the rest of the volume is known, too.
    """

    numbers: tuple[int, ...]
    labels: np.ndarray
    shows: Mapping[int, tuple[int, ...]]
    empty: tuple[int, ...]
    is_whole: bool


def mark(placement: Placement, annotation: Annotation, wanted: int | str) -> Marks:
    """Choose the slices of an annotation, and bring them to the prepared grid.

    Of a whole annotation `wanted` slices of each organ are used (see `pick_slices`), of a partial one all that are
    painted.
    """
    if annotation.is_whole:
        labels = placement.to_prepared_labels(annotation.labels)
        organs = [int(organ) for organ in np.unique(labels[labels > 0])]
        shows = {organ: tuple(pick_slices(slices_of(labels, organ), wanted)) for organ in organs}
        numbers = sorted({z for zs in shows.values() for z in zs})
        return Marks(tuple(numbers), labels[numbers], shows, (), True)
    painted = np.flatnonzero(annotation.painted)
    labels = placement.to_prepared_labels(annotation.labels[painted])
    organs = [int(organ) for organ in np.unique(labels[labels > 0])]
    shows = {organ: tuple(int(z) for z in painted[slices_of(labels, organ)]) for organ in organs}
    empty = painted[~annotation.labels[painted].any(axis=(1, 2))]
    return Marks(tuple(map(int, painted)), labels, shows, tuple(map(int, empty)), False)


@dataclass(frozen=True, eq=False)
class Support:
    """Annotated volumes, ready to segment others. It never changes, so several threads may use it.

    Attributes:
        organs: label values that the annotations show.
        bank: their prototypes.
        masks: per organ its mask in the used slices (n, size, size).
        pixel: mm per pixel of the first volume's slices, which queries should follow.
        size: height and width of the slices.
        atlas: where the volumes have the organs; without volumes where no guide is wanted.
        features: of the used slices of all volumes.
        labels: of those slices (n, size, size).
        groups: which organ uses which of them.
        examples: the volumes and what was painted in them.
    """

    organs: tuple[int, ...]
    bank: Bank
    masks: Mapping[int, np.ndarray]
    pixel: float
    size: int
    atlas: Atlas
    features: Encoded
    labels: np.ndarray
    groups: tuple[Group, ...]
    examples: tuple[tuple[EncodedVolume, Annotation], ...] = ()

    def painted_in(self, encoded: EncodedVolume) -> Annotation | None:
        """What was painted in a volume, if it is one of the annotated ones."""
        return next((annotation for volume, annotation in self.examples if volume is encoded), None)


def build_support(
    predictor: OneShotPredictor, examples: Sequence[tuple[EncodedVolume, Annotation]], organs: Collection[int] = ()
) -> Support:
    """The prototypes of annotated volumes.

    Every painted slice of a partial annotation is used, of a whole one `predictor.config.support_slices` per organ.
    Slices on which nothing was painted add to the background of every organ.

    Args:
        examples: encoded volumes and their annotations; every label value is an organ, the same in all.
        organs: label values to take; other ones become background. Empty = all.

    Raises:
        FedCoWProError: no volume, an annotation of another shape than its volume, slices of different sizes, no label.
    """
    chosen = [(encoded, annotation.only(organs)) for encoded, annotation in examples]
    marked = []
    for encoded, annotation in chosen:
        if annotation.labels.shape != encoded.volume.voxels.shape:
            raise FedCoWProError(
                f"{annotation.name}: labels of shape {annotation.labels.shape}",
                f"{encoded.volume.voxels.shape}, the shape of {encoded.volume.name}",
                "give the labels on the volume's own grid, as (depth, height, width)",
            )
        marked.append((encoded, mark(encoded.placement, annotation, predictor.config.support_slices)))
    return replace(join_marked(predictor, marked), examples=tuple(chosen))


def join_marked(predictor: OneShotPredictor, marked: Sequence[tuple[EncodedVolume, Marks]]) -> Support:
    """`build_support` of annotations on the prepared grid."""
    if not marked:
        raise FedCoWProError("no support", "one annotated volume at least", "annotate a volume first")
    if len(sizes := {encoded.placement.size for encoded, _ in marked}) > 1:
        raise FedCoWProError(
            f"annotated volumes with slices of {' and '.join(map(str, sorted(sizes)))} pixels",
            "slices of one size",
            "encode them with the same size",
        )
    shows: dict[int, list[int]] = {}
    empty: list[int] = []
    start = 0
    for _, marks in marked:
        position = {z: start + index for index, z in enumerate(marks.numbers)}
        for organ, zs in marks.shows.items():
            shows.setdefault(organ, []).extend(position[z] for z in zs)
        empty += [position[z] for z in marks.empty]
        start += len(marks.numbers)
    if not shows:
        raise FedCoWProError(
            "an annotation without a labelled voxel", "an organ on one slice at least", "paint an organ"
        )
    groups = tuple(Group(organ, tuple(zs), tuple(empty)) for organ, zs in sorted(shows.items()))
    features = join([_of_slices(encoded, marks.numbers) for encoded, marks in marked])
    labels = np.concatenate([marks.labels for _, marks in marked])
    first = marked[0][0].placement
    return Support(
        organs=tuple(group.organ for group in groups),
        bank=predictor.bank(features, labels, groups),
        masks={group.organ: labels[sorted(set(group.slices))] == group.organ for group in groups},
        pixel=first.pixel,
        size=first.size,
        atlas=_atlas(predictor, marked, [group.organ for group in groups]),
        features=features,
        labels=labels,
        groups=groups,
    )


def _of_slices(encoded: EncodedVolume, numbers: Sequence[int]) -> Encoded:
    return encoded.features.select(np.searchsorted(np.array(encoded.numbers), np.array(numbers, np.int64)))


def _atlas(predictor: OneShotPredictor, marked: Sequence[tuple[EncodedVolume, Marks]], organs: Sequence[int]) -> Atlas:
    volumes: list[Anatomy] = []
    places: list[dict[int, Place]] = []
    for encoded, marks in marked:
        if encoded.anatomy is None or not marks.shows:
            continue
        volumes.append(encoded.anatomy)
        places.append({organ: _place(marks, organ, encoded.anatomy) for organ in marks.shows})
    shown = tuple(tuple(of_volume.get(organ) for of_volume in places) for organ in organs)
    return Atlas(tuple(volumes), shown, predictor.config)


def _place(marks: Marks, organ: int, anatomy: Anatomy) -> Place:
    """Of a partly painted organ nothing is known beyond the painted slices, but where an empty one ends it."""
    zs = marks.shows[organ]
    masks = marks.labels[[marks.numbers.index(z) for z in zs]] == organ
    place = place_of(masks, zs, anatomy)
    if marks.is_whole:
        return place
    below = max((z for z in marks.empty if z < zs[0]), default=-np.inf)
    above = min((z for z in marks.empty if z > zs[-1]), default=np.inf)
    return replace(place, extent=(below * anatomy.spacing, above * anatomy.spacing))
