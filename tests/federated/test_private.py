"""Whole runs under privacy: what reaches the server, and that hiding an update does not change what is learnt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message, UserConfig
from pydantic import ValidationError

from fedcowpro.config import ExperimentConfig, FederationConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.governance.audit_log import read_audit
from fedcowpro.federated.monitoring.rounds import read_rounds
from fedcowpro.federated.privacy.accountant import spent
from fedcowpro.federated.run import federate
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.federated.server.secure_aggregator import SecureAggregator
from fedcowpro.federated.server.server_app import serve
from fedcowpro.federated.site import client_app
from fedcowpro.federated.site import local_training as task
from fedcowpro.model.checkpoint import load_checkpoint, load_tensors

pytestmark = pytest.mark.slow

Experiment = Callable[..., ExperimentConfig]
Sites = dict[str, Path]
WIDE = {"clip": 1000.0, "noise_multiplier": 0.0, "randomness": "seed"}


@pytest.fixture
def private(experiment: Experiment) -> Callable[..., ExperimentConfig]:
    """Settings of a run with frozen statistics and equal weights, and with these of `federation.privacy`."""

    def make(privacy: dict[str, Any] | None = None, **federation: Any) -> ExperimentConfig:
        settings = experiment(weighting="uniform", **federation).model_dump()
        settings["model"]["frozen_norm"] = True
        settings["federation"]["privacy"] = privacy or {}
        return ExperimentConfig.model_validate(settings)

    return make


def weights(config: ExperimentConfig, sites: Sites, out: Path) -> dict[str, torch.Tensor]:
    return load_tensors(federate(config, sites, out, progress=False))


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.mark.parametrize(
    "privacy",
    [
        {"mechanism": "central", **WIDE},
        {"mechanism": "local", **WIDE},
        {"secure_aggregation": True, "clip": 5.0},
    ],
    ids=["central", "local", "secure aggregation"],
)
def test_without_noise_or_clipping_the_result_is_the_plain_average(
    sites: Sites, private: Experiment, tmp_path: Path, privacy: dict[str, Any]
) -> None:
    plain = weights(private(), sites, tmp_path / "plain")
    hidden = weights(private(privacy), sites, tmp_path / "hidden")
    # Fixed-point words of a wide clip are coarse; what training moved is far larger.
    assert distance(plain, hidden) < 2e-4


def test_clipping_bounds_the_step_and_noise_is_of_its_size(sites: Sites, private: Experiment, tmp_path: Path) -> None:
    federate(private({"mechanism": "central", **WIDE, "clip": 0.01}), sites, tmp_path / "clipped", progress=False)
    for record in read_rounds(tmp_path / "clipped" / "metrics.jsonl"):
        assert 0 < record.step_norm <= 0.01 * 1.001
    noisy = {"mechanism": "central", "clip": 0.01, "noise_multiplier": 100.0, "randomness": "seed"}
    federate(private(noisy, rounds=1), sites, tmp_path / "noisy", progress=False)
    (record,) = read_rounds(tmp_path / "noisy" / "metrics.jsonl")
    config = private()
    model = task.build_model(config.model, config.seed)
    count = sum(value.numel() for value in model.parameters() if value.requires_grad)
    expected = 100 * 0.01 / len(sites) * np.sqrt(count)
    assert record.step_norm == pytest.approx(expected, rel=0.1)


def test_epsilon_is_in_the_records(sites: Sites, private: Experiment, tmp_path: Path) -> None:
    privacy = {"mechanism": "central", "clip": 1.0, "noise_multiplier": 1.0, "randomness": "seed"}
    out = tmp_path / "run"
    federate(private(privacy), sites, out, progress=False)
    spent = [record.privacy["epsilon"] for record in read_rounds(out / "metrics.jsonl")]
    assert spent == sorted(spent)
    assert 0 < spent[0] < spent[-1]
    assert "epsilon" in (out / "run.json").read_text()
    assert "epsilon" in (out / "MODEL_CARD.md").read_text().lower()
    assert json.loads((out / "model.json").read_text())


def test_the_server_sees_words_that_are_no_update(
    sites: Sites, private: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masked words of a site are uniform over 32 bits, whatever its update; a site sends no loss either."""
    seen: dict[str, np.ndarray] = {}
    real = SecureAggregator._combine

    def spy(self: SecureAggregator, number: int, good: Any, *rest: Any) -> Any:
        seen.update({site: np.asarray(reply.arrays["masked"]) for site, reply in good.items()})
        assert not any(reply.metrics.losses for reply in good.values())
        return real(self, number, good, *rest)

    monkeypatch.setattr(SecureAggregator, "_combine", spy)
    federate(private({"secure_aggregation": True}, rounds=1), sites, tmp_path / "run", progress=False)
    assert set(seen) == set(sites)
    for words in seen.values():
        assert words.dtype == np.uint32
        bits = np.unpackbits(words.view(np.uint8))
        assert bits.mean() == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(len(bits)))


