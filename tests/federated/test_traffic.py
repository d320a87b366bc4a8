"""Whole runs with encoded messages: repeatable, resumable, counted as they are, checked before they count."""

from __future__ import annotations

from collections.abc import Callable
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

from fedcowpro.config import ExperimentConfig, FederationConfig, ModelConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.monitoring.rounds import RoundRecord, read_rounds
from fedcowpro.federated.run import federate
from fedcowpro.federated.server.aggregator import Aggregator
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.federated.site import local_training as task
from fedcowpro.federated.transport import encoding as traffic
from fedcowpro.federated.transport import messages as records
from fedcowpro.federated.transport.encoding import Downlink
from fedcowpro.model.checkpoint import load_checkpoint, load_tensors, state_digest
from fedcowpro.model.segmenter import build_model

Experiment = Callable[..., ExperimentConfig]
Sites = dict[str, Path]
KINDS = {
    "none": {},
    "fp16": {"uplink": "fp16", "downlink": "fp16"},
    "int8": {"uplink": "int8", "downlink": "int8"},
    "topk": {"uplink": "topk", "downlink": "int8", "topk_share": 0.1},
}


def digest(out: Path) -> str:
    return load_checkpoint(out)[1]["weights_digest"]


def rounds(out: Path) -> list[RoundRecord]:
    return read_rounds(out / "metrics.jsonl")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, sites: Sites) -> dict[str, Path]:
    """A finished run of two rounds for each encoding."""
    folders = {}
    for name, federation in KINDS.items():
        settings = {"rounds": 2, "local_steps": 2, **federation}
        config = ExperimentConfig(
            threads=1, model=ModelConfig(encoder="tiny", channels=64), federation=FederationConfig(**settings)
        )
        folders[name] = tmp_path_factory.mktemp(name)
        federate(config, sites, folders[name], progress=False)
    return folders


def test_bytes_are_those_of_the_encoding(done: dict[str, Path]) -> None:
    up = {name: rounds(out)[1].sites[0].bytes_up for name, out in done.items()}
    down = {name: rounds(out)[1].sites[0].bytes_down for name, out in done.items()}
    assert up["topk"] < up["int8"] < up["fp16"] < up["none"]
    assert down["topk"] == pytest.approx(down["int8"], abs=3)  # the text of the settings
    assert down["int8"] < down["fp16"] < down["none"]
    model = build_model(ModelConfig(encoder="tiny", channels=64), 0)
    full = sum(4 * tensor.numel() for tensor in model.state_dict().values() if tensor.is_floating_point())
    for out in done.values():
        assert {site.bytes_model for number in rounds(out) for site in number.sites} == {full}
        # Before the first training nothing differs from what the sites build for themselves: settings and a digest.
        assert all(site.bytes_down < 2500 for site in rounds(out)[0].sites)
    assert full < up["none"] < full + 3000


def test_encodings_end_near_the_run_in_full_precision(done: dict[str, Path]) -> None:
    start = build_model(ModelConfig(encoder="tiny", channels=64), 0).state_dict()
    ends = {name: load_checkpoint(out)[0] for name, out in done.items()}
    learnt = [name for name, value in start.items() if value.dim() == 4]
    moved = torch.cat([(ends["none"][name] - start[name]).flatten() for name in learnt]).norm()
    for kind, most in (("fp16", 0.01), ("int8", 0.02), ("topk", 0.9)):
        apart = torch.cat([(ends[kind][name] - ends["none"][name]).flatten() for name in learnt]).norm()
        assert 0 < apart < most * moved
    assert len({digest(out) for out in done.values()}) == len(KINDS)


