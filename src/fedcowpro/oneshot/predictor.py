"""One-shot inference: one annotated example (the support) segments other slices or volumes (the queries).

`OneShotPredictor` works on prepared slices. Each one is encoded once, whatever the number of organs, supports and
protocols that use it; nothing here ever sees a query's truth.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fedcowpro.config import InferConfig
from fedcowpro.core.device import device_of, in_parts
from fedcowpro.model.head import score_classes
from fedcowpro.model.prototypes import masks_to_features, prototypes_of_organs
from fedcowpro.model.segmenter import Segmenter, upsample
from fedcowpro.oneshot.location_priors import LocationPrior, locate
from fedcowpro.oneshot.postprocess import guided_filter
from fedcowpro.volume.checks import UNKNOWN

_COMPARED = 2  # slices at once in a thread; more are not faster on a CPU

View = tuple[float, bool]  # scale, mirrored or not


@dataclass(frozen=True)
class Features:
    """Features of n slices, one tensor (n, C, h, w) per view (scale, mirror image).

    Attributes:
        views: features.
        guide: the slices themselves in 0..1 (n, size, size), for the refinement of boundaries.
    """

    views: tuple[Tensor, ...]
    guide: Tensor

    @property
    def size(self) -> int:
        """Height and width of a slice."""
        return self.guide.shape[-1]

    def __len__(self) -> int:
        return len(self.views[0])

    def select(self, index: Sequence[int] | np.ndarray) -> Features:
        """The slices with these positions."""
        positions = torch.as_tensor(np.asarray(index, dtype=np.int64)).to(self.guide.device)
        return Features(tuple(view[positions] for view in self.views), self.guide[positions])


def join(parts: Sequence[Features]) -> Features:
    """Features of several volumes' slices as one."""
    views = tuple(torch.cat(views) for views in zip(*(part.views for part in parts), strict=True))
    return Features(views, torch.cat([part.guide for part in parts]))


@dataclass(frozen=True)
class Prototypes:
    """Prototypes of G groups: an organ, or a part of it, from the support slices that it may use.

    Attributes:
        organs: label value of each group.
        vectors: (P, C) for each view.
        member: (P, 2G) for each view, which of them belong to a group: background before foreground.
    """

    organs: tuple[int, ...]
    vectors: tuple[Tensor, ...]
    member: tuple[Tensor, ...]

    def only(self, organ: int) -> Prototypes:
        """Those of an organ's groups."""
        groups = [group for group, of in enumerate(self.organs) if of == organ]
        columns = [column for group in groups for column in (2 * group, 2 * group + 1)]
        members = [member[:, columns] for member in self.member]
        used = [member.any(1) for member in members]
        return Prototypes(
            (organ,) * len(groups),
            tuple(vectors[rows] for vectors, rows in zip(self.vectors, used, strict=True)),
            tuple(member[rows] for member, rows in zip(members, used, strict=True)),
        )


