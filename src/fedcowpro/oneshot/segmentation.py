"""From a support and an encoded volume to labels on the volume's own grid, with what to think of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, UInt8

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import inform
from fedcowpro.core.threads import each
from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.confidence import (
    compared_confidence,
    compared_cues,
    mask_confidence,
    reverse_dice,
    slice_confidence,
    slice_margins,
)
from fedcowpro.oneshot.doubts import doubts_of, facts_of
from fedcowpro.oneshot.encoded import EncodedVolume
from fedcowpro.oneshot.extent import Extents, outside
from fedcowpro.oneshot.location_priors import log_odds_of
from fedcowpro.oneshot.postprocess import count_parts, keep_components, location_map
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.oneshot.support import Support
from fedcowpro.volume.preprocess import Placement

_SLICES_AT_ONCE = 4  # in a thread; bounds the memory of probabilities on a large native grid


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A segmented volume.

    Attributes:
        organs: label values, in the order of the other fields' first axis.
        labels: (depth, height, width) on the volume's own grid; 0 is background.
        probability: (organ, depth, height, width), on request.
        confidence: per organ how far to trust its mask, 0..1 (see `confidence`), painted slices apart; nan where it was
            not found.
        slice_confidence: (organ, depth) the same of each slice, 0..1; 1 where it was painted, nan where not found.
        doubts: per organ what looks wrong with its mask, in sentences (see `doubts`).
    """

    organs: tuple[int, ...]
    labels: UInt8[np.ndarray, "d h w"]
    probability: Float[np.ndarray, "k d h w"] | None
    confidence: Mapping[int, float]
    slice_confidence: Float[np.ndarray, "k d"]
    doubts: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


def segment_encoded(
    predictor: OneShotPredictor,
    support: Support,
    encoded: EncodedVolume,
    *,
    choice: Int[np.ndarray, "k d"] | None = None,
    extents: Extents | None = None,
    probabilities: bool = False,
    trust: bool = True,
) -> Segmentation:
    """Segment an encoded volume like the support's volumes; the encoder is not used.

    Where organs compete, the likelier wins; below the threshold is background. In a volume that is itself annotated,
    the painted slices are what was painted.

    Args:
        choice: group of the support that organ k uses on each slice; None = each organ has one.
        extents: per organ first and last slice of this volume that it may be on, as far as they are known; of a volume
            that is itself annotated, its annotation's are known already.
        probabilities: give probabilities on the volume's own grid, too; costs time and memory.
        trust: False leaves confidence (nan) and doubts out, which saves time.

    Raises:
        FedCoWProError: the volume's slices are not all encoded, or have another size than the support's.
    """
    _check(support, encoded)
    if note := _unlike(support, encoded):
        inform(note, stacklevel=2)
    config, organs, placement = predictor.config, support.organs, encoded.placement
    shape = encoded.volume.voxels.shape
    labels = np.zeros(shape, np.uint8)
    scores = np.zeros((len(organs), *shape), np.float32) if probabilities else None
    margins = np.full((len(organs), shape[0]), np.nan, np.float32)
    if choice is None:
        choice = np.repeat(np.arange(len(organs))[:, None], shape[0], axis=1)
    annotation = support.painted_in(encoded)
    ends = {**(annotation.extents if annotation else {}), **(extents or {})}
    nowhere = outside(organs, ends, shape[0])
    prior = None
    if support.priors and encoded.location is not None:
        prior = log_odds_of(support.priors, encoded.location, organs, config)

    def of_part(start: int) -> None:
        part = slice(start, min(start + _SLICES_AT_ONCE, shape[0]))
        numbers = range(part.start, part.stop)
        added = None if prior is None else prior(numbers)
        soft = predictor.probabilities(encoded.features.select(numbers), support.prototypes, choice[:, part], added)
        soft[nowhere[:, part]] = 0
        margins[:, part] = slice_margins(soft, config.threshold)
        if scores is not None:
            scores[:, part] = placement.to_native_scores(soft)
        write_likeliest(labels[part], soft, organs, placement, config.threshold)

    each(of_part, range(0, shape[0], _SLICES_AT_ONCE))
    if annotation is not None:
        drawn = annotation.painted[:, None, None] & ~annotation.hidden
        np.copyto(labels, annotation.labels, where=drawn)
    if config.keep_components:
        _keep_parts(labels, support, placement, annotation)
    if not trust:
        margins[:] = np.nan
        return Segmentation(organs, labels, scores, dict.fromkeys(organs, float("nan")), margins)
    areas = np.stack([(labels == organ).sum(axis=(1, 2)) for organ in organs])
    margins[areas == 0] = np.nan
    guessed = labels
    if annotation is not None:  # what was painted says nothing of the rest
        margins[:, annotation.painted] = np.nan
        guessed = labels.copy()
        guessed[annotation.painted] = 0
    reverse = reverse_dice(predictor, support, encoded.features, placement, guessed)
    facts = facts_of(encoded.volume, encoded.modality, labels, organs)
    examples = [example.facts for example in support.examples]
    confidence = {}
    for organ, of, area in zip(organs, margins, areas, strict=True):
        own = np.flatnonzero((annotation.labels == organ).any(axis=(1, 2)) & annotation.painted) if annotation else ()
        distance = None
        if len(own):
            distance = np.abs(np.arange(shape[0])[:, None] - own).min(axis=1) * encoded.volume.spacing[0]
        like = [one.organs[organ] for one in examples if organ in one.organs]
        cues = None if len(own) else compared_cues(of, area, facts.organs[organ], like)
        confidence[organ] = mask_confidence(reverse[organ], of, len(own)) if cues is None else compared_confidence(cues)
        of[:] = slice_confidence(reverse[organ], of, distance)
        if annotation is not None:
            of[(area > 0) & annotation.painted] = 1
    return Segmentation(organs, labels, scores, confidence, margins, doubts_of(facts, examples))


