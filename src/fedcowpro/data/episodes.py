"""Self-supervised episodes: one slice, one superpixel, two independently augmented views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedcowpro.config import AugmentConfig
from fedcowpro.data.augment import apply_views, sample_views
from fedcowpro.data.site import Site
from fedcowpro.errors import FedCoWProError


@dataclass(frozen=True)
class EpisodeBatch:
    """B episodes: images (B, 1, S, S) and binary masks (B, S, S) of the support and of the query."""

    support: Float[Tensor, "b 1 s s"]
    support_mask: Int[Tensor, "b s s"]
    query: Float[Tensor, "b 1 s s"]
    query_mask: Int[Tensor, "b s s"]


class EpisodeSampler:
    """Draws episodes from a site's training slices; labels are never opened.

    Slices are drawn uniformly, then one of the slice's superpixels of at least the site's minimum area,
    uniformly. (The reference's sampler can draw an empty superpixel and never draws the last one.)

    Raises:
        FedCoWProError: the site has no training slice with a usable superpixel.
    """

    def __init__(self, site: Site, augment: AugmentConfig) -> None:
        self.site, self.augment = site, augment
        self.slices = site.train_slices()
        if not self.slices:
            raise FedCoWProError(
                f"site {site.path} has no training slice with a usable superpixel",
                "at least one case that is not held out, with superpixels of the minimum area",
                "prepare more cases, or lower superpixels.min_area",
            )

    def sample(self, batch: int, generator: torch.Generator) -> EpisodeBatch:
        """`batch` episodes; every draw comes from `generator`."""
        images, masks = [], []
        for _ in range(batch):
            case, z, segments = self.slices[_draw(len(self.slices), generator)]
            segment = segments[_draw(len(segments), generator)]
            images.append(self.site.image_slice(case, z))
            masks.append(self.site.superpixel_slice(case, z) == segment)
        image = torch.from_numpy(np.stack(images)).repeat(2, 1, 1)
        mask = torch.from_numpy(np.stack(masks).astype(np.float32)).repeat(2, 1, 1)
        views = sample_views(2 * batch, image.shape[-1], self.augment, generator)
        image, mask = apply_views(image, mask, views)
        first, second = image[:, None].chunk(2)
        first_mask, second_mask = mask.long().chunk(2)
        return EpisodeBatch(first, first_mask, second, second_mask)


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))
