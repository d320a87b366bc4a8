"""Evaluate a one-shot predictor on episodes: annotated cases support, other labelled cases query.

Scores are computed on the prepared grid, as published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from fedcowpro.data.site import Site
from fedcowpro.errors import FedCoWProError
from fedcowpro.evaluate.episodes import Episode
from fedcowpro.evaluate.metrics import score
from fedcowpro.evaluate.options import options_of
from fedcowpro.evaluate.protocol import PROTOCOLS, Row, chunk_of, gt_range
from fedcowpro.example_slices import empty_slices
from fedcowpro.guidance import Anatomy, Atlas, Place, is_wanted, place_of
from fedcowpro.infer import Bank, Encoded, Group, OneShotPredictor, join
from fedcowpro.postprocess import count_parts, keep_components, location_map

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
    support = _Support(predictor, sites, episode)
    config = predictor.config
    rows = []
    for case in episode.queries:
        labels = site.labels(case)
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
                scores = score(prediction, truth[organ][scored], site.spacing(case), tolerance)
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


class _Support:
    """The annotated cases: their used slices encoded once, and a bank of prototypes for each way of pairing."""

    def __init__(self, predictor: OneShotPredictor, sites: Mapping[str, Site], episode: Episode) -> None:
        self.predictor, self.organs = predictor, episode.organs
        self._picked: dict[str, list[tuple[int, ...]]] = {organ: [] for organ in self.organs}
        self._empty: list[int] = []
        encoded, labels, start = [], [], 0
        volumes: list[Anatomy] = []
        places: dict[str, list[Place | None]] = {organ: [] for organ in self.organs}
        for example in episode.supports:
            site = sites[example.site]
            if site.size != sites[episode.site].size:
                raise FedCoWProError(
                    f"slices of {site.size} pixels at '{example.site}', of {sites[episode.site].size} at "
                    f"'{episode.site}'",
                    "slices of one size",
                    "prepare the sites with the same --size",
                )
            wanted = {organ: zs for organ, zs in example.slices.items() if organ in self.organs}
            values = {name: value for value, name in site.organs.items()}
            whole = site.labels(example.case)
            drawn: np.ndarray = np.any(np.isin(whole, [values[organ] for organ in wanted]), axis=(1, 2))
            extra = empty_slices(drawn, predictor.config.background_slices)
            used = sorted({z for zs in wanted.values() for z in zs} | set(extra))
            given = whole[used]
            for organ, zs in wanted.items():
                self._picked[organ].append(tuple(start + used.index(z) for z in zs))
            self._empty += [start + used.index(z) for z in extra]
            numbered = np.zeros(given.shape, np.uint8)
            for organ in wanted:
                numbered[given == values[organ]] = self._number(organ)
            labels.append(numbered)
            encoded.append(predictor.encode(np.stack([site.image_slice(example.case, z) for z in used])))
            start += len(used)
            if is_wanted(predictor.config):
                volumes.append(predictor.anatomy(site.image(example.case), site.spacing(example.case)[0]))
                for organ in self.organs:
                    zs = wanted.get(organ, ())
                    shown = numbered[[used.index(z) for z in zs]] == self._number(organ)
                    places[organ].append(place_of(shown, zs, volumes[-1]) if zs else None)
        self.labels = np.concatenate(labels)
        self.encoded = join(encoded)
        self.atlas = Atlas(tuple(volumes), tuple(map(tuple, places.values())), predictor.config)
        self._banks: dict[str, Bank] = {}

    def _number(self, organ: str) -> int:
        """The organ's value in `labels`."""
        return 1 + self.organs.index(organ)

    def parts(self, organ: str) -> tuple[np.ndarray, int]:
        """Where the organ lies in its support slices, and in how many parts (for `keep_components`)."""
        used = sorted({z for zs in self._picked[organ] for z in zs})
        mask = self.labels[used] == self._number(organ)
        return location_map(mask), count_parts(mask)

    def pairing(self, protocol: str) -> str:
        """Thirds of the organ need the query's truth, so they exist in `gt-range` only."""
        return self.predictor.config.pairing if protocol == "gt-range" else "bag"

    def groups(self, organ: str, pairing: str) -> list[Group]:
        """One group of all its slices, or one for each part of the organ's extent."""
        number, picked, empty = self._number(organ), self._picked[organ], tuple(self._empty)
        if pairing == "bag":
            return [Group(number, tuple(z for zs in picked for z in zs), empty)]
        if len({len(zs) for zs in picked}) > 1:
            raise FedCoWProError(
                f"'{organ}' on {' and '.join(str(len(zs)) for zs in picked)} slices of the examples",
                "as many slices of each example, where thirds are paired",
                "use --pairing bag",
            )
        return [Group(number, part, empty) for part in zip(*picked, strict=True)]

    def bank(self, pairing: str) -> Bank:
        """Prototypes of `groups` of all organs, in order."""
        if pairing not in self._banks:
            groups = [group for organ in self.organs for group in self.groups(organ, pairing)]
            self._banks[pairing] = self.predictor.bank(self.encoded, self.labels, groups)
        return self._banks[pairing]


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

    def masks(self, support: _Support, pairing: str) -> Bool[np.ndarray, "k n s s"]:
        """Predictions for all organs on the encoded slices."""
        if pairing not in self._masks:
            choice, start = [], 0
            for organ in support.organs:
                groups = len(support.groups(organ, pairing))
                choice.append(start + self._thirds(organ, groups))
                start += groups
            bank = support.bank(pairing)
            guide = support.atlas.guide(self._anatomy) if self._anatomy is not None else None
            chosen = np.stack(choice)
            numbers, spacing = self._numbers, self._spacing
            self._masks[pairing] = support.predictor.masks(self.encoded, bank, chosen, guide, numbers, spacing)
        return self._masks[pairing]

    def _thirds(self, organ: str, groups: int) -> np.ndarray:
        """Group of each encoded slice: its part of the organ's true extent, if there is more than one group."""
        if groups == 1 or not self.truth[organ].any():
            return np.zeros(len(self._numbers), np.int64)
        return chunk_of(self._numbers, *gt_range(self.truth[organ]), groups)
