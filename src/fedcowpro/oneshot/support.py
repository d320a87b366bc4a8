"""What the network compares other slices with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedcowpro.config import PrepareConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.oneshot.annotation import Annotation, Marks, mark
from fedcowpro.oneshot.encoded import EncodedVolume, encode_prepared, encode_volume, prepare_volume
from fedcowpro.oneshot.location_priors import Anatomy, Atlas, Place, place_of
from fedcowpro.oneshot.predictor import Bank, Encoded, Group, OneShotPredictor, join
from fedcowpro.volume.checks import require_nonempty
from fedcowpro.volume.volume import Volume


@dataclass(frozen=True, eq=False)
class Example:
    """An annotated volume: its features, what was drawn, and the slices that the prototypes are taken from."""

    encoded: EncodedVolume
    annotation: Annotation
    marks: Marks


@dataclass(frozen=True, eq=False, repr=False)
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
        examples: the annotated volumes.
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
    examples: tuple[Example, ...]

    def painted_in(self, encoded: EncodedVolume) -> Annotation | None:
        """What was painted in a volume, if it is one of the annotated ones."""
        return next((example.annotation for example in self.examples if example.encoded is encoded), None)


def build_support(
    predictor: OneShotPredictor, examples: Sequence[tuple[EncodedVolume, Annotation]], organs: Collection[int] = ()
) -> Support:
    """The prototypes of annotated volumes.

    Every painted slice of a partial annotation is used, of a whole one `predictor.config.support_slices` per organ
    and some without any organ (`background_slices`). Slices on which nothing was drawn add to the background of every
    organ.

    Args:
        examples: encoded volumes and their annotations; every label value is an organ, the same in all.
        organs: label values to take; other ones become background. Empty = all.

    Raises:
        FedCoWProError: no volume, an annotation of another shape than its volume, slices of different sizes, no label.
    """
    return join_examples(predictor, [example_of(predictor, *pair, organs) for pair in examples])


def example_of(
    predictor: OneShotPredictor, encoded: EncodedVolume, annotation: Annotation, organs: Collection[int] = ()
) -> Example:
    """An encoded volume with its annotation; see `build_support`."""
    annotation.require_fits(encoded.volume)
    annotation = annotation.only(organs)
    return Example(encoded, annotation, mark(encoded.placement, annotation, predictor.config))


def encode_example(
    predictor: OneShotPredictor,
    volume: Volume,
    annotation: Annotation,
    config: PrepareConfig,
    *,
    organs: Collection[int] = (),
    pixel: float | None = None,
    size: int | None = None,
) -> Example:
    """Encode an annotated volume: all of it, or where the whole of it is annotated no more than the slices in use.

    Args:
        organs: see `build_support`.
        pixel, size: see `prepare_volume`.

    Raises:
        FedCoWProError: a whole annotation without a label, or what `build_support` and `prepare_volume` refuse.
    """
    annotation.require_fits(volume)
    if not annotation.is_whole:
        encoded = encode_volume(predictor, volume, config, pixel=pixel, size=size)
        return example_of(predictor, encoded, annotation, organs)
    annotation = annotation.only(organs)
    require_nonempty(annotation.labels, Path(annotation.name))
    prepared = prepare_volume(volume, config, pixel=pixel, size=size)
    marks = mark(prepared.placement, annotation, predictor.config)
    require_nonempty(marks.labels, Path(annotation.name))
    return Example(encode_prepared(predictor, prepared, marks.numbers), annotation, marks)


def join_examples(predictor: OneShotPredictor, examples: Sequence[Example]) -> Support:
    """`build_support` of examples."""
    if not examples:
        raise FedCoWProError("no support", "one annotated volume at least", "annotate a volume first")
    if len(sizes := {example.encoded.placement.size for example in examples}) > 1:
        raise FedCoWProError(
            f"annotated volumes with slices of {' and '.join(map(str, sorted(sizes)))} pixels",
            "slices of one size",
            "encode them with the same size",
        )
    shows: dict[int, list[int]] = {}
    empty: list[int] = []
    start = 0
    for marks in (example.marks for example in examples):
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
    features = join([_used(example) for example in examples])
    labels = np.concatenate([example.marks.labels for example in examples])
    first = examples[0].encoded.placement
    return Support(
        organs=tuple(group.organ for group in groups),
        bank=predictor.bank(features, labels, groups),
        masks={group.organ: labels[sorted(set(group.slices))] == group.organ for group in groups},
        pixel=first.pixel,
        size=first.size,
        atlas=_atlas(predictor, examples, [group.organ for group in groups]),
        features=features,
        labels=labels,
        groups=groups,
        examples=tuple(examples),
    )


def _used(example: Example) -> Encoded:
    """The features of the slices that the prototypes are taken from."""
    encoded, numbers = example.encoded, np.array(example.marks.numbers, np.int64)
    return encoded.features.select(np.searchsorted(np.array(encoded.numbers), numbers))


def _atlas(predictor: OneShotPredictor, examples: Sequence[Example], organs: Sequence[int]) -> Atlas:
    volumes: list[Anatomy] = []
    places: list[dict[int, Place]] = []
    for example in examples:
        marks, anatomy = example.marks, example.encoded.anatomy
        if anatomy is None or not marks.shows:
            continue
        volumes.append(anatomy)
        places.append({organ: _place(marks, organ, anatomy) for organ in marks.shows})
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
