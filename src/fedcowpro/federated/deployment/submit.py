"""`fedcowpro federate --engine deploy`: a run on the coordinator's SuperLink, watched until its end.

`flwr run` ends well whatever becomes of the run. Here the run's own state decides, and the run folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedcowpro.config import ExperimentConfig, parse
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.core.text import from_json
from fedcowpro.federated.deployment.coordinator import CONNECTION, connection
from fedcowpro.federated.deployment.layout import Coordinator, FederationFile
from fedcowpro.federated.deployment.programs import flwr
from fedcowpro.federated.deployment.superlink_client import list_runs, stop_run
from fedcowpro.federated.monitoring.rounds import RoundRecord, read_rounds, round_totals
from fedcowpro.federated.server.aggregate import check_federation
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.federated.server.stages import go_back, stages_of
from fedcowpro.federated.server.tracking import Track, open_sinks

_LOOK = 2.0  # seconds between two looks at the run
_SILENT = 5  # looks without an answer before the SuperLink counts as gone


def federate_deployed(
    config: ExperimentConfig,
    federation: Path,
    out: Path,
    *,
    sites: Sequence[str] = (),
    resume: bool = True,
    command: str | None = None,
    track: Sequence[Track] = (),
    evaluate: bool = False,
    say: Callable[[str], None] = print,
    app: Path | None = None,
    from_round: int | None = None,
) -> Path:
    """Train one model over the sites of a federation that is being served on this machine.

    Args:
        config: the experiment; its own sites' folders are of no interest here.
        federation: folder of `federation init`.
        out: the run folder, written by the server; an interrupted run goes on.
        sites: those that are to take part; default all of the federation.
        evaluate: ask the sites for scores of the result; a finished run is asked for them afterwards.
        say: told each round.
        app: another bundle than the federation's own.
        from_round: see `federated.run.federate`.

    Returns:
        The checkpoint, OUT/model.safetensors.

    Raises:
        FedCoWProError: the server cannot be reached, is busy with a run, or the run failed; no such round.
        KeyboardInterrupt: the run was stopped.
    """
    coordinator = Coordinator(federation)
    settings = coordinator.read()
    open_sinks(track)
    chosen = tuple(sorted(sites)) or settings.sites
    if unknown := sorted(set(chosen) - set(settings.sites)):
        raise FedCoWProError(
            f"sites {unknown}", f"among {sorted(settings.sites)}", "correct --site, or add them by init"
        )
    entries = [{"name": name} for name in sorted(chosen)]
    config = parse(ExperimentConfig, {**config.model_dump(), "sites": entries}, "the experiment")
    check_federation(config.federation, len(entries))
    folder = RunFolder(out.absolute())
    connection(coordinator, settings)
    _refuse_a_second_run(coordinator, settings)
    if from_round is not None:
        with folder.locked():
            go_back(stages_of(config, folder), from_round)
    options: dict[str, str | bool] = {"track": ",".join(track), "evaluate": evaluate, "command": command or ""}
    options |= {"resume": resume, "fast": settings.fast}
    number = _start(coordinator, config, folder, options, app or coordinator.app)
    say(f"run {number} started; its log: FLWR_HOME={coordinator.home} flwr log {number} {CONNECTION}")
    try:
        _watch(coordinator, settings, number, folder, config.federation.rounds, say)
    except KeyboardInterrupt:
        stop_run(coordinator, settings, number)
        say(f"Stopped: {folder.completed()} of {config.federation.rounds} rounds are safe; the same command goes on.")
        raise
    return folder.model_file


def _start(
    coordinator: Coordinator,
    config: ExperimentConfig,
    folder: RunFolder,
    options: Mapping[str, str | bool],
    app: Path,
) -> int:
    """Hand the run to the SuperLink; returns its number.

    Args:
        options: more of the run's configuration (`server_app`).
    """
    coordinator.experiments.mkdir(parents=True, exist_ok=True)
    experiment = coordinator.experiments / f"{config.digest()}.yaml"
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_atomic(experiment, text.encode())
    values = {"experiment": str(experiment), "out": str(folder.path), **options}
    run_config = experiment.with_suffix(".toml")
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    write_atomic(run_config, ("\n".join(lines) + "\n").encode())
    done = flwr(coordinator.home, ["run", str(app), CONNECTION, "--run-config", str(run_config), "--format", "json"])
    found = _answer(done.stdout)
    if not found.get("success") or "run-id" not in found:
        raise _unreachable(done.stdout + done.stderr)
    return int(found["run-id"])


def _watch(
    coordinator: Coordinator,
    settings: FederationFile,
    number: int,
    folder: RunFolder,
    rounds: int,
    say: Callable[[str], None],
) -> None:
    """Tell each round until the run has ended.

    Raises:
        FedCoWProError: it failed, was stopped, or left no whole result.
    """
    told, silent = folder.completed(), 0
    while True:
        for record in _rounds(folder) if folder.completed() > told else []:
            if record.round > told:
                told = record.round
                totals = round_totals(record)
                notes = [f"without {site}: {reason}" for site, reason in record.left_out.items()]
                notes += [f"{site} {reason}" for site, reason in record.clipped.items()]
                parts = [f"round {told}/{rounds}: {len(record.sites)} sites, loss {totals['loss']:.3f}", *notes]
                say("; ".join(parts))
        runs = list_runs(coordinator, settings, number)
        silent = 0 if runs else silent + 1
        if silent >= _SILENT:
            raise _unreachable("no answer while the run was going on")
        if runs and runs[0].status == "finished" and told >= folder.completed():
            break
        time.sleep(_LOOK)
    outcome, details = runs[0].outcome, " ".join(runs[0].details.split())
    if outcome != "completed":
        raise FedCoWProError(
            f"run {number} ended as '{outcome}' after {folder.completed()} of {rounds} rounds: {details or '-'}",
            "a run that completes", "see to the cause; then the same command goes on after the last complete round",
        )  # fmt: skip
    if not folder.is_finished(rounds):
        raise FedCoWProError(
            f"run {number} ended, but {folder.path} has no whole result", "all rounds, and a checkpoint",
            "start the server and this command on the same machine; see the run's log",
        )  # fmt: skip


def _rounds(folder: RunFolder) -> list[RoundRecord]:
    try:
        return read_rounds(folder.metrics_file)
    except ValueError:  # the server is writing the next round's lines just now
        return []


def _refuse_a_second_run(coordinator: Coordinator, settings: FederationFile) -> None:
    runs = list_runs(coordinator, settings)
    if runs is None:
        raise _unreachable(f"no answer at 127.0.0.1:{settings.superlink_port}")
    if going := [run.number for run in runs if run.status != "finished"]:
        raise FedCoWProError(
            f"run {going[0]} is going on", "one run at a time",
            f"wait for it, or end it: FLWR_HOME={coordinator.home} flwr stop {going[0]} {CONNECTION}",
        )  # fmt: skip


def _answer(text: str) -> dict[str, Any]:
    """What Flower's command line answered as JSON; empty where it did not."""
    try:
        found = from_json(text[text.index("{") :])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _unreachable(text: str) -> FedCoWProError:
    return FedCoWProError(
        f"the SuperLink did not take the call: {' '.join(text.split())[-600:]}", "a federation that is being served",
        "start it on this machine: fedcowpro federation serve FEDERATION",
    )  # fmt: skip