def _check(support: Support, encoded: EncodedVolume) -> None:
    if not encoded.is_whole:
        raise FedCoWProError(
            f"{encoded.volume.name}: {len(encoded.numbers)} of {encoded.depth} slices are encoded", "all of them",
            "encode it with encode_volume",
        )  # fmt: skip
    if encoded.placement.size != support.size:
        raise FedCoWProError(
            f"{encoded.volume.name}: slices of {encoded.placement.size} pixels",
            f"slices of {support.size} pixels, as the annotated volume has",
            "encode it with the support's size",
        )


def _unlike(support: Support, encoded: EncodedVolume) -> str:
    """A note where the examples are of another modality than the volume; '' = they are not."""
    others = {example.encoded.modality for example in support.examples}
    if encoded.modality in others:
        return ""
    return (
        f"{encoded.volume.name}: {encoded.modality.upper()}, segmented like {' and '.join(sorted(others)).upper()} "
        "examples; organs look different there and masks are worse"
    )


def write_likeliest(
    labels: UInt8[np.ndarray, "n h w"],
    soft: Float[np.ndarray, "k n s s"],
    organs: tuple[int, ...],
    placement: Placement,
    threshold: float,
) -> None:
    """Write the likeliest organ above the threshold into `labels`, which is background so far.

    Resampling takes means, so only the pixels around those above the threshold are brought to the native grid.
    """
    best = np.full(labels.shape, threshold, np.float32)
    above = soft > threshold
    for organ, maps, mask in zip(organs, soft, above, strict=True):
        slices = np.flatnonzero(mask.any(axis=(1, 2)))
        if len(slices) == 0:
            continue
        rows, columns = placement.native_window(mask.any(axis=(0, 2)), mask.any(axis=(0, 1)))
        native = placement.to_native_scores(maps[slices], window=(rows, columns))
        where = np.ix_(slices, np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop))
        wins = native > best[where]
        best[where] = np.where(wins, native, best[where])
        labels[where] = np.where(wins, np.uint8(organ), labels[where])


def _keep_parts(
    labels: UInt8[np.ndarray, "d h w"], support: Support, placement: Placement, annotation: Annotation | None
) -> None:
    """Take back the parts of each organ that the support does not make likely; painted voxels stay."""
    for organ in support.organs:
        mask, example = labels == organ, support.masks(organ)
        if not mask.any():
            continue
        box = tuple(
            slice(int(used[0]), int(used[-1]) + 1)
            for used in (np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
        )
        location = placement.to_native_scores(location_map(example)[None, None], window=(box[1], box[2]))[0, 0]
        sure = None
        if annotation is not None:
            sure = (annotation.labels[box] == organ) & annotation.painted[box[0], None, None]
        inside = mask[box]
        labels[box][inside & ~keep_components(inside, location, count_parts(example), sure)] = 0
