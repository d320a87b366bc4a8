"""From the sites' tensors to the server's, as plain functions of arrays.

The formulas are those of Flower's strategies FedAvg, FedTrimmedAvg, FedMedian and FedAdam, against which they are
tested. They are written out because those classes average in the order in which replies come, in single precision.
Here the arithmetic is double precision, and neither who answers first nor an interruption changes a bit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from fedcowpro.config import FEWEST_IN_A_SUM, FederationConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.monitoring.rounds import Arrays
from fedcowpro.federated.privacy.masking import no_smaller_sum
from fedcowpro.federated.server.sampling import sites_per_round

Aggregate = Callable[[Iterable[np.ndarray], Sequence[float]], np.ndarray]
WEIGHT_CAP = 10.0  # so that no site can count for all by what it says of itself
_FEWEST = 3  # sites for a median that one of them does not decide
_FIRST, _SECOND = "first_moment/", "second_moment/"


def aggregate_of(config: FederationConfig) -> Aggregate:
    """The function that the settings ask for: arrays of one shape and the weight of each, to one float64 array."""
    if config.aggregate == "median":
        return lambda arrays, weights: median(arrays)
    if config.aggregate == "trimmed-mean":
        return lambda arrays, weights: trimmed_mean(arrays, config.trim)
    return weighted_mean


def weighted_mean(arrays: Iterable[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Sum of weight times array (McMahan et al. 2017, arXiv 1602.05629); the weights sum to 1. One array at a time."""
    total = np.zeros(())
    for array, weight in zip(arrays, weights, strict=True):
        total = total + weight * array.astype(np.float64)
    return np.asarray(total)


def weights_of(slices: Mapping[str, float]) -> dict[str, float]:
    """What each site counts for: its slices, from three sites on at most `WEIGHT_CAP` times the median of all."""
    cap = WEIGHT_CAP * statistics.median(slices.values()) if len(slices) >= _FEWEST else math.inf
    return {site: min(float(count), cap) for site, count in slices.items()}


def median(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Coordinate-wise median (Yin et al. 2018, arXiv 1803.01498, definition 1); of an even number, the mean of two."""
    return np.asarray(np.median(np.stack(list(arrays)).astype(np.float64), axis=0))


def trimmed_mean(arrays: Iterable[np.ndarray], share: float) -> np.ndarray:
    """Coordinate-wise mean without the largest and the smallest values (Yin et al. 2018, definition 2).

    Args:
        share: of the arrays to cut off at either end, rounded down to a whole number; below 0.5.
    """
    ordered = np.sort(np.stack(list(arrays)).astype(np.float64), axis=0)
    cut = _cut(share, len(ordered))
    return np.asarray(ordered[cut : len(ordered) - cut].mean(axis=0))


def adam_step(
    number: int, before: Arrays, target: Arrays, moments: Arrays, config: FederationConfig
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """One step of the server's Adam (Reddi et al. 2021, arXiv 2003.00295, algorithm 2).

    With d = target - before:  m = beta1 m + (1 - beta1) d,  v = beta2 v + (1 - beta2) d^2,
    after = before + lr sqrt(1 - beta2^(t+1)) / (1 - beta1^(t+1)) m / (sqrt(v) + tau).
    The paper has no correction of the bias; this one, with t+1 and m = v = 0 at first, is Flower's.

    Args:
        number: t, the round, from 1.
        before: global tensors at the start of the round.
        target: what the sites' tensors were aggregated to; its names are those that are stepped.
        moments: of the rounds before, as this function returns them; empty at first.

    Returns:
        The new tensors in float64, and the moments in the types of `before`, so that moments which went through a
        file are those that stayed in memory.
    """
    beta1, beta2 = config.server_beta1, config.server_beta2
    rate = config.server_lr * math.sqrt(1 - beta2 ** (number + 1)) / (1 - beta1 ** (number + 1))
    after, kept = {}, {}
    for name, value in target.items():
        start = before[name].astype(np.float64)
        change = value - start
        first = beta1 * _moment(moments, _FIRST + name) + (1 - beta1) * change
        second = beta2 * _moment(moments, _SECOND + name) + (1 - beta2) * np.square(change)
        after[name] = start + rate * first / (np.sqrt(second) + config.server_tau)
        kept[_FIRST + name] = np.asarray(first, before[name].dtype)
        kept[_SECOND + name] = np.asarray(second, before[name].dtype)
    return after, kept


def check_federation(config: FederationConfig, sites: int) -> None:
    """Whether so many sites can do what the settings ask for.

    Raises:
        FedCoWProError: `min_sites` beyond the sites, a robust aggregate that with the fewest replies of a round would
            be the mean, or sums of so few sites that they tell a site's part.
    """
    asked = sites_per_round(config, sites)
    fewest = asked if config.min_sites is None else config.min_sites
    if not 1 <= fewest <= sites:
        raise FedCoWProError(
            f"federation.min_sites is {config.min_sites} with {sites} sites",
            "at most the number of sites",
            "lower federation.min_sites or add sites",
        )
    rounds = f"federation.aggregate is '{config.aggregate}', with {fewest} replies in a round"
    if config.aggregate == "median" and fewest < 3:
        raise FedCoWProError(
            rounds, "at least 3, or the median is the mean", "add sites, or set federation.aggregate to mean"
        )
    if config.privacy.secure_aggregation and not (
        fewest >= FEWEST_IN_A_SUM and no_smaller_sum(fewest, asked, FEWEST_IN_A_SUM)
    ):
        raise FedCoWProError(
            f"secure aggregation of {asked} sites that goes on with {fewest} of them",
            f"at least {FEWEST_IN_A_SUM}, and so many that no server can learn a sum of fewer than {FEWEST_IN_A_SUM}",
            "add sites, raise federation.min_sites, or set federation.privacy.secure_aggregation to false",
        )
    if config.aggregate == "trimmed-mean" and _cut(config.trim, fewest) < 1:
        raise FedCoWProError(
            f"{rounds} federation.trim {config.trim:g} cuts off none",
            "at least one at either end, of at least 3",
            "add sites, raise federation.trim, or set federation.aggregate to mean",
        )


def _cut(share: float, count: int) -> int:
    return int(share * count)


def _moment(moments: Arrays, name: str) -> np.ndarray:
    return moments[name].astype(np.float64) if name in moments else np.zeros(())
