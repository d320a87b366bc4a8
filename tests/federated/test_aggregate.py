"""The server's arithmetic: by hand, against Flower's strategies, and where it must refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedMedian, FedTrimmedAvg
from flwr.serverapp.strategy.strategy import Strategy
from pydantic import ValidationError

from fedcowpro.config import FederationConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.monitoring.rounds import RoundRecord
from fedcowpro.federated.server.aggregate import adam_step, check_federation, median, trimmed_mean, weighted_mean
from fedcowpro.federated.server.aggregator import Aggregator
from fedcowpro.federated.server.in_process_grid import InProcessGrid

SHAPES = {"bias": (3,), "mean": (3,), "scale": (), "weight": (3, 2, 3, 3)}
BUFFERS = {"mean"}
Arrays = dict[str, np.ndarray]


def start() -> Arrays:
    rng = np.random.default_rng(0)
    return {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in SHAPES.items()}


def client() -> ClientApp:
    """Moves every array by a draw of its own for site and round; site 'e' goes far astray."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site, number = str(context.node_config["site-name"]), int(message.content["config"]["server-round"])
        rng = np.random.default_rng([ord(site), number])
        scale = 100.0 if site == "e" else 0.01
        arrays = {
            name: Array(np.asarray(array.numpy() + rng.normal(0, scale, array.shape), np.float32))
            for name, array in sorted(message.content["arrays"].items())
        }
        metrics = MetricRecord({"num-examples": 10 + ord(site) % 3, "loss-total": 1.0})
        return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)

    return app


def ours(
    config: FederationConfig,
    sites: str,
    rounds: int,
    observe: Callable[[RoundRecord], None] = lambda record: None,
    learnt: set[str] | None = None,
) -> list[Arrays]:
    """The global arrays after each round; the limits on updates, which Flower's strategies lack, are off."""
    config = config.model_copy(update={"update_limits": "off"})
    names = set(SHAPES) - BUFFERS if learnt is None else learnt
    grid = InProcessGrid(client(), {site: {"site-name": site} for site in sites})
    nodes = dict(zip(grid.get_node_ids(), sorted(sites), strict=True))
    aggregator = Aggregator(nodes, SHAPES, config, learnt=names)
    seen = [start()]
    for number in range(1, rounds + 1):
        messages = aggregator.messages(number, seen[-1], ConfigRecord(), grid)
        averaged, record = aggregator.aggregate(number, list(grid.send_and_receive(messages)))
        observe(record)
        seen.append(averaged)
    return seen[1:]


def flowers(strategy: Strategy, sites: str, rounds: int) -> list[Arrays]:
    """The same of a strategy of Flower's."""
    grid = InProcessGrid(client(), {site: {"site-name": site} for site in sites})
    arrays, seen = ArrayRecord({name: Array(value) for name, value in start().items()}), []
    for number in range(1, rounds + 1):
        replies = grid.send_and_receive(strategy.configure_train(number, arrays, ConfigRecord(), grid))
        averaged, _ = strategy.aggregate_train(number, list(replies))
        assert averaged is not None
        # Flower's arithmetic leaves some arrays in double precision.
        seen.append({name: array.numpy().astype(np.float32) for name, array in averaged.items()})
        arrays = ArrayRecord({name: Array(value) for name, value in seen[-1].items()})
    return seen


def close(own: list[Arrays], other: list[Arrays], rtol: float = 2e-6) -> None:
    assert len(own) == len(other)
    for mine, theirs in zip(own, other, strict=True):
        assert set(mine) == set(theirs) == set(SHAPES)
        for name in SHAPES:
            assert mine[name].dtype == np.float32
            assert mine[name].shape == SHAPES[name]
            np.testing.assert_allclose(mine[name], theirs[name], rtol=rtol, atol=1e-7)


# ---------------------------------------------------------------- by hand


def test_robust_aggregates_by_hand() -> None:
    arrays = [np.array(values, np.float32) for values in ([1, 9], [2, 1], [4, 2], [99, 3])]
    np.testing.assert_array_equal(median(arrays), [3, 2.5])
    np.testing.assert_array_equal(median(arrays[:3]), [2, 2])
    np.testing.assert_array_equal(trimmed_mean(arrays, 0.25), [3, 2.5])
    np.testing.assert_array_equal(trimmed_mean(arrays, 0.2), [26.5, 3.75])  # 0.2 of 4 is less than one
    np.testing.assert_array_equal(trimmed_mean(arrays[:3], 0.34), [2, 2])
    np.testing.assert_allclose(weighted_mean(arrays, [0.5, 0.25, 0.25, 0]), [2, 5.25])


@pytest.mark.parametrize("aggregate", [median, lambda arrays: trimmed_mean(arrays, 0.25)])
def test_robust_aggregates_do_not_depend_on_the_order(aggregate: Callable[[list[np.ndarray]], np.ndarray]) -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=200).astype(np.float32) for _ in range(7)]
    np.testing.assert_array_equal(aggregate(arrays), aggregate(arrays[::-1]))


