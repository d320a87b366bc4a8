"""Evaluate a one-shot predictor on episodes: annotated cases support, other labelled cases query.

Masks come from the pipeline that users have (`oneshot`), from the volumes on their own grids; only the truth, the
protocol and the scores are added here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, UInt8

from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import Episode
from fedcowpro.evaluation.metrics import score
from fedcowpro.evaluation.options import options_of
from fedcowpro.evaluation.protocol import PROTOCOLS, Row, chunk_of, gt_range
from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.encoded import EncodedVolume, encode_volume
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.oneshot.segmentation import segment_encoded
from fedcowpro.oneshot.support import Example, Support, encode_example, join_examples
from fedcowpro.volume.checks import UNKNOWN
from fedcowpro.volume.preprocess import Placement

TOLERANCE = 2.0  # mm; of NSD
Grid = Literal["native", "prepared"]


def evaluate_episode(
    predictor: OneShotPredictor,
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
        predictor: its configuration says which views and which post-processing; the episode which slices support.
            Where organs do not compete (`exclusive` false), each is segmented as if it were the only one, as published.
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
    site = sites[episode.site]
    values = {name: value for value, name in site.organs.items()}
    examples = _examples(predictor, sites, episode)
    supports = {way: join_examples(predictor, examples, way) for way in {predictor.config.pairing, "all-slices"}}
    rows = []
    for case in episode.queries:
        query = _Query.encode(predictor, site, case, supports["all-slices"])
        known = query.truth != UNKNOWN if UNKNOWN not in site.organs else np.ones(query.truth.shape, bool)
        truth = {organ: query.truth == values[organ] for organ in episode.organs}
        for protocol in protocols:
            pairing = predictor.config.pairing if protocol == "gt-range" else "all-slices"
            support = supports[pairing]
            choice = _choice(support, truth, episode.organs, pairing)
            for number, organ in enumerate(episode.organs, 1):
                if number not in support.organs or (protocol == "gt-range" and not truth[organ].any()):
                    continue
                mask = query.mask(predictor, support, number, choice)
                if protocol == "whole-volume" and on_prediction is not None:
                    on_prediction(case, values[organ], mask)
                predicted, true, spacing = query.on_grid(grid, mask & known, truth[organ])
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
                            "pairing": pairing,
                            **options_of(predictor),
                            "tolerance_mm": f"{tolerance:g}",
                        },
                    )
                )
        if on_case is not None:
            on_case(case)
    return rows


def _examples(predictor: OneShotPredictor, sites: Mapping[str, Site], episode: Episode) -> list[Example]:
    """The annotated cases; an organ's label value is its number among the episode's organs, from 1."""
    examples: list[Example] = []
    for example in episode.supports:
        site = sites[example.site]
        values = {name: value for value, name in site.organs.items()}
        numbers = {episode.organs.index(organ) + 1: organ for organ in example.slices if organ in episode.organs}
        volume, labels = site.volume(example.case)
        numbered = np.zeros_like(labels)
        for number, organ in numbers.items():
            numbered[labels == values[organ]] = number
        unknown = UNKNOWN not in site.organs and bool((labels == UNKNOWN).any())
        if unknown:
            numbered[labels == UNKNOWN] = UNKNOWN
        first = examples[0].encoded.placement if examples else None
        examples.append(
            encode_example(
                predictor,
                volume,
                replace(Annotation.whole(numbered, volume.name), unknown=unknown),
                site.settings(site.record(example.case).modality),
                chosen={number: example.slices[organ] for number, organ in numbers.items()},
                pixel=first.pixel if first else None,
                size=first.size if first else None,
            )
        )
    return examples


def _choice(
    support: Support, truth: Mapping[str, np.ndarray], organs: Sequence[str], pairing: str
) -> Int[np.ndarray, "k d"]:
    """Group of each organ of the support on each slice: its part of the organ's true extent, or its only one."""
    depth = len(next(iter(truth.values())))
    groups = [[i for i, of in enumerate(support.prototypes.organs) if of == organ] for organ in support.organs]
    rows = []
    for organ, own in zip(support.organs, groups, strict=True):
        mask = truth[organs[organ - 1]]
        part = np.zeros(depth, np.int64)
        if pairing == "same-part" and mask.any():
            part = chunk_of(np.arange(depth), *gt_range(mask), len(own))
        rows.append(own[0] + part)
    return np.stack(rows)


@dataclass
class _Query:
    """A case that is segmented: encoded once, its truth, and the masks so far."""

    encoded: EncodedVolume
    truth: UInt8[np.ndarray, "d h w"]
    own: Placement
    masks: dict[tuple[object, ...], np.ndarray]

    @classmethod
    def encode(cls, predictor: OneShotPredictor, site: Site, case: str, support: Support) -> _Query:
        volume, truth = site.volume(case)
        settings = site.settings(site.record(case).modality)
        encoded = encode_volume(predictor, volume, settings, pixel=support.pixel, size=support.size)
        return cls(encoded, truth, site.place(case), {})

    def mask(
        self, predictor: OneShotPredictor, support: Support, organ: int, choice: Int[np.ndarray, "k d"]
    ) -> Bool[np.ndarray, "d h w"]:
        """Where an organ lies, on the volume's own grid."""
        together = predictor.config.exclusive
        key = (None if together else organ, choice.tobytes())
        if key not in self.masks:
            if not together:
                row = choice[[support.organs.index(organ)]]
                choice = row - support.prototypes.organs.index(organ)
                support = support.only(organ)
            self.masks[key] = segment_encoded(predictor, support, self.encoded, choice=choice, trust=False).labels
        return np.asarray(self.masks[key] == organ)

    def on_grid(
        self, grid: Grid, mask: Bool[np.ndarray, "d h w"], truth: Bool[np.ndarray, "d h w"]
    ) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
        """Mask, truth and spacing where they are compared."""
        if grid == "native":
            return mask, truth, self.own.spacing
        predicted, true = (self.own.to_prepared_labels(one.astype(np.uint8)) > 0 for one in (mask, truth))
        return predicted, true, self.own.spacing_prepared
