"""Whole runs of each federated algorithm: records, resume, the proximal term, and the model for an new site."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcowpro.config import ExperimentConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.site import Site
from fedcowpro.federated.monitoring.rounds import read_rounds
from fedcowpro.federated.run import federate
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.federated.server.server_app import common_layers
from fedcowpro.federated.site import client_app
from fedcowpro.federated.site import local_training as task
from fedcowpro.model.checkpoint import load_checkpoint, load_model, load_tensors
from fedcowpro.model.segmenter import build_model

pytestmark = pytest.mark.slow

Experiment = Callable[..., ExperimentConfig]
Sites = dict[str, Path]
Finished = Callable[[ExperimentConfig], Path]
SLICES = {"alpha": 4, "beta": 6, "gamma": 5}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "uniform": {"weighting": "uniform"},
    "fedprox": {"proximal": 0.1},
    "fedadam": {"server_optimizer": "adam"},
    "median": {"aggregate": "median", "weighting": "uniform"},
    "trimmed-mean": {"aggregate": "trimmed-mean", "weighting": "uniform", "trim": 0.4},
    "fedbn, adam, prox": {"normalisation": "local", "server_optimizer": "adam", "proximal": 0.1},
    "fedbn, median": {"normalisation": "local", "aggregate": "median", "weighting": "uniform"},
}


def digests(out: Path) -> dict[str, str]:
    """Digest of each file of weights of a run, by its path in it."""
    return {
        str(file.relative_to(out)): load_checkpoint(file)[1]["weights_digest"]
        for file in sorted([out / "model.safetensors", *(out / "sites").glob("*.safetensors")])
    }


def interrupt(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Stop in the `call`-th local training (from 1), after its work."""
    real, calls = task.fit, iter(range(1, 1000))

    def fit(*args: Any, **kwargs: Any) -> Any:
        report = real(*args, **kwargs)
        if next(calls) == call:
            raise KeyboardInterrupt
        return report

    monkeypatch.setattr(task, "fit", fit)