class OneShotPredictor:
    """Segments prepared slices by comparing them with an annotated support.

    Args:
        model: a segmenter; it is put into evaluation mode, and computes on the device where it is.
        config: support slices, views and post-processing.

    Attributes:
        encoded_slices: number of slices that went through the encoder so far (times views).
    """

    def __init__(self, model: Segmenter, config: InferConfig | None = None) -> None:
        self.model = model.eval()
        self.config = config or InferConfig()
        self.encoded_slices = 0

    @property
    def device(self) -> torch.device:
        """Where features are made and stay."""
        return device_of(self.model)

    @torch.inference_mode()
    def encode(self, slices: Float[np.ndarray, "n s s"]) -> Features:
        """Features of normalised slices (zero mean, unit variance per volume)."""
        guide = torch.from_numpy(np.asarray(slices, dtype=np.float32)).to(self.device)
        low, high = guide.amin((1, 2), keepdim=True), guide.amax((1, 2), keepdim=True)
        return Features(self._encode(slices, self._views), (guide - low) / (high - low).clamp_min(1e-6))

    @torch.inference_mode()
    def locate(
        self, slices: Float[np.ndarray, "n s s"], spacing: float, features: Features | None = None
    ) -> LocationPrior:
        """Where a whole volume lies in the body; its features in the first view, if they are not given."""
        of_view = self._encode(slices, self._views[:1])[0] if features is None else features.views[0]
        return locate(of_view, slices, spacing)

    @property
    def _views(self) -> list[View]:
        mirrors = (False, True) if self.config.flip else (False,)
        return list(itertools.product(self.config.scales, mirrors))

    def _encode(self, slices: Float[np.ndarray, "n s s"], views: Sequence[View]) -> tuple[Tensor, ...]:
        def of_part(part: slice) -> list[Tensor]:
            images = torch.from_numpy(np.asarray(slices[part], dtype=np.float32))[:, None].to(self.device)
            return [self._encode_view(images, *view) for view in views]

        # On a CPU one at a time: what a layer hands to the next then stays in the cache, half the time of eight.
        found = in_parts(of_part, len(slices), self.device)
        self.encoded_slices += len(slices) * len(views)
        return tuple(torch.cat(of_view) for of_view in zip(*found, strict=True))

    def _encode_view(self, images: Tensor, scale: float, mirror: bool) -> Tensor:
        if scale != 1:
            side = max(32, round(images.shape[-1] * scale / 32) * 32)
            images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
        features = self.model.encode(images.flip(-1) if mirror else images)
        return features.flip(-1) if mirror else features

    @torch.inference_mode()
    def prototypes(
        self,
        support: Features,
        labels: UInt8[np.ndarray, "n s s"],
        groups: Sequence[tuple[int, Sequence[int]]],
        empty: Mapping[int, Sequence[int]] | None = None,
    ) -> Prototypes:
        """Prototypes of `groups` from n annotated slices.

        Args:
            support: features of the n slices.
            labels: label map of each slice; `UNKNOWN`, where it is no group's organ, is no background either.
            groups: organs, and which of the n slices each uses.
            empty: per organ slices that are known to be without it: they add to the background of its groups.
        """
        head, organs = self.model.config.head, tuple(organ for organ, _ in groups)
        masks = [torch.from_numpy((labels == organ).astype(np.float32)).to(self.device) for organ in organs]
        hidden = (labels == UNKNOWN) & (UNKNOWN not in organs)
        unknown = torch.from_numpy(hidden.astype(np.float32)).to(self.device) if hidden.any() else None
        vectors, members = [], []
        for features in support.views:
            size = (features.shape[-2], features.shape[-1])
            coverages = (masks_to_features(mask, size) for mask in masks)
            bare = ((empty or {}).get(organ, ()) for organ in organs)
            classes = [(part, of[1], without) for part, of, without in zip(coverages, groups, bare, strict=True)]
            veiled = None if unknown is None else masks_to_features(unknown, size)
            of_view, member = prototypes_of_organs(features, classes, head.test_window, head, veiled)
            vectors.append(of_view)
            members.append(member)
        return Prototypes(organs, tuple(vectors), tuple(members))

    def probabilities(
        self,
        query: Features,
        prototypes: Prototypes,
        choice: Int[np.ndarray, "k n"],
        prior: Float[np.ndarray, "k n s s"] | None = None,
    ) -> Float[np.ndarray, "k n s s"]:
        """Foreground probability (0..1) of K organs on n slices: mean of the views, borders moved to image edges.

        Args:
            query: features of n slices.
            prototypes: of G groups.
            choice: group of organ k on slice i.
            prior: log-odds that are added (see `location_priors`).
        """
        organs, count = choice.shape
        out = np.empty((organs, count, query.size, query.size), np.float32)

        def of_part(part: slice) -> None:
            pick = torch.from_numpy(np.ascontiguousarray(choice[:, part].T)).to(self.device)
            rows = torch.arange(len(pick), device=self.device)[:, None]
            total = torch.zeros(len(pick), organs, query.size, query.size, device=self.device)
            known = None if prior is None else torch.from_numpy(prior[:, part]).transpose(0, 1).to(self.device)
            for features, vectors, member in zip(query.views, prototypes.vectors, prototypes.member, strict=True):
                scores = score_classes(features[part], vectors, member, self.model.config.head)
                pairs = scores.unflatten(1, (-1, 2))
                chosen = pairs[rows, pick].flatten(0, 1)
                # The difference is taken first: resampling is linear, and there is half as much to resample.
                odds = upsample((chosen[:, 1] - chosen[:, 0]).unflatten(0, (-1, organs)), (query.size, query.size))
                total += (odds if known is None else odds + known).sigmoid_()
            total /= len(query.views)
            if self.config.refine:
                radius = max(1, round(self.config.refine * query.size / 256))
                total = guided_filter(total, query.guide[part], radius).clamp_(0, 1)
            out[:, part] = total.transpose(0, 1).cpu().numpy()

        in_parts(of_part, count, self.device, _COMPARED)
        return out
