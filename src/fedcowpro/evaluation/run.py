"""Evaluate a one-shot method on episodes: annotated cases support, other labelled cases query.

Masks come from the pipeline that users have (`oneshot`), from the volumes on their own grids; only the truth, the
protocol and the scores are added here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import Episode
from fedcowpro.evaluation.metrics import score
from fedcowpro.evaluation.options import options_of
from fedcowpro.evaluation.protocol import PROTOCOLS, Row, chunk_of, gt_range
from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.encoded import encode_volume
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.oneshot.segmentation import segment_encoded
from fedcowpro.oneshot.support import Example, Support, encode_example, join_examples
from fedcowpro.volume.checks import UNKNOWN
from fedcowpro.volume.volume import Volume

TOLERANCE = 2.0  # mm; of NSD
Grid = Literal["native", "prepared"]
Masks = Callable[[int, str], Bool[np.ndarray, "d h w"]]
"""Where an organ (its number in the episode, from 1) lies on the query's own grid, under a protocol."""


@runtime_checkable
class Learnt(Protocol):
    """What has learned the examples of an episode."""

    @property
    def organs(self) -> Collection[int]:
        """Numbers of the organs that it knows."""

    def query(self, site: Site, case: str, volume: Volume, truth: Mapping[int, np.ndarray]) -> Masks:
        """Masks of a case. `truth`, by organ, is for protocols that use it."""

    def options(self, protocol: str) -> Mapping[str, str]:
        """Settings, for the columns of the table."""


@runtime_checkable
class Method(Protocol):
    """What can learn the examples of an episode."""

    def learn(self, sites: Mapping[str, Site], episode: Episode) -> Learnt: ...


def evaluate_episode(
    method_of: OneShotPredictor | Method,
    sites: Mapping[str, Site],
    episode: Episode,
    *,
    method: str,
    seed: int,
    protocols: Sequence[str] = PROTOCOLS,
    grid: Grid = "native",
    tolerance: float = TOLERANCE,
    on_case: Callable[[str], None] | None = None,
    on_prediction: Callable[[str, int, np.ndarray], None] | None = None,
) -> list[Row]:
    """Scores of every query case and organ; each distinct slice is encoded once.

    Organs are joined between sites by their names. An organ that the query lacks has no `gt-range` row; its
    `whole-volume` Dice is 0 if something was predicted and NaN (not defined) if not. `gt-range` cuts the volume at
    the organ's ends, so its surfaces end there too.

    Args:
        method_of: a predictor by prototypes, whose configuration says which views and which post-processing, with the
            episode's slices as support (where organs do not compete, `exclusive` false, each is segmented as if it
            were the only one, as published); or another method.
        sites: name -> prepared folder with labels; those that the episode names.
        episode: examples, queries and organs.
        method, seed: columns of the rows.
        protocols: of `PROTOCOLS`.
        grid: where masks and truth are compared: the volume's own, which is what a user gets, or the prepared one of
            the literature, to which both are brought.
        tolerance: of NSD, in mm.
        on_case: called with the id of each finished query case.
        on_prediction: called with (case, organ value at the query's site, mask (depth, height, width) on the volume's
            own grid) of each whole-volume prediction.

    Raises:
        FedCoWProError: a site or case that is not there or has no labels, or thirds asked for with examples of
            different numbers of slices.
    """
    # Sums over prototypes round in the order of the organs: that of their labels, as elsewhere in the program.
    ordered = sorted(episode.organs, key=_label_order(sites, episode).index)
    numbers = {organ: number for number, organ in enumerate(ordered, 1)}
    inner = episode.model_copy(update={"organs": tuple(ordered)})
    if isinstance(method_of, OneShotPredictor):
        learnt: Learnt = _Prototypes(method_of, sites, inner)
    else:
        learnt = method_of.learn(sites, inner)
    site = sites[episode.site]
    values = {name: value for value, name in site.organs.items()}
    rows = []
    for case in episode.queries:
        volume, labels = site.volume(case)
        own = site.place(case)
        known = labels != UNKNOWN if UNKNOWN not in site.organs else np.ones(labels.shape, bool)
        truth = {number: labels == values[organ] for organ, number in numbers.items()}
        masks = learnt.query(site, case, volume, truth)
        for protocol in protocols:
            for organ in episode.organs:
                number = numbers[organ]
                if number not in learnt.organs or (protocol == "gt-range" and not truth[number].any()):
                    continue
                mask = masks(number, protocol)
                if protocol == "whole-volume" and on_prediction is not None:
                    on_prediction(case, values[organ], mask)
                predicted, true, spacing = mask & known, truth[number], own.spacing
                if grid == "prepared":
                    predicted, true = (own.to_prepared_labels(m.astype(np.uint8)) > 0 for m in (predicted, true))
                    spacing = own.spacing_prepared
                scored = slice(None)
                if protocol == "gt-range":
                    if not true.any():  # an organ of a few voxels can vanish where pixels are coarser
                        continue
                    low, high = gt_range(true)
                    scored = slice(low, high + 1)
                rows.append(
                    Row(
                        method=method,
                        seed=seed,
                        site=episode.site,
                        case=case,
                        organ=organ,
                        protocol=protocol,
                        **vars(score(predicted[scored], true[scored], spacing, tolerance)),
                        support_site=episode.support_site,
                        support_case=episode.support_case,
                        support_slices=episode.support_numbers,
                        options={
                            "modality": site.record(case).modality,
                            "grid": grid,
                            **learnt.options(protocol),
                            "tolerance_mm": f"{tolerance:g}",
                        },
                    )
                )
        if on_case is not None:
            on_case(case)
    return rows


