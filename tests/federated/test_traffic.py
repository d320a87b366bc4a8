"""What travels: whole runs in either precision, what half of it loses, and bytes from elsewhere that do no harm."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.app.message import array as array_module
from flwr.clientapp import ClientApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fedcowpro.config import ExperimentConfig, FederationConfig, ModelConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.monitoring.rounds import RoundRecord, read_rounds
from fedcowpro.federated.run import federate
from fedcowpro.federated.server.aggregator import Aggregator
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.site import local_training as task
from fedcowpro.federated.transport import messages as records
from fedcowpro.federated.transport.encoding import Downlink, decode, encode, receive
from fedcowpro.model.checkpoint import load_checkpoint, state_digest
from fedcowpro.model.segmenter import build_model

pytestmark = pytest.mark.slow

Experiment = Callable[..., ExperimentConfig]
Sites = dict[str, Path]
Finished = Callable[[ExperimentConfig], Path]
PRECISIONS = ("float32", "float16")
WIDER = ModelConfig(encoder="tiny", channels=64)


def digest(out: Path) -> str:
    return load_checkpoint(out)[1]["weights_digest"]


def rounds(out: Path) -> list[RoundRecord]:
    return read_rounds(out / "metrics.jsonl")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, sites: Sites) -> dict[str, Path]:
    """A finished run of two rounds in each precision."""
    folders = {}
    for name in PRECISIONS:
        federation = FederationConfig(rounds=2, local_steps=2, precision=name)
        config = ExperimentConfig(threads=1, model=WIDER, federation=federation)
        folders[name] = tmp_path_factory.mktemp(name)
        federate(config, sites, folders[name], progress=False)
    return folders


def test_half_precision_takes_half_the_bytes(done: dict[str, Path]) -> None:
    second = {name: rounds(out)[1].sites[0] for name, out in done.items()}
    model = build_model(WIDER, 0)
    full = sum(4 * tensor.numel() for tensor in model.state_dict().values() if tensor.is_floating_point())
    for out in done.values():
        assert {site.bytes_model for number in rounds(out) for site in number.sites} == {full}
        # Before the first training nothing differs from what the sites build for themselves: settings and a digest.
        assert all(site.bytes_down < 2500 for site in rounds(out)[0].sites)
    assert full < second["float32"].bytes_up < full + 3000
    for way in ("bytes_up", "bytes_down"):
        saved = getattr(second["float32"], way) - getattr(second["float16"], way)
        assert 0.95 < saved / (full / 2) <= 1  # all but vectors


def test_half_precision_ends_near_the_run_in_full(done: dict[str, Path]) -> None:
    start = build_model(WIDER, 0).state_dict()
    ends = {name: load_checkpoint(out)[0] for name, out in done.items()}
    learnt = [name for name, value in start.items() if value.dim() == 4]
    moved = torch.cat([(ends["float32"][name] - start[name]).flatten() for name in learnt]).norm()
    apart = torch.cat([(ends["float16"][name] - ends["float32"][name]).flatten() for name in learnt]).norm()
    assert 0 < apart < 0.01 * moved


def test_interrupted_run_ends_in_the_same_weights(
    sites: Sites, experiment: Experiment, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = experiment(precision="float16")
    whole, broken = finished(config), tmp_path / "broken"
    real, calls = task.fit, iter(range(1, 100))

    def fit(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 5:  # in round 2, after a site has answered
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(task, "fit", fit)
        with pytest.raises(KeyboardInterrupt):
            federate(config, sites, broken, progress=False)
    federate(config, sites, broken, progress=False)
    assert digest(broken) == digest(whole)
    norms = [[site.update_norm for number in rounds(run) for site in number.sites] for run in (whole, broken)]
    assert norms[0] == norms[1]


def test_frozen_statistics_do_not_travel(
    sites: Sites, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[set[str]] = []
    real = InProcessGrid._deliver

    def deliver(self: InProcessGrid, message: Any) -> str:
        key = real(self, message)
        sent.extend(set(content["arrays"]) for content in (message.content, self._replies[key].content)
                    if "arrays" in content)  # fmt: skip
        return key

    monkeypatch.setattr(InProcessGrid, "_deliver", deliver)
    config = experiment(rounds=2)
    config = config.model_copy(update={"model": ModelConfig(encoder="tiny", channels=8, frozen_norm=True)})
    federate(config, sites, tmp_path, progress=False)
    learnt = task.learnt_names(build_model(config.model, 0))
    assert sent == [set(), learnt] * 3 + [learnt, learnt] * 3


def test_an_initial_model_that_sites_cannot_build_is_sent(experiment: Experiment, finished: Finished) -> None:
    sent = finished(experiment(initial="send"))
    assert digest(sent) == digest(finished(experiment()))
    full = rounds(sent)[0].sites[0].bytes_model
    assert all(site.bytes_down > full for number in rounds(sent) for site in number.sites)


def test_another_initial_model_is_refused(experiment: Experiment) -> None:
    config = experiment()
    model = build_model(config.model, config.seed + 1)
    initial = {name: value.numpy() for name, value in model.state_dict().items() if value.is_floating_point()}
    content, _ = Downlink(initial).encode(initial, ConfigRecord())
    with pytest.raises(FedCoWProError, match=r"(?s)initial weights have the digest .*federation\.initial to send"):
        receive(content, config)
    built = build_model(config.model, config.seed).state_dict()
    floating = {name: value for name, value in built.items() if value.is_floating_point()}
    told = ConfigRecord({records.INITIAL: state_digest(floating)})
    for name, array, reason in (
        ("odd", Array(np.zeros(3, np.float32)), "'odd' of the server's model is no tensor"),
        ("project.weight", Array(np.zeros(3, np.float32)), r"is float32 \(3,\), expected"),
        ("project.weight", Array("float32", (8, 16, 1, 1), "zip", b""), "cannot be read"),
    ):
        broken = RecordDict({records.ARRAYS: ArrayRecord({name: array}), records.CONFIG: told})
        with pytest.raises(FedCoWProError, match=reason):
            receive(broken, config)


# ---------------------------------------------------------------- tensors to records and back

FLOATS = st.floats(-65000, 65000, width=32)
CHANGES = npst.array_shapes(min_dims=2, max_dims=4, max_side=9).flatmap(
    lambda shape: npst.arrays(np.float32, shape, elements=FLOATS)
)


@given(CHANGES)
def test_half_precision_keeps_its_bound(change: np.ndarray) -> None:
    start = np.zeros_like(change)
    record = encode({"w": change}, {"w": start}, "float16")
    found = decode(record["w"], start)
    assert (found.dtype, found.shape) == (np.float32, change.shape)
    exact = change.astype(np.float64)
    assert (np.abs(found - exact) <= np.maximum(np.abs(exact) / 2048, 2.0**-25)).all()
    assert len(record["w"].data) - 2 * change.size < 200


def test_full_precision_vectors_and_tensors_without_a_start_travel_bit_for_bit() -> None:
    rng = np.random.default_rng(2)
    vector = {"vector": rng.normal(size=4096).astype(np.float32)}  # as a running statistic
    values = {**vector, "new": rng.normal(size=(64, 64)).astype(np.float32)}
    start = {name: np.ones_like(value) for name, value in values.items()}
    for record in (encode(values, start, "float32"), encode(values, {"vector": start["vector"]}, "float16")):
        for name, value in values.items():
            np.testing.assert_array_equal(decode(record[name], start[name]), value)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_records_survive_the_way_over_the_network(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower cuts every array into chunks (5 MB; here less) and puts it together again."""
    monkeypatch.setattr(array_module, "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 1000)
    start = {"weight": np.zeros((40, 50), np.float32), "bias": np.zeros(3, np.float32)}
    values = {name: np.random.default_rng(3).normal(size=value.shape).astype(np.float32)
              for name, value in start.items()}  # fmt: skip
    record = encode(values, start, precision)
    objects = get_all_nested_objects(record)
    assert len(objects) > 5
    arrived = inflate_object_from_contents(record.object_id, {key: one.deflate() for key, one in objects.items()})
    assert isinstance(arrived, ArrayRecord)
    assert arrived.count_bytes() == record.count_bytes()
    for name in values:
        np.testing.assert_array_equal(decode(arrived[name], start[name]), decode(record[name], start[name]))


# ---------------------------------------------------------------- bytes from elsewhere

START = np.ones((40, 30), np.float32)
RAW = "numpy.ndarray"


def npy(value: np.ndarray) -> bytes:
    stream = BytesIO()
    np.save(stream, value)
    return stream.getvalue()


def header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def packed(data: bytes, dtype: str = "float32", shape: tuple[int, ...] = (40, 30), stype: str = RAW) -> Array:
    return Array(dtype, shape, stype, data)


BAD = {
    "other shape": (packed(b"", shape=(10**9, 10**9)), r"is float32 \(1000000000, 1000000000\)"),
    "other type": (packed(b"", dtype="float64"), "is float64"),
    "unknown": (packed(b"", stype="zip"), "encoding 'zip' is not known"),
    "full as half": (packed(npy(START), dtype="float16"), "its bytes hold float32"),
    "half as full": (packed(npy(START.astype(np.float16))), "its bytes hold float16"),
    "huge header": (packed(header((10**6, 10**6))), "its bytes hold float32"),
    "other header": (packed(npy(np.ones((30, 40), np.float32))), "its bytes hold float32"),
    "objects": (packed(header((40, 30), "|O") + bytes(9600)), "its bytes hold object"),
    "cut off": (packed(npy(START)[:-1]), "its bytes hold float32"),
    "no array": (packed(b"no array"), "cannot be read"),
    "nothing": (packed(b""), "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bytes_are_refused_without_the_memory_that_they_claim(name: str) -> None:
    array, message = BAD[name]
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        decode(array, START)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 1_000_000


@settings(max_examples=300)
@given(st.sampled_from(PRECISIONS), st.data())
def test_any_bytes_give_an_array_or_a_reason(precision: str, data: st.DataObject) -> None:
    whole = encode({"w": START + 1}, {"w": START}, precision)["w"].data
    at = data.draw(st.integers(0, len(whole)))
    garbage = whole[:at] + data.draw(st.binary(max_size=40)) + whole[at + data.draw(st.integers(0, 40)) :]
    try:
        found = decode(packed(garbage, precision), START)
    except ValueError:
        return
    assert found.shape == START.shape
    assert found.dtype == START.dtype


# ---------------------------------------------------------------- server and sites on plain arrays

BEFORE = {"bias": np.zeros(3, np.float32), "weight": np.ones((40, 50), np.float32)}


def change_of(site: str) -> np.ndarray:
    rng = np.random.default_rng(ord(site))
    return rng.normal(size=BEFORE["weight"].shape).astype(np.float32)


def client(precision: str, scale: float = 1.0, spoilt: Array | None = None) -> ClientApp:
    """Each site adds its own change; site b sends `spoilt` instead."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site = str(context.node_config["site-name"])
        start = {name: decode(array, BEFORE[name]) for name, array in message.content["arrays"].items()}
        start = BEFORE | start
        values = {"bias": start["bias"], "weight": start["weight"] + np.float32(scale) * change_of(site)}
        arrays = encode(values, start, precision)
        if site == "b" and spoilt is not None:
            arrays["weight"] = spoilt
        metrics = MetricRecord({"num-examples": 1, "loss-total": 1.0})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def serve(
    app: ClientApp, precision: str, number: int = 1, first: dict[str, np.ndarray] = BEFORE, **federation: Any
) -> tuple[dict[str, np.ndarray], list[RoundRecord]]:
    """The model that comes of `first` in so many rounds, and their records."""
    grid = InProcessGrid(app, {site: {"site-name": site} for site in "abc"})
    names = dict(zip(grid.get_node_ids(), "abc", strict=True))
    seen: list[RoundRecord] = []
    aggregator = Aggregator(names, BEFORE, FederationConfig(**federation), downlink=Downlink(BEFORE, precision))
    state = first
    for index in range(1, number + 1):
        replies = grid.send_and_receive(aggregator.messages(index, state, ConfigRecord(), grid))
        state, record = aggregator.aggregate(index, replies)
        seen.append(record)
    return state, seen


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("float16", 1e-3)])
def test_recorded_norms_are_those_of_the_updates(precision: str, tolerance: float) -> None:
    _, seen = serve(client(precision), precision)
    for site in seen[0].sites:
        assert site.update_norm == pytest.approx(float(np.linalg.norm(change_of(site.site))), rel=tolerance)


def test_small_steps_of_a_model_that_has_moved_far_are_not_lost() -> None:
    """The server keeps full precision: a step below half that of what travels down arrives all the same."""
    number, scale = 30, 1e-4
    step = sum(change_of(site).astype(np.float64) for site in "abc") / 3 * scale
    first = {**BEFORE, "weight": BEFORE["weight"] + np.float32(100.01)}
    last, _ = serve(client("float16", scale), "float16", number, first)
    np.testing.assert_allclose(last["weight"] - first["weight"], number * step, atol=5e-4)
    assert np.abs(number * step).max() > 5e-3


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (packed(b"no array", shape=(40, 50)), "cannot be read"),
        (packed(b"", shape=(4000, 5000)), r"is float32 \(4000, 5000\)"),
        (packed(b"", shape=(40, 50), stype="pickle"), "encoding 'pickle' is not known"),
        (Array(np.full((40, 50), np.nan, np.float32)), "NaN or infinite"),
        (encode({"w": np.full((40, 50), 1e6, np.float32)}, BEFORE | {"w": BEFORE["weight"]}, "float16")["w"], "NaN or"),
    ],
)
def test_a_bad_encoding_is_a_bad_reply_with_its_reason(array: Array, reason: str) -> None:
    app = client("float16", spoilt=array)
    with pytest.raises(FedCoWProError, match=f"site 'b': array 'weight' .*{reason}"):
        serve(app, "float16")
    _, seen = serve(app, "float16", min_sites=2)
    assert list(seen[0].left_out) == ["b"]
