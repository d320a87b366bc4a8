"""Which sites take part: who is expected, who has come, who fits, and why each other one is left out."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedcowpro.config import FederationConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.text import printable
from fedcowpro.core.versions import versions
from fedcowpro.federated.server.exchange import exchange
from fedcowpro.federated.site.local_training import SiteFacts
from fedcowpro.federated.transport import messages as records
from fedcowpro.federated.transport.answers import BadAnswer, read_facts

_SAME = ("fedcowpro", "flwr")  # packages whose versions must be the server's; others may differ in the last bits
_PAUSE = 2.0  # seconds between two looks for sites
_PATIENCE = 120.0  # seconds that sites have to describe themselves, and on one machine they may share its cores:
_MORE = 15.0  # so many more for each
_SHOWN = 20  # sites that a line of the log names

log = logging.getLogger(__name__)


class ClientRegistry:
    """The sites of a run, as they come and go.

    A node is asked who it is when it appears, and again when it has been away. It takes part if its name is expected
    and no other node's, its versions are the server's, its slices have the size of the run, and its data are those that
    the run began with. The size is that of the run as it was recorded, or of the settings; where neither has one,
    the one that most sites have, whoever answers first.

    Args:
        expected: names of the sites; empty takes whoever is there.
        known: digest of the data of each site that has taken part before the run was interrupted.
        size: of slices in the run, in pixels, where it is known.
    """

    def __init__(
        self, expected: Sequence[str], known: Mapping[str, str] | None = None, size: int | None = None
    ) -> None:
        self._expected = frozenset(expected)
        self._digests = dict(known or {})
        self._size, self._ours = size, versions()
        self._seen: dict[int, str] = {}
        self._facts: dict[int, SiteFacts] = {}
        self._holders: dict[str, int] = {}  # node whose facts have this name
        self._refused: dict[str, str] = {}
        self._here: dict[int, None] = {}  # nodes, in their order

    def facts(self) -> list[SiteFacts]:
        """Facts of every site that has come so far and fits, in the order of their names."""
        odd = self._odd_sizes()
        return sorted((site for site in self._facts.values() if site.name not in odd), key=lambda site: site.name)

    def nodes(self) -> dict[int, str]:
        """Name of the site at each node that is here and fits."""
        odd = self._odd_sizes()
        there = {node: self._facts[node].name for node in self._here if node in self._facts}
        return {node: name for node, name in there.items() if name not in odd}

    def absent(self) -> dict[str, str]:
        """Why each site that is expected, or has been here, is not."""
        names = self._expected | {site.name for site in self._facts.values()}
        gone = sorted(names - set(self.nodes().values()))
        reasons = {**self._refused, **self._odd_sizes()}
        return {site: reasons.get(site, "not connected") for site in gone}

    def gather(self, grid: Grid, config: FederationConfig) -> None:
        """Wait for the sites before the first round.

        Returns as soon as all expected sites are here, or after `join_timeout` with at least `min_sites`.

        Raises:
            FedCoWProError: too few sites; each other one is named with the reason.
        """
        fewest = config.min_sites if config.min_sites is not None else len(self._expected)
        end = time.monotonic() + config.join_timeout
        told: dict[str, str] = {}
        while True:
            self.update(grid)
            if self._here and not (self._expected - set(self.nodes().values())):
                break
            everyone = len(self._here) >= max(1, len(self._expected))
            if told != (told := self.absent()):
                log.info("waiting for %d sites: %s", len(told), dict(islice(told.items(), _SHOWN)))
            if everyone or time.monotonic() >= end:
                break
            time.sleep(_PAUSE)
        if len(self.nodes()) < max(1, fewest):
            reasons = "; ".join(
                f"site '{site}': {reason}" for site, reason in {**self._refused, **self.absent()}.items()
            )
            raise FedCoWProError(
                f"{len(self.nodes())} of {len(self._expected) or len(self._here)} sites are ready; {reasons}",
                f"{max(1, fewest)} or more",
                "see to the sites named above and start again; or set federation.min_sites lower, "
                "or federation.join_timeout higher",
            )
        self._size = self.facts()[0].size

    def update(self, grid: Grid) -> None:
        """Look who is here now, and ask those that have come since the last time."""
        here = {node.node_id: node for node in grid.get_nodes()}
        self._here = dict.fromkeys(sorted(here))
        # A node that comes back has another time of activation: its folder or program may have changed meanwhile.
        known = self._facts.keys() & {node for node in here if self._seen.get(node) == here[node].last_activated_at}
        fresh = [node for node in self._here if node not in known]
        for node in fresh:
            if (gone := self._facts.pop(node, None)) is not None:
                del self._holders[gone.name]
        queries = [Message(RecordDict(), node, MessageType.QUERY) for node in fresh]
        patience = _PATIENCE + _MORE * len(queries)
        replies = {reply.metadata.src_node_id: reply for reply in exchange(grid, queries, patience)}
        for node in sorted(replies):
            registered = here[node].name
            try:
                site = self._admit(node, replies[node], registered)
            except _Unfit as reason:
                self._refuse(reason.site or registered or f"node {node}", str(reason))
            else:
                if (before := self._holders.get(site.name)) is not None:
                    del self._facts[before]
                self._facts[node], self._holders[site.name] = site, node
                self._seen[node] = here[node].last_activated_at
                self._refused.pop(site.name, None)
        for site in self.facts():
            self._digests.setdefault(site.name, site.digest)

    def _admit(self, node: int, reply: Message, registered: str) -> SiteFacts:
        if reply.has_error():
            raise _Unfit(records.failure(reply))
        theirs = records.config_record(reply.content, records.VERSIONS)
        record = dict(records.config_record(reply.content, records.FACTS))
        name = printable(record.get("name", ""))
        if odd := [f"{package} {printable(theirs.get(package))}, here {self._ours[package]}" for package in _SAME if
                   theirs.get(package) != self._ours[package]]:  # fmt: skip
            raise _Unfit("another version: " + "; ".join(odd), name)
        try:
            site = read_facts(record)
        except BadAnswer as error:
            raise _Unfit(f"its description is not one of this program: {error}", name) from error
        if registered and registered != name:
            raise _Unfit(f"its key is registered for '{registered}', it calls itself '{name}'", name)
        if self._expected and name not in self._expected:
            raise _Unfit(f"not one of the expected sites {sorted(self._expected)}", name)
        holder = self._holders.get(name, node)
        if holder != node and holder in self._here:
            raise _Unfit("another node has this name", name)
        if self._digests.get(name, site.digest) != site.digest:
            raise _Unfit("its data are not as they were when the run started", name)
        return site

    def _odd_sizes(self) -> dict[str, str]:
        """Why each site whose slices have another size than the run's cannot take part.

        Where no size is that of more sites than any other, none fits.
        """
        sizes = {site.name: site.size for site in self._facts.values()}
        first, second, *_ = [*Counter(sizes.values()).most_common(2), (0, 0), (0, 0)]
        if self._size is not None:
            agreed, whose = self._size, "those of the run"
        elif first[1] > second[1]:
            agreed, whose = first[0], "those of most sites"
        else:
            told = ", ".join(f"{name} {size}" for name, size in sorted(sizes.items())[:_SHOWN])
            reason = f"slices differ in size, and neither federation.slice_size nor most sites say which counts: {told}"
            return dict.fromkeys(sizes, reason)
        return {
            name: f"its slices have {size} pixels a side, {whose} have {agreed}"
            for name, size in sizes.items()
            if size != agreed
        }

    def _refuse(self, site: str, reason: str) -> None:
        if self._refused.get(site) != reason:
            log.warning("site '%s' cannot take part: %s", site, reason)
        self._refused[site] = reason


class _Unfit(Exception):
    """Why a node cannot take part, and the name of its site where it is known."""

    def __init__(self, reason: str, site: str = "") -> None:
        super().__init__(reason)
        self.site = site


def check_sites(facts: Sequence[SiteFacts]) -> None:
    """Whether these sites can learn one model together.

    Raises:
        FedCoWProError: no site, unfit or repeated names, or slices of different sizes.
    """
    names = [site.name for site in facts]
    unfit = [name for name, count in Counter(names).items() if count > 1 or not re.fullmatch(r"[A-Za-z0-9._-]+", name)]
    if not names or unfit:
        raise FedCoWProError(
            f"{len(names)} sites, unfit names: {unfit}",
            "at least one site; names that differ, of letters, digits, '.', '_' and '-'",
            "name the sites anew",
        )
    if len({site.size for site in facts}) > 1:
        raise FedCoWProError(
            "slices differ in size: " + ", ".join(f"{site.name} {site.size}" for site in facts),
            "the same size at all sites",
            "prepare the sites with the same 'size'",
        )
