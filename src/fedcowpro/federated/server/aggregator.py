"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629) and its kin; every reply is checked before it counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedcowpro.config import FederationConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.text import printable
from fedcowpro.federated.monitoring.rounds import Arrays, RoundRecord, SiteRecord, update_geometry
from fedcowpro.federated.server.aggregate import adam_step, aggregate_of, check_federation, weights_of
from fedcowpro.federated.server.exchange import exchange
from fedcowpro.federated.server.replies import BadReply, FailedReply, Reply, ReplyStore, check_reply
from fedcowpro.federated.server.sampling import drawn_alone, sites_per_round
from fedcowpro.federated.server.update_limits import NORM_FACTOR, limit_updates
from fedcowpro.federated.transport import messages as records
from fedcowpro.federated.transport.encoding import Downlink

_REASON = 600  # characters


class Aggregator:
    """Asks sites for a round and aggregates their tensors after checking names, shapes, types, finiteness and weight.

    Sums run in float64 in the order of the sites' names, so the result does not depend on who answers first.

    Args:
        sites: name of each node of the federation.
        expected: names of the tensors that a site sends back; the global model's others stay as they are.
        config: aggregate, weights, the server's optimiser, and the fewest good replies in a round; with all that
            are asked (the usual case) any failure stops the run.
        learnt: names of those `expected` that are parameters. The server's optimiser moves them; all others (running
            statistics) become what the aggregate says.
        moments: of the server's optimiser after the rounds before, to go on with a run.
        downlink: how the model goes to the sites; default as it is, all of it.
        scratch: folder for those replies of a round that memory has no room for; None = the system's.
        longest: bound on the norm of an honest update, for the tensors at the start of a round; None = no bound.
        usual: see `limit_updates`.

    Raises:
        FedCoWProError: too few sites for the settings.
    """

    def __init__(
        self,
        sites: Mapping[int, str],
        expected: Iterable[str],
        config: FederationConfig,
        *,
        learnt: Iterable[str] = (),
        moments: Arrays | None = None,
        downlink: Downlink | None = None,
        scratch: Path | None = None,
        longest: Callable[[Arrays], float] | None = None,
        usual: float | None = NORM_FACTOR,
    ) -> None:
        check_federation(config, len(sites))
        self._sites = dict(sorted(sites.items(), key=lambda item: item[1]))
        self._expected = frozenset(expected)
        self._config = config
        self._total = len(self._sites)
        self._min_sites = config.min_sites or sites_per_round(config, self._total)
        self._aggregate = aggregate_of(config)
        self._learnt = frozenset(learnt) if config.server_optimizer == "adam" else frozenset()
        self.moments: Arrays = moments or {}
        self._scratch = scratch
        self._longest, self._usual = longest or (lambda before: math.inf), usual
        self._absent: dict[str, str] = {}
        self._unsound: set[str] = set()
        self._declared: dict[str, int] = {}
        self._downlink = downlink or Downlink()
        self._global: Arrays = {}
        self._sent: Arrays = {}  # the global model as sites have it
        self._bytes_down: dict[str, int] = {}

    def take_part(
        self, sites: Mapping[int, str], absent: Mapping[str, str], declared: Mapping[str, int] | None = None
    ) -> None:
        """Who takes part from here on.

        Args:
            sites: name of each node that is asked.
            absent: why each other site does not.
            declared: slices of each site, as it described itself; a reply that claims others is refused.
        """
        self._sites = dict(sorted(sites.items(), key=lambda item: item[1]))
        self._absent, self._declared = dict(absent), dict(declared or {})
        if drawn_alone(self._config):  # a small draw is no failure
            self._min_sites = min(self._config.min_sites or len(sites), len(sites))

    @property
    def excluded(self) -> Mapping[str, str]:
        """Why sites that are here are not to be asked in the next round."""
        return {}

    def run_round(
        self, number: int, model: Arrays, settings: ConfigRecord, grid: Grid
    ) -> tuple[dict[str, np.ndarray], RoundRecord]:
        """Ask the sites for a round and aggregate what they send: `messages`, then `aggregate`."""
        messages = self.messages(number, model, settings, grid)
        size = sum(array.nbytes for array in model.values())
        return self.aggregate(number, exchange(grid, messages, self._config.round_timeout, size))

    def messages(self, number: int, model: Arrays, settings: ConfigRecord, grid: Grid) -> list[Message]:
        """What goes to the sites in a round: the same weights and settings to each.

        Args:
            number: of the round, from 1.
            model: the floating-point tensors of the global model; not changed.
            settings: the record that goes with every message of the run; the round's number is put in.
            grid: for kinds of aggregation that ask sites beforehand.
        """
        settings[records.ROUND] = number
        self._global = model
        content, self._sent = self._downlink.encode(model, settings)
        self._bytes_down = dict.fromkeys(self._sites.values(), records.payload_bytes(content))
        return [Message(content, node, MessageType.TRAIN) for node in self._sites]

    def messages_for_layers(self, like: Arrays, config: ConfigRecord | None = None) -> list[Message]:
        """Messages that ask for what sites keep to themselves, without a training; `like` has its shapes and types.

        The replies go to `aggregate`.
        """
        self._global, self._sent, self._bytes_down = like, like, {}
        content = RecordDict({records.CONFIG: config if config is not None else ConfigRecord()})
        return [Message(content, node, records.ASK_FOR_LAYERS) for node in self._sites]

    def aggregate(self, number: int, replies: Iterable[Message]) -> tuple[dict[str, np.ndarray], RoundRecord]:
        """The tensors of the new global model, and the record of the round.

        Raises:
            FedCoWProError: too few good replies; each other site is named with the reason.
        """
        with ReplyStore(self._scratch) as store:
            return self._aggregate_stored(number, replies, store)

    def _aggregate_stored(
        self, number: int, replies: Iterable[Message], store: ReplyStore
    ) -> tuple[dict[str, np.ndarray], RoundRecord]:
        before, self._unsound = self._sent, set()
        good, left_out = self._sort_out(replies, before, store)
        # Sites that abstain send back what they got: a median with them would be 0.
        moved = {site: reply.arrays for site, reply in good.items() if not reply.metrics.abstains}
        used, outlying = limit_updates(before, moved, self._config, self._longest(before), self._usual)
        clipped = {site: reason for site, reason in outlying.items() if site in used}
        rejected = {site: reason for site, reason in outlying.items() if site not in used}
        good = {site: replace(reply, arrays=used.get(site, reply.arrays)) for site, reply in good.items() if
                site not in rejected}  # fmt: skip
        refused = {**left_out, **rejected}
        left_out = {site: refused[site] for site in sorted(refused)}
        if len(good) < self._min_sites:
            reasons = "; ".join(f"site '{site}': {reason}" for site, reason in left_out.items())
            raise FedCoWProError(
                f"round {number}: usable replies of {len(good)} of {len(good) + len(left_out)} sites; {reasons}",
                f"{self._min_sites} or more",
                "see to the site named above and start again: the run resumes after the last complete round; "
                "or set federation.min_sites lower to go on without it",
            )
        if good and not (learning := {site: reply for site, reply in good.items() if not reply.metrics.abstains}):
            raise FedCoWProError(
                f"round {number}: none of {len(good)} sites has anything to learn from",
                "an annotated case with one of the organs at one site at least",
                "see that teaching.organs has the names that the sites gave to 'prepare'",
            )
        good = learning if good else {}
        slices = {site: self._declared.get(site, reply.metrics.weight) for site, reply in good.items()}
        raw = weights_of(slices) if self._config.weighting == "slices" else dict.fromkeys(slices, 1.0)
        total = math.fsum(raw.values())
        weights = {site: value / total for site, value in raw.items()}
        common = self._combine(number, good, list(weights.values()), before)
        target = {name: value for name, value in common.items() if name in self._learnt}
        stepped, self.moments = adam_step(number, before, target, self.moments, self._config)
        after = {name: np.asarray(value, before[name].dtype) for name, value in {**common, **stepped}.items()}
        record = self._record(number, good, left_out, weights, before, common, after)
        record = replace(record, clipped=clipped, unsound=tuple(sorted({*self._unsound, *rejected})))
        # The server's own model keeps full precision: to it comes what sites learnt from the one that was sent.
        arrays = {name: np.asarray(value + (self._global[name] - before[name])) for name, value in after.items()}
        return {**self._global, **arrays}, record

    def _combine(
        self, number: int, good: Mapping[str, Reply], weights: Sequence[float], before: Arrays
    ) -> dict[str, np.ndarray]:
        """What the sites' tensors become, before the server's optimiser; float64."""
        return {
            name: self._aggregate((reply.arrays[name] for reply in good.values()), weights)
            for name in sorted(self._expected)
        }

    def _sort_out(
        self, replies: Iterable[Message], before: Arrays, store: ReplyStore
    ) -> tuple[dict[str, Reply], dict[str, str]]:
        """Good replies and reasons against the others, both in the order of the sites' names."""
        good: dict[str, Reply] = {}
        bad: dict[str, str] = {}
        unknown: list[str] = []
        for message in replies:
            site = self._sites.get(message.metadata.src_node_id)
            try:
                if site is not None:
                    reply = self._check(message, before, store)
                    slices = self._declared.get(site, reply.metrics.weight)
                    if reply.metrics.weight != slices:
                        raise BadReply(f"it claims {reply.metrics.weight:g} slices, but declared {slices:g} at first")
                    good[site] = reply
                elif message.has_error():
                    # A node that died is answered for by the server itself, under the server's own number.
                    unknown.append(records.failure(message))
            except FailedReply as reason:
                bad[str(site)] = str(reason)
            except BadReply as reason:
                bad[str(site)] = printable(reason, _REASON)
                self._unsound.add(str(site))
        silent = "no reply" + "".join(f" ({reason})" for reason in sorted(set(unknown)))
        names = self._sites.values()
        ordered = {site: good[site] for site in names if site in good}
        missing = {site: bad.get(site, silent) for site in names if site not in good}
        return ordered, {**self._absent, **missing}

    def _check(self, message: Message, before: Arrays, store: ReplyStore) -> Reply:
        """See `check_reply`; some kinds of averaging check otherwise."""
        return check_reply(message, before, self._expected, store)

    def _record(
        self,
        number: int,
        good: Mapping[str, Reply],
        left_out: dict[str, str],
        weights: Mapping[str, float],
        before: Arrays,
        common: Arrays,
        after: Arrays,
    ) -> RoundRecord:
        sites = []
        for site, reply in good.items():
            norm, cosine = update_geometry(before, reply.arrays, common)
            told = reply.metrics
            sites.append(
                SiteRecord(
                    site=site,
                    weight=weights[site],
                    train_slices=int(told.weight),
                    steps=told.steps,
                    losses=dict(told.losses),
                    pseudo_dice=told.pseudo_dice,
                    update_norm=norm,
                    update_cosine=cosine,
                    seconds=told.seconds,
                    bytes_down=self._bytes_down.get(site, 0),
                    bytes_up=reply.size,
                    bytes_model=sum(array.nbytes for array in before.values()),
                )
            )
        step_norm, _ = update_geometry(before, after, common)
        return RoundRecord(number, tuple(sites), left_out, step_norm)
