"""Federated averaging of updates that are clipped and noised, by the server (central) or by each site (local).

Flower's own wrappers are not used: they noise every array, counters and statistics too, and forget to clip where a site
lacks their mod. The formulas are theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.monitoring.rounds import Arrays, RoundRecord
from fedcowpro.federated.privacy.accountant import spent
from fedcowpro.federated.privacy.clip import (
    centred,
    clip_factor,
    count_deviation,
    next_clip,
    noise_deviation,
    update_norm,
)
from fedcowpro.federated.privacy.noise import gaussian, noise_key
from fedcowpro.federated.server.aggregator import Aggregator
from fedcowpro.federated.server.replies import Reply
from fedcowpro.federated.transport import messages as records

_CLIP = "privacy/clip"  # among the server's moments, so that an interrupted run goes on with it


class PrivateAggregator(Aggregator):
    """`Aggregator` with equal weights under `config.privacy`.

    Central: every update is clipped, and the mean gets noise of deviation noise_multiplier clip / sites on each learnt
    number. Local: sites have done both; the server averages. Who takes part is public, the number of sites too.

    Args:
        seed: of the experiment, for noise with `randomness: seed`.

    Raises:
        FedCoWProError: tensors among `expected` that nobody learns.
    """

    def __init__(self, *given: Any, seed: int, learnt: Iterable[str], **named: Any) -> None:
        super().__init__(*given, learnt=learnt, **named)
        if odd := sorted(self._expected - frozenset(learnt)):
            raise FedCoWProError(
                f"privacy with '{odd[0]}' among the exchanged tensors, which is not learnt",
                "learnt tensors only",
                "set model.frozen_norm, or federation.normalisation to local with federation.new_site_layers initial",
            )
        self._privacy, self._seed = self._config.privacy, seed
        self._clip = float(self.moments.get(_CLIP, np.float64(self._privacy.clip)))
        self._note: dict[str, Any] = {}

    def messages(self, number: int, model: Arrays, settings: ConfigRecord, grid: Grid) -> list[Message]:
        """As without privacy; where sites clip, they are told by how much."""
        if self._privacy.site_clips:
            settings[records.CLIP] = self._clip
        return super().messages(number, model, settings, grid)

    def aggregate(self, number: int, replies: Iterable[Message]) -> tuple[dict[str, np.ndarray], RoundRecord]:
        """As without privacy, and the clip of the next round."""
        result = super().aggregate(number, replies)
        if self._privacy.adaptive:
            self.moments = {**self.moments, _CLIP: np.array(self._clip)}
        return result

    def _combine(
        self, number: int, good: Mapping[str, Reply], weights: Sequence[float], before: Arrays
    ) -> dict[str, np.ndarray]:
        if self._privacy.mechanism == "local":
            return self._combine_noised(number, good, weights, before)
        norms = {site: update_norm(before, reply.arrays) for site, reply in good.items()}
        factors = [clip_factor(norm, self._clip) * weight for norm, weight in zip(norms.values(), weights, strict=True)]
        common = {}
        for name in sorted(self._expected):
            start = before[name].astype(np.float64)
            common[name] = start + sum(
                factor * (reply.arrays[name] - start) for factor, reply in zip(factors, good.values(), strict=True)
            )
        bits = [centred(norm, self._clip) for norm in norms.values()]
        self._noise_and_note(number, common, bits)
        return common

    def _combine_noised(
        self, number: int, good: Mapping[str, Reply], weights: Sequence[float], before: Arrays
    ) -> dict[str, np.ndarray]:
        bits = [reply.metrics.below_clip for reply in good.values()]
        self._conclude(number, bits, len(good))
        return super()._combine(number, good, weights, before)

    def _noise_and_note(self, number: int, common: dict[str, np.ndarray], bits: Sequence[float]) -> None:
        """Add the server's noise to the mean of updates, in place; `bits` are the sites' `centred`, without noise."""
        sites = len(bits)
        if self._privacy.mechanism == "central" and self._privacy.noise_multiplier:
            key = noise_key(self._privacy.randomness, self._seed, "server", number)
            deviation = noise_deviation(self._privacy, self._clip) / sites
            for name in common:
                common[name] = common[name] + deviation * gaussian(key, name, common[name].shape)
            bits = [*bits, count_deviation(self._privacy) * float(gaussian(key, "", ()))]
        self._conclude(number, bits, sites)

    def _conclude(self, number: int, noised_bits: Sequence[float], sites: int) -> None:
        """Note the round's clip and cost, and find the next clip."""
        cost = spent(self._privacy, number)
        self._note = {"clip": self._clip, **({} if cost is None else cost.facts())}
        if self._privacy.adaptive:
            self._clip = next_clip(self._privacy, self._clip, noised_bits, sites)

    def _record(self, *given: Any) -> RoundRecord:
        return replace(super()._record(*given), privacy=self._note)
