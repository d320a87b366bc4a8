"""A site's policy: what it refuses, that the server is told why, and that the log has it; without a local path."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from fedcowpro.config import ExperimentConfig, SiteConfig, load
from fedcowpro.config.policy import OPEN, PACKAGE, PrivacyPolicy, SitePolicy
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.package import package_digest, sources_digest
from fedcowpro.federated.governance.audit_log import AuditLog, Entry, Event, read_audit
from fedcowpro.federated.governance.enforcement import AUDIT, POLICY
from fedcowpro.federated.governance.policy import (
    Announcement,
    RefusedError,
    architecture_digest,
    check_message,
    refusal_behind,
)
from fedcowpro.federated.governance.policy_file import objections, write_policy
from fedcowpro.federated.governance.tally import Tally
from fedcowpro.federated.governance.weight_checks import check_weights
from fedcowpro.federated.monitoring.rounds import read_rounds
from fedcowpro.federated.run import federate
from fedcowpro.federated.server.audit_grid import AuditedGrid
from fedcowpro.federated.server.evaluation import announced
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.site import client_app
from fedcowpro.federated.transport import messages as records
from fedcowpro.federated.transport.encoding import initial_model
from fedcowpro.federated.transport.messages import content_digest
from fedcowpro.model.checkpoint import state_digest
from fedcowpro.model.segmenter import build_model

Experiment = Callable[..., ExperimentConfig]
Sites = dict[str, Path]
PEERS = {"west": "ecdsa-sha2-nistp384 AAAA", "east": "ecdsa-sha2-nistp384 BBBB"}
SECURE = (records.SECURE_KEYS, records.SECURE_SHARES, records.SECURE_UNMASK)
NOON = datetime(2026, 6, 1, 12, 30)


def said(kind: str = "train", number: int = 1, sites: int = 3, **federation: Any) -> Announcement:
    settings = {"federation": {"rounds": 10, "local_steps": 20, "min_sites": None, **federation}, "model": {}}
    return Announcement(kind, "run", number, package_digest(), sites, settings)


def costly(kind: str = "train", **parts: Any) -> Announcement:
    return replace(said(kind), settings={**said().settings, **parts})


def trained(run: str, times: int, time: str = "2020-01-01T00:00:00.000+00:00") -> list[Entry]:
    event = Event("site", "a", "in", "train", "allowed", run)
    return [Entry(number, time, event, "", "") for number in range(1, times + 1)]


def reason(policy: SitePolicy, message: Announcement, log: list[Entry] | None = None, now: datetime = NOON) -> str:
    try:
        check_message(policy, message, lambda: Tally.of(log or []), now)
    except RefusedError as error:
        return str(error)
    return ""


def test_the_default_lets_a_usual_run_happen() -> None:
    assert [reason(SitePolicy(), said(kind)) for kind in ("train", "evaluate", "layers", "query")] == [""] * 4


@pytest.mark.parametrize(
    ("rules", "message", "why"),
    [
        ({}, replace(said(), package="f" * 32), "the server's package is ffffffffffffffff"),
        ({}, replace(said(), package=""), "not announced"),
        ({"packages": ["a" * 32]}, said(), "allowed is one that the site lists"),
        ({}, said(sites=0), "at least 1 sites"),
        ({"min_participants": 2}, said(sites=1), "at least 2 sites"),
        ({"min_participants": 3}, said(sites=4, min_sites=2), "4 take part and 2 are enough"),
        ({"messages": ["train"]}, said("evaluate"), "of kind 'evaluate' are not allowed here, only train"),
        ({"messages": ["evaluate"]}, said("train"), "of kind 'train'"),
        *(({"messages": ["evaluate"]}, said(kind), "of kind 'train'") for kind in SECURE),
        ({"max_local_steps": 19}, said("secure_keys"), "20 steps per round"),
        ({"max_rounds": 9}, said(), "10 rounds are announced, allowed are 9"),
        ({"max_rounds": 9}, said(rounds=9, number=10), "allowed are 9"),
        ({"max_local_steps": 19}, said(), "20 steps per round"),
        ({"architectures": ["0" * 16]}, said(), "the architecture"),
        ({}, costly(train={"batch": 200}), "400 slices per step are announced, allowed are 256"),
        ({"max_step_images": 9}, costly(episodes={"support_views": 4}, train={"batch": 2}), "10 slices per step"),
        ({"max_channels": 64}, costly(model={"channels": 65}), "65 channels"),
        ({"max_channels": 64}, costly("secure_keys", model={"channels": 65}), "65 channels"),
        ({"max_support_slices": 3}, costly("evaluate", inference={"support_slices": "all"}), "all annotated slices"),
        ({"max_support_slices": 3}, costly("evaluate", inference={"support_slices": 4}), "4 annotated slices"),
        ({}, costly("evaluate", inference={"scales": [4, 1]}), "scales whose squares sum to 17"),
        ({}, costly(train={"batch": [1]}), "the settings under 'train' cannot be read"),
        ({}, costly(train=[]), "the settings under 'train' cannot be read"),
        ({"teaching": True, "max_local_steps": 50}, costly(teaching={"local_steps": 51}), "steps per round"),
        ({"teaching": True, "max_local_steps": 50}, costly(teaching={"local_steps": 51, "rounds": 1}), "51 steps"),
        ({}, said(min_sites="three"), "at least 1 sites"),
        ({"privacy": {"mechanism": ["local"]}}, said(), "differential privacy is 'none', required is local"),
        ({"privacy": {"max_clip": 1}}, said(), "clipped at none"),
        ({"privacy": {"max_clip": 1}}, said(privacy={"mechanism": "local", "clip": 2.0}), "clipped at 2"),
        ({"privacy": {"max_clip": 1}}, said(privacy={"secure_aggregation": True, "clip": 2.0}), "clipped at 2"),
        (
            {"privacy": {"min_noise_multiplier": 1}},
            said(privacy={"mechanism": "central", "clip": 1.0, "noise_multiplier": 0.5}),
            "the noise multiplier is 0.5, required is 1 or more",
        ),
        (
            {"privacy": {"secure_aggregation": True}, "peers": PEERS},
            said(privacy={"mechanism": "none"}),
            "not aggregated securely",
        ),
        ({"hours": [20, 6]}, said(), "between 20 and 6 o'clock, here it is 12:30"),
        ({"hours": [13, 18]}, said("evaluate"), "between 13 and 18"),
    ],
)
def test_what_is_refused_and_why(rules: dict[str, Any], message: Announcement, why: str) -> None:
    assert why in reason(SitePolicy.model_validate(rules), message)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"packages": [package_digest(), "a" * 32]}, said()),
        ({"max_rounds": 10, "max_local_steps": 20, "min_participants": 3}, said()),
        ({"hours": [8, 13]}, said()),
        ({"hours": [20, 13]}, said()),
        ({"messages": ["train"], "hours": [1, 2]}, said("query")),
        *(({"messages": ["train"]}, said(kind)) for kind in SECURE),
        ({"max_rounds": 1, "max_local_steps": 1}, Announcement("secure_shares", "run", 1)),
        (
            {
                "privacy": {
                    "mechanism": ["local"],
                    "max_clip": 2,
                    "min_noise_multiplier": 1,
                    "secure_aggregation": True,
                },
                "peers": PEERS,
            },
            said(privacy={"mechanism": "local", "clip": 1.0, "noise_multiplier": 1.5, "secure_aggregation": True}),
        ),
    ],
)
def test_what_is_allowed(rules: dict[str, Any], message: Announcement) -> None:
    assert reason(SitePolicy.model_validate(rules), message) == ""


def test_rounds_are_counted_in_the_log() -> None:
    policy = SitePolicy(max_rounds=10, max_total_rounds=12)
    assert reason(policy, said(number=10), trained("run", 9)) == ""
    assert "trained 10 rounds of this run" in reason(policy, said(number=1), trained("run", 10))
    assert reason(policy, said(), trained("other", 11)) == ""
    assert "trained 12 rounds of all runs" in reason(policy, said(), trained("other", 12))


def test_new_names_of_runs_do_not_pass_the_limit_of_rounds() -> None:
    today, before = (
        (NOON.astimezone(UTC) - timedelta(hours=hours)).isoformat(timespec="milliseconds") for hours in (2, 25)
    )
    policy = SitePolicy(max_rounds=10)
    assert reason(policy, said(), trained("one", 9, today)) == ""
    assert "trained 10 rounds of all runs in 24 hours" in reason(policy, said(), trained("one", 10, today))
    assert reason(policy, said(), trained("one", 10, before)) == ""
    several = SitePolicy(max_rounds=10, max_rounds_per_day=30)
    assert reason(several, said(), trained("one", 10, today) + trained("two", 10, today)) == ""
    alone = SitePolicy(max_rounds_per_day=3)
    assert "trained 3 rounds" in reason(alone, said(), trained("one", 3, today))


@pytest.mark.parametrize("rules", [{"hours": [3, 3]}, {"hours": [1, 25]}, {"min_cases": 1}, {"messages": ["x"]}])
def test_policies_that_make_no_sense(rules: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(rules))
    with pytest.raises(FedCoWProError, match="field"):
        load(SitePolicy, file)


def seen(norm: float, run: str = "run") -> Callable[[], Tally]:
    return lambda: Tally(norms={run: norm})


def test_odd_weights_are_refused(experiment: Experiment) -> None:
    config = experiment()
    model = build_model(config.model, config.seed)
    weights = {name: t.clone() for name, t in model.state_dict().items() if t.is_floating_point()}
    norm = check_weights(OPEN, said(), config, weights, Tally)
    learnt = [t for name, t in weights.items() if "running" not in name]
    assert norm == pytest.approx(float(torch.cat([t.flatten() for t in learnt]).norm()), rel=1e-6)
    name = "project.weight"
    variance = next(name for name in weights if name.endswith("running_var"))
    for change, why in (
        ({name: weights[name] * float("nan")}, "NaN or infinite values, 'project.weight'"),
        ({name: weights[name] * 1e6}, "values above 1000"),
        ({variance: weights[variance] - 5}, "variances are negative"),
    ):
        with pytest.raises(RefusedError, match=why):
            check_weights(SitePolicy(), said(), config, {**weights, **change}, Tally)
    assert check_weights(SitePolicy(), said(number=2), config, weights, seen(norm * 5)) == norm
    with pytest.raises(RefusedError, match="a factor of 10"):
        check_weights(SitePolicy(), said(number=2), config, weights, seen(norm * 11))
    check_weights(OPEN, said(number=2), config, weights, seen(norm * 11, run="another"))
    local = {"normalisation": "local", "new_site_layers": "initial"}
    noised = experiment(weighting="uniform", privacy={"mechanism": "central"}, **local)
    check_weights(SitePolicy(), said(number=2), noised, weights, seen(norm * 11))


def test_a_run_begins_with_the_pinned_weights(experiment: Experiment) -> None:
    config = experiment()
    model = build_model(config.model, config.seed)
    weights = {name: t for name, t in model.state_dict().items() if t.is_floating_point()}
    crafted = {**weights, "project.weight": weights["project.weight"] * 1.01}
    for pins in ((PACKAGE,), (state_digest(weights),)):
        policy = SitePolicy(initial_weights=pins)
        check_weights(policy, said(), config, weights, Tally)
        with pytest.raises(RefusedError, match="not among those that the site allows"):
            check_weights(policy, said(), config, crafted, Tally)
        # Nor may a server leave the first round out.
        with pytest.raises(RefusedError, match="did not come before round 2"):
            check_weights(policy, said(number=2), config, crafted, Tally)
        check_weights(
            policy, said(number=2), config, crafted, seen(check_weights(OPEN, said(), config, weights, Tally))
        )


def test_a_refusal_is_found_behind_another_error() -> None:
    hidden = ValueError("hidden")
    hidden.__cause__ = RefusedError("no")
    assert str(refusal_behind(hidden)) == "no"
    assert refusal_behind(ValueError("other")) is None


def test_digests_follow_the_sources(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    before = sources_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_bytes(b"1")
    assert sources_digest(tmp_path) == before
    (tmp_path / "a.py").write_text("x = 2\n")
    assert sources_digest(tmp_path) != before
    assert len(package_digest()) == 32


def test_a_new_policy_allows_its_experiment_and_not_another(experiment: Experiment, tmp_path: Path) -> None:
    config = experiment()
    weights = initial_model(config.model, config.seed)[1]
    write_policy(tmp_path / "policy.yaml", config, architecture_digest(config.model), weights)
    policy = load(SitePolicy, tmp_path / "policy.yaml")
    assert objections(policy, config, 3)["train"] == ""
    assert "2 take part" in objections(policy, config, 2)["train"]
    assert "3 steps per round" in objections(policy, experiment(local_steps=3), 3)["train"]


# With Flower, in one process.


def with_policy(config: ExperimentConfig, file: Path, **rules: Any) -> ExperimentConfig:
    file.write_text(yaml.safe_dump({"packages": [package_digest()], **rules}))
    return config.model_copy(update={"sites": (SiteConfig(name="beta", policy=file),)})


def test_one_site_refuses_and_the_round_says_why(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = with_policy(experiment(min_sites=2), tmp_path / "policy.yaml", max_local_steps=1)
    federate(config, sites, out, progress=False)
    why = "refused by the site's policy: 2 steps per round are announced, allowed are 1"
    assert [record.left_out for record in read_rounds(out / "metrics.jsonl")] == [{"beta": why}] * 3
    server, wrong, _ = read_audit(out / "audit.jsonl")
    assert wrong == []
    refused = [entry.event for entry in server if entry.event.decision == "refused"]
    assert [(event.site, event.kind, event.round, event.reason) for event in refused] == [
        ("beta", "train", number, why) for number in (1, 2, 3)
    ]
    own = read_audit(out / "audit" / "beta.jsonl")[0]
    kinds = [(entry.event.direction, entry.event.kind, entry.event.decision) for entry in own]
    assert kinds == [("in", "query", "allowed"), ("out", "query", "sent")] + [
        ("in", "train", "refused"), ("out", "train", "refused"),
    ] * 3  # fmt: skip


def test_a_site_refuses_before_the_others_mask_their_updates_with_it(
    sites: Sites, experiment: Experiment, tmp_path: Path
) -> None:
    four = {**sites, "delta": shutil.copytree(sites["alpha"], tmp_path / "delta")}
    privacy = {"secure_aggregation": True, "clip": 5.0}
    local = {"weighting": "uniform", "normalisation": "local", "new_site_layers": "initial"}
    config = experiment(min_sites=3, rounds=2, privacy=privacy, **local)
    config = with_policy(config, tmp_path / "policy.yaml", max_rounds=1)
    federate(config, four, tmp_path / "run", progress=False)
    why = "refused by the site's policy: 2 rounds are announced, allowed are 1"
    found = read_rounds(tmp_path / "run" / "metrics.jsonl")
    assert [(record.left_out, record.privacy["summed"]) for record in found] == [({"beta": why}, 3)] * 2
    own = [entry.event for entry in read_audit(tmp_path / "run" / "audit" / "beta.jsonl")[0]]
    assert {event.kind for event in own if event.decision == "refused"} == {"query.secure_keys"}
    assert "train" not in {event.kind for event in own}


def test_without_the_quorum_the_run_ends_with_the_reason(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    config = with_policy(experiment(), tmp_path / "policy.yaml", min_participants=5)
    with pytest.raises(FedCoWProError, match="site 'beta': refused by the site's policy: at least 5 sites"):
        federate(config, sites, tmp_path / "run", progress=False)


def test_both_sides_note_the_same_messages(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    federate(experiment(rounds=2), sites, tmp_path, progress=False)
    server = [entry.event for entry in read_audit(tmp_path / "audit.jsonl")[0] if entry.event.kind == "train"]
    for name in sites:
        events = [entry.event for entry in read_audit(tmp_path / "audit" / f"{name}.jsonl")[0]]
        there = [event for event in events if event.kind == "train"]
        here = [event for event in server if event.site == name]
        assert [(e.round, e.bytes, e.content, e.run) for e in there] == [
            (e.round, e.bytes, e.content, e.run) for e in here
        ]
        assert {e.direction for e in there} == {"in", "out"}
        assert all(e.bytes > 1000 and len(e.content) == 64 and e.run for e in there)
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    sizes = [(line["bytes_down"], line["bytes_up"]) for line in metrics if line["kind"] == "site"]
    down, up = ([e.bytes for e in server if e.direction == direction] for direction in ("out", "in"))
    assert sizes == list(zip(down, up, strict=True))


def test_flowers_own_grid_may_go_over_the_messages_twice(tmp_path: Path) -> None:
    seen: list[int] = []

    class Twice(InProcessGrid):
        def push_messages(self, messages: Any) -> list[str]:
            seen.extend(len(list(messages)) for _ in range(2))
            return []

    grid = AuditedGrid(Twice(client_app.app, {"a": {}, "b": {}}), AuditLog(tmp_path / "audit.jsonl"))
    grid.push_messages(Message(RecordDict(), node, MessageType.QUERY) for node in grid.get_node_ids())
    assert seen == [2, 2]
    assert len(read_audit(tmp_path / "audit.jsonl")[0]) == 2


def test_logs_name_no_path_and_no_case(
    sites: Sites, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = client_app.local_update

    def fail(config: ExperimentConfig, name: str, *rest: Any) -> Any:
        if name == "beta":
            raise FedCoWProError(f"{tmp_path}/cases/case-1/image.npy is damaged", "a whole site folder", "see to it")
        return real(config, name, *rest)

    monkeypatch.setattr(client_app, "local_update", fail)
    federate(experiment(min_sites=2, rounds=1), sites, tmp_path / "run", progress=False)
    for file in (tmp_path / "run" / "audit.jsonl", tmp_path / "run" / "audit" / "beta.jsonl"):
        text = file.read_text()
        assert '"failed"' in text
        assert "case-1" not in text
        assert str(tmp_path) not in text


def question(kind: str, settings: ConfigRecord | None = None, **arrays: Any) -> Message:
    content = RecordDict({records.CONFIG: settings} if settings is not None else {})
    content.update(arrays)
    return Message(content, 2, kind)


def test_rounds_are_counted_across_restarts(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    """Three processes would do the same: the count is in the log, not in memory."""
    config = experiment()
    (tmp_path / "policy.yaml").write_text("min_participants: 1\nmax_total_rounds: 2\n")
    log = tmp_path / "site" / "audit.jsonl"
    node = {"site-name": "alpha", "site-path": str(sites["alpha"]), AUDIT: str(log)}
    weights = {n: t for n, t in build_model(config.model, 0).state_dict().items() if t.is_floating_point()}
    replies = []
    for run in ("first", "second", "third"):
        grid = InProcessGrid(client_app.app, {"alpha": {**node, POLICY: str(tmp_path / "policy.yaml")}})
        settings = announced(config.model_dump_json(), run, 1)
        settings[records.ROUND] = 1
        message = question(MessageType.TRAIN, settings, **{records.ARRAYS: records.to_record(weights)})
        replies += list(grid.send_and_receive([message]))
    assert [reply.has_error() for reply in replies] == [False, False, True]
    assert "trained 2 rounds of all runs" in replies[2].error.reason


@pytest.mark.parametrize("spoil", ["policy", "log"])
def test_a_site_that_cannot_check_answers_nothing_and_keeps_its_paths(
    sites: Sites, tmp_path: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    log, policy = tmp_path / "audit.jsonl", tmp_path / "policy.yaml"
    policy.write_text("max_rounds: many\n" if spoil == "policy" else "")
    AuditLog(log).append(Event("site", "alpha", "in", "query", "allowed"))
    if spoil == "log":
        (tmp_path / "audit.jsonl.head").unlink()
    node = {"site-name": "alpha", "site-path": str(sites["alpha"]), AUDIT: str(log), POLICY: str(policy)}
    grid = InProcessGrid(client_app.app, {"alpha": node})
    (reply,) = grid.send_and_receive([question(MessageType.TRAIN, announced("{}", "run", 3))])
    assert reply.has_error()
    assert "cannot be used" in reply.error.reason
    assert str(tmp_path) not in reply.error.reason
    assert str(tmp_path) in caplog.text  # the site's own output says it


DEEP = "[" * 100_000 + "]" * 100_000
MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"experiment": "{"}, "settings cannot be read"),
    "deep": ({"experiment": DEEP}, "settings cannot be read"),
    "deep inside": ({"experiment": f'{{"train": {DEEP}}}'}, "settings cannot be read"),
    "round": ({"server-round": "first"}, "settings cannot be read"),
    "negative": ({"server-round": -1}, "name of the run, round or number of sites"),
    "number of sites": ({"participants": [1, 2]}, "settings cannot be read"),
    "long name": ({"run": "a" * 10**6}, "name of the run"),
    "escape codes": ({"run": "\x1b[2J"}, "name of the run"),
    "quorum": ({"experiment": '{"federation": {"min_sites": [1]}}'}, "at least 1 sites"),
    "federation": ({"experiment": '{"federation": {"privacy": {"mechanism": [1]}}}'}, "differential privacy is"),
    "train": ({"experiment": '{"train": {"batch": "many"}}'}, "the settings under 'train' cannot be read"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_settings_are_refused_and_leave_a_line(sites: Sites, tmp_path: Path, kind: str) -> None:
    changes, why = MALFORMED[kind]
    log, policy = tmp_path / "audit.jsonl", tmp_path / "policy.yaml"
    policy.write_text("")
    node = {"site-name": "alpha", "site-path": str(sites["alpha"]), AUDIT: str(log), POLICY: str(policy)}
    grid = InProcessGrid(client_app.app, {"alpha": node})
    settings = announced("{}", "run", 3)
    settings.update(changes)
    (reply,) = grid.send_and_receive([question(MessageType.TRAIN, settings)])
    assert why in str(reply.error.reason)
    entries, problems, _ = read_audit(log)
    assert problems == []
    assert {entry.event.decision for entry in entries} == {"refused"}
    assert why in entries[0].event.reason
    assert len(log.read_bytes()) < 5000


def test_a_policy_that_cannot_be_read_stops_the_run_before_it_starts(
    sites: Sites, experiment: Experiment, tmp_path: Path
) -> None:
    config = with_policy(experiment(), tmp_path / "policy.yaml", colour="red")
    with pytest.raises(FedCoWProError, match="field 'colour'"):
        federate(config, sites, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_the_log_lies_beside_the_site_folder_by_default(sites: Sites, tmp_path: Path) -> None:
    folder = tmp_path / "alpha"
    shutil.copytree(sites["alpha"], folder)
    grid = InProcessGrid(client_app.app, {"alpha": {"site-name": "alpha", "site-path": str(folder)}})
    assert not next(iter(grid.send_and_receive([question(MessageType.QUERY)]))).has_error()
    assert len(read_audit(tmp_path / "alpha.audit.jsonl")[0]) == 2


def test_equal_contents_have_equal_digests() -> None:
    def content(value: float = 1.0, round_number: int = 1) -> RecordDict:
        arrays = records.to_record({"b": torch.full((2, 2), value), "a": torch.zeros(3)})
        return RecordDict({records.ARRAYS: arrays, records.CONFIG: ConfigRecord({records.ROUND: round_number})})

    assert content_digest(content()) == content_digest(content())
    assert len({content_digest(made) for made in (content(), content(2.0), content(1.0, 2))}) == 3


def test_every_field_is_documented_with_its_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "federation-safety.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| (.*?) \|", text, re.MULTILINE))
    privacy = {f"privacy.{name}": value for name, value in PrivacyPolicy().model_dump(mode="json").items()}
    defaults = {**SitePolicy().model_dump(mode="json", exclude={"privacy"}), **privacy}
    assert defaults.keys() <= rows.keys()
    for name, value in defaults.items():
        shown = (
            "all"
            if name == "privacy.mechanism"
            else f"`{yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}`"
        )
        assert rows[name] == shown.replace(".0`", "`"), name