def test_a_site_that_falls_after_the_keys_is_survived(
    sites: Sites, make_site: Callable[..., Path], private: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = {**sites, "delta": make_site("delta", 4, 9)}
    real = task.fit

    def fit(*args: Any, **kwargs: Any) -> Any:
        if kwargs["generator"].initial_seed() == task.site_generator(config.seed, "delta", 1).initial_seed():
            raise OSError("the disk is gone")
        return real(*args, **kwargs)

    config = private({"secure_aggregation": True, "clip": 5.0}, rounds=1, min_sites=3)
    monkeypatch.setattr(task, "fit", fit)
    hidden = weights(config, four, tmp_path / "hidden")
    (record,) = read_rounds(tmp_path / "hidden" / "metrics.jsonl")
    assert list(record.left_out) == ["delta"]
    plain = weights(private(rounds=1), sites, tmp_path / "plain")
    assert distance(plain, hidden) < 2e-4


def test_sums_of_two_are_refused(sites: Sites, private: Experiment, tmp_path: Path) -> None:
    two = {name: sites[name] for name in ("alpha", "beta")}
    with pytest.raises(FedCoWProError, match="secure aggregation of 2 sites"):
        federate(private({"secure_aggregation": True}), two, tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("federation", "message"),
    [
        ({"aggregate": "median"}, "privacy"),
        ({"weighting": "slices"}, "weighting"),
        ({"precision": "float16"}, "precision"),
        ({"max_update_norm": 3.0}, "max_update_norm"),
    ],
)
def test_settings_that_need_single_updates_are_refused(federation: dict[str, Any], message: str) -> None:
    settings = {"weighting": "uniform", "privacy": {"secure_aggregation": True}, **federation}
    with pytest.raises(ValidationError, match=message):
        FederationConfig(**settings)


def test_statistics_that_would_travel_are_refused(experiment: Experiment) -> None:
    with pytest.raises(ValidationError, match="running statistics"):
        experiment(weighting="uniform", privacy={"mechanism": "central"})


@pytest.mark.parametrize("mechanism", ["central", "local"])
def test_epsilon_counts_the_releases_of_repeated_rounds(
    sites: Sites, private: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    """The server falls twice between the noised result of round 2 and keeping it, then the user goes back a round."""
    config = private({"mechanism": mechanism, "clip": 0.1, "noise_multiplier": 1.0}, rounds=2, local_steps=1)
    commit, falls = RunFolder.commit, []

    def fall(self: RunFolder, number: int, *rest: Any) -> None:
        if number == 2 and len(falls) < 2:
            falls.append(number)
            raise KeyboardInterrupt
        commit(self, number, *rest)

    monkeypatch.setattr(RunFolder, "commit", fall)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            federate(config, sites, tmp_path, progress=False)
    federate(config, sites, tmp_path, progress=False)
    entries, _, _ = read_audit(tmp_path / "audit" / "alpha.jsonl")
    assert sum(entry.event.kind == "train" and entry.event.decision == "sent" for entry in entries) == 4
    assert told(tmp_path) == (4, epsilon_of(config, 4))
    federate(config, sites, tmp_path, progress=False, from_round=1)
    assert told(tmp_path) == (5, epsilon_of(config, 5))
    last = read_rounds(tmp_path / "metrics.jsonl")[-1]
    assert (last.privacy["releases"], last.privacy["epsilon"]) == told(tmp_path)
    assert "5 releases" in (tmp_path / "MODEL_CARD.md").read_text()


def told(run: Path) -> tuple[int, float]:
    """Releases and epsilon in the model's card."""
    facts = load_checkpoint(run)[1]["privacy"]
    return facts["releases"], facts["epsilon"]


def epsilon_of(config: ExperimentConfig, releases: int) -> float:
    cost = spent(config.federation.privacy, [1.0] * releases)
    assert cost is not None
    return round(cost.epsilon, 4)


def test_local_noise_counts_before_sites_are_asked(sites: Sites, private: Experiment, tmp_path: Path) -> None:
    """The server falls as soon as the first site of the first round has answered."""
    config = private({"mechanism": "local", "clip": 0.1}, rounds=1, local_steps=1)
    nodes: dict[str, UserConfig] = {
        name: {"site-name": name, "site-path": str(path), "audit-log": str(tmp_path / f"{name}.jsonl")}
        for name, path in sites.items()
    }

    def fall(site: str, reply: Message) -> None:
        if reply.metadata.message_type == "train":
            raise KeyboardInterrupt

    folder = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        serve(InProcessGrid(client_app.app, nodes, fall), config, folder)
    assert (folder.completed(), len(folder.releases.rates())) == (0, 1)
    serve(InProcessGrid(client_app.app, nodes), config, folder)
    assert told(folder.path) == (2, epsilon_of(config, 2))


def test_without_its_record_of_releases_a_private_run_does_not_go_on(
    sites: Sites, private: Experiment, tmp_path: Path
) -> None:
    config = private({"mechanism": "central", "clip": 0.1}, rounds=2, local_steps=1)
    federate(config, sites, tmp_path, progress=False)
    record = tmp_path / "releases.jsonl"
    record.write_bytes(record.read_bytes()[:-9])  # a crash cut the last line short; it counts
    federate(config, sites, tmp_path, progress=False, from_round=1)
    assert told(tmp_path)[0] == 3
    record.unlink()
    with pytest.raises(FedCoWProError, match=r"2 rounds, and a record of 0 releases"):
        federate(config, sites, tmp_path, progress=False, from_round=1)
