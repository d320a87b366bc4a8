"""The Flower ServerApp: asks the sites what they have, runs the rounds, keeps the run folder.

Run configuration: `experiment`, path of the settings (YAML); `out`, the run folder; `resume` (default true); `track`
("tensorboard,mlflow" or one of them, default none); `evaluate` (default false), ask the sites for scores of the
result; `command`, what the user typed, for the record; `fast` (default false), messages in one piece.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.serverapp import Grid, ServerApp
from torch import Tensor

from fedcowpro.config import ExperimentConfig, load
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.text import from_json
from fedcowpro.federated.governance.audit_log import AuditLog
from fedcowpro.federated.monitoring.alarms import AlarmWatch
from fedcowpro.federated.monitoring.rounds import append_round, read_rounds
from fedcowpro.federated.monitoring.scores import GLOBAL, OWN
from fedcowpro.federated.privacy.accountant import privacy_facts
from fedcowpro.federated.server.aggregate import check_federation
from fedcowpro.federated.server.aggregator import Aggregator
from fedcowpro.federated.server.audit_grid import AuditedGrid
from fedcowpro.federated.server.client_registry import ClientRegistry
from fedcowpro.federated.server.evaluation import CrossSiteEvaluation, announced, models_of, note_round
from fedcowpro.federated.server.exchange import exchange
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.server.run_folder import CompleteRound, RunFolder
from fedcowpro.federated.server.sampling import draw, told_participants
from fedcowpro.federated.server.secure_aggregator import aggregator_for
from fedcowpro.federated.server.stages import initial_network, organ_card, stages_of
from fedcowpro.federated.server.tracking import open_sinks, tracking
from fedcowpro.federated.site.local_training import (
    SiteFacts,
    exchanged_names,
    hold_still,
    learnt_names,
    normalisation_names,
    trained_names,
)
from fedcowpro.federated.transport import messages as records
from fedcowpro.federated.transport.encoding import Downlink
from fedcowpro.federated.transport.packing import PackingGrid

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry point where Flower starts the server: the settings come as a file."""
    run = context.run_config
    if "experiment" not in run or "out" not in run:
        raise FedCoWProError(
            f"the run configuration has {sorted(run)}",
            "'experiment' and 'out'",
            'add --run-config \'experiment="federation.yaml" out="run"\'',
        )
    config = load(ExperimentConfig, Path(str(run["experiment"])))
    command = str(run["command"]) if "command" in run else None
    track = [name for name in str(run.get("track", "")).split(",") if name]
    resume, evaluate = bool(run.get("resume", True)), bool(run.get("evaluate", False))
    folder = RunFolder(Path(str(run["out"])))
    with folder.locked():
        serve(PackingGrid(grid) if run.get("fast", False) else grid, config, folder, resume, command, track, evaluate)


def serve(
    grid: Grid,
    config: ExperimentConfig,
    folder: RunFolder,
    resume: bool = True,
    command: str | None = None,
    track: Sequence[str] = (),
    evaluate: bool = False,
) -> None:
    """All stages, each as `serve_stage`; one that is finished is not done again.

    Raises:
        FedCoWProError: see `serve_stage`.
    """
    for stage, stage_folder in stages_of(config, folder):
        if not (resume and config.teaching is not None and stage_folder.is_finished(stage.federation.rounds)):
            serve_stage(grid, stage, stage_folder, resume, command, track, evaluate)


def serve_stage(
    grid: Grid,
    config: ExperimentConfig,
    folder: RunFolder,
    resume: bool = True,
    command: str | None = None,
    track: Sequence[str] = (),
    evaluate: bool = False,
) -> None:
    """All rounds that are not done yet, then the result; with `evaluate`, the sites' scores of it.

    Args:
        config, folder: of the stage.

    Raises:
        FedCoWProError: a site cannot take part, too few good replies, a folder that holds another run, or a track
            that cannot be opened.
    """
    sinks = open_sinks(track)
    audited = AuditedGrid(grid, AuditLog(folder.audit_file))
    size = folder.slice_size() or config.federation.slice_size
    registry = ClientRegistry([site.name for site in config.sites], folder.digests(), size)
    registry.gather(audited, config.federation)
    sites = len(config.sites) or len(registry.nodes())
    check_federation(config.federation, sites)
    folder.start(config, registry.facts(), resume, command, registry.absent())
    audited.names = registry.nodes()
    audited.name_run(folder.key())
    model = initial_network(config, folder)
    hold_still(model, config.federation.trainable)
    exchanged = exchanged_names(model)
    kept = normalisation_names(model) if config.federation.normalisation == "local" else set()
    last = folder.last_round() or CompleteRound(0, model.state_dict(), {})
    # Elsewhere than in one process, sites keep their state themselves and nobody else sees it.
    states = grid.site_states() if isinstance(grid, InProcessGrid) else {}
    if kept and last.number and not states:
        raise FedCoWProError(
            "a run with local normalisation was interrupted",
            "an engine in one process, or averaged normalisation",
            "start a new run: the sites' own layers are lost with the nodes' state",
        )
    for site, own in last.sites.items() if states else ():
        states[site][records.LOCAL] = records.to_record(own)
    rebuilt = config.federation.initial == "rebuild" and config.model.weights is None
    initial = records.to_numpy({name: model.state_dict()[name] for name in exchanged}) if rebuilt else None
    aggregator = aggregator_for(
        config,
        registry.nodes(),
        (learnt_names(model) if config.federation.privacy.active else trained_names(model)) - kept,
        config.federation,
        learnt=learnt_names(model) - kept,
        moments={name: tensor.numpy() for name, tensor in last.moments.items()},
        downlink=Downlink(initial, config.federation.precision),
        scratch=folder.replies,
        releases=folder.releases,
    )
    settings = announced(_settings_for_sites(config), folder.key(), len(registry.nodes()))
    evaluation = CrossSiteEvaluation(audited, folder, settings, exchanged, config.federation.round_timeout)
    every = config.federation.evaluate_every
    watch = AlarmWatch(read_rounds(folder.metrics_file))
    with tracking(sinks, folder, config) as tell:
        for number in range(last.number + 1, config.federation.rounds + 1):
            registry.update(audited)
            audited.names = registry.nodes()
            excluded = aggregator.excluded
            fit = {node: name for node, name in registry.nodes().items() if name not in excluded}
            asked = draw(fit, config.federation, config.seed, number, sites)
            aggregator.take_part(asked, {**registry.absent(), **excluded}, _slices(registry.facts()))
            settings[records.PARTICIPANTS] = told_participants(asked, config.federation, sites)
            shared = records.to_numpy({name: last.state[name] for name in exchanged})
            averaged, record = aggregator.run_round(number, shared, settings, audited)
            append_round(folder.metrics_file, record)
            note_round(audited, folder, record, watch)
            last = CompleteRound(
                number,
                {**last.state, **records.from_numpy(averaged)},
                _kept_at_sites(states),
                {name: torch.from_numpy(array) for name, array in aggregator.moments.items()},
            )
            if every is not None and number % every == 0:
                evaluation.run({OWN if kept else GLOBAL: last.state}, number)
            folder.joined(registry.facts())
            card = model_card(config, registry.facts(), number, folder.releases.rates())
            folder.commit(number, last.state, card, last.sites, last.moments)
            tell(record)
        local = kept & exchanged if config.federation.new_site_layers == "average" else set()
        like = {name: last.state[name] for name in local}
        new_layers = common_layers(
            audited, registry.nodes(), config, like, last.number, settings, _slices(registry.facts())
        )
        if evaluate:
            evaluation.run(models_of(last, new_layers, bool(kept)), last.number)
        card = model_card(config, registry.facts(), last.number, folder.releases.rates())
        folder.finish(last, card, new_layers)


