"""A server that invents sites: it takes a site's update out of the sum, unless the site's policy pins its peers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from pydantic import ValidationError

from fedcowpro.config import ExperimentConfig, load
from fedcowpro.config.policy import SitePolicy
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.package import package_digest
from fedcowpro.federated.deployment.keys import make_site_key
from fedcowpro.federated.governance.audit_log import read_audit
from fedcowpro.federated.monitoring.rounds import read_rounds
from fedcowpro.federated.privacy.masking import (
    SECRET_BYTES,
    Secrets,
    agree,
    join,
    no_smaller_sum,
    own_mask,
    pair_masks,
    public_key,
    unseal,
)
from fedcowpro.federated.privacy.ring import ring_of, unpack
from fedcowpro.federated.privacy.signing import is_signed, read_private_key, round_statement, sign
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.federated.server.server_app import _settings_for_sites, serve
from fedcowpro.federated.site import client_app
from fedcowpro.federated.site.local_training import exchanged_names, learnt_names
from fedcowpro.federated.transport import messages as records
from fedcowpro.model.segmenter import build_model

Experiment = Callable[..., ExperimentConfig]
Sites = dict[str, Path]
Asked = Callable[[str, dict[str, Any]], RecordDict]
Forge = Callable[[str, dict[str, Any]], dict[str, Any]]
NAMES = ("alpha", "beta", "gamma")
INVENTED = ("mallory", "trent")


@pytest.fixture
def secure(experiment: Experiment) -> ExperimentConfig:
    settings = experiment(weighting="uniform", rounds=1, local_steps=1).model_dump()
    settings["model"]["frozen_norm"] = True
    settings["federation"]["privacy"] = {"secure_aggregation": True, "clip": 5.0}
    return ExperimentConfig.model_validate(settings)


@pytest.fixture
def nodes(sites: Sites, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Each site's configuration, with a key of its own, a log, and a policy that pins the two others."""
    publics = {name: make_site_key(tmp_path / f"{name}.key").decode() for name in NAMES}
    for name in NAMES:
        peers = {other: key for other, key in publics.items() if other != name}
        policy = {"privacy": {"secure_aggregation": True}, "peers": peers}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(policy))
    return {
        name: {
            "site-name": name,
            "site-path": str(sites[name]),
            "site-policy": str(tmp_path / f"{name}.yaml"),
            "site-key": str(tmp_path / f"{name}.key"),
            "audit-log": str(tmp_path / f"{name}.jsonl"),
        }
        for name in NAMES
    }