@pytest.mark.parametrize(
    "name",
    [
        "fedbn, adam, prox",
        "fedbn, median",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("fedprox", "fedadam", "median", "trimmed-mean")),
    ],
)
def test_interrupted_run_of_every_algorithm_ends_in_the_same_weights(
    sites: Sites,
    experiment: Experiment,
    finished: Finished,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    config = experiment(**ALGORITHMS[name])
    whole = finished(config)
    with monkeypatch.context() as patch:
        interrupt(patch, 8)  # in the last of three rounds
        with pytest.raises(KeyboardInterrupt):
            federate(config, sites, tmp_path / "broken", progress=False)
    federate(config, sites, tmp_path / "broken", progress=False)
    assert digests(tmp_path / "broken") == digests(whole)
    records = [read_rounds(run / "metrics.jsonl") for run in (whole, tmp_path / "broken")]
    steps, again = ([record.step_norm for record in rounds] for rounds in records)
    assert steps == again
    assert all(step > 0 for step in steps)


def test_algorithms_differ(experiment: Experiment, finished: Finished) -> None:
    runs = {name: finished(experiment(**settings)) for name, settings in ALGORITHMS.items()}
    found = {name: digests(run)["model.safetensors"] for name, run in runs.items()}
    assert found.pop("trimmed-mean") == found["median"]  # of three sites both keep the middle one
    assert len(set(found.values())) == len(ALGORITHMS) - 1


def test_moments_are_kept_with_the_round(experiment: Experiment, finished: Finished) -> None:
    config = experiment(server_optimizer="adam")
    moments = load_tensors(finished(config) / "rounds/round_0002/server.safetensors")
    learnt = task.learnt_names(build_model(config.model, config.seed))
    assert set(moments) == {f"{kind}_moment/{name}" for kind in ("first", "second") for name in learnt}
    assert not (finished(experiment()) / "rounds/round_0001/server.safetensors").exists()


def test_too_few_sites_for_a_robust_aggregate_stop_before_anything_is_written(
    sites: Sites, experiment: Experiment, tmp_path: Path
) -> None:
    two = {name: sites[name] for name in ("alpha", "beta")}
    config = experiment(aggregate="trimmed-mean", weighting="uniform", trim=0.4)
    with pytest.raises(FedCoWProError, match="with 2 replies in a round"):
        federate(config, two, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- FedProx


def test_proximal_term_and_its_gradient() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).double()
    names = {"0.weight", "1.bias"}
    term = task.proximal_term(model, names, 0.3)
    assert term(model).item() == 0  # type: ignore[arg-type]
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value += torch.randn(value.shape, generator=generator, dtype=value.dtype)
    value = term(model)  # type: ignore[arg-type]
    value.backward()
    now = dict(model.named_parameters())
    by_hand = 0.15 * sum((now[name].detach() - start[name]).square().sum().item() for name in names)
    assert value.item() == pytest.approx(by_hand, rel=1e-12)
    for name, parameter in now.items():
        if name in names:
            torch.testing.assert_close(parameter.grad, 0.3 * (parameter - start[name]).detach())
        else:
            assert parameter.grad is None


@pytest.mark.parametrize("normalisation", ["averaged", "local"])
def test_proximal_term_is_logged_and_holds_the_weights_back(
    sites: Sites, experiment: Experiment, normalisation: str
) -> None:
    norms, values = [], []
    for mu in (0.0, 0.1, 100.0):
        config = experiment(proximal=mu, local_steps=8, normalisation=normalisation)
        state = build_model(config.model, config.seed).state_dict()
        model = build_model(config.model, config.seed)
        received = {name: state[name] for name in task.exchanged_names(model)}
        update = task.local_update(config, "alpha", Site.open(sites["alpha"]), received, {}, 1)
        learnt = task.learnt_names(model) & set(update.shared)
        norms.append(sum(float((update.shared[name] - state[name]).square().sum()) for name in learnt))
        losses = update.report.losses
        values.append(losses.get("proximal"))
        parts = sum(value for name, value in losses.items() if name != "total")
        assert losses["total"] == pytest.approx(parts, rel=1e-4)
    assert values[0] is None
    assert values[1] is not None
    assert values[1] > 0
    assert norms[2] < norms[1] < norms[0]


# ---------------------------------------------------------------- local normalisation and new sites


def own_layers(out: Path) -> dict[str, dict[str, torch.Tensor]]:
    last = max((out / "rounds").iterdir())
    return {site: load_tensors(last / "sites" / f"{site}.safetensors") for site in SLICES}


@pytest.mark.parametrize("weighting", ["slices", "uniform"])
def test_an_unseen_site_gets_the_average_of_the_sites_layers(
    sites: Sites, experiment: Experiment, tmp_path: Path, weighting: str
) -> None:
    config = experiment(rounds=2, normalisation="local", weighting=weighting)
    model, card = load_model(federate(config, sites, tmp_path, progress=True))
    assert (card["normalisation"], card["new_site_layers"]) == ("local", "average")
    assert not re.search(rf"(?<![a-z])({'|'.join(sites)})(?![a-z])", json.dumps(card))
    own, state = own_layers(tmp_path), model.state_dict()
    weights = {name: count / 15 if weighting == "slices" else 1 / 3 for name, count in SLICES.items()}
    local = task.normalisation_names(model)
    for name in local & task.exchanged_names(model):
        mean = sum(weights[site] * own[site][name].double() for site in SLICES)
        torch.testing.assert_close(state[name].double(), mean, rtol=1e-6, atol=1e-7)
    # Each site that trained keeps its own layers; the rest is common to all.
    for site in SLICES:
        theirs = load_model(tmp_path / "sites" / f"{site}.safetensors")[0].state_dict()
        assert all(torch.equal(theirs[name], own[site][name] if name in local else state[name]) for name in theirs)


def test_after_one_round_local_layers_average_to_federated_averaging(
    experiment: Experiment, finished: Finished
) -> None:
    runs = [finished(experiment(rounds=1, normalisation=name)) for name in ("local", "averaged")]
    local, averaged = (digests(run)["model.safetensors"] for run in runs)
    assert local == averaged


def test_robust_aggregates_hold_for_the_layers_too(experiment: Experiment, finished: Finished) -> None:
    out = finished(experiment(**ALGORITHMS["fedbn, median"]))
    state = load_model(out / "model.safetensors")[0].state_dict()
    own, name = own_layers(out), "encoder.layers.1.running_mean"
    middle = torch.stack([own[site][name] for site in SLICES]).median(0).values
    torch.testing.assert_close(state[name], middle, rtol=1e-6, atol=1e-7)


def test_layers_are_asked_for_once_after_the_last_round(
    sites: Sites, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[str] = []
    real = InProcessGrid._deliver

    def deliver(self: InProcessGrid, message: Any) -> str:
        kinds.append(message.metadata.message_type)
        return real(self, message)

    monkeypatch.setattr(InProcessGrid, "_deliver", deliver)
    for number, (settings, asked) in enumerate([
        ({"normalisation": "local"}, True), ({}, False),
        ({"normalisation": "local", "new_site_layers": "initial"}, False),
    ]):  # fmt: skip
        kinds.clear()
        federate(experiment(rounds=2, **settings), sites, tmp_path / str(number), progress=False)
        assert kinds == ["query"] * 3 + ["train"] * 6 + ["query.layers"] * 3 * asked


def test_a_run_cut_off_before_the_layers_were_asked_for_ends_alike(
    sites: Sites, experiment: Experiment, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = experiment(rounds=2, normalisation="local")

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            federate(config, sites, tmp_path / "broken", progress=False)
    federate(config, sites, tmp_path / "broken", progress=False)
    assert digests(tmp_path / "broken") == digests(finished(config))


def test_a_site_without_layers_is_named_or_left_out(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    grid = InProcessGrid(client_app.app, {"alpha": {"site-name": "alpha", "site-path": str(sites["alpha"])}})
    names, like = {2: "alpha"}, {"norm.weight": torch.ones(2)}
    with pytest.raises(FedCoWProError, match="site 'alpha' has no normalisation layers of its own"):
        common_layers(grid, names, experiment(normalisation="local"), like, 3)
    assert common_layers(grid, names, experiment(), {}, 3) == {}
