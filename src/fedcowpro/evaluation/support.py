"""The annotated side of an episode: its slices, their features and the prototypes of each organ."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import Episode
from fedcowpro.oneshot.location_priors import Anatomy, Atlas, Place, is_wanted, place_of
from fedcowpro.oneshot.postprocess import count_parts, location_map
from fedcowpro.oneshot.predictor import Bank, Group, OneShotPredictor, join
from fedcowpro.oneshot.slices import empty_slices
from fedcowpro.volume.checks import UNKNOWN


class EpisodeSupport:
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
            whole, unknown = site.labels(example.case), site.unknown(example.case)
            drawn: np.ndarray = np.any(np.isin(whole, [values[organ] for organ in wanted]), axis=(1, 2))
            drawn |= unknown.any(axis=(1, 2))  # such a slice is not known to be empty
            extra = empty_slices(drawn, predictor.config.background_slices)
            used = sorted({z for zs in wanted.values() for z in zs} | set(extra))
            given = whole[used]
            for organ, zs in wanted.items():
                self._picked[organ].append(tuple(start + used.index(z) for z in zs))
            self._empty += [start + used.index(z) for z in extra]
            numbered = np.zeros(given.shape, np.uint8)
            for organ in wanted:
                numbered[given == values[organ]] = self._number(organ)
            numbered[unknown[used]] = UNKNOWN
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
        used = sorted(set(self._slices(organ)))
        mask = self.labels[used] == self._number(organ)
        return location_map(mask), count_parts(mask)

    def pairing(self, protocol: str) -> str:
        """Thirds of the organ need the query's truth, so they exist in `gt-range` only."""
        pairing = self.predictor.config.pairing
        return "bag" if pairing == "chunk" and protocol != "gt-range" else pairing

    def groups(self, organ: str, pairing: str) -> list[Group]:
        """One group of all its slices, one for each of them, or one for each part of the organ's extent."""
        number, picked, empty = self._number(organ), self._picked[organ], tuple(self._empty)
        if pairing == "bag":
            return [Group(number, self._slices(organ), empty)]
        if pairing == "similar":
            return [Group(number, (z,), empty) for z in self._slices(organ)]
        if len({len(zs) for zs in picked}) > 1:
            raise FedCoWProError(
                f"'{organ}' on {' and '.join(str(len(zs)) for zs in picked)} slices of the examples",
                "as many slices of each example, where thirds are paired",
                "use --pairing bag",
            )
        return [Group(number, part, empty) for part in zip(*picked, strict=True)]

    def features(self, organ: str) -> Tensor:
        """Features of the organ's slices in the first view, in the order of its groups where each has one."""
        return self.encoded.select(self._slices(organ)).views[0]

    def _slices(self, organ: str) -> tuple[int, ...]:
        return tuple(z for zs in self._picked[organ] for z in zs)

    def bank(self, pairing: str) -> Bank:
        """Prototypes of `groups` of all organs, in order."""
        if pairing not in self._banks:
            groups = [group for organ in self.organs for group in self.groups(organ, pairing)]
            self._banks[pairing] = self.predictor.bank(self.encoded, self.labels, groups)
        return self._banks[pairing]
