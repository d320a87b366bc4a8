"""Updates of an outlying size: left out or scaled down before they are averaged, and said so in the round's record."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from fedcowpro.config import ExperimentConfig, FederationConfig
from fedcowpro.federated.monitoring.rounds import STATISTICS, Arrays
from fedcowpro.training.recipe import Recipe

_FEWEST = 3  # sites for a median that one of them does not decide
# Times the round's median. In runs of CT, T1 and T2 sites the longest honest update, of weights as of running
# statistics, was 1.1 times the median: all sites do as many steps of the same rate.
NORM_FACTOR = 10.0
# Longest step of Adam with its usual moments, in units of the learning rate: (1 - 0.9) / sqrt(1 - 0.999).
_ADAM_STEP = 3.1623
# Longest change of the running statistics in units of sqrt(count + norm^2) at the start of the round. Honest rounds
# made at most 0.7 (all encoders, CT and MR; of ImageNet's statistics 0.02), with a hundred times the default learning
# rate 6.9.
STATISTICS_FACTOR = 10.0
_SLACK = 1.01  # for arithmetic, half precision included


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


def longest_update(config: ExperimentConfig, before: Arrays, learnt: Collection[str]) -> float:
    """What the L2 norm of the learnt tensors' update cannot exceed after a round's local steps; infinite if unknown.

    An AdamW step moves a weight by at most 3.2 times the learning rate, and weight decay pulls it towards 0; a step of
    SGD is bounded where gradients are clipped.

    Args:
        config: of a stage.
        before: tensors at the start of the round.
        learnt: names of those that the optimiser moves.
    """
    train, steps = config.train, config.federation.local_steps
    rate, decay, longest = train.lr, train.weight_decay, _ADAM_STEP * math.sqrt(sum(before[n].size for n in learnt))
    if config.teaching is not None:
        rate, decay = Recipe().lr, Recipe().weight_decay
    elif train.optimizer == "sgd":
        if train.clip_norm is None:
            return math.inf
        longest = train.clip_norm / (1 - train.momentum)
        decay /= 1 - train.momentum
    start = math.sqrt(sum(float(np.square(before[name].astype(np.float64)).sum()) for name in learnt))
    return _SLACK * _after(steps, rate * longest, rate * decay, start)


def _after(steps: int, own: float, pull: float, start: float) -> float:
    """Bound on |w - w0| after steps with |change| <= own + pull |w|."""
    if pull * steps > 1:
        return math.inf
    moved = 0.0
    for _ in range(steps):
        moved += own + pull * (start + moved)
    return moved


def limit_updates(
    before: Arrays,
    replies: Mapping[str, Arrays],
    config: FederationConfig,
    longest: float = math.inf,
    usual: float | None = NORM_FACTOR,
) -> tuple[dict[str, Arrays], dict[str, str]]:
    """The updates to be averaged, and what was done to the outlying ones.

    `max_update_norm` bounds the L2 norm of the learnt tensors' update, and so does `longest`. `norm_factor` bounds it
    by so many times the median of the round's sites, from three sites on, and the running statistics' update in the
    same way; `update_limits: auto` does so with `usual`, and bounds that of the statistics by what training makes of
    them.

    Args:
        before: global tensors at the start of the round.
        replies: tensors of each site that learnt something.
        longest: what local steps can reach.
        usual: multiple of the median that no honest site reaches; None where their updates differ by more, and
            statistics have no bound.

    Returns:
        Per site the tensors to use, without those of sites that were rejected, and per outlying site the reason.
    """
    automatic = config.update_limits == "auto" and not config.privacy.active
    factors = [config.norm_factor, usual if automatic else None]
    factor_of_median = min((factor for factor in factors if factor is not None), default=math.inf)
    bounds = {"federation.max_update_norm": config.max_update_norm or math.inf}
    if automatic:
        bounds["what the local steps can reach"] = longest
    name_of_fixed, fixed = min(bounds.items(), key=lambda item: item[1])
    of_statistics = _longest_change(before) if automatic and usual is not None else math.inf
    absolute = ((fixed, name_of_fixed), (of_statistics, "what training makes of them"))
    if math.isinf(fixed) and math.isinf(of_statistics) and math.isinf(factor_of_median):
        return dict(replies), {}
    norms = {site: _norms(before, arrays) for site, arrays in replies.items()}
    medians = [statistics.median(values) for values in zip(*norms.values(), strict=True)]
    kept: dict[str, Arrays] = {}
    notes: dict[str, str] = {}
    for site, arrays in replies.items():
        reasons, factor = [], 1.0
        for part, (what, norm) in enumerate(zip(("update", "running statistics"), norms[site], strict=True)):
            bound, name = absolute[part]
            if len(norms) >= _FEWEST and 0 < factor_of_median * medians[part] < bound:
                bound, name = factor_of_median * medians[part], f"{factor_of_median:g} times the round's median"
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


def _longest_change(before: Arrays) -> float:
    """Bound on the norm of the running statistics' update: `STATISTICS_FACTOR` sqrt(sum of 1 + value^2)."""
    values = [before[name].astype(np.float64) for name in before if name.endswith(STATISTICS)]
    return STATISTICS_FACTOR * math.sqrt(sum(float((1 + np.square(value)).sum()) for value in values))


def _norms(before: Arrays, after: Arrays) -> tuple[float, float]:
    """L2 norms of the change of the learnt tensors and of the running statistics."""
    squared = [0.0, 0.0]
    for name in after:
        if np.issubdtype(before[name].dtype, np.floating):
            change = after[name].astype(np.float64) - before[name]
            squared[name.endswith(STATISTICS)] += float(np.square(change).sum())
    return math.sqrt(squared[0]), math.sqrt(squared[1])
