"""One site that lies, between the real server and real other sites: it neither ends a run nor counts too much."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, Context, Message

from fedcowpro.config import ExperimentConfig, FederationConfig, PrepareConfig, TrainConfig
from fedcowpro.core.device import reproducible
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.monitoring.alarms import alarms
from fedcowpro.federated.monitoring.rounds import RoundRecord, read_rounds
from fedcowpro.federated.privacy.masking import commitment, public_key, recover, split
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.federated.server.server_app import serve
from fedcowpro.federated.server.update_limits import NORM_FACTOR, limit_updates, longest_update
from fedcowpro.federated.site import client_app
from fedcowpro.federated.site import local_training as task
from fedcowpro.federated.transport import messages as records
from fedcowpro.model.checkpoint import load_checkpoint
from fedcowpro.model.segmenter import build_model

pytestmark = pytest.mark.slow

Experiment = Callable[..., ExperimentConfig]
Sites = dict[str, Path]
Finished = Callable[[ExperimentConfig], Path]
Lie = Callable[[Message, Message], None]


def run(
    config: ExperimentConfig, sites: Sites, out: Path, lie: Lie | None = None, liar: str = "beta"
) -> list[RoundRecord]:
    """A run where one site's good replies are changed before they reach the server: `lie(question, reply)`."""

    def app(message: Message, context: Context) -> Message:
        reply = client_app.app(message, context)
        if lie is not None and context.node_config["site-name"] in liar.split() and not reply.has_error():
            lie(message, reply)
        return reply

    nodes = {name: {"site-name": name, "site-path": str(path)} for name, path in sites.items()}
    config = ExperimentConfig.model_validate({**config.model_dump(), "sites": [{"name": name} for name in sites]})
    with reproducible(1):
        serve(InProcessGrid(app, nodes), config, RunFolder(out), True)  # type: ignore[arg-type]
    return read_rounds(out / "metrics.jsonl")


def times(factor: float, only: str = "") -> Lie:
    """An update that is so many times as long, of tensors whose names end like this."""

    def lie(message: Message, reply: Message) -> None:
        if records.METRICS in reply.content:
            arrays = records.to_tensors(reply.content["arrays"])
            changed = {name: value * factor if name.endswith(only) else value for name, value in arrays.items()}
            reply.content["arrays"] = records.to_record(changed)

    return lie


def of_facts(**changes: Any) -> Lie:
    def lie(message: Message, reply: Message) -> None:
        if records.FACTS in reply.content:
            reply.content["facts"].update(changes)

    return lie


def digest(out: Path) -> str:
    return str(load_checkpoint(out)[1]["weights_digest"])


@pytest.mark.parametrize("names", [("alpha", "beta"), ("alpha", "beta", "gamma")], ids=["two sites", "three sites"])
def test_a_huge_update_is_left_out_with_an_alarm(
    sites: Sites, experiment: Experiment, tmp_path: Path, names: tuple[str, ...]
) -> None:
    chosen = {name: sites[name] for name in names}
    found = run(experiment(rounds=2, min_sites=1), chosen, tmp_path / "run", times(1000))
    for record in found:
        assert list(record.left_out) == list(record.unsound) == ["beta"]
        reason = "what the local steps can reach" if len(names) == 2 else "10 times the round's median"
        assert reason in record.left_out["beta"]
    assert {(alarm.site, alarm.name) for alarm in alarms(found[:1])} == {("beta", "reply")}
    assert '"alarm": "reply"' in (tmp_path / "run" / "metrics.jsonl").read_text()
    honest = {name: path for name, path in chosen.items() if name != "beta"}
    run(experiment(rounds=2, min_sites=1), honest, tmp_path / "without")
    assert digest(tmp_path / "run") == digest(tmp_path / "without")


@pytest.mark.parametrize("names", [("alpha", "beta"), ("alpha", "beta", "gamma")], ids=["two sites", "three sites"])
def test_running_statistics_beyond_measure_are_left_out(
    sites: Sites, experiment: Experiment, tmp_path: Path, names: tuple[str, ...]
) -> None:
    chosen = {name: sites[name] for name in names}
    (record,) = run(experiment(rounds=1, min_sites=1), chosen, tmp_path, times(1e4, "running_mean"))
    assert "norm of the running statistics" in record.left_out["beta"]
    assert ("what training makes of them" if len(names) == 2 else "the round's median") in record.left_out["beta"]


