"""A federation in one process, from site folders to a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from flwr.app import Context, Message, MetricRecord, RecordDict, UserConfig
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedcowpro.config import ExperimentConfig, parse
from fedcowpro.federated import client_app, records, server_app
from fedcowpro.federated.aggregate import check_federation
from fedcowpro.federated.folder import RunFolder
from fedcowpro.federated.grid import InProcessGrid
from fedcowpro.federated.roster import check_sites
from fedcowpro.federated.simulate import require_ray, run_on_ray
from fedcowpro.federated.task import describe_site, reproducible
from fedcowpro.federated.tracking import Track, open_sinks, tracking
from fedcowpro.model_card import write_model_card
from fedcowpro.privacy.accountant import privacy_lines

Engine = Literal["process", "ray"]


def federate(
    config: ExperimentConfig,
    sites: Mapping[str, Path],
    out: Path,
    *,
    resume: bool = True,
    progress: bool = True,
    track: Sequence[Track] = (),
    command: str | None = None,
    engine: Engine = "process",
) -> Path:
    """Train one model over several site folders, round by round, each site on its own data.

    A run that was interrupted goes on after its last complete round and ends in the same weights, bit for
    bit, as one that was not (same machine, versions and threads).

    Args:
        config: the experiment; its own `sites` are replaced by the next argument.
        sites: folder of each site by its name.
        out: the run folder (layout: `fedcowpro.federated.folder`).
        resume: False refuses a folder that holds a run already.
        progress: a bar on standard error.
        track: also draw curves for these programs, in OUT/tensorboard and OUT/mlruns. Nothing goes to another host,
            unless the user sets MLFLOW_TRACKING_URI himself. A finished run gets its track afterwards.
        command: what the user typed, for OUT/run.json; default a description of this call.
        engine: process, all sites one after the other in this one; ray, several at a time (extra `simulation`). Both
            end in the same weights.

    Returns:
        The checkpoint, OUT/model.safetensors.

    Raises:
        FedCoWProError: before the first round: a site that cannot be read or has no slice to train on, sites
            of different sizes, a folder with another run, a track without its package; later: too few good replies
            in a round.
        KeyboardInterrupt: passed on after a word on how to resume.
    """
    sinks = open_sinks(track)
    if engine == "ray":
        require_ray()
    entries = [{"name": name, "path": str(path)} for name, path in sorted(sites.items())]
    config = parse(ExperimentConfig, {**config.model_dump(), "sites": entries}, "the experiment")
    facts = [describe_site(name, path) for name, path in sorted(sites.items())]
    check_sites(facts)
    check_federation(config.federation, len(facts))
    folder, console = RunFolder(out), Console(stderr=True)
    folder.start(config, facts, resume, command or _as_call(folder, sites))
    rounds = config.federation.rounds
    if folder.is_finished(rounds):
        with tracking(sinks, folder, config):
            console.print(f"{out}: this run is finished, all {rounds} rounds; nothing to do.")
        if not folder.card_file.exists():
            write_model_card(folder.model_file)
        return folder.model_file
    logging.getLogger("flwr").setLevel(logging.ERROR)
    threads: UserConfig = {} if config.threads is None else {"threads": config.threads}
    nodes = {name: {"site-name": name, "site-path": str(path), **threads} for name, path in sites.items()}
    if engine == "ray":
        run_on_ray(config, folder, [nodes[name] for name in sorted(nodes)], resume=resume, command=command, track=track)
        return folder.model_file
    run: UserConfig = {"experiment": str(folder.config_file), "out": str(out), "track": ",".join(track)}
    with reproducible(config.threads), _Bar(console, folder.completed(), rounds, len(sites), progress) as bar:
        grid = InProcessGrid(client_app.app, nodes, bar.count)
        try:
            server_app.app(grid, Context(grid.run.run_id, 0, {}, RecordDict(), run))
        except KeyboardInterrupt:
            done = folder.completed()
            console.print(f"Interrupted: {done} of {rounds} rounds are safe in {out}; the same command goes on.")
            raise
    for line in privacy_lines(config.federation.privacy, rounds):
        console.print(line)
    return folder.model_file


def _as_call(folder: RunFolder, sites: Mapping[str, Path]) -> str:
    paths = ", ".join(f"{name!r}: Path({str(path)!r})" for name, path in sorted(sites.items()))
    config = f"load(ExperimentConfig, Path({str(folder.config_file)!r}))"
    return f"federate({config}, {{{paths}}}, Path({str(folder.path)!r}))"


class _Bar:
    """A progress bar over rounds and sites, with the loss of the site that answered last."""

    def __init__(self, console: Console, completed: int, rounds: int, sites: int, visible: bool) -> None:
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
        self._progress = Progress(*columns, console=console, disable=not visible)
        self._sites, self._rounds = sites, rounds
        self._done = completed * sites
        self._task = self._progress.add_task("starting", total=rounds * sites, completed=self._done)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def count(self, site: str, reply: Message) -> None:
        """One more answer; those to the questions before and after the rounds have no loss and do not count."""
        metrics = None if reply.has_error() else reply.content.get(records.METRICS)
        trained = isinstance(metrics, MetricRecord) and "steps" in metrics
        if not reply.has_error() and not trained:
            return
        loss = metrics.get(f"{records.LOSS_PREFIX}total") if isinstance(metrics, MetricRecord) else None
        text = f"loss {loss:.3f}" if isinstance(loss, float) else "done" if trained else "failed"
        number = min(self._done // self._sites + 1, self._rounds)
        self._done += 1
        self._progress.update(
            self._task, completed=self._done, description=f"round {number}/{self._rounds} {site} {text}"
        )
