"""One-shot inference: one annotated example (the support) segments other slices or volumes (the queries).

`OneShotPredictor` works on prepared slices. Each one is encoded once, whatever the number of organs, supports and
protocols that use it; nothing here ever sees a query's truth.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fedcowpro.config import InferConfig
from fedcowpro.core.threads import each
from fedcowpro.model.head import score_classes
from fedcowpro.model.prototypes import build_bank, masks_to_features
from fedcowpro.model.segmenter import Segmenter, upsample
from fedcowpro.oneshot.location_priors import Anatomy, describe
from fedcowpro.oneshot.postprocess import guided_filter
from fedcowpro.volume.checks import UNKNOWN

_COMPARED = 2  # slices at once in a thread; more are not faster on a CPU

View = tuple[float, bool]  # scale, mirrored or not


@dataclass(frozen=True)
class Encoded:
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

    def select(self, index: Sequence[int] | np.ndarray) -> Encoded:
        """The slices with these positions."""
        positions = torch.as_tensor(np.asarray(index, dtype=np.int64))
        return Encoded(tuple(view[positions] for view in self.views), self.guide[positions])


def join(parts: Sequence[Encoded]) -> Encoded:
    """Encoded slices of several volumes as one."""
    views = tuple(torch.cat(views) for views in zip(*(part.views for part in parts), strict=True))
    return Encoded(views, torch.cat([part.guide for part in parts]))


@dataclass(frozen=True)
class Bank:
    """Prototypes of G groups for each view: vectors (P, C) and membership (P, 2G), background before foreground.

    A group is an organ with the support slices that it may use.
    """

    vectors: tuple[Tensor, ...]
    member: tuple[Tensor, ...]

    def select(self, groups: Sequence[int]) -> Bank:
        """The prototypes of some of the groups."""
        columns = [column for group in groups for column in (2 * group, 2 * group + 1)]
        members = [member[:, columns] for member in self.member]
        used = [member.any(1) for member in members]
        return Bank(
            tuple(vectors[rows] for vectors, rows in zip(self.vectors, used, strict=True)),
            tuple(member[rows] for member, rows in zip(members, used, strict=True)),
        )


@dataclass(frozen=True)
class Group:
    """An organ's label value and the positions of its support slices among the encoded support.

    Attributes:
        without: positions of slices that are known not to show it: they add to its background alone.
    """

    organ: int
    slices: tuple[int, ...]
    without: tuple[int, ...] = ()


class OneShotPredictor:
    """Segments prepared slices by comparing them with an annotated support.

    Args:
        model: a segmenter; it is put into evaluation mode.
        config: support slices, views and post-processing.

    Attributes:
        encoded_slices: number of slices that went through the encoder so far (times views).
    """

    def __init__(self, model: Segmenter, config: InferConfig | None = None) -> None:
        self.model = model.eval()
        self.config = config or InferConfig()
        self.encoded_slices = 0

    @torch.inference_mode()
    def encode(self, slices: Float[np.ndarray, "n s s"]) -> Encoded:
        """Features of normalised slices (zero mean, unit variance per volume)."""
        guide = torch.from_numpy(np.asarray(slices, dtype=np.float32))
        low, high = guide.amin((1, 2), keepdim=True), guide.amax((1, 2), keepdim=True)
        return Encoded(self._encode(slices, self._views), (guide - low) / (high - low).clamp_min(1e-6))

    @torch.inference_mode()
    def anatomy(self, slices: Float[np.ndarray, "n s s"], spacing: float, encoded: Encoded | None = None) -> Anatomy:
        """Where a whole volume lies in the body (`guidance`); its features in the first view, if they are not given."""
        if encoded is not None:
            return describe(encoded.views[0], slices, spacing)
        first = self._views[:1]
        return describe(self._encode(slices, first)[0], slices, spacing)

    @property
    def _views(self) -> list[View]:
        mirrors = (False, True) if self.config.flip else (False,)
        return list(itertools.product(self.config.scales, mirrors))

    def _encode(self, slices: Float[np.ndarray, "n s s"], views: Sequence[View]) -> tuple[Tensor, ...]:
        def of_slice(index: int) -> list[Tensor]:
            image = torch.from_numpy(np.asarray(slices[index], dtype=np.float32))[None, None]
            return [self._encode_view(image, *view) for view in views]

        # One at a time, because what a layer hands to the next then stays in the cache: half the time of eight.
        found = each(of_slice, range(len(slices)))
        self.encoded_slices += len(slices) * len(views)
        return tuple(torch.cat(of_view) for of_view in zip(*found, strict=True))

    def _encode_view(self, images: Tensor, scale: float, mirror: bool) -> Tensor:
        if scale != 1:
            side = max(32, round(images.shape[-1] * scale / 32) * 32)
            images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
        features = self.model.encode(images.flip(-1) if mirror else images)
        return features.flip(-1) if mirror else features

    @torch.inference_mode()
    def bank(self, support: Encoded, labels: UInt8[np.ndarray, "n s s"], groups: Sequence[Group]) -> Bank:
        """Prototypes of `groups` from n annotated slices.

        Args:
            support: features of the n slices.
            labels: label map of each slice; `UNKNOWN`, where it is no group's organ, is no background either.
            groups: which organ uses which of the n slices.
        """
        head = self.model.config.head
        masks = [torch.from_numpy((labels == group.organ).astype(np.float32)) for group in groups]
        hidden = (labels == UNKNOWN) & (UNKNOWN not in {group.organ for group in groups})
        unknown = torch.from_numpy(hidden.astype(np.float32)) if hidden.any() else None
        vectors, members = [], []
        for features in support.views:
            size = (features.shape[-2], features.shape[-1])
            coverages = (masks_to_features(mask, size) for mask in masks)
            classes = [(part, group.slices, group.without) for part, group in zip(coverages, groups, strict=True)]
            veiled = None if unknown is None else masks_to_features(unknown, size)
            of_view, member = build_bank(features, classes, head.test_window, head, veiled)
            vectors.append(of_view)
            members.append(member)
        return Bank(tuple(vectors), tuple(members))

    def probabilities(
        self,
        query: Encoded,
        bank: Bank,
        choice: Int[np.ndarray, "k n"],
        prior: Float[np.ndarray, "k n s s"] | None = None,
    ) -> Float[np.ndarray, "k n s s"]:
        """Foreground probability (0..1) of K organs on n slices: mean of the views, borders moved to image edges.

        Args:
            query: features of n slices.
            bank: prototypes of G groups.
            choice: group of organ k on slice i.
            prior: log-odds that are added (see `guidance`).
        """
        organs, count = choice.shape
        out = np.empty((organs, count, query.size, query.size), np.float32)

        def of_part(part: slice) -> None:
            pick = torch.from_numpy(np.ascontiguousarray(choice[:, part].T))
            total = torch.zeros(len(pick), organs, query.size, query.size)
            known = None if prior is None else torch.from_numpy(prior[:, part]).transpose(0, 1)
            for features, vectors, member in zip(query.views, bank.vectors, bank.member, strict=True):
                scores = score_classes(features[part], vectors, member, self.model.config.head)
                pairs = scores.unflatten(1, (-1, 2))
                chosen = pairs[torch.arange(len(pick))[:, None], pick].flatten(0, 1)
                # The difference is taken first: resampling is linear, and there is half as much to resample.
                odds = upsample((chosen[:, 1] - chosen[:, 0]).unflatten(0, (-1, organs)), (query.size, query.size))
                total += (odds if known is None else odds + known).sigmoid_()
            total /= len(query.views)
            if self.config.refine:
                radius = max(1, round(self.config.refine * query.size / 256))
                total = guided_filter(total, query.guide[part], radius).clamp_(0, 1)
            out[:, part] = total.transpose(0, 1).numpy()

        each(of_part, _parts(count))
        return out


def _parts(count: int) -> list[slice]:
    return [slice(start, min(start + _COMPARED, count)) for start in range(0, count, _COMPARED)]