def _label_order(sites: Mapping[str, Site], episode: Episode) -> list[str]:
    """Organs by their label values at the example's site; then those that it does not name."""
    own = sites[episode.supports[0].site].organs
    named = [own[value] for value in sorted(own)]
    return [*named, *(organ for organ in episode.organs if organ not in named)]


def annotated_volumes(sites: Mapping[str, Site], episode: Episode) -> list[tuple[Volume, Annotation]]:
    """The annotated cases of an episode; an organ's label value is its number among the episode's organs, from 1."""
    found = []
    for example in episode.supports:
        wanted = [organ for organ in example.slices if organ in episode.organs]
        found.append(numbered_volume(sites[example.site], example.case, episode.organs, wanted))
    return found


def numbered_volume(site: Site, case: str, organs: Sequence[str], wanted: Collection[str]) -> tuple[Volume, Annotation]:
    """A labelled case with each organ of `wanted` under its number in `organs`, from 1."""
    volume, labels = site.volume(case)
    numbered = np.zeros_like(labels)
    for value, organ in site.organs.items():
        if organ in wanted:
            numbered[labels == value] = organs.index(organ) + 1
    unknown = UNKNOWN not in site.organs and bool((labels == UNKNOWN).any())
    if unknown:
        numbered[labels == UNKNOWN] = UNKNOWN
    return volume, replace(Annotation.whole(numbered, volume.name), unknown=unknown)


class _Prototypes:
    """Prototypes of an episode's support slices."""

    def __init__(self, predictor: OneShotPredictor, sites: Mapping[str, Site], episode: Episode) -> None:
        self._predictor = predictor
        examples = _examples(predictor, sites, episode)
        pairings = {self._pairing(protocol) for protocol in PROTOCOLS}
        self._supports = {pairing: join_examples(predictor, examples, pairing) for pairing in pairings}
        self.organs = self._supports["all-slices"].organs

    def _pairing(self, protocol: str) -> Literal["all-slices", "same-part"]:
        return self._predictor.config.pairing if protocol == "gt-range" else "all-slices"

    def options(self, protocol: str) -> dict[str, str]:
        return {"pairing": self._pairing(protocol), **options_of(self._predictor)}

    def query(self, site: Site, case: str, volume: Volume, truth: Mapping[int, np.ndarray]) -> Masks:
        predictor, support = self._predictor, self._supports["all-slices"]
        settings = site.settings(site.record(case).modality)
        encoded = encode_volume(predictor, volume, settings, pixel=support.pixel, size=support.size)
        found: dict[tuple[object, ...], np.ndarray] = {}

        def mask(organ: int, protocol: str) -> np.ndarray:
            pairing = self._pairing(protocol)
            support = self._supports[pairing]
            choice = _choice(support, truth, pairing)
            together = predictor.config.exclusive
            key = (None if together else organ, choice.tobytes())
            if key not in found:
                if not together:
                    row = choice[[support.organs.index(organ)]]
                    first = support.prototypes.organs.index(organ)
                    support, choice = support.only(organ), row - first
                found[key] = segment_encoded(predictor, support, encoded, choice=choice, trust=False).labels
            return np.asarray(found[key] == organ)

        return mask


def _examples(predictor: OneShotPredictor, sites: Mapping[str, Site], episode: Episode) -> list[Example]:
    examples: list[Example] = []
    for example, (volume, annotation) in zip(episode.supports, annotated_volumes(sites, episode), strict=True):
        site = sites[example.site]
        first = examples[0].encoded.placement if examples else None
        examples.append(
            encode_example(
                predictor,
                volume,
                annotation,
                site.settings(site.record(example.case).modality),
                chosen={
                    episode.organs.index(organ) + 1: slices
                    for organ, slices in example.slices.items()
                    if organ in episode.organs
                },
                pixel=first.pixel if first else None,
                size=first.size if first else None,
            )
        )
    return examples


def _choice(support: Support, truth: Mapping[int, np.ndarray], pairing: str) -> Int[np.ndarray, "k d"]:
    """Group of each organ of the support on each slice: its part of the organ's true extent, or its only one."""
    depth = len(next(iter(truth.values())))
    groups = [[i for i, of in enumerate(support.prototypes.organs) if of == organ] for organ in support.organs]
    rows = []
    for organ, own in zip(support.organs, groups, strict=True):
        part = np.zeros(depth, np.int64)
        if pairing == "same-part" and truth[organ].any():
            part = chunk_of(np.arange(depth), *gt_range(truth[organ]), len(own))
        rows.append(own[0] + part)
    return np.stack(rows)
