"""Averages against hand-computed ones, and every kind of bad reply."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedcowpro.config import FederationConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.monitoring.rounds import RoundRecord
from fedcowpro.federated.server import replies as replies_module
from fedcowpro.federated.server.aggregator import Aggregator
from fedcowpro.federated.server.in_process_grid import InProcessGrid

BEFORE = {"bias": np.zeros(2, np.float32), "weight": np.ones((2, 3), np.float32)}
VALUES = {"a": (1.0, 10), "b": (2.0, 20), "c": (4.0, 70)}  # site -> (what it adds, its slices)
Spoil = Callable[[RecordDict], None]


def client(spoilt: str = "", spoil: Spoil | None = None) -> ClientApp:
    """Adds its site's value to every array; the site `spoilt` does `spoil` to its reply."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site = str(context.node_config["site-name"])
        value, slices = VALUES[site]
        arrays = {name: Array(array.numpy() + np.float32(value)) for name, array in message.content["arrays"].items()}
        metrics = MetricRecord({"num-examples": slices, "loss-total": value, "pseudo-dice": 0.5, "seconds": 0.1})
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
        if site == spoilt and spoil is not None:
            spoil(content)
        return Message(content, reply_to=message)

    return app


def one_round(
    app: ClientApp, weighting: str = "slices", min_sites: int | None = None
) -> tuple[dict[str, np.ndarray], RoundRecord]:
    grid = InProcessGrid(app, {site: {"site-name": site} for site in ("c", "a", "b")})
    names = dict(zip(grid.get_node_ids(), "abc", strict=True))
    aggregator = Aggregator(names, BEFORE, FederationConfig(weighting=weighting, min_sites=min_sites))
    replies = grid.send_and_receive(aggregator.messages(1, BEFORE, ConfigRecord(), grid))
    return aggregator.aggregate(1, reversed(list(replies)))


@pytest.mark.parametrize(("weighting", "mean"), [("slices", 0.1 * 1 + 0.2 * 2 + 0.7 * 4), ("uniform", 7 / 3)])
def test_average_is_the_weighted_mean(weighting: str, mean: float) -> None:
    averaged, record = one_round(client(), weighting)
    for name, before in BEFORE.items():
        assert averaged[name].dtype == np.float32
        np.testing.assert_allclose(averaged[name], before + mean, rtol=1e-6)
    assert [site.site for site in record.sites] == ["a", "b", "c"]
    assert sum(site.weight for site in record.sites) == pytest.approx(1)
    assert record.left_out == {}


def test_record_has_the_geometry_and_the_bytes_of_each_update() -> None:
    _, record = one_round(client())
    for site in record.sites:
        value, slices = VALUES[site.site]
        assert site.update_norm == pytest.approx(value * math.sqrt(8))
        assert site.update_cosine == pytest.approx(1)
        assert site.losses == {"total": value}
        assert site.train_slices == slices
        assert site.bytes_down > 8 * 4
        assert site.bytes_up > 8 * 4
    assert record.step_norm == pytest.approx((0.1 * 1 + 0.2 * 2 + 0.7 * 4) * math.sqrt(8))


def set_array(name: str, value: np.ndarray) -> Spoil:
    def spoil(content: RecordDict) -> None:
        content["arrays"][name] = Array(value)

    return spoil


def set_weight(value: float) -> Spoil:
    def spoil(content: RecordDict) -> None:
        content["metrics"]["num-examples"] = value

    return spoil


def set_metric(name: str, value: float | list[float]) -> Spoil:
    def spoil(content: RecordDict) -> None:
        content["metrics"][name] = value

    return spoil


def many_losses(content: RecordDict) -> None:
    content["metrics"].update({f"loss-k{number}": 1.0 for number in range(10_000)})


def add_junk(content: RecordDict) -> None:
    content["junk"] = ArrayRecord({"j": Array(np.zeros(1000, np.uint8))})


def remove_array(content: RecordDict) -> None:
    del content["arrays"]["bias"]


def remove_metrics(content: RecordDict) -> None:
    del content["metrics"]


def damage_array(content: RecordDict) -> None:
    content["arrays"]["bias"] = Array("float32", (2,), "numpy.ndarray", b"no array")


def fail(content: RecordDict) -> None:
    raise FedCoWProError("disk is full", "room", "delete something")


