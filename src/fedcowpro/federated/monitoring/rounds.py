"""What happened in each round and at each site, as numbers and as lines of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from fedcowpro.core.files import write_atomic
from fedcowpro.core.text import from_json

Arrays = Mapping[str, np.ndarray]
# Running statistics follow the data rather than the gradient and would drown the learnt part of an update.
STATISTICS = ("running_mean", "running_var")
ORGANS = "organs"  # the loss of a stage that learns organs, which has no superpixels to find again


@dataclass(frozen=True)
class SiteRecord:
    """One site in one round.

    `weight` is the site's share of the average (robust aggregates do not use it); `update_norm` the L2 norm of its
    update of the learnt tensors, `update_cosine` its cosine to the aggregated update (None where one of them is zero);
    `seconds` the local training; bytes are those of the records, down to the site and up to the server, as they are
    encoded; `bytes_model` those of the model's tensors in full precision, to compare with (0 where it is not known).
    """

    site: str
    weight: float
    train_slices: int
    steps: int
    losses: dict[str, float]
    pseudo_dice: float
    update_norm: float
    update_cosine: float | None
    seconds: float
    bytes_down: int
    bytes_up: int
    bytes_model: int = 0


@dataclass(frozen=True)
class RoundRecord:
    """One round: its sites, the reason for each that was left out, and the L2 norm of the step that the global model's
    learnt tensors made; NaN where it is not known. `clipped` has the reason for each site whose update was scaled down,
    `privacy` what was done to the updates, and what it cost so far. `unsound` names those of `left_out` that answered
    what no site of this program answers.
    """

    round: int
    sites: tuple[SiteRecord, ...]
    left_out: dict[str, str]
    step_norm: float = math.nan
    clipped: dict[str, str] = field(default_factory=dict)
    privacy: dict[str, Any] = field(default_factory=dict)
    unsound: tuple[str, ...] = ()


def update_geometry(before: Arrays, after: Arrays, common: Arrays) -> tuple[float, float | None]:
    """L2 norm of the update `after - before` and its cosine to `common - before`, over the learnt tensors.

    Args:
        before: global tensors at the start of the round, by name.
        after: the site's; its names are those compared.
        common: what the sites' were aggregated to.

    Returns:
        Norm, and cosine in -1..1 (None where one update is zero).
    """
    squared = across = shared_squared = 0.0
    for name in after:
        if name.endswith(STATISTICS):
            continue
        start = before[name].astype(np.float64)
        own, shared = (after[name] - start).ravel(), (common[name] - start).ravel()
        # Not `own @ own`: BLAS starts a team of threads for each of some hundred small tensors.
        squared += float(np.square(own).sum())
        across += float((own * shared).sum())
        shared_squared += float(np.square(shared).sum())
    lengths = math.sqrt(squared) * math.sqrt(shared_squared)
    return math.sqrt(squared), max(-1.0, min(1.0, across / lengths)) if lengths > 0 else None


def append_round(path: Path, record: RoundRecord) -> None:
    """Append a line for each site and one for the round to a file of JSON lines."""
    lines: list[dict[str, Any]] = [{"kind": "site", "round": record.round, **asdict(site)} for site in record.sites]
    extra = {"privacy": record.privacy} if record.privacy else {}
    reasons = {"left_out": record.left_out, "clipped": record.clipped, "unsound": list(record.unsound)}
    lines.append({"kind": "round", "round": record.round, **reasons, **round_totals(record), **extra})
    append_lines(path, lines)


def append_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append lines of JSON; each has its `kind` and its `round`."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(_without_nan(line)) + "\n" for line in lines)


def round_totals(record: RoundRecord) -> dict[str, float]:
    """Numbers of the whole round: count of its sites, weighted mean loss and pseudo-Dice, the step, summed bytes.

    Without a site the means are NaN.
    """
    weights = [site.weight for site in record.sites]
    return {
        "sites": len(record.sites),
        "loss": _mean(weights, [site.losses.get("total", math.nan) for site in record.sites]),
        "pseudo_dice": _mean(weights, [site.pseudo_dice for site in record.sites]),
        "step_norm": record.step_norm,
        "bytes_down": sum(site.bytes_down for site in record.sites),
        "bytes_up": sum(site.bytes_up for site in record.sites),
    }


def _mean(weights: Sequence[float], values: Sequence[float]) -> float:
    return float(np.dot(weights, values)) if weights else math.nan


def read_lines(path: Path) -> list[str]:
    """Whole lines; one that is just being written is left out. None where there is no file."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def read_rounds(path: Path) -> list[RoundRecord]:
    """The rounds of a file that `append_round` wrote and `truncate_rounds` tidied up; none where there is no file."""
    return rounds_of(map(from_json, read_lines(path)))


def rounds_of(lines: Iterable[Mapping[str, Any]]) -> list[RoundRecord]:
    """The rounds that lines of such a file tell of; other kinds of lines are passed over."""
    rounds: list[RoundRecord] = []
    sites: list[SiteRecord] = []
    for line in lines:
        if line["kind"] == "site":
            sites.append(_site_record(line))
        elif line["kind"] == "round":
            step = line.get("step_norm")  # null for NaN; missing in runs of earlier versions
            step_norm = math.nan if step is None else step
            clipped, privacy, unsound = line.get("clipped", {}), line.get("privacy", {}), line.get("unsound", ())
            rounds.append(
                RoundRecord(line["round"], tuple(sites), line["left_out"], step_norm, clipped, privacy, tuple(unsound))
            )
            sites = []
    return rounds


def _site_record(line: Mapping[str, Any]) -> SiteRecord:
    """A line as it was before `_without_nan`."""
    values = {one.name: line[one.name] for one in fields(SiteRecord) if one.name in line}
    for name in ("pseudo_dice", "seconds", "update_norm"):
        values[name] = math.nan if values[name] is None else values[name]
    losses = {name: math.nan if value is None else value for name, value in line["losses"].items()}
    return SiteRecord(**{**values, "losses": losses})


def truncate_rounds(path: Path, completed: int) -> None:
    """Drop the lines of rounds after `completed`, and a line that an interruption cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if from_json(line)["round"] <= completed:
                kept.append(line + "\n")
        except ValueError:
            break
    write_atomic(path, "".join(kept).encode())


def _without_nan(value: object) -> object:
    """NaN is no JSON: null instead."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