@pytest.mark.parametrize("kind", ["int8", "topk"])
def test_interrupted_run_ends_in_the_same_weights(
    sites: Sites, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    config = experiment(**KINDS[kind])
    config = config.model_copy(update={"model": ModelConfig(encoder="tiny", channels=64)})
    federate(config, sites, tmp_path / "whole", progress=False)
    real, calls = task.fit, iter(range(1, 100))

    def fit(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 5:  # in round 2, after a site has answered
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(task, "fit", fit)
        with pytest.raises(KeyboardInterrupt):
            federate(config, sites, tmp_path / "broken", progress=False)
    kept = tmp_path / "broken/rounds/round_0001/residuals"
    assert sorted(file.stem for file in kept.iterdir()) == sorted(sites)
    assert all(value.abs().max() > 0 for value in load_tensors(kept / "alpha.safetensors").values())
    federate(config, sites, tmp_path / "broken", progress=False)
    assert digest(tmp_path / "broken") == digest(tmp_path / "whole")
    norms = [[site.update_norm for number in rounds(tmp_path / run) for site in number.sites] for run in
             ("whole", "broken")]  # fmt: skip
    assert norms[0] == norms[1]


def test_the_loss_of_the_way_up_matters_to_the_resumed_run(
    sites: Sites, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the residuals the end is another: the test above would see it if they were not kept."""
    config = experiment(**KINDS["topk"])
    config = config.model_copy(update={"model": ModelConfig(encoder="tiny", channels=64)})
    federate(config, sites, tmp_path / "whole", progress=False)
    real = RunFolder.commit

    def commit(self: RunFolder, number: int, *args: Any) -> None:
        real(self, number, *args)
        if number == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "commit", commit)
        with pytest.raises(KeyboardInterrupt):
            federate(config, sites, tmp_path / "broken", progress=False)
    for file in (tmp_path / "broken/rounds/round_0002/residuals").iterdir():
        file.unlink()
    federate(config, sites, tmp_path / "broken", progress=False)
    assert digest(tmp_path / "broken") != digest(tmp_path / "whole")


def test_another_engine_goes_on_without_what_lies_at_its_sites(
    sites: Sites, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = experiment(**KINDS["int8"], rounds=1)
    config = config.model_copy(update={"model": ModelConfig(encoder="tiny", channels=64)})

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            federate(config, sites, tmp_path, progress=False)
    monkeypatch.setattr(InProcessGrid, "site_states", lambda self: {})
    assert federate(config, sites, tmp_path, progress=False).exists()


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


@pytest.mark.parametrize("kind", ["none", "int8"])
def test_an_initial_model_that_sites_cannot_build_is_sent(
    sites: Sites, experiment: Experiment, tmp_path: Path, kind: str
) -> None:
    build = experiment(**KINDS[kind])
    send = experiment(**KINDS[kind], initial="send")
    federate(build, sites, tmp_path / "build", progress=False)
    federate(send, sites, tmp_path / "send", progress=False)
    assert digest(tmp_path / "send") == digest(tmp_path / "build")
    first, second, _ = ({site.bytes_down for site in number.sites} for number in rounds(tmp_path / "send"))
    full = rounds(tmp_path / "send")[0].sites[0].bytes_model
    assert min(first) > full
    assert (max(second) < full) == (kind == "int8")  # once, where something is encoded; else as it is, each time


def test_a_site_that_failed_gets_the_initial_model_again() -> None:
    config = FederationConfig(downlink="int8")
    initial = {"w": np.zeros((40, 40), np.float32)}
    down = Downlink(config, initial, send=True)
    common, sent = down.encode({"w": initial["w"] + np.float32(0.5)}, ConfigRecord())
    np.testing.assert_allclose(sent["w"], 0.5)
    assert all(records.INITIAL in down.content(common, site) for site in "ab")
    down.answered(["a"])
    assert [records.INITIAL in down.content(common, site) for site in "ab"] == [False, True]


def test_another_initial_model_is_refused(experiment: Experiment) -> None:
    config = experiment()
    model = build_model(config.model, config.seed + 1)
    initial = {name: value.numpy() for name, value in model.state_dict().items() if value.is_floating_point()}
    content, _ = Downlink(config.federation, initial).encode(initial, ConfigRecord())
    with pytest.raises(FedCoWProError, match=r"(?s)initial weights have the digest .*federation\.initial to send"):
        traffic.receive(content, RecordDict(), config)
    built = build_model(config.model, config.seed).state_dict()
    floating = {name: value for name, value in built.items() if value.is_floating_point()}
    settings = ConfigRecord({records.INITIAL: state_digest(floating)})
    for name, array, reason in (
        ("odd", Array(np.zeros(3, np.float32)), "'odd' of the server's model is no tensor"),
        ("project.weight", Array(np.zeros(3, np.float32)), r"is float32 \(3,\), expected"),
        ("project.weight", Array("float32", (8, 16, 1, 1), "fedcowpro/int8", b""), "cannot be read"),
    ):
        broken = RecordDict({records.ARRAYS: ArrayRecord({name: array}), records.CONFIG: settings})
        with pytest.raises(FedCoWProError, match=reason):
            traffic.receive(broken, RecordDict(), config)


@pytest.mark.parametrize("kind", ["none", "fp16", "int8", "topk"])
def test_records_survive_the_way_over_the_network(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower cuts every array into chunks (5 MB; here less) and puts it together again."""
    monkeypatch.setattr(array_module, "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 1000)
    start = {"weight": np.zeros((40, 50), np.float32), "bias": np.zeros(3, np.float32)}
    values = {name: np.random.default_rng(3).normal(size=value.shape).astype(np.float32)
              for name, value in start.items()}  # fmt: skip
    record, _ = traffic.encode(values, start, kind, 0.3)
    objects = get_all_nested_objects(record)
    assert len(objects) > 5
    arrived = inflate_object_from_contents(record.object_id, {key: one.deflate() for key, one in objects.items()})
    assert isinstance(arrived, ArrayRecord)
    assert arrived.count_bytes() == record.count_bytes()
    for name in values:
        np.testing.assert_array_equal(
            traffic.decode(arrived[name], start[name]), traffic.decode(record[name], start[name])
        )


# ---------------------------------------------------------------- server and sites on plain arrays

BEFORE = {"bias": np.zeros(3, np.float32), "weight": np.ones((40, 50), np.float32)}


def change_of(site: str) -> np.ndarray:
    rng = np.random.default_rng(ord(site))
    return rng.normal(size=BEFORE["weight"].shape).astype(np.float32)


def client(kind: str, spoilt: Array | None = None) -> ClientApp:
    """Each site adds its own change; site b sends `spoilt` instead."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site = str(context.node_config["site-name"])
        start = {name: traffic.decode(array, BEFORE[name]) for name, array in message.content["arrays"].items()}
        start = BEFORE | start
        values = {"bias": start["bias"], "weight": start["weight"] + change_of(site)}
        trained, received = records.from_numpy(values), records.from_numpy(start)
        arrays = traffic.reply(trained, received, context.state, FederationConfig(uplink=kind, topk_share=0.2))
        if site == "b" and spoilt is not None:
            arrays["weight"] = spoilt
        metrics = MetricRecord({"num-examples": 1, "loss-total": 1.0})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def serve(
    app: ClientApp, number: int = 1, **federation: Any
) -> tuple[list[dict[str, np.ndarray]], list[RoundRecord], InProcessGrid]:
    grid = InProcessGrid(app, {site: {"site-name": site} for site in "abc"})
    names = dict(zip(grid.get_node_ids(), "abc", strict=True))
    seen: list[RoundRecord] = []
    config = FederationConfig(**federation)
    aggregator = Aggregator(names, BEFORE, config, downlink=Downlink(config, BEFORE))
    states = [BEFORE]
    for index in range(1, number + 1):
        replies = grid.send_and_receive(aggregator.messages(index, states[-1], ConfigRecord(), grid))
        state, record = aggregator.aggregate(index, replies)
        states.append(state)
        seen.append(record)
    return states[1:], seen, grid


@pytest.mark.parametrize("kind", ["none", "fp16", "int8", "topk"])
def test_recorded_norms_are_those_of_the_decoded_updates(kind: str) -> None:
    _, seen, grid = serve(client(kind), uplink=kind)
    for site in seen[0].sites:
        change = change_of(site.site)
        lost = records.array_record(grid.site_states()[site.site], records.RESIDUAL)
        assert (lost is None) == (kind == "none")
        arrived = change if lost is None else change - lost["weight"].numpy()
        assert site.update_norm == pytest.approx(float(np.linalg.norm(arrived)), rel=1e-5)
        tolerance = {"none": 1e-6, "fp16": 1e-3, "int8": 1e-2}.get(kind)
        if tolerance is not None:
            assert site.update_norm == pytest.approx(float(np.linalg.norm(change)), rel=tolerance)


@pytest.mark.parametrize(("kind", "down"), [("fp16", "fp16"), ("int8", "int8"), ("topk", "int8"), ("none", "int8")])
def test_no_loss_adds_up_over_rounds(kind: str, down: str) -> None:
    """Each round adds the mean change m. What a site has not sent yet is all that may lack, both ways encoded."""
    number = 30
    states, _, grid = serve(client(kind), number, uplink=kind, downlink=down)
    mean = sum(change_of(site).astype(np.float64) for site in "abc") / 3
    waiting = np.zeros_like(mean)
    for state in grid.site_states().values():
        if (lost := records.array_record(state, records.RESIDUAL)) is not None:
            waiting += lost["weight"].numpy() / 3
    np.testing.assert_allclose(states[-1]["weight"] + waiting, BEFORE["weight"] + number * mean, atol=2e-3)
    bound = {"fp16": 1e-3, "int8": 0.02, "topk": 8.0, "none": 1e-9}[kind]
    assert np.abs(waiting).max() <= bound


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (Array("float32", (40, 50), "fedcowpro/int8", bytes(2159)), "2159 bytes of int8, expected 2160"),
        (Array("float32", (4000, 5000), "fedcowpro/int8", bytes(2160)), r"is float32 \(4000, 5000\)"),
        (Array("float32", (40, 50), "fedcowpro/topk", bytes(10**6)), "are no topk"),
        (Array("float32", (40, 50), "pickle", bytes(2160)), "encoding 'pickle' is not known"),
        (
            Array("float32", (40, 50), "fedcowpro/int8", np.full(40, np.nan, "<f4").tobytes() + bytes(2000)),
            "NaN or infinite",
        ),
        (
            Array("float32", (40, 50), "fedcowpro/int8", np.full(40, 3e38, "<f4").tobytes() + b"\x7f" * 2000),
            "NaN or infinite",
        ),
    ],
)
def test_a_bad_encoding_is_a_bad_reply_with_its_reason(array: Array, reason: str) -> None:
    app = client("int8", array)
    with pytest.raises(FedCoWProError, match=f"site 'b': array 'weight' .*{reason}"):
        serve(app, uplink="int8")
    _, seen, _ = serve(app, uplink="int8", min_sites=2)
    assert list(seen[0].left_out) == ["b"]
