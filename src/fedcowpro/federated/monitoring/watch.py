"""What a run folder says of a training that goes on: a table for people, lines of JSON for programs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.text import from_json, printable
from fedcowpro.federated.monitoring.alarms import alarms
from fedcowpro.federated.monitoring.rounds import RoundRecord, SiteRecord, read_lines, round_totals, rounds_of
from fedcowpro.federated.monitoring.scores import GLOBAL, OWN
from fedcowpro.model.checkpoint import FILE_NAME

_BARS = "▁▂▃▄▅▆▇█"
_SHOWN = 24  # rounds of the loss that are drawn; alarms that are listed: a third of it
_TEXT = 600  # characters of a text that a site had a part in
METRICS, CONFIG, RECORD = "metrics.jsonl", "config.yaml", "run.json"


@dataclass(frozen=True)
class Watched:
    """A run as it stands.

    Attributes:
        rounds: that there will be, 0 where it is not known.
        sites: names of those that take part.
        records: of the rounds so far.
        alarms: lines of kind 'alarm'.
        scores: site -> its last mean Dice on held-out cases, or the reason why there is none.
        finished: whether the result is there.
        age: seconds since the last line.
    """

    name: str
    rounds: int
    sites: tuple[str, ...]
    records: tuple[RoundRecord, ...] = ()
    alarms: tuple[dict[str, Any], ...] = ()
    scores: dict[str, float | str] = field(default_factory=dict)
    finished: bool = False
    age: float = math.nan


def read_run(run: Path) -> Watched:
    """Read a run folder, also one that is just being written.

    Raises:
        FedCoWProError: no run there.
    """
    try:
        record = from_json((run / RECORD).read_text(encoding="utf-8"))
        config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
        rounds, sites = int(config["federation"]["rounds"]), tuple(sorted(record["sites"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise FedCoWProError(
            f"{run} is no folder of a run: {error!r}", f"{RECORD} and {CONFIG} in it", "check the path, or wait for it"
        ) from error
    file = run / METRICS
    lines = [from_json(line) for line in read_lines(file)]
    scores: dict[str, float | str] = {}
    for line in lines:
        if line["kind"] == "evaluation" and line["model"] in (GLOBAL, OWN):
            scores[line["site"]] = line["reason"] if line["dice"] is None else line["dice"]
    return Watched(
        name=run.resolve().name,
        rounds=rounds,
        sites=sites,
        records=tuple(rounds_of(lines)),
        alarms=tuple(line for line in lines if line["kind"] == "alarm"),
        scores=scores,
        finished=_is_finished(run, rounds),
        age=max(0.0, time.time() - file.stat().st_mtime) if file.exists() else math.nan,
    )


def follow(run: Path, pause: float = 1.0, once: bool = False) -> Iterator[Watched]:
    """The run each time that something changed, until it is finished.

    Args:
        pause: seconds between two looks.
        once: only as it is now.

    Raises:
        FedCoWProError: no run there.
    """
    last: tuple[float, bool] | None = None
    while True:
        file = run / METRICS
        seen = read_run(run)
        state = (file.stat().st_mtime if file.exists() else 0.0, seen.finished)
        if state != last or once:
            yield seen
        if seen.finished or once:
            return
        last = state
        time.sleep(pause)


def fresh_lines(run: Path, told: list[str]) -> list[str]:
    """Lines that were not told yet; `told` then has all. A resumed run drops lines and writes others in their place."""
    lines = read_lines(run / METRICS)
    same = next((i for i, (one, other) in enumerate(zip(told, lines, strict=False)) if one != other), None)
    start = min(len(told), len(lines)) if same is None else same
    told[:] = lines
    return lines[start:]


def dashboard(run: Watched) -> RenderableType:
    """A table of the sites, with the round, the loss so far, and the alarms."""
    head = Text.assemble(
        (printable(run.name), "bold"), f"  round {run.records[-1].round if run.records else 0}/{run.rounds}"
    )
    losses = [round_totals(record)["loss"] for record in run.records]
    if losses:
        head.append(f"  loss {losses[-1]:.3f} ")
        head.append(spark(losses[-_SHOWN:]), "cyan")
        totals = [round_totals(record) for record in run.records]
        down, up = (sum(total[name] for total in totals) / 1e6 for name in ("bytes_down", "bytes_up"))
        head.append(f"  traffic {down:.1f} MB down, {up:.1f} MB up")
    if run.finished:
        head.append("  finished", "green")
    elif not math.isnan(run.age):
        head.append(f"  last news {run.age:.0f} s ago", "dim")
    # 80 columns of a terminal have to do.
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    table.add_column("site", no_wrap=True)
    names = ("round", "loss", "pseudo\nDice", "norm", "cosine", "s", "MB\ndown", "MB\nup")
    for name in (*names, "Dice") if run.scores else names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    latest = {one.site: (past.round, one) for past in run.records for one in past.sites}
    active: dict[str, list[str]] = {}
    for alarm in alarms(run.records):
        active.setdefault(alarm.site, []).append(alarm.name)
    for site in run.sites:
        number, record = latest.get(site, (None, None))
        signs = active.get(site, [])
        reason = printable(run.records[-1].left_out.get(site, ""), _TEXT) if run.records else ""
        state = Text(f"left out: {reason}" if reason else "ok" if record else "waiting")
        state.stylize("red" if reason else "green" if record and not signs else "")
        if signs:
            state.append(f"  alarm: {', '.join(signs)}", "bold red")
        dice = (_score(run.scores.get(site)),) if run.scores else ()
        table.add_row(printable(site), "-" if number is None else str(number), *_numbers(record), *dice, state)
    said = [
        Text(printable(f"round {line['round']}, {line['site']}: {line['text']}", _TEXT), "red") for line in run.alarms
    ]
    return Group(head, table, *said[-_SHOWN // 3 :])


def spark(values: list[float]) -> str:
    """Values as a row of bars; a gap for NaN."""
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    step = (high - low) / (len(_BARS) - 1) or 1.0
    return "".join(_BARS[round((value - low) / step)] if math.isfinite(value) else " " for value in values)


def _numbers(record: SiteRecord | None) -> list[str]:
    if record is None:
        return ["-"] * 7
    cosine = math.nan if record.update_cosine is None else record.update_cosine
    values = (
        (record.losses.get("total", math.nan), 3), (record.pseudo_dice, 3), (record.update_norm, 2), (cosine, 2),
        (record.seconds, 1), (record.bytes_down / 1e6, 2), (record.bytes_up / 1e6, 2),
    )  # fmt: skip
    return ["-" if math.isnan(value) else f"{value:.{digits}f}" for value, digits in values]


def _score(value: float | str | None) -> str:
    return "-" if value is None else "none" if isinstance(value, str) else f"{value:.3f}"


def _is_finished(run: Path, rounds: int) -> bool:
    try:
        card = from_json((run / FILE_NAME).with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(card.get("round") == rounds)
