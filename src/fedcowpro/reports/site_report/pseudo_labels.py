"""How well superpixels could stand for organs: measures of pseudo-labels against labels, on arrays.

A report's matter: training never sees these numbers. All of them come from two counts per slice, pixels of every
(segment, label) pair and border pixels of every label, so a slice of 256 x 256 pixels takes about a millisecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedcowpro.core.errors import FedCoWProError

TOLERANCE = 2  # pixels, along rows and columns; the value with which superpixel benchmarks report boundary recall


@dataclass(frozen=True)
class SliceCounts:
    """What is counted in one slice, or in several slices together (`join`).

    Attributes:
        pairs: int64 (segments + 1, labels + 1), pixels of segment i with label j; row 0 lies outside the body.
        border: int64 (labels + 1,), pixels of a label that touch another label.
        met: int64 (labels + 1,), those of them that lie near a border of segments.
        body: pixels inside the body.
        near: pixels inside the body that lie near a border of segments.
    """

    pairs: npt.NDArray[np.int64]
    border: npt.NDArray[np.int64]
    met: npt.NDArray[np.int64]
    body: int
    near: int

    @property
    def areas(self) -> npt.NDArray[np.int64]:
        """Pixels of each segment, (segments,)."""
        return self.pairs[1:].sum(axis=1)

    def pixels(self, label: int) -> int:
        """Pixels of a label, outside the body too."""
        return int(self.pairs[:, label].sum())

    def best_union(self, label: int) -> float:
        """Dice of the union of segments that fits a label best (`best_union`); NaN where the label has no pixel."""
        return best_union(self.pairs[1:, label], self.areas, self.pixels(label))[0]

    def best_single(self, label: int) -> float:
        """Dice of the one segment that fits a label best; NaN where the label has no pixel."""
        if not self.pixels(label):
            return float("nan")
        return float(np.max(2 * self.pairs[1:, label] / (self.areas + self.pixels(label)), initial=0.0))

    def boundary_recall(self, label: int) -> float:
        """Share of a label's border pixels that lie near a border of segments; NaN where there are none.

        Compare it with `chance`: many small segments have borders everywhere.
        """
        return int(self.met[label]) / int(self.border[label]) if self.border[label] else float("nan")

    @property
    def chance(self) -> float:
        """Share of the body's pixels that lie near a border of segments: the boundary recall of borders that
        know nothing of the organ. NaN without a body."""
        return self.near / self.body if self.body else float("nan")

    @property
    def achievable_accuracy(self) -> float:
        """Achievable segmentation accuracy: share of the body's pixels that are right where every segment takes
        the label (background is one) of most of its pixels. NaN without a body."""
        inside = self.pairs[1:]
        return float(inside.max(axis=1).sum() / inside.sum()) if inside.any() else float("nan")

    @property
    def undersegmentation(self) -> float:
        """Undersegmentation error of the organs: each segment is charged the smaller of its pixels inside and
        outside an organ that it touches; the sum is divided by the organs' pixels. NaN without an organ.
        """
        inside, total = self.pairs[1:, 1:], int(self.pairs[:, 1:].sum())
        return float(np.minimum(inside, self.areas[:, None] - inside).sum() / total) if total else float("nan")


def best_union(overlap: np.ndarray, areas: np.ndarray, pixels: int) -> tuple[float, npt.NDArray[np.int64]]:
    """The union of disjoint segments that fits an organ best.

    Dice is 2 (sum of overlaps) / (sum of areas + pixels). If d is the best, adding a segment helps exactly where
    2 overlap > d area, so the best union takes the segments whose share in the organ exceeds d / 2: it is a prefix
    of the segments ordered by that share, and the best prefix is it.

    Args:
        overlap: (n,), pixels that each segment shares with the organ.
        areas: (n,), pixels of each segment, all above 0.
        pixels: pixels of the organ, in segments or not.

    Returns:
        its Dice, 0..1, NaN where the organ has no pixel; and the indices of its segments.
    """
    touching = np.flatnonzero(overlap)
    if not len(touching):
        return (0.0 if pixels else float("nan")), touching
    order = touching[np.argsort(-overlap[touching] / areas[touching], kind="stable")]
    scores = 2 * np.cumsum(overlap[order]) / (np.cumsum(areas[order]) + pixels)
    best = int(scores.argmax())
    return float(scores[best]), order[: best + 1]


def count_slice(segments: np.ndarray, labels: np.ndarray, n_labels: int) -> SliceCounts:
    """Count one slice.

    Args:
        segments: whole numbers (height, width); 0 = outside the body, 1..n segments.
        labels: whole numbers (height, width) in 0..n_labels; 0 = background.
        n_labels: the largest label that counts have a column for.

    Raises:
        FedCoWProError: two shapes, or a label above `n_labels`.
    """
    if segments.shape != labels.shape or segments.ndim != 2:
        raise FedCoWProError(
            f"segments of shape {segments.shape} and labels of shape {labels.shape}",
            "two slices (height, width) of one shape",
            "give both on the prepared grid",
        )
    if labels.size and labels.max() > n_labels:
        raise FedCoWProError(f"label {labels.max()}", f"labels in 0..{n_labels}", "raise n_labels")
    columns, rows = n_labels + 1, int(segments.max(initial=0)) + 1
    flat = segments.ravel().astype(np.int64) * columns + labels.ravel()
    pairs = np.bincount(flat, minlength=rows * columns).reshape(rows, columns)
    edge = borders(labels)
    near = dilate(borders(segments))
    body = segments > 0
    return SliceCounts(
        pairs,
        np.bincount(labels[edge], minlength=columns),
        np.bincount(labels[edge & near], minlength=columns),
        int(np.count_nonzero(body)),
        int(np.count_nonzero(near & body)),
    )


def join(parts: Sequence[SliceCounts]) -> SliceCounts:
    """Slices counted with one `n_labels`, together; the segments of each stay apart."""
    return SliceCounts(
        np.concatenate([sum(part.pairs[:1] for part in parts), *(part.pairs[1:] for part in parts)]),
        np.sum([part.border for part in parts], axis=0),
        np.sum([part.met for part in parts], axis=0),
        sum(part.body for part in parts),
        sum(part.near for part in parts),
    )


def borders(values: np.ndarray) -> npt.NDArray[np.bool_]:
    """Pixels of (height, width) with another value above, below, left or right of them, both sides of a border."""
    out = np.zeros(values.shape, bool)
    differ = values[1:] != values[:-1]
    out[1:] |= differ
    out[:-1] |= differ
    differ = values[:, 1:] != values[:, :-1]
    out[:, 1:] |= differ
    out[:, :-1] |= differ
    return out


def dilate(mask: npt.NDArray[np.bool_], reach: int = TOLERANCE) -> npt.NDArray[np.bool_]:
    """Pixels with a True pixel in the square of `reach` pixels around them, (height, width)."""
    for _ in range(reach):
        down = mask.copy()
        down[1:] |= mask[:-1]
        down[:-1] |= mask[1:]
        mask = down.copy()
        mask[:, 1:] |= down[:, :-1]
        mask[:, :-1] |= down[:, 1:]
    return mask
