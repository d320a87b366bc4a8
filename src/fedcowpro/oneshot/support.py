"""What the network compares other slices with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool

from fedcowpro.config import InferConfig, PrepareConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.doubts import Facts, facts_of
from fedcowpro.oneshot.encoded import EncodedVolume, encode_volume, following
from fedcowpro.oneshot.extent import beyond
from fedcowpro.oneshot.location_priors import LocationPrior
from fedcowpro.oneshot.predictor import Features, OneShotPredictor, Prototypes, join
from fedcowpro.oneshot.slices import empty_slices, pick_slices, slices_of
from fedcowpro.volume.checks import UNKNOWN, require_nonempty
from fedcowpro.volume.preprocess import Placement
from fedcowpro.volume.volume import Volume


@dataclass(frozen=True, eq=False)
class Example:
    """An annotated volume, and the slices of it that the prototypes are taken from.

    Attributes:
        encoded: all its slices, or those in use.
        annotation: what was drawn, of the organs in use.
        shows: per organ the slices that show it and may be used for it, ascending.
        empty: slices in use on which nothing was drawn: background of every organ.
        beyond: per organ the slices just beyond its ends, as far as these are known: background of that organ.
        labels: prepared, of the slices in use (n, size, size).
    """

    encoded: EncodedVolume
    annotation: Annotation
    shows: Mapping[int, tuple[int, ...]]
    empty: tuple[int, ...]
    beyond: Mapping[int, tuple[int, ...]]
    labels: np.ndarray

    @property
    def numbers(self) -> list[int]:
        """Slices in use, ascending."""
        return _in_use(self.shows, self.empty, self.beyond)

    def without(self, organ: int) -> list[int]:
        """Slices in use that are known not to show an organ."""
        return sorted({*self.empty, *self.beyond.get(organ, ())})

    def features(self) -> Features:
        """Of the slices in use."""
        return self.encoded.features.select(np.searchsorted(np.array(self.encoded.numbers), self.numbers))

    @cached_property
    def facts(self) -> Facts:
        """Of its organs, for comparison with masks."""
        known = None if self.annotation.is_whole else self.annotation.painted
        return facts_of(self.encoded.volume, self.encoded.modality, self.annotation.labels, list(self.shows), known)

    def prior(self) -> LocationPrior | None:
        """Where the volume has the organs; None without location priors, or without an organ.

        Of a partly painted organ nothing is known beyond the painted slices, but where an empty one ends it.
        """
        prior = self.encoded.location
        if prior is None or not self.shows:
            return None
        extents = {}
        for organ, zs in self.shows.items():
            masks = self.labels[[self.numbers.index(z) for z in zs]] == organ
            prior = prior.with_organ(organ, masks, zs)
            bare = self.without(organ)
            below = max((z for z in bare if z < zs[0]), default=-np.inf)
            above = min((z for z in bare if z > zs[-1]), default=np.inf)
            extents[organ] = below * prior.spacing, above * prior.spacing
        return prior if self.annotation.is_whole else replace(prior, extents=extents)


@dataclass(frozen=True, eq=False, repr=False)
class Support:
    """Annotated volumes, ready to segment others. It never changes, so several threads may use it.

    Attributes:
        organs: label values that the annotations show.
        prototypes: one group an organ, or one for each of its parts (`pairing: same-part`).
        features: of the slices in use of all volumes.
        labels: of those slices (n, size, size).
        shows: per organ which of them show it, ascending.
        pixel: mm per pixel of the first volume's slices, which queries should follow.
        size: height and width of the slices.
        priors: where the volumes have the organs; none where no location prior is switched on.
        examples: the annotated volumes.
    """

    organs: tuple[int, ...]
    prototypes: Prototypes
    features: Features
    labels: np.ndarray
    shows: Mapping[int, tuple[int, ...]]
    pixel: float
    size: int
    priors: tuple[LocationPrior, ...]
    examples: tuple[Example, ...]

    def only(self, organ: int) -> Support:
        """With one organ alone, which then competes with none."""
        shows = {organ: self.shows[organ]}
        return replace(self, organs=(organ,), prototypes=self.prototypes.only(organ), shows=shows)

    def masks(self, organ: int) -> Bool[np.ndarray, "n s s"]:
        """An organ in the slices that show it."""
        return np.asarray(self.labels[list(self.shows[organ])] == organ)

    def painted_in(self, encoded: EncodedVolume) -> Annotation | None:
        """What was painted in a volume, if it is one of the annotated ones."""
        return next((example.annotation for example in self.examples if example.encoded is encoded), None)


def build_support(
    predictor: OneShotPredictor, examples: Sequence[tuple[EncodedVolume, Annotation]], organs: Collection[int] = ()
) -> Support:
    """The prototypes of annotated volumes.

    Every painted slice of a partial annotation is used, of a whole one `predictor.config.support_slices` per organ
    and some without any organ (`background_slices`). Slices on which nothing was drawn add to the background of every
    organ, those just beyond the ends of one to the background of that one.

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
    return Example(encoded, annotation, *_slices_in_use(encoded.placement, annotation, predictor.config))


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
        chosen: of a whole annotation the slices to use of each organ, instead of `config.support_slices`.
        pixel, size: see `following`.

    Raises:
        FedCoWProError: a whole annotation without a label, or what `build_support` and `encode_volume` refuse.
    """
    annotation.require_fits(volume)
    if not annotation.is_whole:
        encoded = encode_volume(predictor, volume, config, pixel=pixel, size=size)
        return example_of(predictor, encoded, annotation, organs)
    annotation = annotation.only(organs)
    require_nonempty(annotation.labels, Path(annotation.name))
    placement = Placement.choose(volume, following(volume, config, pixel=pixel, size=size))
    shows, empty, ends, labels = _slices_in_use(placement, annotation, predictor.config, chosen)
    require_nonempty(labels, Path(annotation.name))
    encoded = encode_volume(predictor, volume, config, pixel=pixel, size=size, numbers=_in_use(shows, empty, ends))
    return Example(encoded, annotation, shows, empty, ends, labels)


def join_examples(
    predictor: OneShotPredictor, examples: Sequence[Example], pairing: Literal["all-slices", "same-part"] = "all-slices"
) -> Support:
    """`build_support` of examples.

    Args:
        pairing: all-slices: an organ is one group of all its slices; same-part: one group for each part of its
            extent.
    """
    if not examples:
        raise FedCoWProError("no support", "one annotated volume at least", "annotate a volume first")
    if len(sizes := {example.encoded.placement.size for example in examples}) > 1:
        raise FedCoWProError(
            f"annotated volumes with slices of {' and '.join(map(str, sorted(sizes)))} pixels",
            "slices of one size",
            "encode them with the same size",
        )
    used: dict[int, list[int]] = {}
    without: dict[int, list[int]] = {organ: [] for example in examples for organ in example.shows}
    start = 0
    for example in examples:
        position = {z: start + index for index, z in enumerate(example.numbers)}
        for organ, zs in example.shows.items():
            used.setdefault(organ, []).extend(position[z] for z in zs)
        for organ, of in without.items():
            of += [position[z] for z in example.without(organ)]
        start += len(position)
    if not used:
        raise FedCoWProError(
            "an annotation without a labelled voxel", "an organ on one slice at least", "paint an organ"
        )
    organs = tuple(sorted(used))
    parts = {organ: _parts(examples, organ) if pairing == "same-part" else 1 for organ in organs}
    groups = [(organ, used[organ][part :: parts[organ]]) for organ in organs for part in range(parts[organ])]
    features = join([example.features() for example in examples])
    labels = np.concatenate([example.labels for example in examples])
    first = examples[0].encoded.placement
    return Support(
        organs=organs,
        prototypes=predictor.prototypes(features, labels, groups, without),
        features=features,
        labels=labels,
        shows={organ: tuple(sorted(set(zs))) for organ, zs in used.items()},
        pixel=first.pixel,
        size=first.size,
        priors=tuple(prior for prior in (example.prior() for example in examples) if prior is not None),
        examples=tuple(examples),
    )


def _slices_in_use(
    placement: Placement,
    annotation: Annotation,
    config: InferConfig,
    chosen: Mapping[int, Sequence[int]] | None = None,
) -> tuple[dict[int, tuple[int, ...]], tuple[int, ...], dict[int, tuple[int, ...]], np.ndarray]:
    """Slices that show each organ, empty ones, those just beyond the ends, and the prepared labels (see `Example`).

    Of a whole annotation `config.support_slices` of each organ are used (see `pick_slices`) and, of as many as
    `config.background_slices` over the whole volume, those without any organ; of a partial one all that are painted.

    Args:
        chosen: of a whole annotation the slices to use of each organ instead.
    """
    painted = np.flatnonzero(annotation.painted)
    labels = placement.to_prepared_labels(annotation.labels[painted])
    hidden = UNKNOWN if annotation.unknown else 0
    organs = [int(organ) for organ in np.unique(labels[labels > 0]) if organ != hidden]
    found = {organ: slices_of(labels, organ) for organ in organs}
    if annotation.is_whole:
        if chosen is None:
            chosen = {organ: pick_slices(zs, config.support_slices) for organ, zs in found.items()}
        drawn: np.ndarray = np.any(labels, axis=(1, 2))
        empty = empty_slices(drawn, config.background_slices)
    else:
        chosen = {organ: painted[zs].tolist() for organ, zs in found.items()}
        empty = painted[~annotation.labels[painted].any(axis=(1, 2))].tolist()
    shows = {organ: tuple(zs) for organ, zs in chosen.items()}
    # These need not be painted: what other organs do there is not known.
    ends = {organ: beyond(extent, len(annotation.painted)) for organ, extent in annotation.extents.items()}
    used = _in_use(shows, empty, ends)
    prepared = np.zeros((len(used), *labels.shape[1:]), np.uint8)
    known = np.isin(used, painted)
    prepared[known] = labels[np.searchsorted(painted, np.array(used)[known])]
    return shows, tuple(empty), ends, prepared


def _in_use(shows: Mapping[int, Sequence[int]], empty: Sequence[int], beyond: Mapping[int, Sequence[int]]) -> list[int]:
    return sorted({*empty, *(z for of in (shows, beyond) for zs in of.values() for z in zs)})


def _parts(examples: Sequence[Example], organ: int) -> int:
    """Of how many slices an organ is annotated in each example; each stands for a part of its extent."""
    counts = {len(example.shows[organ]) for example in examples if organ in example.shows}
    if len(counts) > 1:
        raise FedCoWProError(
            f"label {organ} on {' and '.join(map(str, sorted(counts)))} slices of the examples",
            "as many slices of each example, where thirds are paired",
            "use --pairing all-slices",
        )
    return counts.pop()
