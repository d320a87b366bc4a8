"""Self-supervised episodes: a superpixel plays an organ, seen in independently augmented views of one or two slices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedcowpro.config import AugmentConfig, EpisodeConfig
from fedcowpro.core.device import CPU
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.episodes.augmentation import apply_views, sample_views
from fedcowpro.data.episodes.pseudo_labels import counterpart
from fedcowpro.data.preparation.site import Site

_PLAIN = EpisodeConfig()
_FIRST_SHARE = 0.25  # of the superpixels, with which a curriculum starts


@dataclass(frozen=True)
class EpisodeBatch:
    """B episodes: images (n, 1, S, S) and binary masks (n, S, S); n = B for the query, B * views for the support.

    The support views of a query are consecutive.
    """

    support: Float[Tensor, "n 1 s s"]
    support_mask: Int[Tensor, "n s s"]
    query: Float[Tensor, "b 1 s s"]
    query_mask: Int[Tensor, "b s s"]


@dataclass(frozen=True)
class _Shown:
    """A slice before its view is drawn: grey values and pseudo-label, each (S, S)."""

    image: np.ndarray
    mask: np.ndarray


class EpisodeSampler:
    """Draws episodes from a site's training slices; labels are never opened.

    Slices are drawn uniformly, then one of the slice's superpixels of at least the site's minimum area, as
    `EpisodeConfig` says. (The reference's sampler can draw an empty superpixel and never draws the last one.)

    Views are made on `device`, where the batches lie.

    Raises:
        FedCoWProError: the site has no training slice with a usable superpixel.
    """

    def __init__(
        self, site: Site, augment: AugmentConfig, episodes: EpisodeConfig = _PLAIN, device: torch.device = CPU
    ) -> None:
        self.site, self.augment, self.episodes, self.device = site, augment, episodes, device
        self.slices = site.train_slices()
        if not self.slices:
            raise FedCoWProError(
                f"site {site.path} has no training slice with a usable superpixel",
                "at least one case that is not held out, with superpixels of the minimum area",
                "prepare more cases, or lower superpixels.min_area",
            )
        records = {case.id: case for case in site.cases}
        self._areas = [np.array(records[case].areas[z])[np.array(ids) - 1] for case, z, ids in self.slices]
        self._largest = np.array([areas.max() for areas in self._areas])
        self._descending = -np.sort(-np.concatenate(self._areas))

    def sample(self, batch: int, generator: torch.Generator, progress: float = 1.0) -> EpisodeBatch:
        """`batch` episodes; every draw comes from `generator`.

        Args:
            progress: share of the training that is done, 0..1; a curriculum depends on it.
        """
        least = self._least_area(progress)
        pairs = [self._pair(least, generator) for _ in range(batch)]
        supports = [support for support, _ in pairs for _ in range(self.episodes.support_views)]
        shown = supports + [query for _, query in pairs]
        image = torch.from_numpy(np.stack([one.image for one in shown])).to(self.device)
        mask = torch.from_numpy(np.stack([one.mask for one in shown])).to(self.device).float()
        views = sample_views(len(shown), image.shape[-1], self.augment, generator, self.device)
        image, mask = apply_views(image, mask, views)
        support, query = image[:, None].split((len(supports), batch))
        support_mask, query_mask = mask.long().split((len(supports), batch))
        return EpisodeBatch(support, support_mask, query, query_mask)

    def _least_area(self, progress: float) -> int:
        """Pixels; with a curriculum, the area of the smallest of the site's largest share of superpixels."""
        if not self.episodes.curriculum:
            return 0
        share = min(1.0, _FIRST_SHARE + progress)
        return int(self._descending[max(math.ceil(share * len(self._descending)), 1) - 1])

    def _pair(self, least: int, generator: torch.Generator) -> tuple[_Shown, _Shown]:
        """What support and query show, before their views are drawn."""
        open_slices = np.flatnonzero(self._largest >= least)
        index = open_slices[_draw(len(open_slices), generator)]
        case, z, ids = self.slices[index]
        areas = self._areas[index]
        candidates = np.flatnonzero(areas >= least)
        if self.episodes.draw == "area":
            weights = torch.from_numpy(np.sqrt(areas[candidates]))
            chosen = candidates[int(torch.multinomial(weights, 1, generator=generator))]
        else:
            chosen = candidates[_draw(len(candidates), generator)]
        support = _Shown(self.site.image_slice(case, z), self.site.superpixel_slice(case, z) == ids[chosen])
        return support, self._neighbour(case, z, support, generator) if self.episodes.neighbour else support

    def _neighbour(self, case: str, z: int, support: _Shown, generator: torch.Generator) -> _Shown:
        """Another slice of the case that training may use, or `support` where the superpixels there do not fit."""
        record, reach = self.site.record(case), self.episodes.neighbour
        near = range(max(z - reach, 0), min(z + reach + 1, record.depth))
        others = [other for other in near if other != z and other not in record.left_out]
        if not others:
            return support
        other = others[_draw(len(others), generator)]
        segments = self.site.superpixel_slice(case, other)
        mask, overlap = counterpart(support.mask, segments)
        if overlap < self.episodes.neighbour_overlap:
            return support
        return _Shown(self.site.image_slice(case, other), mask)


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))
