"""Which of a dataset's cases a site takes, and which part each of them plays."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fedcowpro.config import Modality
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import FoundScans, natural
from fedcowpro.data.datasets.scan import Scan
from fedcowpro.data.preparation.manifest import Role


@dataclass(frozen=True)
class Source:
    """A case and its part."""

    scan: Scan
    role: Role


def choose_sources(
    found: FoundScans,
    cases: Sequence[str] | None,
    support: str | None,
    query: Sequence[str],
    modality: Modality | None = None,
) -> list[Source]:
    """Give each case that a site takes its role.

    Args:
        found: what the dataset's folder holds.
        cases: ids to take, in this order; None = all, in natural order (2 before 10).
        support: id of the support case; it and the queries are held out of training.
        query: ids of the query cases.
        modality: take cases of this modality only; one that the dataset leaves open is taken for it.

    Raises:
        FedCoWProError: an unknown or doubled id, a held-out case without labels, no case of the modality.
    """
    scans = {scan.id: scan for scan in found.scans}
    fitting = {case: scan for case, scan in scans.items() if modality is None or scan.modality in (None, modality)}
    if not fitting:
        raise FedCoWProError(
            f"no {(modality or '').upper()} volume among {len(scans)} cases",
            f"cases of modality '{modality}'",
            "leave --modality out, or point at another folder",
        )
    chosen = sorted(fitting, key=natural) if cases is None else list(cases)
    _require_known("cases", chosen, fitting)
    held_out = [*([support] if support is not None else []), *query]
    _require_known("support and query", held_out, chosen)
    for case in held_out:
        if fitting[case].labels is None:
            raise FedCoWProError(
                f"case '{case}' is a support or query case without labels",
                f"a label map for it (labelled: {_some([c for c in chosen if fitting[c].labels is not None])})",
                "add its label file, correct the pattern of --labels, or take another case",
            )
    return [Source(fitting[case], _role(case, support, query)) for case in chosen]


def _require_known(what: str, ids: list[str], known: Collection[str]) -> None:
    unknown = [case for case in ids if case not in known]
    if unknown:
        raise FedCoWProError(
            f"{what}: no image for {', '.join(unknown)}",
            f"among: {_some(sorted(known, key=natural))}",
            "correct the ids or the image pattern",
        )
    doubled = sorted({case for case in ids if ids.count(case) > 1})
    if doubled:
        raise FedCoWProError(
            f"{what}: {', '.join(doubled)} named more than once", "each case once", "drop the repetition"
        )


def _role(case: str, support: str | None, query: Sequence[str]) -> Role:
    if case == support:
        return "support"
    return "query" if case in query else "train"


def _some(ids: Sequence[str], most: int = 40) -> str:
    """A list that stays readable for a thousand cases."""
    return ", ".join(ids[:most]) + (f" and {len(ids) - most} more" if len(ids) > most else "") if ids else "none"
