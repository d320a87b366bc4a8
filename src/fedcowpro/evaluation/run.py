"""Evaluate a one-shot predictor on episodes: annotated cases support, other labelled cases query.

Scores are computed on the prepared grid, as published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import Episode
from fedcowpro.evaluation.metrics import score
from fedcowpro.evaluation.options import options_of
from fedcowpro.evaluation.protocol import PROTOCOLS, Row, chunk_of, gt_range
from fedcowpro.evaluation.support import EpisodeSupport
from fedcowpro.oneshot.location_priors import Anatomy, is_wanted, likest_slices
from fedcowpro.oneshot.postprocess import keep_components
from fedcowpro.oneshot.predictor import Encoded, OneShotPredictor

TOLERANCE = 2.0  # mm; of NSD


def evaluate_episode(
    predictor: OneShotPredictor,
    sites: Mapping[str, Site],
    episode: Episode,
    *,
    method: str,
    seed: int,
    protocols: Sequence[str] = PROTOCOLS,
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
        sites: name -> prepared folder with labels; those that the episode names.
        episode: examples, queries and organs.
        method, seed: columns of the rows.
        protocols: of `PROTOCOLS`.
        tolerance: of NSD, in mm.
        on_case: called with the id of each finished query case.
        on_prediction: called with (case, organ value at the query's site, mask (depth, size, size)) of each
            whole-volume prediction.

    Raises:
        FedCoWProError: a site or case that is not there or has no labels, slices of different sizes, or thirds
            asked for with examples of different numbers of slices.
    """
    site = sites[episode.site]
    values = {name: value for value, name in site.organs.items()}
    support = EpisodeSupport(predictor, sites, episode)
    config = predictor.config
    rows = []
    for case in episode.queries:
        labels, known = site.labels(case), ~site.unknown(case)
        truth = {organ: labels == values[organ] for organ in episode.organs}
        query = _Query.encode(predictor, site, case, truth, protocols)
        for protocol in protocols:
            pairing = support.pairing(protocol)
            masks = query.masks(support, pairing)
            for organ, mask in zip(episode.organs, masks, strict=True):
                scored = query.slices(organ, protocol)
                if scored is None:
                    continue
                prediction = mask[query.position[scored]]
                if config.keep_components:
                    prediction = keep_components(prediction, *support.parts(organ))
                if protocol == "whole-volume" and on_prediction is not None:
                    on_prediction(case, values[organ], prediction)
                scores = score(prediction & known[scored], truth[organ][scored], site.spacing(case), tolerance)
                rows.append(
                    Row(
                        method=method,
                        seed=seed,
                        site=episode.site,
                        case=case,
                        organ=organ,
                        protocol=protocol,
                        **vars(scores),
                        support_site=episode.support_site,
                        support_case=episode.support_case,
                        support_slices=episode.support_numbers,
                        options={
                            "modality": site.record(case).modality,
                            "pairing": pairing,
                            **options_of(predictor),
                            "tolerance_mm": f"{tolerance:g}",
                        },
                    )
                )
        if on_case is not None:
            on_case(case)
    return rows


class _Query:
    """The slices of a case that the protocols need, encoded once.

    Attributes:
        position: (depth,) where slice z stands among the encoded ones.
    """

    def __init__(
        self,
        encoded: Encoded,
        truth: Mapping[str, np.ndarray],
        needed: np.ndarray,
        anatomy: Anatomy | None,
        spacing: float,
    ) -> None:
        self.encoded, self.truth, self._anatomy, self._spacing = encoded, truth, anatomy, spacing
        self.position = needed.cumsum() - 1
        self._numbers = np.flatnonzero(needed)
        self._masks: dict[str, np.ndarray] = {}

    @classmethod
    def encode(
        cls,
        predictor: OneShotPredictor,
        site: Site,
        case: str,
        truth: Mapping[str, np.ndarray],
        protocols: Sequence[str],
    ) -> _Query:
        # With neighbours in the mean, an organ's outermost slices depend on those outside its extent.
        whole = "whole-volume" in protocols or predictor.config.axial_smoothing > 0
        needed = np.full(site.record(case).depth, whole)
        for mask in truth.values():
            if mask.any():
                low, high = gt_range(mask)
                needed[low : high + 1] = True
        image, spacing = site.image(case), site.spacing(case)[0]
        encoded = predictor.encode(image[needed])
        anatomy = None
        if is_wanted(predictor.config):
            anatomy = predictor.anatomy(image, spacing, encoded if needed.all() else None)
        return cls(encoded, truth, needed, anatomy, spacing)

    def slices(self, organ: str, protocol: str) -> slice | None:
        """Which slices are scored; None where the protocol is not defined."""
        if protocol == "whole-volume":
            return slice(0, len(self.position))
        if not self.truth[organ].any():
            return None
        low, high = gt_range(self.truth[organ])
        return slice(low, high + 1)

    def masks(self, support: EpisodeSupport, pairing: str) -> Bool[np.ndarray, "k n s s"]:
        """Predictions for all organs on the encoded slices."""
        if pairing not in self._masks:
            choice, start = [], 0
            for organ in support.organs:
                groups = len(support.groups(organ, pairing))
                choice.append(start + self._groups(support, organ, pairing, groups))
                start += groups
            bank = support.bank(pairing)
            guide = support.atlas.guide(self._anatomy) if self._anatomy is not None else None
            chosen = np.stack(choice)
            numbers, spacing = self._numbers, self._spacing
            self._masks[pairing] = support.predictor.masks(self.encoded, bank, chosen, guide, numbers, spacing)
        return self._masks[pairing]

    def _groups(self, support: EpisodeSupport, organ: str, pairing: str, groups: int) -> np.ndarray:
        """Group of each encoded slice: the likest annotated slice, or its part of the organ's true extent."""
        if pairing == "similar":
            return likest_slices(self.encoded.views[0], support.features(organ))
        if groups == 1 or not self.truth[organ].any():
            return np.zeros(len(self._numbers), np.int64)
        return chunk_of(self._numbers, *gt_range(self.truth[organ]), groups)
