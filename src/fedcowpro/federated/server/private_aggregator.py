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
from fedcowpro.federated.privacy.clip import clip_factor, update_norm
from fedcowpro.federated.privacy.noise import gaussian, noise_key
from fedcowpro.federated.privacy.releases import Releases
from fedcowpro.federated.server.aggregator import Aggregator
from fedcowpro.federated.server.replies import Reply
from fedcowpro.federated.server.sampling import counted_rate, drawn_alone


class PrivateAggregator(Aggregator):
    """`Aggregator` with equal weights under `config.privacy`.

    Central: every update is clipped, and the mean gets noise of deviation noise_multiplier clip / sites on each learnt
    number. Local: sites have done both; the server averages. Who takes part is public, the number of sites too; where
    each site is drawn by itself, the divisor is the number expected, whoever was drawn.

    Args:
        seed: of the experiment, for noise with `randomness: seed`.
        releases: the run's record of them. Local noise leaves the sites with their replies, so the line is written
            before they are asked; central noise leaves with the mean, so it is written before there is one.

    Raises:
        FedCoWProError: tensors among `expected` that nobody learns.
    """

    def __init__(self, *given: Any, seed: int, releases: Releases, learnt: Iterable[str], **named: Any) -> None:
        super().__init__(*given, learnt=learnt, **named)
        if odd := sorted(self._expected - frozenset(learnt)):
            raise FedCoWProError(
                f"privacy with '{odd[0]}' among the exchanged tensors, which is not learnt",
                "learnt tensors only",
                "set model.frozen_norm, or federation.normalisation to local with federation.new_site_layers initial",
            )
        self._privacy, self._seed = self._config.privacy, seed
        self._releases = releases
        self._note: dict[str, Any] = {}

    def messages(self, number: int, model: Arrays, settings: ConfigRecord, grid: Grid) -> list[Message]:
        if self._privacy.mechanism == "local":
            self._releases.note(number, counted_rate(self._config))
        return super().messages(number, model, settings, grid)

    def _combine(
        self, number: int, good: Mapping[str, Reply], weights: Sequence[float], before: Arrays
    ) -> dict[str, np.ndarray]:
        count = self._config.fraction * self._total if drawn_alone(self._config) else len(good)
        if self._privacy.mechanism == "local":
            common = super()._combine(number, good, weights, before) if good else dict(before)
        else:
            norms = [update_norm(before, reply.arrays) for reply in good.values()]
            factors = [clip_factor(norm, self._privacy.clip) * (1 / count) for norm in norms]
            common = {}
            for name in sorted(self._expected):
                start = before[name].astype(np.float64)
                common[name] = start + sum(
                    factor * (reply.arrays[name] - start) for factor, reply in zip(factors, good.values(), strict=True)
                )
        self._noise_and_note(number, common, count)
        return common

    def _noise_and_note(self, number: int, common: dict[str, np.ndarray], sites: float) -> None:
        """Add the server's noise, if it is to add some, to the mean of so many updates, in place; note the cost."""
        if self._privacy.mechanism == "central":
            self._releases.note(number, counted_rate(self._config))
            key = noise_key(self._privacy.randomness, self._seed, "server", number)
            deviation = self._privacy.noise_multiplier * self._privacy.clip / sites
            for name in common if deviation else ():
                common[name] = common[name] + deviation * gaussian(key, name, common[name].shape)
        cost = spent(self._privacy, self._releases.rates())
        self._note = {"clip": self._privacy.clip, **({} if cost is None else cost.facts())}

    def _record(self, *given: Any) -> RoundRecord:
        return replace(super()._record(*given), privacy=self._note)