def test_statistics_have_a_bound_of_their_own() -> None:
    before = {"n.running_mean": np.zeros(9), "n.running_var": np.full(16, 3.0)}  # 10 sqrt(25 + 16 * 9) = 130
    for length, good in ((129.9, True), (130.1, False)):
        after = {**before, "n.running_mean": np.array([length, *[0.0] * 8])}
        used, notes = limit_updates(before, {"a": after}, FederationConfig())
        assert (list(used), list(notes)) == ((["a"], []) if good else ([], ["a"]))
        assert list(limit_updates(before, {"a": after}, FederationConfig(), usual=None)[0]) == ["a"]
        assert list(limit_updates(before, {"a": after}, FederationConfig(update_limits="off"))[0]) == ["a"]


def test_the_limits_do_not_change_an_honest_run(experiment: Experiment, finished: Finished) -> None:
    assert digest(finished(experiment())) == digest(finished(experiment(update_limits="off")))


@pytest.mark.parametrize(
    "train",
    [{"lr": 0.05, "weight_decay": 0.1}, {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "clip_norm": 1e-3}],
    ids=["adamw", "sgd"],
)
def test_no_honest_update_is_longer_than_the_bound(
    sites: Sites, experiment: Experiment, tmp_path: Path, train: Mapping[str, Any]
) -> None:
    """With rates at which training does harm, so that updates are as long as they can be."""
    config = experiment(rounds=1, local_steps=12).model_copy(
        update={"train": TrainConfig.model_validate({"batch": 1, "schedule": "constant", **train})}
    )
    model = build_model(config.model, config.seed)
    before = records.to_numpy({name: model.state_dict()[name] for name in task.exchanged_names(model)})
    bound = longest_update(config, before, task.learnt_names(model))
    (record,) = run(config, {"alpha": sites["alpha"]}, tmp_path)
    assert 0 < record.sites[0].update_norm < bound
    if config.train.optimizer == "adamw":  # a bound 10 times as large would let in what it is to keep out
        assert record.sites[0].update_norm > bound / 10


def test_unclipped_sgd_has_no_bound(experiment: Experiment) -> None:
    train = TrainConfig(optimizer="sgd", clip_norm=None)
    config = experiment().model_copy(update={"train": train})
    assert longest_update(config, {"w": np.zeros(3)}, ["w"]) == np.inf


def test_limits_are_off_where_the_clip_bounds_an_update() -> None:
    before = {"w": np.zeros(4)}
    replies = {name: {"w": np.full(4, value)} for name, value in zip("abc", (1, 1, 1e6), strict=True)}
    for mechanism in ("local", "central"):
        config = FederationConfig.model_validate({"weighting": "uniform", "privacy": {"mechanism": mechanism}})
        assert limit_updates(before, replies, config, 1.0) == (replies, {})
    assert list(limit_updates(before, replies, FederationConfig())[0]) == ["a", "b"]
    assert NORM_FACTOR > 1


@pytest.mark.parametrize("liar", ["alpha", "gamma"])  # the first to answer, and the last
def test_a_site_of_another_slice_size_is_left_out_whoever_answers_first(
    sites: Sites, experiment: Experiment, tmp_path: Path, liar: str
) -> None:
    config = experiment(rounds=1, min_sites=2)
    (record,) = run(config, sites, tmp_path, of_facts(size=128), liar)
    assert record.left_out == {liar: "its slices have 128 pixels a side, those of the run have 64"}
    assert load_checkpoint(tmp_path)[1]["data"]["size"] == 64


def test_settings_decide_between_two_sizes_or_the_run_does_not_begin(
    sites: Sites, experiment: Experiment, tmp_path: Path
) -> None:
    two = {name: sites[name] for name in ("alpha", "beta")}
    with pytest.raises(FedCoWProError, match=r"neither federation.slice_size nor most sites say .* alpha 64, beta 128"):
        run(experiment(rounds=1, min_sites=1), two, tmp_path / "neither", of_facts(size=128))
    (record,) = run(experiment(rounds=1, min_sites=1, slice_size=64), two, tmp_path / "said", of_facts(size=128))
    assert record.left_out == {"beta": "its slices have 128 pixels a side, those of the run have 64"}
    # A majority that lies is no majority where the settings say the size.
    config = experiment(rounds=1, min_sites=1, slice_size=64)
    (record,) = run(config, sites, tmp_path / "majority", of_facts(size=128), "alpha beta")
    assert list(record.left_out) == ["alpha", "beta"]