def test_two_adam_steps_by_hand() -> None:
    config = FederationConfig(server_lr=0.5, server_beta1=0.5, server_beta2=0.75, server_tau=0.25)
    before = {"w": np.zeros(1), "running": np.zeros(1)}
    after, moments = adam_step(1, before, {"w": np.array([2.0])}, {}, config)
    assert set(after) == {"w"}
    # m = 1, v = 1, rate = 0.5 sqrt(1 - 0.75^2) / (1 - 0.5^2)
    first = 0.5 * math.sqrt(0.4375) / 0.75 * 1 / 1.25
    np.testing.assert_allclose(after["w"], first)
    # d = 1 - first; m = 0.5 + 0.5 d; v = 0.75 + 0.25 d^2
    second, _ = adam_step(2, after, {"w": np.array([1.0])}, moments, config)
    change = 1 - first
    rate = 0.5 * math.sqrt(1 - 0.75**3) / (1 - 0.5**3)
    moved = rate * (0.5 + 0.5 * change) / (math.sqrt(0.75 + 0.25 * change**2) + 0.25)
    np.testing.assert_allclose(second["w"], first + moved)


# ---------------------------------------------------------------- Flower's strategies as oracles


def test_median_is_flowers() -> None:
    for sites in ("abcde", "abde"):
        config = FederationConfig(aggregate="median", weighting="uniform")
        close(ours(config, sites, 2), flowers(FedMedian(), sites, 2))


@pytest.mark.parametrize(("sites", "trim"), [("abcde", 0.2), ("abce", 0.25), ("abcde", 0.45)])
def test_trimmed_mean_is_flowers(sites: str, trim: float) -> None:
    config = FederationConfig(aggregate="trimmed-mean", trim=trim, weighting="uniform")
    close(ours(config, sites, 2), flowers(FedTrimmedAvg(beta=trim), sites, 2))


def test_adam_is_flowers_over_three_rounds() -> None:
    config = FederationConfig(
        server_optimizer="adam", server_lr=0.02, server_beta1=0.8, server_beta2=0.95, server_tau=0.003
    )
    other = flowers(FedAdam(eta=0.02, beta_1=0.8, beta_2=0.95, tau=0.003), "abcd", 3)
    # Flower steps all arrays alike; ours, told that all are learnt, must as well. Flower computes in single precision.
    close(ours(config, "abcd", 3, learnt=set(SHAPES)), other, rtol=1e-4)


def test_buffers_are_averaged_while_adam_moves_the_parameters() -> None:
    adam = ours(FederationConfig(server_optimizer="adam"), "abc", 1)[0]
    plain = ours(FederationConfig(), "abc", 1)[0]
    assert all(np.array_equal(adam[name], plain[name]) == (name in BUFFERS) for name in SHAPES)


def test_a_faulty_site_moves_the_mean_and_hardly_the_robust_ones() -> None:
    seen: list[RoundRecord] = []
    for aggregate in ("mean", "trimmed-mean", "median"):
        config = FederationConfig(aggregate=aggregate, weighting="uniform")
        moved = ours(config, "abce", 1, seen.append)[0]
        assert (max(float(np.abs(moved[name] - value).max()) for name, value in start().items()) > 1) == (
            aggregate == "mean"
        )
    steps = [record.step_norm for record in seen]
    assert steps[0] > 10 > 0.5 > steps[1] > 0
    assert steps[2] == pytest.approx(steps[1])  # of four values both keep the middle two


def test_replies_in_another_order_give_the_same_bits() -> None:
    config = FederationConfig(aggregate="trimmed-mean", weighting="uniform", server_optimizer="adam")
    first, second = (ours(config, sites, 2) for sites in ("abcd", "dcba"))
    for one, other in zip(first, second, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in SHAPES)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"aggregate": "median"}, "counts all sites alike; set weighting to uniform"),
        ({"aggregate": "trimmed-mean", "weighting": "slices"}, "counts all sites alike"),
        ({"aggregate": "trimmed-mean", "weighting": "uniform", "trim": 0.5}, "trim"),
        ({"proximal": -0.1}, "proximal"),
        ({"server_beta1": 1.0}, "server_beta1"),
        ({"server_tau": 0}, "server_tau"),
    ],
)
def test_senseless_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FederationConfig.model_validate(values)


@pytest.mark.parametrize(
    ("values", "sites", "message"),
    [
        ({"aggregate": "trimmed-mean", "trim": 0.49}, 2, "with 2 replies in a round federation.trim 0.49 cuts off"),
        ({"aggregate": "trimmed-mean"}, 3, "with 3 replies in a round federation.trim 0.25 cuts off none"),
        ({"aggregate": "trimmed-mean", "min_sites": 3}, 4, "cuts off none"),
        ({"aggregate": "median"}, 2, "at least 3, or the median is the mean"),
        ({"aggregate": "median", "min_sites": 2}, 4, "at least 3"),
        ({"min_sites": 3}, 2, "min_sites is 3 with 2 sites"),
    ],
)
def test_too_few_sites_for_the_aggregate_are_refused(values: dict[str, object], sites: int, message: str) -> None:
    with pytest.raises(FedCoWProError, match=message):
        check_federation(FederationConfig.model_validate({"weighting": "uniform", **values}), sites)


def test_enough_sites_are_accepted() -> None:
    for values, sites in (({"trim": 0.25}, 4), ({"trim": 0.34}, 3)):
        check_federation(
            FederationConfig.model_validate({"aggregate": "trimmed-mean", "weighting": "uniform", **values}), sites
        )
    check_federation(FederationConfig(aggregate="median", weighting="uniform"), 3)
    check_federation(FederationConfig(), 1)