def asking(node: dict[str, Any]) -> Asked:
    """Puts a message of some kind, with this in its `config` and arrays, to one site; its answer, or an error."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    context = Context(1, 2, dict(node), RecordDict(), {})

    def ask(kind: str, config: dict[str, Any]) -> RecordDict:
        arrays = config.pop("arrays", None)
        more = {} if arrays is None else {records.ARRAYS: arrays}
        reply = client_app.app(Message(RecordDict({records.CONFIG: ConfigRecord(config), **more}), 2, kind), context)
        if reply.has_error():
            raise PermissionError(reply.error.reason)
        return reply.content

    return ask


def recovered(ask: Asked, config: ExperimentConfig, forge: Forge) -> dict[str, np.ndarray]:
    """The update of the only site that there is, as a server gets at it that plays two more.

    Args:
        forge: what the server adds to the message of a step, given the list of keys.
    """
    model = build_model(config.model, config.seed)
    start = {name: model.state_dict()[name] for name in exchanged_names(model)}
    told = {"experiment": _settings_for_sites(config), "run": "r", "package": package_digest(), "participants": 3}
    told |= {"server-round": 1}
    offered = ask("query.secure_keys", dict(told))[records.CONFIG]
    secrets = {name: Secrets.fresh() for name in INVENTED}
    names = ["alpha", *INVENTED]
    masks = {"alpha": offered["public-key"], **{name: public_key(secrets[name].key) for name in INVENTED}}
    channels = {"alpha": offered["public-channel"]}
    channels |= {name: public_key(secrets[name].channel) for name in INVENTED}
    offer = {"names": names, "keys": [*masks.values()], "channels": [*channels.values()], "threshold": 3}
    shared = ask("query.secure_shares", {"server-round": 1, **offer, **forge("shares", offer)})[records.CONFIG]
    opened = {
        place: unseal(agree(secrets[name].channel, channels["alpha"], f"share/1/alpha/{name}"), shared["sealed"][place])
        for place, name in enumerate(names)
        if name != "alpha"
    }
    arrays = ArrayRecord({name: start[name] for name in sorted(start)})
    question = {**told, "names": names, "sealed": [b"", b"", b""], "arrays": arrays, **forge("train", offer)}
    words = ask("train", question)[records.ARRAYS]["masked"].numpy()
    told_last = ask("query.secure_unmask", {"server-round": 1, "names": names})[records.CONFIG]
    shares = {0: told_last["shares"][0], **{place: both[:SECRET_BYTES] for place, both in opened.items()}}
    words = words - own_mask(join(shares), len(words))
    for name in INVENTED:
        words = words + pair_masks(name, secrets[name].key, {"alpha": masks["alpha"]}, len(words))
    learnt = learnt_names(model)
    return unpack(ring_of(config.federation.privacy, 3).decode_sum(words, 1), {n: start[n].shape for n in learnt})


def honest_update(config: ExperimentConfig, node: dict[str, Any]) -> dict[str, np.ndarray]:
    """What the same site moves in the same round without privacy."""
    model = build_model(config.model, config.seed)
    start = {name: model.state_dict()[name] for name in exchanged_names(model)}
    plain = config.model_dump()
    plain["federation"]["privacy"] = {}
    told = {
        "experiment": _settings_for_sites(ExperimentConfig.model_validate(plain)),
        "run": "r",
        "package": package_digest(),
    }
    arrays = ArrayRecord({name: start[name] for name in sorted(start)})
    ask = asking({**node, "site-policy": "none"})
    reply = ask("train", {**told, "participants": 3, "server-round": 1, "arrays": arrays})
    return {name: array.numpy() - start[name].numpy() for name, array in reply[records.ARRAYS].items()}


def test_without_pinned_peers_a_server_that_invents_two_sites_has_the_update(
    secure: ExperimentConfig, nodes: dict[str, dict[str, Any]]
) -> None:
    found = recovered(asking({**nodes["alpha"], "site-policy": "none"}), secure, lambda step, offer: {})
    true = honest_update(secure, nodes["alpha"])
    assert max(np.abs(found[name] - true[name]).max() for name in found) < 1e-6
    assert max(np.abs(value).max() for value in true.values()) > 1e-4


def test_pinned_peers_make_it_fail_and_the_log_says_why(
    secure: ExperimentConfig, nodes: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(PermissionError, match=r"site 'mallory', site 'trent' would be in the sum, and the site's poli"):
        recovered(asking(nodes["alpha"]), secure, lambda step, offer: {})
    entries, problems, _ = read_audit(tmp_path / "alpha.jsonl")
    assert problems == []
    last = entries[-1].event
    assert (last.kind, last.decision, last.direction) == ("query.secure_shares", "refused", "out")
    assert "'mallory'" in last.reason
    assert not [one for one in entries if one.event.kind == "train"]


@pytest.mark.parametrize("forged", ["nothing", "of its own keys", "of another list"])
def test_a_server_that_uses_the_peers_names_has_no_signature_of_theirs(
    secure: ExperimentConfig, nodes: dict[str, dict[str, Any]], tmp_path: Path, forged: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(f"{__name__}.INVENTED", ("beta", "gamma"))
    make_site_key(tmp_path / "server.key")
    old = round_statement("r", 1, 3, list(NAMES), [b"k"] * 3, [b"c"] * 3)

    def forge(step: str, offer: dict[str, Any]) -> dict[str, Any]:
        if step == "shares" or forged == "nothing":
            return {}
        if forged == "of its own keys":
            said = round_statement("r", 1, 3, offer["names"], offer["keys"], offer["channels"])
            signed = [sign(read_private_key(tmp_path / "server.key"), name, said) for name in INVENTED]
        else:  # what the peers have signed in another round
            signed = [sign(read_private_key(tmp_path / f"{name}.key"), name, old) for name in INVENTED]
        return {records.SIGNATURES: [b"-", *signed]}

    with pytest.raises(PermissionError, match=r"site 'beta', site 'gamma' would be in the sum without a signature"):
        recovered(asking(nodes["alpha"]), secure, forge)
    entries, _, _ = read_audit(tmp_path / "alpha.jsonl")
    refused = [one.event for one in entries if one.event.decision == "refused"]
    assert [(one.kind, one.direction) for one in refused] == [("train", "out")]
    assert "peers" in refused[0].reason


def test_honest_peers_sign_and_the_round_is_done(
    secure: ExperimentConfig, nodes: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    serve(InProcessGrid(client_app.app, nodes), secure, folder)
    (record,) = read_rounds(folder.metrics_file)
    assert [site.site for site in record.sites] == [*NAMES]
    (tmp_path / "gamma.yaml").write_text("{}")
    without = {**nodes, "gamma": {**nodes["gamma"], "site-policy": "none"}}
    del without["gamma"]["site-key"]
    with pytest.raises(FedCoWProError, match=r"site 'gamma' would be in the sum without a signature"):
        serve(InProcessGrid(client_app.app, without), secure, RunFolder(tmp_path / "other"))


def test_a_name_twice_does_not_make_a_sum(secure: ExperimentConfig, nodes: dict[str, dict[str, Any]]) -> None:
    def forge(step: str, offer: dict[str, Any]) -> dict[str, Any]:
        return {"names": ["alpha"] * 3} if step == "train" else {}

    with pytest.raises(FedCoWProError, match="each once"):
        recovered(asking({**nodes["alpha"], "site-policy": "none"}), secure, forge)


def test_a_signature_is_of_one_list_and_one_signer(tmp_path: Path) -> None:
    public = make_site_key(tmp_path / "key").decode()
    key = read_private_key(tmp_path / "key")
    said = round_statement("r", 1, 3, ["a", "b"], [b"1", b"2"], [b"3", b"4"])
    signature = sign(key, "a", said)
    assert is_signed(public, "a", said, signature)
    others = [
        round_statement("s", 1, 3, ["a", "b"], [b"1", b"2"], [b"3", b"4"]),
        round_statement("r", 2, 3, ["a", "b"], [b"1", b"2"], [b"3", b"4"]),
        round_statement("r", 1, 2, ["a", "b"], [b"1", b"2"], [b"3", b"4"]),
        round_statement("r", 1, 3, ["a", "c"], [b"1", b"2"], [b"3", b"4"]),
        round_statement("r", 1, 3, ["a", "b"], [b"1", b"9"], [b"3", b"4"]),
        round_statement("r", 1, 3, ["a", "b"], [b"1", b"2"], [b"3", b"9"]),
    ]
    assert not any(is_signed(public, "a", other, signature) for other in others)
    assert not is_signed(public, "b", said, signature)
    assert not is_signed(make_site_key(tmp_path / "other").decode(), "a", said, signature)
    assert not is_signed("no key", "a", said, signature)
    assert not is_signed(public, "a", said, b"")


@pytest.mark.parametrize(
    ("sites", "lowest"), [(3, 3), (4, 3), (5, 4), (6, 4), (10, 6), (20, 11)]
)  # fmt: skip
def test_a_threshold_below_which_lies_about_who_answered_tell_a_sum_of_two(sites: int, lowest: int) -> None:
    assert [no_smaller_sum(threshold, sites, 3) for threshold in (lowest - 1, lowest, sites)] == [False, True, True]


def test_a_policy_that_demands_sums_names_its_peers(tmp_path: Path) -> None:
    one, two = (make_site_key(tmp_path / name).decode() for name in ("one", "two"))
    with pytest.raises(ValidationError, match="needs 'peers'"):
        SitePolicy.model_validate({"privacy": {"secure_aggregation": True}})
    for peers, words in [
        ({"a": one, "b": one}, "two sites with one key"),
        ({"a": one}, "one other site"),
        ({"a": "ssh-rsa AAAA", "b": two}, "pattern"),
        ({"a b": one, "b": two}, "pattern"),
    ]:
        with pytest.raises(ValidationError, match=words):
            SitePolicy.model_validate({"peers": peers})
    (tmp_path / "p.yaml").write_text(json.dumps({"peers": {"a": one, "b": two}}))
    assert set(load(SitePolicy, tmp_path / "p.yaml").peers) == {"a", "b"}
