"""A federation in one process, from site folders to a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal

from flwr.app import UserConfig
from rich.console import Console

from fedcowpro.config import ExperimentConfig, load, parse
from fedcowpro.config.policy import SitePolicy
from fedcowpro.core.device import choose_device, reproducible
from fedcowpro.evaluation.model_card import write_model_card
from fedcowpro.federated.governance.enforcement import AUDIT, NO_POLICY, POLICY
from fedcowpro.federated.monitoring.progress import ProgressDisplay, live_table
from fedcowpro.federated.monitoring.scores import read_scores
from fedcowpro.federated.privacy.accountant import privacy_lines
from fedcowpro.federated.server.aggregate import check_federation
from fedcowpro.federated.server.client_registry import check_sites
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.federated.server.sampling import sites_per_round
from fedcowpro.federated.server.server_app import serve_stage
from fedcowpro.federated.server.stages import go_back, stages_of
from fedcowpro.federated.server.tracking import Track, open_sinks, tracking
from fedcowpro.federated.simulate import require_ray, run_on_ray
from fedcowpro.federated.site import client_app
from fedcowpro.federated.site.local_training import describe_site

Engine = Literal["process", "ray"]


def federate(
    config: ExperimentConfig,
    sites: Mapping[str, str | PathLike[str]],
    out: str | PathLike[str],
    *,
    resume: bool = True,
    progress: bool = True,
    track: Sequence[Track] = (),
    command: str | None = None,
    engine: Engine = "process",
    evaluate: bool = False,
    watch: bool = False,
    from_round: int | None = None,
) -> Path:
    """Train one model over several site folders, round by round, each site on its own data.

    A run that was interrupted goes on after its last complete round and ends in the same weights, bit for
    bit, as one that was not (same machine, device, versions and threads).

    Args:
        config: the experiment; the folders of its own `sites` are replaced by the next argument, their policies hold.
        sites: folder of each site by its name.
        out: the run folder (layout: `fedcowpro.federated.server.run_folder`).
        resume: False refuses a folder that holds a run already.
        progress: a bar on standard error.
        track: also draw curves for these programs, in OUT/tensorboard and OUT/mlruns. Nothing goes to another host,
            unless the user sets MLFLOW_TRACKING_URI himself. A finished run gets its track afterwards.
        command: what the user typed, for OUT/run.json; default a description of this call.
        engine: process, all sites one after the other in this one; ray, several at a time (extra `simulation`). Both
            end in the same weights.
        evaluate: ask all sites for scores of the result on their held-out cases; a finished run is asked for them
            afterwards.
        watch: show the table of `fedcowpro.federated.monitoring.watch`, in one process above the bar.
        from_round: go back to this round, one of the last three, and on from there; with `teaching`, of the stage that
            the run is in. What came after it is lost.

    Returns:
        The checkpoint, OUT/model.safetensors; with `teaching`, that of its organs, OUT/teaching/model.safetensors.

    Raises:
        FedCoWProError: before the first round: a site or policy that cannot be read, no slice to train on, sites
            of different sizes, a folder with another run or in use by another process, a round to go back to that is
            not there, a track without its package, a device that is not there; later: too few good replies in a round.
        KeyboardInterrupt: passed on after a word on how to resume.
    """
    folders, out = {name: Path(path) for name, path in sorted(sites.items())}, Path(out)
    device = str(choose_device(config.device))
    sinks = open_sinks(track)
    if engine == "ray":
        require_ray()
    policies = {site.name: site.policy for site in config.sites if site.policy is not None and site.name in sites}
    for policy in policies.values():
        load(SitePolicy, policy)
    entries = [{"name": name, "path": str(path), "policy": policies.get(name)} for name, path in folders.items()]
    config = parse(ExperimentConfig, {**config.model_dump(), "sites": entries}, "the experiment")
    facts = [describe_site(name, path) for name, path in folders.items()]
    check_sites(facts)
    check_federation(config.federation, len(facts))
    folder, console = RunFolder(out), Console(stderr=True)
    with folder.locked():
        stages = stages_of(config, folder)
        folder.start(stages[0][0], facts, resume, command or _as_call(folder, folders), device=device)
        if from_round is not None:
            go_back(stages, from_round)
        result = stages[-1][1].model_file
        unfinished = []
        for stage, own in stages:
            rounds = stage.federation.rounds
            scored = any(found.round == rounds for found in read_scores(own.path))
            if not (own.is_finished(rounds) and (scored or not evaluate)):
                unfinished.append((stage, own))
                continue
            with tracking(sinks, own, stage):
                console.print(f"{own.path}: this run is finished, all {rounds} rounds; nothing to do.")
            if own is folder and not folder.card_file.exists():
                write_model_card(folder.model_file)
        if not unfinished:
            return result
        logging.getLogger("flwr").setLevel(logging.ERROR)
        own_config: UserConfig = {"device": device}
        if config.threads is not None:
            own_config["threads"] = config.threads
        nodes: dict[str, UserConfig] = {
            name: {
                "site-name": name,
                "site-path": str(path),
                POLICY: str(policies[name].absolute()) if name in policies else NO_POLICY,
                AUDIT: str(folder.path.absolute() / "audit" / f"{name}.jsonl"),
                **own_config,
            }
            for name, path in folders.items()
        }
        if engine == "ray":
            with live_table(console, out, visible=watch and progress):
                run_on_ray(config, folder, list(nodes.values()), track=track, evaluate=evaluate)
            return result
        for stage, own in unfinished:
            rounds = stage.federation.rounds
            asked = sites_per_round(stage.federation, len(sites))
            display = ProgressDisplay(console, own.path, own.completed(), rounds, asked, visible=progress, table=watch)
            with reproducible(config.threads), display:
                grid = InProcessGrid(client_app.app, nodes, display.count)
                try:
                    serve_stage(grid, stage, own, track=track, evaluate=evaluate)
                except KeyboardInterrupt:
                    done = own.completed()
                    console.print(
                        f"Interrupted: {done} of {rounds} rounds are safe in {own.path}; the same command goes on."
                    )
                    raise
        for line in privacy_lines(config.federation.privacy, folder.releases.rates()):
            console.print(line)
        return result


def _as_call(folder: RunFolder, sites: Mapping[str, Path]) -> str:
    paths = ", ".join(f"{name!r}: Path({str(path)!r})" for name, path in sites.items())
    config = f"load(ExperimentConfig, Path({str(folder.config_file)!r}))"
    return f"federate({config}, {{{paths}}}, Path({str(folder.path)!r}))"
