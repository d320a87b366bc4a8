"""What the network compares other slices with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

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
        groups: which organ uses which of them; one group an organ, or one for each of its parts (`pairing: chunk`).
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

    def only(self, organ: int) -> Support:
        """With one organ alone, which then competes with none."""
        kept = [index for index, group in enumerate(self.groups) if group.organ == organ]
        place = self.atlas.places[self.organs.index(organ)]
        return replace(
            self,
            organs=(organ,),
            bank=self.bank.select(kept),
            masks={organ: self.masks[organ]},
            atlas=replace(self.atlas, places=(place,)),
            groups=tuple(self.groups[index] for index in kept),
        )

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
    chosen: Mapping[int, Sequence[int]] | None = None,
    pixel: float | None = None,
    size: int | None = None,
) -> Example:
    """Encode an annotated volume: all of it, or where the whole of it is annotated no more than the slices in use.

    Args:
        organs: see `build_support`.
        chosen: see `mark`.
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
    marks = mark(prepared.placement, annotation, predictor.config, chosen)
    require_nonempty(marks.labels, Path(annotation.name))
    return Example(encode_prepared(predictor, prepared, marks.numbers), annotation, marks)


def join_examples(
    predictor: OneShotPredictor, examples: Sequence[Example], pairing: Literal["bag", "chunk"] = "bag"
) -> Support:
    """`build_support` of examples.

    Args:
        pairing: bag: an organ is one group of all its slices; chunk: one group for each part of its extent.
    """
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
    organs = tuple(sorted(shows))
    if pairing == "chunk":
        groups = tuple(group for organ in organs for group in _thirds(examples, organ, shows[organ], empty))
    else:
        groups = tuple(Group(organ, tuple(shows[organ]), tuple(empty)) for organ in organs)
    features = join([_used(example) for example in examples])
    labels = np.concatenate([example.marks.labels for example in examples])
    first = examples[0].encoded.placement
    return Support(
        organs=organs,
        bank=predictor.bank(features, labels, groups),
        masks={organ: labels[sorted(set(zs))] == organ for organ, zs in shows.items()},
        pixel=first.pixel,
        size=first.size,
        atlas=_atlas(predictor, examples, organs),
        features=features,
        labels=labels,
        groups=groups,
        examples=tuple(examples),
    )


def _thirds(examples: Sequence[Example], organ: int, slices: Sequence[int], empty: Sequence[int]) -> list[Group]:
    """One group for each part of the organ's extent, with the slices that stand for it in each example."""
    counts = {len(example.marks.shows[organ]) for example in examples if organ in example.marks.shows}
    if len(counts) > 1:
        raise FedCoWProError(
            f"label {organ} on {' and '.join(map(str, sorted(counts)))} slices of the examples",
            "as many slices of each example, where thirds are paired",
            "use --pairing bag",
        )
    (parts,) = counts
    return [Group(organ, tuple(slices[part::parts]), tuple(empty)) for part in range(parts)]


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
