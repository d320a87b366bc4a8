"""The server's part of secure aggregation: it passes on keys and shares, and learns the sum of the updates.

Flower's SecAgg+ works with its older API only; this is the protocol of Bonawitz et al. 2017 on the message API, four
messages a round: keys, shares, the masked update, shares of what is to be unmasked.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedcowpro.config import ExperimentConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.monitoring.rounds import Arrays, RoundRecord
from fedcowpro.federated.privacy.clip import update_norm
from fedcowpro.federated.privacy.masking import commitment, public_key, recover, sum_unmasked
from fedcowpro.federated.privacy.releases import Releases
from fedcowpro.federated.privacy.ring import ring_of, unpack
from fedcowpro.federated.server.aggregator import Aggregator
from fedcowpro.federated.server.exchange import exchange
from fedcowpro.federated.server.private_aggregator import PrivateAggregator
from fedcowpro.federated.server.replies import BadReply, Reply, ReplyStore, contents_of
from fedcowpro.federated.server.secure_answers import Keys, read_keys, read_sealed, read_shares
from fedcowpro.federated.server.update_limits import NORM_FACTOR, longest_update
from fedcowpro.federated.transport import messages as records
from fedcowpro.federated.transport.answers import BadAnswer
from fedcowpro.federated.transport.encoding import decode

_SLACK = 1.001  # of the clip, for arithmetic
Read = TypeVar("Read")
log = logging.getLogger(__name__)


class UnusableSum(Exception):
    """Why a round has no sum. `liars` has the reason for each site whose fault it is; empty where nobody can tell."""

    def __init__(self, reason: str, liars: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.liars = dict(liars or {})


class SecureAggregator(PrivateAggregator):
    """`PrivateAggregator` that sees the sum of the sites' updates only; a sum is of `min_sites` sites at least.

    A site that sends false shares of its secrets is left out for the rest of the run, and the round is repeated: no sum
    of it was seen. A sum that no honest sites make was seen, so its round is not repeated without a site: the two sums
    together would tell that site's update. Such a round changes nothing, and later ones leave out one site each until a
    sum is sound; the site that it lacks stays out.

    Raises:
        FedCoWProError: in a round too few sites at any step, or unsound sums whoever is left out.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._grid: Grid | None = None
        self._keys: dict[str, Keys] = {}
        self._shared: list[str] = []
        self._fallen: dict[str, str] = {}
        self._lied: set[str] = set()
        self._liars: dict[str, str] = {}
        self._held: str | None = None  # the site that this round is tried without
        self._suspects: list[str] = []  # those that further rounds will be tried without

    @property
    def excluded(self) -> Mapping[str, str]:
        held = {} if self._held is None else {self._held: "left out in this round to find out who spoils the sums"}
        return {**self._liars, **held}

    def run_round(
        self, number: int, model: Arrays, settings: ConfigRecord, grid: Grid
    ) -> tuple[dict[str, np.ndarray], RoundRecord]:
        while True:
            try:
                averaged, record = super().run_round(number, model, settings, grid)
            except UnusableSum as unusable:
                if not unusable.liars:
                    return dict(model), self._void(number, str(unusable))
                self._liars |= unusable.liars
                self._absent |= unusable.liars
                self._sites = {node: site for node, site in self._sites.items() if site not in self._liars}
                settings[records.PARTICIPANTS] = len(self._sites)
            else:
                return averaged, self._named(record)

    def messages(self, number: int, model: Arrays, settings: ConfigRecord, grid: Grid) -> list[Message]:
        """Exchange keys and shares, then the weights to each site that took part, with the others' sealed shares."""
        self._grid, self._fallen, self._lied = grid, {}, set(self._liars)
        this_round = {records.ROUND: number}
        told = {**settings, **this_round}  # a site whose policy refuses says so before others count on it
        asked = {site: ConfigRecord(dict(told)) for site in self._sites.values()}
        self._keys = self._different(self._ask(records.SECURE_KEYS, asked, lambda site, told: read_keys(told)))
        names = list(self._keys)
        offer = {
            "names": names,
            "keys": [self._keys[name].mask for name in names],
            "channels": [self._keys[name].channel for name in names],
            "threshold": self._min_sites,
        }
        question = {name: ConfigRecord({**this_round, **offer}) for name in names}  # type: ignore[dict-item]
        shares = self._ask(records.SECURE_SHARES, question, lambda site, told: read_sealed(told, names, site))
        self._shared = list(shares)
        signatures = [shares[sender].signature for sender in self._shared]
        nodes = {site: node for node, site in self._sites.items()}
        messages = []
        for message in super().messages(number, model, settings, grid):
            site = self._sites[message.metadata.dst_node_id]
            if site in shares:
                sealed = [shares[sender].sealed[names.index(site)] for sender in self._shared]
                given = {"names": self._shared, "sealed": sealed, records.SIGNATURES: signatures}
                own = ConfigRecord({**settings, **given})  # type: ignore[dict-item]
                content = RecordDict({**message.content, records.CONFIG: own})
                messages.append(Message(content, nodes[site], MessageType.TRAIN))
        return messages

    def _sort_out(
        self, replies: Iterable[Message], before: Arrays, store: ReplyStore
    ) -> tuple[dict[str, Reply], dict[str, str]]:
        good, bad = super()._sort_out(replies, before, store)
        self._unsound |= self._lied
        return good, {site: self._fallen.get(site, reason) for site, reason in bad.items()}

    def _check(self, message: Message, before: Arrays, store: ReplyStore) -> Reply:
        """The masked words are of the right number; more cannot be seen."""
        record, metrics = contents_of(message)
        if set(record) != {records.MASKED}:
            raise BadReply("the reply has no masked update")
        count = sum(map(math.prod, self._shapes(before).values()))
        try:
            words = decode(record[records.MASKED], np.empty(count, np.uint32))
        except ValueError as error:
            raise BadReply(f"the masked update {error}") from error
        return Reply(store.keep({records.MASKED: words}), metrics, records.payload_bytes(message.content))

    def _combine(
        self, number: int, good: Mapping[str, Reply], weights: Sequence[float], before: Arrays
    ) -> dict[str, np.ndarray]:
        seeds_of_masks, seeds_of_keys = self._secrets(number, list(good))
        publics = {name: self._keys[name].mask for name in self._shared}
        masked = {site: reply.arrays[records.MASKED] for site, reply in good.items()}
        total = sum_unmasked(masked, seeds_of_masks, seeds_of_keys, publics)
        ring, shapes = ring_of(self._privacy, len(self._shared)), self._shapes(before)
        updates = unpack(ring.decode_sum(total, len(good)), shapes)
        common = {name: before[name].astype(np.float64) + value / len(good) for name, value in updates.items()}
        length = update_norm(before, common)
        if self._privacy.mechanism != "local" and length > _SLACK * self._privacy.clip:
            raise UnusableSum(
                f"the mean of the masked updates has the norm {length:.3g}, above the clip, {self._privacy.clip:g}"
            )
        self._noise_and_note(number, common, len(good))
        self._note["summed"] = len(good)
        return common

    def _secrets(self, number: int, answered: list[str]) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Seeds of the masks of sites that answered, and of the keys of those that shared and then did not."""
        question = ConfigRecord({records.ROUND: number, "names": answered})
        told = self._ask(
            records.SECURE_UNMASK,
            dict.fromkeys(answered, question),
            lambda site, shares: read_shares(shares, self._shared),
        )
        places = {site: index for index, site in enumerate(self._keys)}
        owners = {index: site for site, index in places.items()}
        seeds: dict[str, bytes] = {}
        lost: dict[str, str] = {}
        for position, owner in enumerate(self._shared):
            shares = {places[site]: answer[position] for site, answer in told.items() if answer[position]}
            fits = self._fits(owner, owner in answered)
            found = recover(shares, self._min_sites, fits) if len(shares) >= self._min_sites else None
            if found is not None:
                seeds[owner] = found[0]
                self._lied |= {owners[place] for place in found[1]}
            else:
                closed = [site for site, answer in told.items() if not answer[position]]
                # One site that says so, or whose share is false where all are needed, may be the liar as well.
                sure = len(closed) > 1 or len(shares) > self._min_sites
                lost[owner] = f"the shares that it sealed are false; {len(closed)} cannot be opened" if sure else ""
        self._unsound |= self._lied
        if lost:
            named = {site: reason for site, reason in lost.items() if reason}
            raise UnusableSum(f"the secrets of {', '.join(lost)} cannot be put together", named)
        gone = [site for site in self._shared if site not in answered]
        return {site: seeds[site] for site in answered}, {site: seeds[site] for site in gone}

    def _fits(self, owner: str, answered: bool) -> Callable[[bytes], bool]:
        """Whether a seed is that of the mask of a site that answered, or of the key of one that did not."""
        keys = self._keys[owner]
        return (
            (lambda seed: commitment(seed) == keys.commitment)
            if answered
            else lambda seed: public_key(seed) == keys.mask
        )

    def _void(self, number: int, reason: str) -> RoundRecord:
        """A round that changes nothing; the next one is tried without one of the sites.

        Raises:
            FedCoWProError: all were tried, or without one there are too few.
        """
        asked = list(self._sites.values())
        if self._held is None:
            self._suspects = list(asked)
        if not self._suspects or len(asked) + (self._held is not None) - 1 < self._min_sites:
            raise FedCoWProError(
                f"round {number}: {reason}",
                f"sound sums of {self._min_sites} sites or more",
                "a site runs another program or is at fault, and it cannot be told which: ask the sites; with more of "
                "them, or a lower federation.min_sites, rounds are tried without each",
            )
        self._held = self._suspects.pop(0)
        log.warning("round %d counts for nothing: %s; the next one is tried without '%s'", number, reason, self._held)
        void = dict.fromkeys(asked, f"the round counts for nothing: {reason}")
        return RoundRecord(number, (), {**self._absent, **void}, unsound=tuple(sorted(self._liars)))

    def _named(self, record: RoundRecord) -> RoundRecord:
        """The record of a sound round; the site that it was tried without is the one that spoilt the others."""
        if self._held is None or self._held not in self._absent:
            return record
        self._liars[self._held] = "sums with it were unsound, and without it they are sound"
        left_out = {**record.left_out, self._held: self._liars[self._held]}
        unsound = tuple(sorted({*record.unsound, self._held}))
        self._held, self._suspects = None, []
        return replace(record, left_out=left_out, unsound=unsound)

    def _different(self, keys: dict[str, Keys]) -> dict[str, Keys]:
        """Without sites that offer a key of another one, which all sites would refuse."""
        counts = Counter(key for offered in keys.values() for key in {offered.mask, offered.channel})
        for site, offered in keys.items():
            if max(counts[offered.mask], counts[offered.channel]) > 1:
                self._leave_out(site, "its public keys are not its own: another site offers the same")
        return {site: offered for site, offered in keys.items() if site not in self._lied}

    def _leave_out(self, site: str, reason: str) -> None:
        self._fallen[site] = reason
        self._lied.add(site)

    def _ask(
        self, question: str, contents: Mapping[str, ConfigRecord], read: Callable[[str, ConfigRecord], Read]
    ) -> dict[str, Read]:
        """Answers by site, in the order of names; a site whose answer is unsound is left out.

        Args:
            read: a site's answer, given its name; BadAnswer where it is unsound.

        Raises:
            FedCoWProError: fewer than `min_sites`.
        """
        assert self._grid is not None
        messages = [
            Message(RecordDict({records.CONFIG: contents[site]}), node, f"{MessageType.QUERY}.{question}")
            for node, site in self._sites.items()
            if site in contents
        ]
        found: dict[str, Read] = {}
        for reply in exchange(self._grid, messages, self._config.round_timeout):
            site = self._sites.get(reply.metadata.src_node_id, "")
            if reply.has_error():
                self._fallen[site] = records.failure(reply)
            elif site in contents:
                try:
                    found[site] = read(site, records.config_record(reply.content, records.CONFIG))
                except BadAnswer as error:
                    self._leave_out(site, f"its answer to '{question}' is unsound: {error}")
        if len(found) < self._min_sites:
            raise self._too_few(f"{len(found)} of {len(self._sites)} sites answered '{question}'")
        return {site: found[site] for site in self._sites.values() if site in found}

    def _too_few(self, what: str) -> FedCoWProError:
        left_out = {**self._liars, **self._fallen}
        reasons = "".join(f"; site '{site}': {reason}" for site, reason in left_out.items())
        return FedCoWProError(
            f"secure aggregation: {what}{reasons}",
            f"answers of {self._min_sites} sites or more",
            "see to the sites and start again: the run resumes after the last complete round; or leave the site out",
        )

    def _shapes(self, before: Arrays) -> dict[str, tuple[int, ...]]:
        return {name: before[name].shape for name in self._expected}

    def _record(self, number: int, good: Mapping[str, Reply], *rest: Any) -> RoundRecord:
        """No geometry of single updates: the words are noise."""
        record = super()._record(number, {site: replace(reply, arrays={}) for site, reply in good.items()}, *rest)
        return replace(record, sites=tuple(replace(site, update_norm=math.nan) for site in record.sites))


def aggregator_for(config: ExperimentConfig, *given: Any, releases: Releases, **named: Any) -> Aggregator:
    """The aggregator that the settings ask for; the further arguments are those of `Aggregator`.

    Args:
        releases: of the run, for `PrivateAggregator`.
    """
    privacy = config.federation.privacy
    if not privacy.active:
        # What sites learn from one example, or from few labels of the model, is not of one length.
        usual = NORM_FACTOR if config.teaching is None else None
        longest = partial(longest_update, config, learnt=named["learnt"])
        return Aggregator(*given, **named, longest=longest, usual=usual)
    kind = SecureAggregator if privacy.secure_aggregation else PrivateAggregator
    return kind(*given, **named, seed=config.seed, releases=releases)
