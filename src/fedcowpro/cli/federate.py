"""The command that trains."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fedcowpro.cli.console import app, err
from fedcowpro.cli.console import out as echo
from fedcowpro.cli.options import Quiet, a_device, named_files, one_of, site_folders
from fedcowpro.core.errors import FedCoWProError

if TYPE_CHECKING:
    from fedcowpro.config import ExperimentConfig
    from fedcowpro.federated.run import Engine
    from fedcowpro.federated.server.tracking import Track


@app.command()
def federate(
    config: Annotated[Path, typer.Argument(help="YAML of the experiment (see configs/).")],
    out: Annotated[Path, typer.Option(help="Run folder; an interrupted run in it goes on.")],
    site: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER or FOLDER, once per site; replaces the file's sites."),
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(help="More site folders.", metavar="[SITE]...")] = None,
    seed: Annotated[int | None, typer.Option(help="Replaces the file's seed.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Replaces the file's number of rounds.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Replaces the file's device. With deploy each site has its own (--node device=).")
    ] = None,
    track: Annotated[
        list[str] | None, typer.Option(help="tensorboard or mlflow: curves in the run folder, besides metrics.jsonl.")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            autocompletion=one_of("process", "ray", "deploy"),
            help="process; ray, several sites at a time; deploy, sites at other machines.",
        ),
    ] = "process",
    federation: Annotated[
        Path | None, typer.Option(help="For deploy: the folder of `fedcowpro federation init`; --site is then a name.")
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="At the end each site scores the model on its held-out labelled cases.")
    ] = False,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE of what a site permits (fedcowpro policy); repeat. With deploy, sites do so."),
    ] = None,
    from_round: Annotated[
        int | None, typer.Option(min=1, help="Go back to this round, one of the last three, and on from there.")
    ] = None,
    watch: Annotated[bool | None, typer.Option(help="Show a table of the sites; default on a terminal.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train one model over several sites, without labels: on this machine, or between machines with --engine deploy."""
    from fedcowpro.config import ExperimentConfig, load, parse

    experiment = load(ExperimentConfig, config)
    changes: dict[str, Any] = experiment.model_dump()
    if seed is not None:
        changes["seed"] = seed
    if rounds is not None:
        changes["federation"]["rounds"] = rounds
    if device is not None:
        if federation is not None:
            raise FedCoWProError(
                "--device with --engine deploy", "each site's own", "see federation join --node device=..."
            )
        changes["device"] = device
    experiment = parse(ExperimentConfig, changes, "options of federate")
    if engine not in ("process", "ray", "deploy") or (engine == "deploy") != (federation is not None):
        raise FedCoWProError(
            f"--engine {engine}" + (f" with --federation {federation}" if federation else ""),
            "process, ray, or deploy with --federation",
            "correct --engine, or make a federation: fedcowpro federation init",
        )  # fmt: skip
    names, tracks = [*(site or []), *(more or [])], cast("list[Track]", track or [])
    typed = shlex.join(["fedcowpro", *sys.argv[1:]])
    table = not quiet and (err.is_terminal if watch is None else watch)
    if federation is not None:
        from fedcowpro.federated.deployment.submit import federate_deployed
        from fedcowpro.federated.monitoring.progress import live_table

        if policy:
            raise FedCoWProError(
                "--policy with --engine deploy", "each site's own file", "see federation join --policy"
            )
        with live_table(err, out, visible=table):
            checkpoint = federate_deployed(
                experiment,
                federation,
                out,
                sites=names,
                track=tracks,
                evaluate=evaluate,
                command=typed,
                say=(lambda _: None) if quiet else err.print,
                from_round=from_round,
            )
    else:
        from fedcowpro.federated.run import federate as run

        sites = site_folders(names, {entry.name: entry.path for entry in experiment.sites})
        a_device(experiment.device, quiet)
        experiment = with_policies(experiment, sites, policy or [])
        kind = cast("Engine", engine)
        checkpoint = run(
            experiment,
            sites,
            out,
            track=tracks,
            command=typed,
            engine=kind,
            evaluate=evaluate,
            progress=not quiet,
            watch=table,
            from_round=from_round,
        )
    if evaluate:
        from fedcowpro.cli.oversight import scores_table

        echo.print(scores_table(out))
    echo.print(f"model: {checkpoint}")


def with_policies(experiment: ExperimentConfig, sites: Mapping[str, Path], given: Sequence[str]) -> ExperimentConfig:
    """The experiment with its sites' folders and with the policies that the command line gives, NAME=FILE."""
    from fedcowpro.config import ExperimentConfig, parse

    files = {entry.name: entry.policy for entry in experiment.sites} | named_files(given, "--policy", sites)
    entries = [{"name": name, "path": path, "policy": files.get(name)} for name, path in sites.items()]
    return parse(ExperimentConfig, {**experiment.model_dump(), "sites": entries}, "options of federate")