BAD = {
    "nan": (set_array("bias", np.array([0, np.nan], np.float32)), "'bias' has NaN or infinite"),
    "inf": (set_array("bias", np.array([0, np.inf], np.float32)), "'bias' has NaN or infinite"),
    "shape": (
        set_array("bias", np.zeros(1, np.float32)),
        r"'bias' is float32 \(1,\), expected float32 \(2,\)",
    ),
    "type": (set_array("bias", np.zeros(2)), "'bias' is float64"),
    "extra": (set_array("more", np.zeros(2, np.float32)), "not asked for, 'more'"),
    "missing": (remove_array, "1 arrays are missing, 'bias'"),
    "damaged": (damage_array, "'bias' cannot be read"),
    "no metrics": (remove_metrics, "instead of arrays and metrics"),
    "zero weight": (set_weight(0), "metric 'weight' is 0"),
    "negative weight": (set_weight(-1.0), "metric 'weight' is -1.0"),
    "nan weight": (set_weight(math.nan), "metric 'weight' is nan"),
    "exception": (fail, "disk is full"),
    "weight of a giant": (set_weight(1e9), "'weight' is 1000000000.0"),
    "whole number beyond floats": (set_weight(10**400), "'weight' is 1000"),
    "infinite steps": (set_metric("steps", math.inf), "metric 'steps' is inf"),
    "no steps": (set_metric("steps", math.nan), "metric 'steps' is nan"),
    "fractional steps": (set_metric("steps", 1.5), "metric 'steps' is 1.5"),
    "infinite time": (set_metric("seconds", math.inf), "metric 'seconds' is inf"),
    "list of losses": (set_metric("loss-total", [1.0, 2.0]), r"metric 'losses.total' is \[1.0, 2.0\]"),
    "infinite loss": (set_metric("loss-total", -math.inf), "metric 'losses.total' is -inf"),
    "markup": (set_metric("loss-<img src=x>", 1.0), "metric 'losses.<img src=x>"),
    "escape code": (set_metric("loss-\x1b[2J", 1.0), r"metric 'losses.\?\[2J"),
    "too many losses": (many_losses, "metric 'losses' is"),
    "unknown number": (set_metric("other", 1.0), "metric 'other' is 1.0"),
    "Dice beyond 1": (set_metric("pseudo-dice", 1.5), "metric 'pseudo_dice' is 1.5"),
    "more records": (add_junk, r"the reply has \['arrays', 'junk', 'metrics'\]"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_reply_stops_the_run_and_names_the_site(kind: str) -> None:
    spoil, reason = BAD[kind]
    with pytest.raises(FedCoWProError, match=f"round 1: .*site 'b': .*{reason}"):
        one_round(client("b", spoil))


@pytest.mark.parametrize("kind", BAD)
def test_bad_reply_is_left_out_where_fewer_sites_suffice(kind: str) -> None:
    spoil, _ = BAD[kind]
    averaged, record = one_round(client("b", spoil), min_sites=2)
    np.testing.assert_allclose(averaged["bias"], (10 * 1 + 70 * 4) / 80, rtol=1e-6)
    assert list(record.left_out) == ["b"]
    assert [site.site for site in record.sites] == ["a", "c"]


def test_a_site_counts_for_what_it_declared_and_for_no_more_than_ten_times_the_median() -> None:
    names = {2: "a", 3: "b", 4: "c"}
    grid = InProcessGrid(client("b", set_weight(9_999_999)), {site: {"site-name": site} for site in "abc"})
    declared = {site: slices for site, (_, slices) in VALUES.items()}

    def play(declared: dict[str, int]) -> RoundRecord:
        aggregator = Aggregator(names, BEFORE, FederationConfig(min_sites=2))
        aggregator.take_part(names, {}, declared)
        return aggregator.aggregate(1, grid.send_and_receive(aggregator.messages(1, BEFORE, ConfigRecord(), grid)))[1]

    record = play(declared)
    assert record.left_out == {"b": "it claims 1e+07 slices, but declared 20 at first"}
    assert {site.site: site.weight for site in record.sites} == {"a": 10 / 80, "c": 70 / 80}
    lied_from_the_start = play({**declared, "b": 9_999_999})
    weights = {site.site: site.weight for site in lied_from_the_start.sites}
    assert weights == pytest.approx({"a": 10 / 780, "b": 700 / 780, "c": 70 / 780})


def test_silent_site_is_named() -> None:
    grid = InProcessGrid(client(), {site: {"site-name": site} for site in "abc"})
    aggregator = Aggregator(dict(zip(grid.get_node_ids(), "abc", strict=True)), BEFORE, FederationConfig())
    replies = list(grid.send_and_receive(aggregator.messages(1, BEFORE, ConfigRecord(), grid)))
    with pytest.raises(FedCoWProError, match="site 'a': no reply"):
        aggregator.aggregate(1, replies[1:])
    with pytest.raises(FedCoWProError, match="0 of 3 sites"):
        aggregator.aggregate(1, [])


def test_min_sites_beyond_the_sites_is_refused() -> None:
    with pytest.raises(FedCoWProError, match="min_sites is 3 with 2 sites"):
        Aggregator({2: "a", 3: "b"}, BEFORE, FederationConfig(min_sites=3))


def test_clients_cannot_change_each_others_records() -> None:
    seen: list[list[str]] = []
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen.append([*message.content["arrays"], *message.content["config"]])
        message.content["arrays"].clear()
        message.content["config"]["mine"] = 1
        return Message(RecordDict(), reply_to=message)

    with pytest.raises(FedCoWProError):
        one_round(app)
    assert seen == [["bias", "weight", "server-round"]] * 3


def test_memory_does_not_grow_with_the_sites_once_its_room_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies_module, "ROOM", 4_500_000)
    before = {"weight": np.zeros((500, 1000), np.float32)}  # 2 MB
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = {name: Array(array.numpy() + np.float32(1)) for name, array in message.content["arrays"].items()}
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    def peak(count: int) -> int:
        names = [f"site-{number:02}" for number in range(count)]
        grid = InProcessGrid(app, {name: {"site-name": name} for name in names})
        nodes = dict(zip(grid.get_node_ids(), names, strict=True))
        aggregator = Aggregator(nodes, before, FederationConfig(), scratch=tmp_path / "replies")
        tracemalloc.start()
        averaged, _ = aggregator.aggregate(
            1, grid.send_and_receive(aggregator.messages(1, before, ConfigRecord(), grid))
        )
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        np.testing.assert_array_equal(averaged["weight"], 1)
        return used

    assert peak(16) < 1.1 * peak(4)
    assert list((tmp_path / "replies").iterdir()) == []


def test_few_replies_touch_no_disk(tmp_path: Path) -> None:
    grid = InProcessGrid(client(), {site: {"site-name": site} for site in "abc"})
    nodes = dict(zip(grid.get_node_ids(), "abc", strict=True))
    aggregator = Aggregator(nodes, BEFORE, FederationConfig(), scratch=tmp_path / "replies")
    aggregator.aggregate(1, grid.send_and_receive(aggregator.messages(1, BEFORE, ConfigRecord(), grid)))
    assert not (tmp_path / "replies").exists()
