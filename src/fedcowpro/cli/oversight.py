"""Commands for those who answer for a site or a run: what may happen, what happened, what happens now."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedcowpro.cli.console import app, err
from fedcowpro.cli.console import out as echo
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.text import printable

if TYPE_CHECKING:
    from fedcowpro.federated.governance.audit_log import Entry

_BROKEN = 1  # exit code of a log that was changed
_WIDTH = 130  # of a log's table: a narrower one breaks every cell


@app.command()
def audit(
    log: Annotated[Path, typer.Argument(help="Audit log (audit.jsonl), or a run folder with one.")],
    round_number: Annotated[int | None, typer.Option("--round", help="Only this round.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind: train, evaluate, query, weights, ...")] = None,
    site: Annotated[str | None, typer.Option(help="Only this site.")] = None,
    decision: Annotated[str | None, typer.Option(help="Only this decision: refused, sent, ...")] = None,
    head: Annotated[
        str | None, typer.Option(help="A head that was noted down (LINES:DIGEST); it has to be in the log still.")
    ] = None,
    totals: Annotated[bool, typer.Option("--totals", help="Only the sums, no lines.")] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Lines of JSON in place of the table; whether it is whole goes to standard error."),
    ] = False,
) -> None:
    """Show an audit log and, last, whether a line was changed, put in or taken out; exit code 1 if one was."""
    from fedcowpro.federated.governance.audit_log import read_audit

    entries, problems, end = read_audit(log / "audit.jsonl" if log.is_dir() else log)
    if head is not None:
        problems += _missing_head(entries, head)
    wanted = {"round": round_number, "kind": kind, "site": site, "decision": decision}
    chosen = [
        entry
        for entry in entries
        if all(value is None or getattr(entry.event, name) == value for name, value in wanted.items())
    ]
    if as_json:
        for entry in chosen:
            typer.echo(json.dumps({"number": entry.number, "time": entry.time, **vars(entry.event)}))
    else:
        if not totals:
            wide = Console(width=max(echo.width, _WIDTH), soft_wrap=True, markup=False, highlight=False)
            wide.print(_entries_table(chosen))
        echo.print(_totals_table(chosen))
    verdict = err if as_json else echo
    for problem in problems:
        verdict.print(f"broken: {printable(problem, 600)}")
    if problems:
        verdict.print(f"{log}: do not trust this log from there on, and find out who changed it")
        raise typer.Exit(_BROKEN)
    verdict.print(f"whole: {end.lines} lines; head {end.lines}:{end.digest}")


@app.command()
def digest(
    experiment: Annotated[
        Path | None, typer.Argument(help="YAML of an experiment: also its architecture and initial weights.")
    ] = None,
    app_folder: Annotated[
        Path | None, typer.Option("--app", help="FEDERATION/coordinator/app, or a .fab file: also this app.")
    ] = None,
) -> None:
    """Print the digests that a site's policy names: of the installed package, of an experiment's model, of an app."""
    from fedcowpro.core.package import package_digest

    echo.print(f"package          {package_digest()}")
    if experiment is not None:
        architecture, weights = _digests(experiment)
        echo.print(f"architecture     {architecture}")
        echo.print(f"initial weights  {weights}")
    if app_folder is not None:
        from fedcowpro.federated.deployment.supernode import app_digest

        echo.print(f"app              {app_digest(app_folder)}")


@app.command()
def policy(
    file: Annotated[Path, typer.Argument(help="The site's policy (YAML).")],
    experiment: Annotated[Path | None, typer.Argument(help="YAML of an experiment, to be judged by it.")] = None,
    sites: Annotated[int, typer.Option(min=1, help="How many sites take part.")] = 3,
    new: Annotated[
        bool, typer.Option("--new", help="Write the file: it allows this experiment, and no more than it needs.")
    ] = False,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="With --new: NAME=PUBLIC_KEY of another site that may be in a secure sum; repeat."),
    ] = None,
) -> None:
    """Write or read what a site permits; with an experiment, say whether it would (exit code 1 if not)."""
    from fedcowpro.config import ExperimentConfig, load
    from fedcowpro.config.policy import SitePolicy

    if new:
        from fedcowpro.federated.governance.policy_file import write_policy

        if file.exists():
            raise FedCoWProError(f"{file} exists", "a new file", "choose another name, or remove it first")
        if experiment is None:
            raise FedCoWProError("--new without an experiment", "the YAML to be allowed", "name it after the policy")
        write_policy(file, load(ExperimentConfig, experiment), *_digests(experiment), sites, _public_keys(peer or []))
        echo.print(f"policy: {file}; read it, and keep where only you can write")
        return
    if peer:
        raise FedCoWProError("--peer without --new", "a new policy", "edit 'peers' in the file, or write a new one")
    rules = load(SitePolicy, file)
    if experiment is None:
        for name, value in rules.model_dump(mode="json").items():
            echo.print(f"{name}: {json.dumps(value)}")
        return
    from fedcowpro.federated.governance.policy_file import objections

    found = objections(rules, load(ExperimentConfig, experiment), sites)
    for kind, reason in found.items():
        echo.print(f"{kind}: {reason or 'allowed'}")
    if any(found.values()):
        raise typer.Exit(_BROKEN)


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(help="Run folder, where the server writes it.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Each new line of metrics.jsonl in place of the table.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="As it is now, then end.")] = False,
    pause: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
) -> None:
    """Follow a run until it is finished: sites, rounds, losses, traffic, alarms. Ends with Ctrl-C; the run does not."""
    from rich.live import Live

    from fedcowpro.federated.monitoring.watch import dashboard, follow, fresh_lines

    if as_json:
        told: list[str] = []
        for _ in follow(run, pause, once):
            for line in fresh_lines(run, told):
                typer.echo(line)
        return
    with Live(console=echo, auto_refresh=False) as live:
        for seen in follow(run, pause, once):
            live.update(dashboard(seen), refresh=True)


def scores_table(run: Path) -> Table:
    """Mean Dice over organs of each model at each site, last round; why not, where there is none."""
    from fedcowpro.federated.monitoring.scores import read_scores

    found = read_scores(run)
    table = Table("model", "site", "Dice", "organs", "cases", title="Cross-site evaluation (whole-volume)")
    for one in found:
        if one.round == max(other.round for other in found):
            scores = [s for s in one.scores if s.protocol == "whole-volume" and s.mean is not None and s.cases]
            cases = sorted({score.cases for score in scores if score.cases is not None})
            span = f"{cases[0]}-{cases[-1]}" if len(cases) > 1 else str(*cases)
            dice = printable(one.reason, 600) if one.dice is None else f"{one.dice:.3f}"
            table.add_row(one.model, one.site, dice, str(len(scores)), span)
    return table


def _public_keys(given: Sequence[str]) -> dict[str, str]:
    from fedcowpro.federated.deployment.provision import checked_public, names_of_sites

    names, files = names_of_sites(given)
    if bare := [name for name in names if name not in files]:
        raise FedCoWProError(f"--peer {bare[0]}", "NAME=PUBLIC_KEY", "name the file with that site's public key")
    return {name: checked_public(file).decode() for name, file in files.items()}


def _digests(experiment: Path) -> tuple[str, str]:
    from fedcowpro.config import ExperimentConfig, load
    from fedcowpro.federated.governance.policy import architecture_digest
    from fedcowpro.federated.transport.encoding import initial_model

    config = load(ExperimentConfig, experiment)
    return architecture_digest(config.model), initial_model(config.model, config.seed)[1]


def _missing_head(entries: Sequence[Entry], head: str) -> list[str]:
    lines, _, value = head.partition(":")
    if not lines.isdigit() or not value:
        raise FedCoWProError(f"--head {head}", "LINES:DIGEST", "give it as 'fedcowpro audit' printed it")
    number = int(lines)
    there = number <= len(entries) and (number == 0 or entries[number - 1].digest == value)
    return [] if there else [f"line {number} is not the one that was noted down"]


def _entries_table(entries: Sequence[Entry]) -> Table:
    table = Table()
    for name in ("#", "time (UTC)", "site", "way", "kind", "round", "bytes", "content", "decision"):
        table.add_column(name, no_wrap=True)
    table.add_column("reason", overflow="fold")
    for entry in entries:
        event = entry.event
        time = entry.time[:19].replace("T", " ")
        table.add_row(
            str(entry.number), time, printable(event.site), event.direction, printable(event.kind),
            str(event.round or ""), f"{event.bytes:,}" if event.bytes else "", event.content[:8], event.decision,
            printable(event.reason, 600),
        )  # fmt: skip
    return table


def _totals_table(entries: Sequence[Entry]) -> Table:
    keys = [(e.event.site, e.event.direction, e.event.kind, e.event.decision) for e in entries]
    counts, sizes = Counter(keys), Counter[tuple[str, ...]]()
    for key, entry in zip(keys, entries, strict=True):
        sizes[key] += entry.event.bytes
    table = Table("site", "way", "kind", "decision", "messages", "bytes", title="Totals")
    for key in sorted(counts):
        table.add_row(*map(printable, key), str(counts[key]), f"{sizes[key]:,}")
    return table
