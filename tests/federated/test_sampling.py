"""Rounds that ask some of the sites: who is drawn, what a round without a site does, and that a run can be repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord
from pydantic import ValidationError

from fedcowpro.config import ExperimentConfig, FederationConfig, load
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.monitoring.rounds import append_round, read_rounds, round_totals
from fedcowpro.federated.privacy.noise import gaussian, noise_key
from fedcowpro.federated.privacy.releases import Releases
from fedcowpro.federated.run import federate
from fedcowpro.federated.server.aggregate import check_federation
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.server.private_aggregator import PrivateAggregator
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.federated.server.sampling import counted_rate, draw, sites_per_round, told_participants
from fedcowpro.federated.site import client_app
from fedcowpro.model.checkpoint import load_checkpoint

NODES = {number: f"site{number}" for number in range(40)}


def settings(fraction: float, mechanism: str = "none", **more: Any) -> FederationConfig:
    privacy = {"mechanism": mechanism, "randomness": "seed", **more.pop("privacy", {})}
    values = {"fraction": fraction, "weighting": "uniform", "privacy": privacy, **more}
    return FederationConfig.model_validate(values)


def test_a_round_asks_so_many_sites_each_as_often() -> None:
    config = settings(0.25)
    rounds = [draw(NODES, config, 0, number, 40) for number in range(1, 401)]
    assert {len(asked) for asked in rounds} == {10}
    assert all(NODES[node] == name for asked in rounds for node, name in asked.items())
    times = Counter(node for asked in rounds for node in asked)
    assert set(times) == set(NODES)
    assert max(abs(count - 100) for count in times.values()) < 5 * np.sqrt(400 * 0.25 * 0.75)
    assert draw(NODES, config, 0, 7, 40) == rounds[6] != draw(NODES, config, 1, 7, 40)
    assert draw(NODES, settings(1.0), 0, 1, 40) == NODES


def test_lots_do_not_depend_on_who_else_is_there() -> None:
    config = settings(0.25)
    whole = draw(NODES, config, 0, 1, 40)
    absent = next(iter(whole))
    rest = draw({node: name for node, name in NODES.items() if node != absent}, config, 0, 1, 40)
    assert len(rest) == len(whole)
    assert set(whole) - {absent} < set(rest)


def test_under_differential_privacy_each_site_is_drawn_by_itself() -> None:
    config = settings(0.25, "central")
    counts = [len(draw(NODES, config, 0, number, 40)) for number in range(1, 401)]
    assert np.mean(counts) == pytest.approx(10, abs=0.7)
    assert np.var(counts) == pytest.approx(40 * 0.25 * 0.75, rel=0.3)  # binomial
    secret = settings(0.25, "central", privacy={"randomness": "os"})
    assert len({frozenset(draw(NODES, secret, 0, 1, 40)) for _ in range(20)}) == 20  # not from the seed, which all know
    summed = settings(0.1, "central", min_sites=4, privacy={"secure_aggregation": True})
    assert {len(draw(NODES, summed, 0, number, 40)) for number in range(1, 50)} == {4}


def test_only_secret_draws_of_single_sites_count_as_sampling() -> None:
    assert counted_rate(settings(0.25, "central")) == 0.25
    assert counted_rate(settings(0.25, "local")) == counted_rate(settings(0.25)) == 1.0
    assert counted_rate(settings(0.25, "central", privacy={"secure_aggregation": True})) == 1.0
    assert told_participants({}, settings(0.25, "central"), 40) == 10  # sites do not learn how many were drawn
    assert told_participants({1, 2}, settings(0.25), 40) == 2


@pytest.mark.parametrize(("fraction", "more", "count"), [(0.25, {}, 10), (0.001, {}, 1), (0.25, {"min_sites": 12}, 12)])
def test_sites_per_round(fraction: float, more: dict[str, int], count: int) -> None:
    assert sites_per_round(settings(fraction, **more), 40) == count


def test_settings_that_so_few_sites_cannot_keep_are_refused() -> None:
    with pytest.raises(FedCoWProError, match="with 2 replies in a round"):
        check_federation(settings(0.05, aggregate="median"), 40)
    check_federation(settings(0.1, aggregate="median"), 40)
    with pytest.raises(FedCoWProError, match="secure aggregation of 20 sites that goes on with 3"):
        check_federation(settings(0.5, min_sites=3, privacy={"secure_aggregation": True}), 40)
    with pytest.raises(ValidationError, match="has no layers to average"):
        settings(0.5, normalisation="local")
    with pytest.raises(ValidationError, match="fraction"):
        settings(0.0)


def test_a_run_asks_some_and_can_be_gone_back_to(
    sites: dict[str, Path], experiment: Callable[..., ExperimentConfig], tmp_path: Path
) -> None:
    config = experiment(fraction=0.6, rounds=4)
    model = federate(config, sites, tmp_path, progress=False)
    whole = [[site.site for site in record.sites] for record in read_rounds(tmp_path / "metrics.jsonl")]
    assert [len(asked) for asked in whole] == [2] * 4
    assert len({*map(tuple, whole)}) > 1
    assert all(record.left_out == {} for record in read_rounds(tmp_path / "metrics.jsonl"))
    before = load_checkpoint(model)[1]["weights_digest"]
    RunFolder(tmp_path).go_back(2, load(ExperimentConfig, tmp_path / "config.yaml"))
    federate(config, sites, tmp_path, progress=False)
    assert [[site.site for site in record.sites] for record in read_rounds(tmp_path / "metrics.jsonl")] == whole
    assert load_checkpoint(model)[1]["weights_digest"] == before


@pytest.mark.parametrize("mechanism", ["central", "local"])
def test_a_round_that_draws_nobody(mechanism: str, tmp_path: Path) -> None:
    """The central mechanism still adds its noise, for the number of sites that was to be expected."""
    before = {"w": np.zeros((50, 20), np.float32)}
    config = settings(0.25, mechanism, privacy={"clip": 2.0, "noise_multiplier": 3.0})
    releases = Releases(tmp_path / "releases.jsonl")
    aggregator = PrivateAggregator(NODES, before, config, seed=5, learnt=before, releases=releases)
    grid = InProcessGrid(client_app.app, {})
    aggregator.take_part({}, {})
    assert aggregator.messages(1, before, ConfigRecord(), grid) == []
    after, record = aggregator.aggregate(1, [])
    if mechanism == "central":
        noise = 3.0 * 2.0 / (0.25 * 40) * gaussian(noise_key("seed", 5, "server", 1), "w", (50, 20))
        np.testing.assert_allclose(after["w"], noise, rtol=1e-6)
    else:
        np.testing.assert_array_equal(after["w"], before["w"])
    assert record.sites == ()
    assert releases.rates() == [0.25 if mechanism == "central" else 1.0]  # who is asked knows the local one
    assert np.isnan(round_totals(record)["loss"])
    append_round(tmp_path / "metrics.jsonl", record)
    assert [one.sites for one in read_rounds(tmp_path / "metrics.jsonl")] == [()]
