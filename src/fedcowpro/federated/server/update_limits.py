"""Updates of an outlying size: left out or scaled down before they are averaged, and said so in the round's record."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping

import numpy as np

from fedcowpro.config import FederationConfig
from fedcowpro.federated.monitoring.rounds import STATISTICS, Arrays

_FEWEST = 3  # sites for a median that one of them does not decide


class Scaled(Mapping[str, np.ndarray]):
    """Arrays pulled towards where the round began: before + factor (after - before), one at a time.

    Arrays without a fraction (counters) stay as they are. With a factor in 0..1 variances stay positive.
    """

    def __init__(self, after: Arrays, before: Arrays, factor: float) -> None:
        self._after, self._before, self._factor = after, before, factor

    def __getitem__(self, name: str) -> np.ndarray:
        after, before = self._after[name], self._before[name]
        if not np.issubdtype(after.dtype, np.floating):
            return after
        start = before.astype(np.float64)
        return np.asarray(start + self._factor * (after - start), after.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._after)

    def __len__(self) -> int:
        return len(self._after)


def limit_updates(
    before: Arrays, replies: Mapping[str, Arrays], config: FederationConfig
) -> tuple[dict[str, Arrays], dict[str, str]]:
    """The updates to be averaged, and what was done to the outlying ones.

    `max_update_norm` bounds the L2 norm of the learnt tensors' update. `norm_factor` bounds it by so many times the
    median of the round's sites, from three sites on, and the running statistics' update in the same way. Running
    statistics follow the data, so they have no absolute bound.

    Args:
        before: global tensors at the start of the round.
        replies: tensors of each site.

    Returns:
        Per site the tensors to use, without those of sites that were rejected, and per outlying site the reason.
    """
    if config.max_update_norm is None and config.norm_factor is None:
        return dict(replies), {}
    norms = {site: _norms(before, arrays) for site, arrays in replies.items()}
    kept: dict[str, Arrays] = {}
    notes: dict[str, str] = {}
    for site, arrays in replies.items():
        reasons, factor = [], 1.0
        for part, (what, norm) in enumerate(zip(("update", "running statistics"), norms[site], strict=True)):
            bound, name = math.inf, ""
            if part == 0 and config.max_update_norm is not None:
                bound, name = config.max_update_norm, "federation.max_update_norm"
            if config.norm_factor is not None and len(norms) >= _FEWEST:
                median = statistics.median(values[part] for values in norms.values())
                if median > 0 and config.norm_factor * median < bound:
                    bound = config.norm_factor * median
                    name = f"{config.norm_factor:g} times the round's median"
            if norm > bound:
                reasons.append(f"norm of the {what} {norm:.4g} above {bound:.4g} ({name})")
                factor = min(factor, bound / norm)
        if not reasons:
            kept[site] = arrays
        elif config.norm_rule == "clip":
            kept[site] = Scaled(arrays, before, factor)
            notes[site] = f"clipped to {factor:.3g}: " + "; ".join(reasons)
        else:
            notes[site] = "rejected: " + "; ".join(reasons)
    return kept, notes


def _norms(before: Arrays, after: Arrays) -> tuple[float, float]:
    """L2 norms of the change of the learnt tensors and of the running statistics."""
    squared = [0.0, 0.0]
    for name in after:
        if np.issubdtype(before[name].dtype, np.floating):
            change = after[name].astype(np.float64) - before[name]
            squared[name.endswith(STATISTICS)] += float(np.square(change).sum())
    return math.sqrt(squared[0]), math.sqrt(squared[1])
