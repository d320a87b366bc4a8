"""Whole runs in one process: repeatable, interruptible, and careful about what goes on."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict, UserConfig

from fedcowpro.config import ExperimentConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.run import federate
from fedcowpro.federated.server import server_app
from fedcowpro.federated.server.client_registry import ClientRegistry
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.federated.site import client_app
from fedcowpro.federated.site import local_training as task
from fedcowpro.federated.transport import messages as records
from fedcowpro.model.checkpoint import load_checkpoint, load_model, load_tensors
from fedcowpro.model.segmenter import build_model

Experiment = Callable[..., ExperimentConfig]
Sites = dict[str, Path]
Finished = Callable[[ExperimentConfig], Path]


def digest(checkpoint: Path) -> str:
    return load_checkpoint(checkpoint)[1]["weights_digest"]


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def interrupt_fit(monkeypatch: pytest.MonkeyPatch, call: int, error: type[BaseException]) -> None:
    """Let the `call`-th local training (from 1) fail after its work."""
    real, calls = task.fit, iter(range(1, 1000))

    def fit(*args: Any, **kwargs: Any) -> Any:
        report = real(*args, **kwargs)
        if next(calls) == call:
            raise error("hook")
        return report

    monkeypatch.setattr(task, "fit", fit)


def test_same_seed_gives_the_same_weights(
    sites: Sites, experiment: Experiment, finished: Finished, tmp_path: Path
) -> None:
    first = finished(experiment()) / "model.safetensors"
    backwards = dict(reversed(sites.items()))
    second = federate(experiment(), backwards, tmp_path / "2", progress=False)
    other = federate(experiment(seed=1), sites, tmp_path / "3", progress=False)
    assert digest(first) == digest(second) != digest(other)


def test_run_leaves_a_loadable_model_and_its_records(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    config = experiment()
    model, card = load_model(federate(config, sites, tmp_path, progress=True))
    assert not model.training
    assert (card["round"], card["seed"]) == (3, 0)
    assert card["data"] == {"sites": 3, "modalities": {"ct": 3}, "cases": 3, "train_slices": 15, "size": 64}
    assert not re.search(rf"(?<![a-z])({'|'.join(sites)}|case-1)(?![a-z])", json.dumps(card))
    initial = build_model(config.model, config.seed).state_dict()
    assert not torch.equal(model.state_dict()["project.weight"], initial["project.weight"])

    found = lines(tmp_path)
    assert [(line["round"], line.get("site")) for line in found if line["kind"] == "site"] == [
        (number, site) for number in (1, 2, 3) for site in sorted(sites)
    ]
    assert all(line["update_norm"] > 0 and line["bytes_up"] > 0 for line in found if line["kind"] == "site")
    assert {line["sites"] for line in found if line["kind"] == "round"} == {3}
    weights = {line["site"]: line["weight"] for line in found if line["kind"] == "site"}
    assert weights == pytest.approx({"alpha": 4 / 15, "beta": 6 / 15, "gamma": 5 / 15})
    record = json.loads((tmp_path / "run.json").read_text())
    assert sorted(record["sites"]) == sorted(sites)
    assert sorted(folder.name for folder in (tmp_path / "rounds").iterdir()) == [f"round_000{n}" for n in (1, 2, 3)]


@pytest.mark.parametrize("normalisation", ["averaged", "local"])
@pytest.mark.parametrize("call", [2, 5])  # in the first round, and in the second
def test_interrupted_run_ends_in_the_same_weights(
    sites: Sites,
    experiment: Experiment,
    finished: Finished,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    normalisation: str,
    call: int,
) -> None:
    config = experiment(normalisation=normalisation)
    whole = finished(config)
    out = tmp_path / "broken"
    capsys.readouterr()
    with monkeypatch.context() as patch:
        interrupt_fit(patch, call, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            federate(config, sites, out, progress=False)
    assert f"{call // 3} of 3 rounds" in " ".join(capsys.readouterr().err.split())
    assert not (out / "model.safetensors").exists()
    resumed = federate(config, sites, out, progress=False)
    assert digest(resumed) == digest(whole / "model.safetensors")
    for site in sites if normalisation == "local" else ():
        assert digest(out / "sites" / f"{site}.safetensors") == digest(whole / "sites" / f"{site}.safetensors")
    same = ("round", "site", "losses", "update_norm", "pseudo_dice", "loss")
    pick = [[{key: line.get(key) for key in same} for line in lines(run)] for run in (out, whole)]
    assert pick[0] == pick[1]


def test_interruption_between_metrics_and_checkpoint_is_tidied_up(
    sites: Sites, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = RunFolder.commit

    def commit(self: RunFolder, number: int, *args: Any) -> None:
        if number == 2:
            with (tmp_path / "metrics.jsonl").open("a") as file:
                file.write('{"kind": "si')
            raise KeyboardInterrupt
        real(self, number, *args)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "commit", commit)
        with pytest.raises(KeyboardInterrupt):
            federate(experiment(), sites, tmp_path, progress=False)
    federate(experiment(), sites, tmp_path, progress=False)
    assert [line["round"] for line in lines(tmp_path) if line["kind"] == "round"] == [1, 2, 3]


def test_finished_run_says_so(
    sites: Sites, experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = federate(experiment(rounds=1), sites, tmp_path, progress=False)
    before = checkpoint.stat().st_mtime_ns
    assert federate(experiment(rounds=1), sites, tmp_path, progress=False) == checkpoint
    assert "finished" in capsys.readouterr().err
    assert checkpoint.stat().st_mtime_ns == before
    checkpoint.unlink()
    assert federate(experiment(rounds=1), sites, tmp_path, progress=False).exists()


def test_resume_is_refused_for_another_run(
    sites: Sites, experiment: Experiment, make_site: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    federate(experiment(rounds=1), sites, out, progress=False)
    with pytest.raises(FedCoWProError, match="settings of digest"):
        federate(experiment(rounds=2), sites, out, progress=False)
    with pytest.raises(FedCoWProError, match=r"sites \['gamma'\] are not as they were"):
        federate(experiment(rounds=1), {**sites, "gamma": make_site("gamma", seed=99)}, out, progress=False)
    with pytest.raises(FedCoWProError, match=r"sites \['gamma'\]"):
        federate(experiment(rounds=1), {name: sites[name] for name in ("alpha", "beta")}, out, progress=False)
    with pytest.raises(FedCoWProError, match="holds a run already"):
        federate(experiment(rounds=1), sites, out, resume=False, progress=False)


def test_moved_site_folders_do_not_stop_a_run(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    federate(experiment(rounds=1), sites, tmp_path / "run", progress=False)
    moved = {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in sites.items()}
    federate(experiment(rounds=1), moved, tmp_path / "run", progress=False)


def test_unfit_sites_are_refused_before_anything_is_written(
    sites: Sites, experiment: Experiment, make_site: Callable[..., Path], tmp_path: Path
) -> None:
    cases = {
        "no folder": {**sites, "delta": tmp_path / "nowhere"},
        "no slice to train on": {**sites, "delta": make_site("held-out", role="query")},
        "differ in size": {**sites, "delta": make_site("large", size=96)},
        "0 sites": {},
        "sites.0.name": {**sites, "../up": sites["alpha"]},
    }
    for message, chosen in cases.items():
        with pytest.raises(FedCoWProError, match=message):
            federate(experiment(), chosen, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_failing_site_is_named_or_left_out(
    sites: Sites,
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as patch:
        interrupt_fit(patch, 2, RuntimeError)
        with pytest.raises(FedCoWProError, match=r"round 1: .*site 'beta': RuntimeError: hook"):
            federate(experiment(), sites, tmp_path / "all", progress=False)
    assert [record.levelno for record in caplog.records if record.exc_info] == [logging.ERROR]
    with monkeypatch.context() as patch:
        interrupt_fit(patch, 5, RuntimeError)
        federate(experiment(min_sites=2), sites, tmp_path / "some", progress=True)
    rounds = [line for line in lines(tmp_path / "some") if line["kind"] == "round"]
    assert [line["left_out"] for line in rounds] == [{}, {"beta": "RuntimeError: hook"}, {}]
    assert [line["sites"] for line in rounds] == [3, 2, 3]


def test_local_normalisation_stays_at_the_site(
    sites: Sites, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    real = InProcessGrid._deliver

    def deliver(self: InProcessGrid, message: Any) -> str:
        key = real(self, message)
        sent.extend(self._replies[key].content.get("arrays", {}))
        return key

    monkeypatch.setattr(InProcessGrid, "_deliver", deliver)
    config = experiment(normalisation="local", new_site_layers="initial")
    checkpoint = federate(config, sites, tmp_path, progress=False)
    initial = build_model(config.model, config.seed)
    local = task.normalisation_names(initial)
    assert len(local) == 15
    assert set(sent) == set(initial.state_dict()) - local

    model, card = load_model(checkpoint)
    assert (card["normalisation"], card["new_site_layers"]) == ("local", "initial")
    assert all(torch.equal(model.state_dict()[name], initial.state_dict()[name]) for name in local)
    own = {site: load_tensors(tmp_path / "rounds/round_0003/sites" / f"{site}.safetensors") for site in sites}
    assert set(own["alpha"]) == local
    mean, counter = "encoder.layers.1.running_mean", "encoder.layers.1.num_batches_tracked"
    assert not torch.equal(own["alpha"][mean], own["beta"][mean])
    assert own["alpha"][counter].dtype == torch.int64
    assert int(own["alpha"][counter]) == 6  # 3 rounds of 2 steps: restored in each
    site_model, _ = load_model(tmp_path / "sites" / "alpha.safetensors")
    assert torch.equal(site_model.state_dict()[mean], own["alpha"][mean])
    shared = "project.weight"
    assert torch.equal(site_model.state_dict()[shared], model.state_dict()[shared])


def test_apps_ask_for_what_they_lack(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    grid = InProcessGrid(client_app.app, {"alpha": {}})
    context = Context(1, 0, {}, RecordDict(), {})
    with pytest.raises(FedCoWProError, match="'experiment' and 'out'"):
        server_app.app(grid, context)
    with pytest.raises(FedCoWProError, match="'site-name' and 'site-path'"):
        ClientRegistry([]).gather(grid, experiment().federation)
    node: UserConfig = {"site-name": "alpha", "site-path": str(sites["alpha"])}
    grid = InProcessGrid(client_app.app, {"alpha": node})
    replies = list(grid.send_and_receive([Message(RecordDict(), 2, "train")]))
    assert "lacks weights or settings" in str(replies[0].error.reason)
    arrays = records.to_record({"odd": torch.zeros(1)})
    settings = ConfigRecord({"experiment": experiment().model_dump_json(), "server-round": 1})
    message = Message(RecordDict({"arrays": arrays, "config": settings}), 2, "train")
    assert "differ in" in str(next(iter(grid.send_and_receive([message]))).error.reason)


def test_a_foreign_engine_does_not_resume_local_normalisation(
    sites: Sites, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_fit(patch, 4, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            federate(experiment(normalisation="local"), sites, tmp_path, progress=False)
    monkeypatch.setattr(InProcessGrid, "site_states", lambda self: {})
    with pytest.raises(FedCoWProError, match="local normalisation was interrupted"):
        federate(experiment(normalisation="local"), sites, tmp_path, progress=False)


def test_generator_depends_on_seed_site_and_round_only() -> None:
    seeds = {
        task.site_generator(*key).initial_seed()
        for key in ((0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", 11), (0, "a1", 1))
    }
    assert len(seeds) == 6
    assert task.site_generator(0, "a", 1).initial_seed() == task.site_generator(0, "a", 1).initial_seed()


def test_engine_settings_are_put_back(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    state = torch.random.get_rng_state()
    federate(experiment(rounds=1), sites, tmp_path, progress=False)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.slow
def test_no_ray_no_telemetry() -> None:
    code = (
        "import os, sys, socket\n"
        "def refuse(*args, **kwargs): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "import fedcowpro.federated.run\n"
        "import flwr.supercore.telemetry as telemetry\n"
        "assert 'ray' not in sys.modules\n"
        "assert telemetry.FLWR_TELEMETRY_ENABLED == '0'\n"
        "assert os.environ['FLWR_DISABLE_UPDATE_CHECK'] == '1'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
