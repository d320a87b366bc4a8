"""Which cases each training site gets: named one by one, or dealt out by rule."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.study.spec import Evaluation, Layout, Pool, Spread


@dataclass(frozen=True)
class Member:
    """A case of a pool."""

    pool: str
    case: str

    @property
    def id(self) -> str:
        """What it is called at a site that may have cases of several pools."""
        return f"{self.pool}.{self.case}"


Sites = Mapping[str, tuple[Member, ...]]


def supports(evaluation: Evaluation) -> tuple[Member, ...]:
    """The annotated cases of an evaluation site."""
    return tuple(Member(evaluation.support_pool or evaluation.pool, case) for case in evaluation.support)


def training_sites(layout: Layout, pools: Mapping[str, Pool], held_out: Collection[Member], where: str) -> Sites:
    """Cases of each training site, by its name. It depends on the arguments only, not on a seed.

    Args:
        layout: what the study file says.
        pools: all pools.
        held_out: support and query cases of all arms; they never train.
        where: names the layout in an error.

    Raises:
        FedCoWProError: an unknown pool or case, a held-out case, a case at two sites or twice at one, a site without
            cases, or too few cases for the rule.
    """
    free = {
        name: tuple(member for case in pool.case_ids if (member := Member(name, case)) not in held_out)
        for name, pool in pools.items()
    }
    if layout.spread is not None:
        for name in layout.spread.pools:
            require_pool(name, pools, where)
        return _spread(layout.spread, free, where)
    sites = {}
    for site, shares in (layout.sites or {}).items():
        members: list[Member] = []
        for share in shares:
            require_pool(share.pool, pools, where)
            given = share.cases
            members += free[share.pool] if given is None else [Member(share.pool, case) for case in given]
        require_cases(members, pools, f"{where}, site '{site}'")
        if not members:
            raise FedCoWProError(f"{where}: site '{site}' has no case", "at least one", "give it cases, or drop it")
        sites[site] = tuple(members)
    _require_apart(sites, held_out, where)
    return sites


def require_pool(name: str, pools: Mapping[str, Pool], where: str) -> None:
    """Refuse an unknown pool."""
    if name not in pools:
        raise FedCoWProError(f"{where}: no pool '{name}'", f"one of: {', '.join(pools)}", "correct the name")


def require_cases(members: Sequence[Member], pools: Mapping[str, Pool], where: str) -> None:
    """Refuse cases that their pool does not have."""
    for member in members:
        known = pools[member.pool].case_ids
        if member.case not in known:
            raise FedCoWProError(
                f"{where}: pool '{member.pool}' has no case '{member.case}'",
                f"one of: {', '.join(known)}",
                "correct the id, or add the case to the pool",
            )


def _require_apart(sites: Sites, held_out: Collection[Member], where: str) -> None:
    seen: dict[Member, str] = {}
    for site, members in sites.items():
        for member in members:
            if member in held_out:
                raise FedCoWProError(
                    f"{where}: site '{site}' trains on case '{member.case}' of pool '{member.pool}'",
                    "cases that no evaluation uses: this one supports or is scored",
                    "take it out of the training sites or out of the evaluation",
                )
            if member in seen:
                raise FedCoWProError(
                    f"{where}: case '{member.case}' of pool '{member.pool}' is at '{seen[member]}' and at '{site}'",
                    "each case once",
                    "take it out of one of them",
                )
            seen[member] = site


def _spread(spread: Spread, free: Mapping[str, Sequence[Member]], where: str) -> Sites:
    pools, clients = list(dict.fromkeys(spread.pools)), spread.clients
    if spread.count < max(clients, len(pools)):
        raise FedCoWProError(
            f"{where}: {spread.count} cases for {clients} clients and {len(pools)} pools",
            "at least one case a client and a pool",
            "raise total or per_client",
        )
    quotas = shares(spread.count, [1] * len(pools))
    for pool, quota in zip(pools, quotas, strict=True):
        if len(free[pool]) < quota:
            raise FedCoWProError(
                f"{where}: {quota} training cases of pool '{pool}'",
                f"at most {len(free[pool])}, those that no evaluation uses",
                "lower total or per_client, or make the pool larger",
            )
    chosen = [list(free[pool][:quota]) for pool, quota in zip(pools, quotas, strict=True)]
    names = [f"client-{number:02d}" for number in range(1, clients + 1)]
    # Clients 1..P have weight 1, the next P weight 2: alike for pools mixed and apart.
    weights = [1 if spread.sizes == "equal" else 1 + index // len(pools) for index in range(clients)]
    if spread.mix:
        longest = max(map(len, chosen))
        queues = {0: [cases[row] for row in range(longest) for cases in chosen if row < len(cases)]}
    else:
        queues = dict(enumerate(chosen))
    if clients % len(queues):
        raise FedCoWProError(
            f"{where}: {clients} clients for {len(pools)} pools that are not mixed",
            f"a multiple of {len(pools)}",
            "change the number of clients, or set mix: true",
        )
    sites: dict[str, tuple[Member, ...]] = {}
    for number, queue in queues.items():
        mine = range(number, clients, len(queues))
        if len(queue) < len(mine):
            raise FedCoWProError(
                f"{where}: {len(queue)} cases for {len(mine)} clients", "at least one case a client", "raise total"
            )
        start = 0
        for index, size in zip(mine, shares(len(queue), [weights[index] for index in mine]), strict=True):
            sites[names[index]] = tuple(queue[start : start + size])
            start += size
    if spread.mix and (poor := [site for site in names if {one.pool for one in sites[site]} != set(pools)]):
        raise FedCoWProError(
            f"{where}: {', '.join(poor)} would lack cases of one of {', '.join(pools)}",
            "cases of every pool at every client (mix: true)",
            "raise total or per_client, or take fewer clients",
        )
    return {name: sites[name] for name in names}


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers of at least 1 in proportion to `weights` that sum to `total` (at least as large as their number).

    The rounding goes to the largest remainders, the earlier ones first.
    """
    exact = [total * weight / sum(weights) for weight in weights]
    sizes = [max(1, int(size)) for size in exact]
    for _ in range(sum(sizes), total):
        neediest = max(range(len(sizes)), key=lambda i: (exact[i] - sizes[i], -i))
        sizes[neediest] += 1
    for _ in range(total, sum(sizes)):
        richest = max(range(len(sizes)), key=lambda i: (sizes[i] - exact[i] if sizes[i] > 1 else float("-inf"), -i))
        sizes[richest] -= 1
    return sizes
