"""What looks wrong with a mask, in plain sentences: found by comparing it with the example, without any truth.

A doubt is no proof: a large patient has a large liver, and a volume may end within an organ. It says where to look.
The bounds are wide enough that most good masks have none; docs/results-studies.md says how much worse others are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from fedcowpro.config import Modality
from fedcowpro.volume.volume import Volume

_TIMES = 2.0  # of volumes: twice or half the example's
_TALLER = 1.6  # of the extent along the body
_NEARLY_ALL = 0.9  # share of the volume's slices
_TO_THE_SIDE = 0.15  # of half the body's width
_WIDER, _LONGER = 1.5, 2.0  # of the field of view: within the slices, along the body
_CUT = 0.1  # area in the volume's last slice, of the largest one of the mask


@dataclass(frozen=True)
class OrganFacts:
    """An organ in a volume, in numbers that can be compared with another volume's.

    Attributes:
        millilitres: nan where not all slices are known.
        height: mm from its first to its last slice; nan likewise.
        slices: that show it.
        side: its middle between the body's right (-1) and left (1); nan where it is not there.
        steadiness: mean Dice of neighbouring slices, from its first to its last one; nan likewise, and on one slice.
        cut: whether it goes on beyond the first slice (foot) and beyond the last one (head).
    """

    millilitres: float
    height: float
    slices: int
    side: float
    steadiness: float
    cut: tuple[bool, bool]


@dataclass(frozen=True)
class Facts:
    """A volume and the organs in it, as far as comparing needs them.

    Attributes:
        depth: slices.
        width: mm of the wider side of a slice.
        height: mm along the body.
        organs: by label value.
    """

    modality: Modality
    depth: int
    width: float
    height: float
    organs: Mapping[int, OrganFacts]


def facts_of(
    volume: Volume,
    modality: Modality,
    labels: UInt8[np.ndarray, "d h w"],
    organs: Sequence[int],
    known: Bool[np.ndarray, " d"] | None = None,
) -> Facts:
    """Measure organs in a volume.

    Args:
        labels: on the volume's grid.
        known: which slices the labels say something of; None = all.
    """
    depth, height, width = volume.voxels.shape
    thick, tall, wide = volume.spacing
    if known is not None:
        labels = labels[known]
    whole = len(labels) == depth
    middle, half = _body(volume)
    found = {}
    for organ in organs:
        mask = labels == organ
        areas = mask.sum(axis=(1, 2))
        shown = np.flatnonzero(areas)
        if not len(shown):
            nothing = 0.0 if whole else np.nan
            found[organ] = OrganFacts(nothing, nothing, 0, np.nan, np.nan, (False, False))
            continue
        columns = mask.sum(axis=(0, 1))
        side = (float(columns @ np.arange(width)) / float(columns.sum()) - middle) / half
        least = _CUT * areas.max()
        found[organ] = OrganFacts(
            float(areas.sum()) * volume.grid.millilitres if whole else np.nan,
            float(shown[-1] - shown[0] + 1) * thick if whole else np.nan,
            len(shown),
            side,
            _steadiness(mask[shown[0] : shown[-1] + 1]) if whole else np.nan,
            (bool(whole and areas[0] > least), bool(whole and areas[-1] > least)),
        )
    return Facts(modality, depth, max(height * tall, width * wide), depth * thick, found)


def _steadiness(mask: Bool[np.ndarray, "n h w"]) -> float:
    areas = mask.sum(axis=(1, 2))
    both, common = areas[:-1] + areas[1:], (mask[:-1] & mask[1:]).sum(axis=(1, 2))
    return float((2 * common[both > 0] / both[both > 0]).mean()) if (both > 0).any() else float("nan")


def doubts_of(found: Facts, examples: Sequence[Facts] = ()) -> dict[int, tuple[str, ...]]:
    """What looks wrong with each organ's mask, the worst first; nothing where nothing does.

    Args:
        found: of the segmented volume.
        examples: of the annotated ones, where they are at hand; a mask is compared with the one that is most like it.
    """
    return {organ: tuple(_of_organ(organ, found, examples) + _of_volume(found, examples)) for organ in found.organs}


def by_doubt(confidence: Iterable[float], doubts: Iterable[Sequence[str]]) -> tuple[float, int]:
    """A key that sorts volumes: least confidence of an organ first (one not found has none), then most doubts."""
    return (
        min((0.0 if np.isnan(one) else one for one in confidence), default=0.0),
        -sum(len(said) for said in doubts),
    )


def _of_organ(organ: int, found: Facts, examples: Sequence[Facts]) -> list[str]:
    mask, like = found.organs[organ], [one.organs[organ] for one in examples if organ in one.organs]
    sizes = [one.millilitres for one in like if one.millilitres > 0 and not any(one.cut)]
    if not mask.slices:
        return ["nothing was found" + (f"; the example has {_round(sizes[0])} ml" if sizes else "")]
    said = []
    sides = [one.side for one in like if abs(one.side) > _TO_THE_SIDE]
    if len(sides) == len(like) > 0 and all(one * mask.side < 0 for one in sides) and abs(mask.side) > _TO_THE_SIDE:
        here, there = ("left", "right") if mask.side > 0 else ("right", "left")
        said.append(f"on the {here} of the body, in the example on the {there}")
    shares = [one.slices / example.depth for example in examples if (one := example.organs.get(organ)) is not None]
    if mask.slices > _NEARLY_ALL * found.depth and not any(share > _NEARLY_ALL for share in shares):
        said.append(f"on {mask.slices} of {found.depth} slices, nearly the whole volume")
    times = _nearest(mask.millilitres, sizes)
    if times is not None and (times >= _TIMES or (times <= 1 / _TIMES and not any(mask.cut))):
        said.append(
            f"{_round(mask.millilitres)} ml, {times:.1f} times the example's {_round(mask.millilitres / times)}"
        )
    taller = _nearest(mask.height, [one.height for one in like if one.height > 0 and not any(one.cut)])
    if taller is not None and taller >= _TALLER:
        said.append(
            f"{mask.height:.0f} mm from its foot end to its head end, {taller:.1f} times the example's "
            f"{mask.height / taller:.0f} mm"
        )
    for end, name in enumerate(("foot", "head")):
        if mask.cut[end] and not any(one.cut[end] for one in like):
            said.append(f"reaches the volume's {name} end: it is cut off there, or the mask runs too far")
    return said


def _of_volume(found: Facts, examples: Sequence[Facts]) -> list[str]:
    if not examples:
        return []
    said = []
    kinds = sorted({one.modality for one in examples})
    if found.modality not in kinds:
        said.append(f"the volume is {found.modality.upper()}, the example {' and '.join(kinds).upper()}")
    for mine, theirs, bound, what in (
        (found.width, [one.width for one in examples], _WIDER, "wide"),
        (found.height, [one.height for one in examples], _LONGER, "from foot to head"),
    ):
        times = _nearest(mine, theirs)
        if times is not None and not 1 / bound < times < bound:
            said.append(f"the volume is {mine:.0f} mm {what}, the example {mine / times:.0f} mm")
    return said


def _nearest(value: float, others: Sequence[float]) -> float | None:
    """The ratio to the one that is nearest; None without one."""
    ratios = [value / other for other in others]
    return min(ratios, key=lambda ratio: abs(np.log(ratio))) if ratios and value > 0 else None


def _round(millilitres: float) -> str:
    return f"{millilitres:,.0f}" if millilitres >= 10 else f"{millilitres:.1f}"


def _body(volume: Volume) -> tuple[float, float]:
    """Middle and half width of the body, in columns of the volume."""
    step = max(1, volume.voxels.shape[1] // 128)
    coarse = volume.voxels[:, ::step, ::step]
    low, high = np.percentile(coarse, (0.5, 99.5))
    columns = (coarse > low + 0.1 * (high - low)).sum(axis=(0, 1), dtype=np.float64)
    share = np.cumsum(columns) / columns.sum()
    first, last = (float(np.searchsorted(share, at)) for at in (0.02, 0.98))
    return (first + last) / 2 * step, max((last - first) / 2, 1.0) * step
