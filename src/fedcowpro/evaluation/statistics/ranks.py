"""How stable the ranking of methods is when other cases of the same kind had been scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class RankStability:
    """Ranks of methods by their means over resampled cases; rank 1 is best.

    Attributes:
        shares: per method, the share of resamples in which it has rank 1, 2, ...; methods with equal means share the
            ranks that they cover.
        kendall: Kendall's tau-b between the ranking of a resample and that of all cases, mean over resamples; NaN when
            all methods are equal.
        same_order: share of resamples with exactly the ranking of all cases.
    """

    shares: tuple[tuple[float, ...], ...]
    kendall: float
    same_order: float


def rank_stability(scores: npt.ArrayLike, weights: npt.ArrayLike, higher_is_better: bool = True) -> RankStability:
    """Bootstrap of the ranking over cases; seeds are averaged beforehand.

    Args:
        scores: (cases, methods).
        weights: how often each case is in each resample, (resamples, cases).
        higher_is_better: whether rank 1 is the highest mean.
    """
    table, counts = np.asarray(scores, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    sign = 1 if higher_is_better else -1
    n, k = table.shape
    # Rounded, so that equal methods stay equal in every resample.
    means = np.round(sign * counts @ table / n, 12)
    order = np.sign(means[:, :, None] - means[:, None, :])  # 1 where the first of two methods is the better one
    full = np.round(sign * table.mean(axis=0), 12)
    reference = np.sign(full[:, None] - full[None, :])
    ahead, equal = (order < 0).sum(axis=2), (order == 0).sum(axis=2)
    shares = np.stack([((ahead <= r) & (r < ahead + equal)) / equal for r in range(k)], axis=-1).mean(axis=0)
    untied = np.sqrt(np.abs(order).sum(axis=(1, 2)) * np.abs(reference).sum())
    tau = np.divide((order * reference).sum(axis=(1, 2)), untied, out=np.full(len(means), np.nan), where=untied > 0)
    return RankStability(
        shares=tuple(tuple(float(share) for share in row) for row in shares),
        kendall=float(np.nanmean(tau)) if (untied > 0).any() else float("nan"),
        same_order=float((order == reference).all(axis=(1, 2)).mean()),
    )