def _slices(facts: Sequence[SiteFacts]) -> dict[str, int]:
    return {site.name: site.train_slices for site in facts}


def _kept_at_sites(states: Mapping[str, RecordDict]) -> dict[str, dict[str, Tensor]]:
    found = {site: records.array_record(state, records.LOCAL) for site, state in states.items()}
    return {site: records.to_tensors(record) for site, record in found.items() if record is not None}


def common_layers(
    grid: Grid,
    sites: Mapping[int, str],
    config: ExperimentConfig,
    like: Mapping[str, Tensor],
    number: int,
    settings: ConfigRecord | None = None,
    declared: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Layers for a site that was not in training: the sites' own, aggregated as all other tensors are.

    Args:
        sites: name of each node.
        like: tensors of the names, shapes and types asked for; without any nothing is asked.
        number: the last round.
        settings: the record that goes with every message of the run.
        declared: slices of each site, as it described itself.

    Raises:
        FedCoWProError: too few good replies.
    """
    if not like:
        return {}
    aggregator = Aggregator(sites, like, config.federation)
    aggregator.take_part(sites, {}, declared)
    messages = aggregator.messages_for_layers(records.to_numpy(like), settings)
    replies = exchange(grid, messages, config.federation.round_timeout)
    found, _ = aggregator.aggregate(number, replies)
    return records.from_numpy(found)


def model_card(
    config: ExperimentConfig, facts: Sequence[SiteFacts], number: int, rates: Sequence[float] = ()
) -> dict[str, Any]:
    """The card of the global model after a round; counts and modalities, no names of sites or cases.

    Args:
        rates: of the releases that differential privacy was spent on so far (`accountant.spent`).
    """
    card = {
        "model": {**config.model.model_dump(mode="json"), "weights": None},
        "seed": config.seed,
        "config_digest": config.model_copy(update={"sites": ()}).digest(),
        "round": number,
        "rounds": config.federation.rounds,
        "normalisation": config.federation.normalisation,
        **(
            {"new_site_layers": config.federation.new_site_layers} if config.federation.normalisation == "local" else {}
        ),
        **privacy_facts(config.federation.privacy, rates),
        "inference": config.inference.model_dump(mode="json"),
        "prepare": _common_settings(facts),
        "data": {
            "sites": len(facts),
            "modalities": dict(sorted(Counter(site.modality for site in facts).items())),
            "cases": sum(site.cases for site in facts),
            "train_slices": sum(site.train_slices for site in facts),
            "size": facts[0].size,
        },
    }
    return organ_card(config, card)


def _common_settings(facts: Sequence[SiteFacts]) -> dict[str, Any]:
    """Per modality how volumes were prepared, where more than half of its sites agree."""
    found: dict[str, Counter[str]] = {}
    for (modalities, text), count in Counter((site.modality, site.settings) for site in facts).items():
        for modality in modalities.split("+"):
            settings = json.dumps({**from_json(text), "modality": modality})
            found.setdefault(modality, Counter())[settings] += count
    common = {kind: given.most_common(1)[0] for kind, given in sorted(found.items())}
    return {kind: from_json(text) for kind, (text, count) in common.items() if 2 * count > found[kind].total()}


def _settings_for_sites(config: ExperimentConfig) -> str:
    """The experiment as JSON, without what no site needs to know: the other sites, paths at the server."""
    model = config.model.model_copy(update={"weights": None})
    return json.dumps(config.model_copy(update={"sites": (), "model": model}).model_dump(mode="json"))
