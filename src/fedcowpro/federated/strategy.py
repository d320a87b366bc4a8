"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629) that checks every reply before it averages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedcowpro.errors import FedCoWProError
from fedcowpro.federated import records
from fedcowpro.federated.monitor import Arrays, RoundRecord, SiteRecord, update_geometry


@dataclass(frozen=True)
class _Reply:
    """A reply that passed all checks."""

    arrays: Arrays
    slices: float
    metrics: MetricRecord
    size: int


class _BadReply(Exception):
    """Why a reply is not used."""


class CheckedFedAvg(Strategy):
    """Averages the sites' tensors after checking names, shapes, types, finiteness and weight of each.

    Sums run in float64 in the order of the sites' names, so the result does not depend on who answers first.

    Args:
        sites: name of each node.
        expected: names of the tensors that a site sends back; the global model's others stay as they are.
        weighting: by training slices, or all sites alike.
        min_sites: fewest good replies in a round; with all sites (the usual case) any failure stops the run.
        observe: told the record of each round.

    Raises:
        FedCoWProError: in `aggregate_train`, naming site and reason, when good replies are too few.
    """

    def __init__(
        self,
        sites: Mapping[int, str],
        expected: Iterable[str],
        weighting: Literal["slices", "uniform"],
        min_sites: int | None = None,
        observe: Callable[[RoundRecord], None] | None = None,
    ) -> None:
        self._sites = dict(sorted(sites.items(), key=lambda item: item[1]))
        self._expected = frozenset(expected)
        self._weighting, self._observe = weighting, observe
        self._min_sites = len(self._sites) if min_sites is None else min_sites
        self._global = ArrayRecord()
        self._bytes_down = 0
        if not 1 <= self._min_sites <= len(self._sites):
            raise FedCoWProError(
                f"federation.min_sites is {min_sites} with {len(self._sites)} sites",
                "at most the number of sites",
                "lower federation.min_sites or add sites",
            )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The same weights and settings for every site."""
        config[records.ROUND] = server_round
        content = RecordDict({records.ARRAYS: arrays, records.CONFIG: config})
        self._global, self._bytes_down = arrays, records.payload_bytes(content)
        return [Message(content, node, MessageType.TRAIN) for node in self._sites]

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord, MetricRecord]:
        """The new global arrays and the weighted means of the sites' losses."""
        before = {name: array.numpy() for name, array in self._global.items()}
        good, left_out = self._sort_out(replies, before)
        if len(good) < self._min_sites:
            reasons = "; ".join(f"site '{site}': {reason}" for site, reason in left_out.items())
            raise FedCoWProError(
                f"round {server_round}: usable replies of {len(good)} of {len(self._sites)} sites; {reasons}",
                f"{self._min_sites} or more",
                "see to the site named above and start again: the run resumes after the last complete round; "
                "or set federation.min_sites lower to go on without it",
            )
        raw = {site: reply.slices if self._weighting == "slices" else 1.0 for site, reply in good.items()}
        total = math.fsum(raw.values())
        weights = {site: value / total for site, value in raw.items()}
        mean = {
            name: _weighted_sum([(weights[site], reply.arrays[name]) for site, reply in good.items()])
            for name in sorted(self._expected)
        }
        record = self._record(server_round, good, left_out, weights, before, mean)
        if self._observe is not None:
            self._observe(record)
        averaged = {name: Array(np.asarray(value, before[name].dtype)) for name, value in mean.items()}
        return ArrayRecord({**dict(self._global), **averaged}), _mean_losses(record)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sites have no labels to evaluate on: nothing is sent."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return None

    def summary(self) -> None:
        """Nothing to log: the run folder has the settings."""

    def _sort_out(self, replies: Iterable[Message], before: Arrays) -> tuple[dict[str, _Reply], dict[str, str]]:
        """Good replies and reasons against the others, both in the order of the sites' names."""
        good: dict[str, _Reply] = {}
        bad: dict[str, str] = {}
        unknown: list[str] = []
        for message in replies:
            site = self._sites.get(message.metadata.src_node_id)
            try:
                if site is not None:
                    good[site] = self._check(message, before)
                elif message.has_error():
                    # A node that died is answered for by the server itself, under the server's own number.
                    unknown.append(records.failure(message))
            except _BadReply as reason:
                bad[str(site)] = str(reason)
        silent = "no reply" + "".join(f" ({reason})" for reason in sorted(set(unknown)))
        names = self._sites.values()
        ordered = {site: good[site] for site in names if site in good}
        return ordered, {site: bad.get(site, silent) for site in names if site not in good}

    def _check(self, message: Message, before: Arrays) -> _Reply:
        if message.has_error():
            raise _BadReply(records.failure(message))
        record = records.array_record(message.content, records.ARRAYS)
        metrics = message.content.get(records.METRICS)
        if record is None or not isinstance(metrics, MetricRecord):
            raise _BadReply(f"the reply has {sorted(message.content)} instead of arrays and metrics")
        if missing := sorted(self._expected - set(record)):
            raise _BadReply(f"{len(missing)} arrays are missing, '{missing[0]}' among them")
        if extra := sorted(set(record) - self._expected):
            raise _BadReply(f"{len(extra)} arrays are not asked for, '{extra[0]}' among them")
        arrays = {}
        for name in sorted(record):
            try:
                arrays[name] = value = record[name].numpy()
            except (ValueError, TypeError, EOFError, OSError) as error:
                raise _BadReply(f"array '{name}' cannot be read: {error}") from error
            wanted = before[name]
            if value.shape != wanted.shape or value.dtype != wanted.dtype:
                raise _BadReply(
                    f"array '{name}' is {value.dtype} {value.shape}, expected {wanted.dtype} {wanted.shape}"
                )
            if not np.isfinite(value).all():
                raise _BadReply(f"array '{name}' has NaN or infinite values")
        slices = metrics.get(records.WEIGHT)
        if not isinstance(slices, int | float) or not math.isfinite(slices) or slices <= 0:
            raise _BadReply(f"its weight '{records.WEIGHT}' is {slices}, expected a positive number")
        return _Reply(arrays, float(slices), metrics, records.payload_bytes(message.content))

    def _record(
        self,
        server_round: int,
        good: Mapping[str, _Reply],
        left_out: dict[str, str],
        weights: Mapping[str, float],
        before: Arrays,
        mean: Arrays,
    ) -> RoundRecord:
        sites = []
        for site, reply in good.items():
            norm, cosine = update_geometry(before, reply.arrays, mean)
            numbers = {key: float(value) for key, value in reply.metrics.items() if isinstance(value, int | float)}
            prefix = records.LOSS_PREFIX
            sites.append(
                SiteRecord(
                    site=site,
                    weight=weights[site],
                    train_slices=int(reply.slices),
                    steps=int(numbers.get("steps", 0)),
                    losses={key.removeprefix(prefix): v for key, v in numbers.items() if key.startswith(prefix)},
                    pseudo_dice=numbers.get("pseudo-dice", math.nan),
                    update_norm=norm,
                    update_cosine=cosine,
                    seconds=numbers.get("seconds", math.nan),
                    bytes_down=self._bytes_down,
                    bytes_up=reply.size,
                )
            )
        return RoundRecord(server_round, tuple(sites), left_out)


def _weighted_sum(terms: Sequence[tuple[float, np.ndarray]]) -> np.ndarray:
    total = np.zeros(terms[0][1].shape, np.float64)
    for weight, array in terms:
        total += weight * array.astype(np.float64)
    return total


def _mean_losses(record: RoundRecord) -> MetricRecord:
    common = set.intersection(*(set(site.losses) for site in record.sites))
    return MetricRecord({name: sum(s.weight * s.losses[name] for s in record.sites) for name in sorted(common)})
