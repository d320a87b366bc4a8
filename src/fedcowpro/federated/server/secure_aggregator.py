"""The server's part of secure aggregation: it passes on keys and shares, and learns the sum of the updates.

Flower's SecAgg+ works with its older API only; this is the protocol of Bonawitz et al. 2017 on the message API, four
messages a round: keys, shares, the masked update, shares of what is to be unmasked.
"""

from __future__ import annotations

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
from fedcowpro.federated.privacy.masking import join, public_key, sum_unmasked
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


class SecureAggregator(PrivateAggregator):
    """`PrivateAggregator` that sees the sum of the sites' updates only; a sum is of `min_sites` sites at least.

    Raises:
        FedCoWProError: in a round too few sites at any step, or a sum longer than clipped updates can have.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._grid: Grid | None = None
        self._keys: dict[str, Keys] = {}
        self._shared: list[str] = []
        self._fallen: dict[str, str] = {}
        self._lied: set[str] = set()

    def messages(self, number: int, model: Arrays, settings: ConfigRecord, grid: Grid) -> list[Message]:
        """Exchange keys and shares, then the weights to each site that took part, with the others' sealed shares."""
        self._grid, self._fallen, self._lied = grid, {}, set()
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
            raise FedCoWProError(
                f"round {number}: the mean of the masked updates has the norm {length:.3g}",
                f"at most the clip, {self._privacy.clip:g}, as each site clips its own",
                "a site runs another program or is at fault; secure aggregation cannot say which: ask the sites",
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
        self._unsound |= self._lied
        places = {site: index for index, site in enumerate(self._keys)}
        seeds: dict[str, bytes] = {}
        for position, owner in enumerate(self._shared):
            shares = {places[site]: answer[position] for site, answer in told.items() if answer[position]}
            if len(shares) < self._min_sites:
                closed = ", ".join(site for site, answer in told.items() if not answer[position])
                raise self._too_few(f"site '{owner}' sealed shares that cannot be opened by {closed}")
            seeds[owner] = join(dict(list(shares.items())[: self._min_sites]))
        gone = [site for site in self._shared if site not in answered]
        if odd := [site for site in gone if public_key(seeds[site]) != self._keys[site].mask]:
            raise self._too_few(f"the shares of the key of site '{odd[0]}' do not give that key")
        return {site: seeds[site] for site in answered}, {site: seeds[site] for site in gone}

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
        reasons = "".join(f"; site '{site}': {reason}" for site, reason in self._fallen.items())
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