def test_a_resumed_run_keeps_its_slice_size(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    two = {name: sites[name] for name in ("alpha", "beta")}
    config = experiment(rounds=2, min_sites=1)
    run(config, two, tmp_path)
    RunFolder(tmp_path).go_back(1, config)
    assert RunFolder(tmp_path).slice_size() == 64
    found = run(config, two, tmp_path, of_facts(size=128))
    assert found[-1].left_out == {"beta": "its slices have 128 pixels a side, those of the run have 64"}


def test_settings_that_one_site_tells_otherwise_do_not_reach_the_card(
    sites: Sites, experiment: Experiment, tmp_path: Path
) -> None:
    run(experiment(rounds=1), sites, tmp_path / "honest")
    other = PrepareConfig(modality="ct", size=64, window=(-1, 1)).model_dump_json()
    run(experiment(rounds=1), sites, tmp_path / "lie", of_facts(settings=other), "alpha")
    honest, lie = (load_checkpoint(tmp_path / name)[1]["prepare"] for name in ("honest", "lie"))
    assert honest == lie != {}


@pytest.fixture
def four(sites: Sites, make_site: Callable[..., Path]) -> Sites:
    return {**sites, "delta": make_site("delta", 4, 9)}


def secure(experiment: Experiment, rounds: int = 1) -> ExperimentConfig:
    """Of four sites three are enough."""
    settings = experiment(weighting="uniform", rounds=rounds, min_sites=3).model_dump()
    settings["model"]["frozen_norm"] = True
    settings["federation"]["privacy"] = {"secure_aggregation": True, "clip": 5.0}
    return ExperimentConfig.model_validate(settings)


def answers(kind: str, change: Callable[[ConfigRecord], None]) -> Lie:
    def lie(message: Message, reply: Message) -> None:
        if message.metadata.message_type == f"query.{kind}":
            change(reply.content["config"])

    return lie


KEYS, SHARES, UNMASK = records.SECURE_KEYS, records.SECURE_SHARES, records.SECURE_UNMASK
UNSOUND: dict[str, tuple[str, Callable[[Any], object], str]] = {
    "no key": (KEYS, lambda c: c.pop("public-key"), "'mask' is missing"),
    "a number": (KEYS, lambda c: c.update({"public-channel": 7}), "'channel' is 7"),
    "short": (KEYS, lambda c: c.update({"public-key": b"abc"}), "'mask' is b'abc'"),
    "a key with which nobody agrees": (KEYS, lambda c: c.update({"public-key": bytes(32)}), "'mask' is"),
    "more": (KEYS, lambda c: c.update({"more": 1}), "'more' is 1"),
    "no shares": (SHARES, lambda c: c.pop("sealed"), "'sealed' is missing"),
    "text": (SHARES, lambda c: c.update({"sealed": "text"}), "'sealed' is 'text'"),
    "too few shares": (SHARES, lambda c: c.update({"sealed": c["sealed"][:2]}), "has 1 shares, asked were 3"),
    "long shares": (SHARES, lambda c: c.update({"sealed": [bytes(99)] * 4}), "99 bytes"),
}


@pytest.mark.parametrize("kind", UNSOUND)
def test_an_unsound_answer_in_secure_aggregation_leaves_that_site_out(
    four: Sites, experiment: Experiment, tmp_path: Path, kind: str
) -> None:
    question, change, words = UNSOUND[kind]
    (record,) = run(secure(experiment), four, tmp_path, answers(question, change))
    assert list(record.left_out) == list(record.unsound) == ["beta"]
    assert words in record.left_out["beta"]
    assert {(alarm.site, alarm.name) for alarm in alarms([record])} == {("beta", "reply")}


@pytest.mark.parametrize("share", ["text", "short", "empty", "false"])
def test_unsound_shares_after_the_sum_do_not_stop_the_round(
    four: Sites, experiment: Experiment, tmp_path: Path, share: str
) -> None:
    def change(told: ConfigRecord) -> None:
        kinds = {"text": ["text"], "short": [b"short"] * 4, "empty": [b""] * 4, "false": [bytes(range(16))] * 4}
        told["shares"] = kinds[share]

    (record,) = run(secure(experiment), four, tmp_path / "lie", answers(UNMASK, change))
    assert record.unsound == (("beta",) if share != "empty" else ())
    run(secure(experiment), four, tmp_path / "honest")
    assert digest(tmp_path / "lie") == digest(tmp_path / "honest")


@pytest.mark.parametrize("kind", ["sealed", "commitment"])
def test_a_site_whose_secrets_nobody_can_put_together_is_named_and_the_round_repeated(
    four: Sites, experiment: Experiment, tmp_path: Path, kind: str
) -> None:
    def change(told: ConfigRecord) -> None:
        old = told[kind]
        told[kind] = [bytes(len(one)) for one in old] if isinstance(old, list) else bytes(32)  # type: ignore[arg-type]

    lie = answers(SHARES if kind == "sealed" else KEYS, change)
    (record,) = run(secure(experiment), four, tmp_path / "lie", lie)
    assert list(record.left_out) == list(record.unsound) == ["beta"]
    assert "the shares that it sealed are false" in record.left_out["beta"]
    honest = {name: path for name, path in four.items() if name != "beta"}
    run(secure(experiment), honest, tmp_path / "without")
    assert digest(tmp_path / "lie") == digest(tmp_path / "without")


def spoils_the_sum(message: Message, reply: Message) -> None:
    if message.metadata.message_type == "train":
        words = reply.content["arrays"]["masked"].numpy().copy()
        words[::2] += np.uint32(2**31)
        reply.content["arrays"]["masked"] = Array(words)


def test_who_spoils_sums_is_found_by_rounds_without_each_site(
    four: Sites, experiment: Experiment, tmp_path: Path
) -> None:
    """The first round counts for nothing, so does the one without alpha; the one without beta is sound."""
    config = secure(experiment, rounds=4)
    found = run(config, four, tmp_path, spoils_the_sum)
    asked = [sorted(site.site for site in record.sites) for record in found]
    assert asked == [[], [], ["alpha", "delta", "gamma"], ["alpha", "delta", "gamma"]]
    assert "the round counts for nothing" in found[0].left_out["alpha"]
    assert "to find out who spoils the sums" in found[1].left_out["alpha"]
    assert [record.unsound for record in found] == [(), (), ("beta",), ("beta",)]
    assert "without it they are sound" in found[3].left_out["beta"]
    assert ("beta", "reply") in {(alarm.site, alarm.name) for alarm in alarms(found[:3])}
    initial = build_model(config.model, config.seed).state_dict()
    second = load_checkpoint(tmp_path / "rounds" / "round_0002")[0]
    assert all(bool((second[name] == initial[name]).all()) for name in second)


def test_where_nobody_can_be_left_out_unsound_sums_end_the_run(
    sites: Sites, experiment: Experiment, tmp_path: Path
) -> None:
    with pytest.raises(FedCoWProError, match="it cannot be told which"):
        run(secure(experiment), sites, tmp_path, spoils_the_sum)


def test_false_shares_are_told_from_true_ones() -> None:
    secret = bytes(range(16))
    shares = dict(enumerate(split(secret, 3, 6)))
    fits = commitment(secret).__eq__
    assert recover(shares, 3, lambda found: fits(commitment(found))) == (secret, set())
    false = {**shares, 0: bytes(16), 4: bytes(16)}
    assert recover(false, 3, lambda found: fits(commitment(found))) == (secret, {0, 4})
    assert recover({**false, 1: bytes(16), 2: bytes(16)}, 3, lambda found: fits(commitment(found))) is None


def test_two_sites_with_one_key_are_named(four: Sites, experiment: Experiment, tmp_path: Path) -> None:
    key = public_key(bytes(16))
    lie = answers(KEYS, lambda told: told.update({"public-key": key}))
    with pytest.raises(FedCoWProError, match=r"site 'alpha': its public keys are not its own.*site 'beta': its"):
        run(secure(experiment), four, tmp_path, lie, "alpha beta")
