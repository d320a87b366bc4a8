"""A federation of real processes with TLS and a key per site: who gets in, what each fault ends in, same weights."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import PATIENCE, Cluster, command_lines
from cryptography.hazmat.primitives.asymmetric import ec

from fedcowpro.config import ExperimentConfig, load
from fedcowpro.config.policy import SitePolicy
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.deployment.check import check_site
from fedcowpro.federated.deployment.coordinator import CONNECTION, connection
from fedcowpro.federated.deployment.keys import make_authority, make_site_key
from fedcowpro.federated.deployment.layout import Bundle, Coordinator
from fedcowpro.federated.deployment.programs import flwr
from fedcowpro.federated.deployment.supernode_client import sign_in
from fedcowpro.federated.governance.audit_log import read_audit
from fedcowpro.federated.monitoring.scores import read_scores
from fedcowpro.federated.run import federate
from fedcowpro.model.checkpoint import load_checkpoint

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc: Linux only"),
    pytest.mark.skipif(
        shutil.which("nginx") is None,
        reason="no nginx, through which sites reach a coordinator: apt-get install nginx-light",
    ),
]
GONE = "Error: Node Unavailable — The destination node failed to report a heartbeat within 2 × its expected interval."
Experiment = Callable[..., ExperimentConfig]


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, sites: dict[str, Path], held_out: dict[str, Path]
) -> Iterator[Cluster]:
    """Sites alpha, which has held-out cases, beta and gamma; delta never comes."""
    folders = {**sites, "alpha": held_out["north"]}
    made = Cluster(tmp_path_factory.mktemp("cluster"), folders, missing=("delta",))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def rounds(out: Path) -> list[dict[str, Any]]:
    file = out / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    return [line for line in map(json.loads, text[: text.rfind("\n") + 1].splitlines()) if line["kind"] == "round"]


def ended(cluster: Cluster, command: subprocess.Popen[str], out: Path) -> str:
    """What a run's command printed in the end."""
    command.wait(PATIENCE)
    return " ".join(cluster.log(f"federate-{out.name}").split())


def request(port: int, ca: Path, path: str, method: str = "POST", body: bytes = b"", key: str = "") -> int:
    """Status of the answer to a request as raw bytes, which nobody on this side tidies up."""
    context = ssl.create_default_context(cafile=str(ca))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as door,
    ):
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/protobuf\r\n{key}"
        door.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        return int(door.recv(100).split()[1])


def test_only_the_fleet_interface_passes_the_door(cluster: Cluster) -> None:
    from flwr.superlink.routers.control.router import router as control

    ca, door, inside = cluster.coordinator.ca, cluster.settings.port, cluster.settings.superlink_port
    closed = sorted({route.path for route in control.routes})  # type: ignore[attr-defined]
    assert len(closed) > 20
    closed += [
        "/v1/runtime/acquire-task",
        "/v1/runtime/pull-messages",
        "/v1/runtime/responses",
        "/health",
        "/",
        "/docs",
    ]
    closed += [f"/v1/fleet/../control/{name}" for name in ("list-runs", "start-run")]
    closed += [f"/v1/fleet/{dots}/control/list-runs" for dots in ("%2e%2e", "..%2f..", "%252e%252e", "..;")]
    closed += ["//v1//control/list-runs", "/V1/CONTROL/list-runs", "/v1/fleet/", "/v1/fleet/../../openapi.json"]
    assert request(inside, ca, "/v1/control/list-runs") == 200, "the test can fail: inside, the way is open"
    for path in closed:
        for key in ("", known(cluster)):
            assert request(door, ca, path, key=key) in (400, 403, 404), path
            assert request(door, ca, path, "GET", key=key) in (400, 403, 404), path
    assert request(door, ca, "/v1/fleet/pull-messages", "GET", key=known(cluster)) == 403
    assert request(door, ca, "/v1/fleet/pull-messages") == 403
    assert request(door, ca, "/v1/fleet/pull-messages", key="flwr-public-key: bm9ib2R5\r\n") == 403
    # A site's public key passes, and who shows it is asked for a signature.
    assert request(door, ca, "/v1/fleet/pull-messages", key=known(cluster)) == 401
    assert request(door, ca, "/v1/fleet/push-object", key=known(cluster), body=bytes(7_000_000)) == 413


def known(cluster: Cluster) -> str:
    """The header with which a site shows its public key."""
    value = cluster.coordinator.known_sites.read_text().split('"')[1]
    return f"flwr-public-key: {value}\r\n"


def test_strangers_cannot_fill_the_servers_memory(cluster: Cluster) -> None:
    """100 connections without a key that send all they may, and stay; a site comes in beside them."""
    ca, port = cluster.coordinator.ca, cluster.settings.port
    context = ssl.create_default_context(cafile=str(ca))
    head = "POST /v1/fleet/push-object HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/protobuf\r\n"
    head += f"Content-Length: {6 << 20}\r\n\r\n"
    at_rest, held, most, sent = server_memory(cluster), [], 0.0, 0
    try:
        for number in range(100):
            plain = socket.create_connection(("127.0.0.1", port), timeout=30)
            stranger = context.wrap_socket(plain, server_hostname="127.0.0.1")
            held.append(stranger)
            try:
                stranger.sendall(head.encode())
                for _ in range(6):
                    stranger.sendall(bytes(1 << 20) if number % 2 else bytes((1 << 20) - 1))  # half of them end
                    sent += 1
            except OSError:
                pass  # the door has shut
            most = max(most, server_memory(cluster))
        assert sign_in(f"127.0.0.1:{port}", ca, cluster.coordinator.bundle("delta") / "site.key") == "accepted"
    finally:
        for stranger in held:
            stranger.close()
    print(f"{at_rest:.0f} MB at rest, {most:.0f} MB at most, {sent} MB were sent")
    assert most - at_rest <= 50


def server_memory(cluster: Cluster) -> float:
    """MB of the SuperLink and the proxy's processes."""
    folder, total = str(cluster.federation), 0
    for pid, line in command_lines().items():
        if folder in line and ("flower-superlink" in line or line.startswith("nginx")):
            total += memory(pid)
    for pid, line in command_lines().items():
        if line.startswith("nginx: worker"):
            total += memory(pid)
    return total / 1024


def memory(pid: int) -> int:
    """KB of a process; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def test_flowers_own_command_line_is_refused_from_outside(cluster: Cluster, tmp_path: Path) -> None:
    import grpc

    outside = Coordinator(tmp_path)
    outside.folder.mkdir()
    shutil.copy(cluster.coordinator.ca, outside.ca)
    connection(outside, cluster.settings.model_copy(update={"superlink_port": cluster.settings.port}))
    done = flwr(outside.home, ["list", CONNECTION, "--format", "json"])
    assert '"success": true' not in done.stdout
    assert "403" in done.stdout + done.stderr
    credentials = grpc.ssl_channel_credentials(cluster.coordinator.ca.read_bytes())
    address = f"127.0.0.1:{cluster.settings.port}"
    with grpc.secure_channel(address, credentials) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/flwr.proto.Control/ListRuns")(b"", timeout=10)


def test_strangers_get_nothing(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, ca = f"127.0.0.1:{cluster.settings.port}", cluster.coordinator.ca
    delta = cluster.coordinator.bundle("delta") / "site.key"
    assert sign_in(address, ca, delta) == "accepted"
    make_site_key(tmp_path / "unregistered.key")
    with pytest.raises(FedCoWProError, match="does not know this site's key"):
        sign_in(address, ca, tmp_path / "unregistered.key")
    with pytest.raises(FedCoWProError, match="a SuperNode with this site's key is connected already"):
        sign_in(address, ca, cluster.coordinator.bundle("alpha") / "site.key")
    make_authority(tmp_path / "other.crt", tmp_path / "other.key", "another authority")
    with pytest.raises(FedCoWProError, match=r"shows a certificate that is not the federation's"):
        sign_in(address, tmp_path / "other.crt", delta)
    plain = http.client.HTTPConnection("127.0.0.1", cluster.settings.port, timeout=30)
    plain.request("POST", "/v1/fleet/pull-messages")
    assert plain.getresponse().status == 400
    plain.close()

    class Impostor:
        """Signs with another key than the one it shows."""

        def __init__(self, private: ec.EllipticCurvePrivateKey, public: ec.EllipticCurvePublicKey) -> None:
            self._real = real(ec.generate_private_key(ec.SECP384R1()), public)

        def intercept(self, context: Any, call_next: Any) -> Any:
            return self._real.intercept(context, call_next)

    from fedcowpro.federated.deployment import supernode_client

    real = supernode_client.NodeAuthHttpInterceptor
    monkeypatch.setattr(supernode_client, "NodeAuthHttpInterceptor", Impostor)
    with pytest.raises(FedCoWProError, match="401"):
        sign_in(address, ca, delta)


def test_check_finds_a_ready_site_ready(cluster: Cluster, experiment: Experiment) -> None:
    findings = list(check_site(cluster.coordinator.bundle("delta"), cluster.sites["alpha"], experiment()))
    assert [finding.what for finding in findings if not finding.ok] == [], findings
    assert len(findings) == 10


def test_undisturbed_run_equals_one_in_one_process(cluster: Cluster, experiment: Experiment, tmp_path: Path) -> None:
    config, out = experiment(seed=3, rounds=2), tmp_path / "undisturbed"
    began = time.monotonic()
    said = ended(cluster, cluster.federate(config, out, *cluster.sites), out)
    cluster.faults.joinpath("seconds").write_text(str(time.monotonic() - began))
    assert f"model: {out / 'model.safetensors'}" in said
    here = federate(config, cluster.sites, tmp_path / "here", progress=False)
    for name in ("model.safetensors", "model.json"):
        assert (out / name).read_bytes() == here.with_name(name).read_bytes()
    assert [line["left_out"] for line in rounds(out)] == [{}, {}]


def test_a_site_refuses_and_others_score_the_model(cluster: Cluster, experiment: Experiment, tmp_path: Path) -> None:
    """With the policies and logs that `join` gives; both sides' logs are whole and agree; the run can be watched."""
    config, out = experiment(seed=4, rounds=1, min_sites=2), tmp_path / "consent"
    policy = Bundle(cluster.coordinator.bundle("gamma")).policy
    template = policy.read_text()
    assert load(SitePolicy, policy) == SitePolicy()
    policy.write_text("max_local_steps: 1\n")
    command = cluster.federate(config, out, *cluster.sites, options=("--evaluate",))
    cluster.wait((out / "run.json").exists, "the run's folder")
    seen = subprocess.run(cluster.words("watch", str(out), "--json"), capture_output=True, text=True, timeout=PATIENCE)
    said = ended(cluster, command, out)
    policy.write_text(template)
    assert command.returncode == 0, said
    why = "refused by the site's policy: 2 steps per round are announced, allowed are 1"
    assert [line["left_out"] for line in rounds(out)] == [{"gamma": why}]
    assert why in said
    watched = [json.loads(line)["kind"] for line in seen.stdout.splitlines()]
    assert watched == ["site", "site", "round", "evaluation", "evaluation", "evaluation"]
    scores = {one.site: one for one in read_scores(out)}
    assert {(score.cases, score.mean is None) for score in scores["alpha"].scores} == {(3, False)}
    assert scores["beta"].scores == ()
    assert "the site has fewer" in scores["beta"].reason

    server, wrong, _ = read_audit(out / "audit.jsonl")
    assert wrong == []
    run = next(entry.event.run for entry in server if entry.event.kind == "train")
    assert [e.event.reason for e in server if e.event.decision == "refused" and e.event.kind == "train"] == [why]
    for site in cluster.sites:
        log = Bundle(cluster.coordinator.bundle(site)).audit
        subprocess.run(cluster.words("audit", str(log.parent), "--totals"), check=True, capture_output=True)
        own, wrong, _ = read_audit(log)
        assert wrong == []
        there = [e.event for e in own if e.event.run == run and e.event.kind in ("train", "evaluate")]
        here = [e.event for e in server if e.event.site == site and e.event.kind in ("train", "evaluate")]
        assert [(e.kind, e.round, e.content) for e in there] == [(e.kind, e.round, e.content) for e in here]
        assert len([e for e in there if e.content]) == {"alpha": 4, "beta": 3, "gamma": 2}[site]
        assert not any(str(place) in log.read_text() for place in (cluster.root, cluster.sites[site], tmp_path))


def test_sites_that_lie_end_no_run_and_count_for_nothing(
    cluster: Cluster, experiment: Experiment, tmp_path: Path
) -> None:
    """Each lie in a round of its own, over TLS; beta describes itself falsely, so that alpha alone is averaged."""
    cluster.misbehave()
    lies = {
        "infinite steps": "metric 'steps' is inf",
        "giant": "it claims 1e+06 slices, but declared 5 at first",
        "list": "metric 'losses.total' is [1.0, 2.0]",
        "junk": "1 arrays are not asked for, 'junk' among them",
        "no records": "the reply has [] instead of arrays and metrics",
        "times 1e5": "norm of the update",
        "statistics": "norm of the running statistics",
    }
    gamma = {str(number): lie for number, lie in enumerate(lies, 1)}
    (cluster.faults / "faults.json").write_text(json.dumps({"beta": {"describe": "list"}, "gamma": gamma}))
    config, out = experiment(seed=6, rounds=len(lies), min_sites=1, join_timeout=2), tmp_path / "lies"
    command = cluster.federate(config, out, *cluster.sites)
    said = ended(cluster, command, out)
    assert command.returncode == 0, said
    for line, why in zip(rounds(out), lies.values(), strict=True):
        assert why in line["left_out"]["gamma"], line
        assert line["unsound"] == ["gamma"]
        assert "its description is not one of this program: 'cases' is" in line["left_out"]["beta"]
    text = (out / "metrics.jsonl").read_text().splitlines()
    alarms = [line for line in map(json.loads, text) if line["kind"] == "alarm" and line["alarm"] == "reply"]
    assert [(line["round"], line["site"]) for line in alarms] == [(1, "gamma")]  # a sign that goes on is raised once
    alone = federate(config, {"alpha": cluster.sites["alpha"]}, tmp_path / "alone", progress=False)
    assert load_checkpoint(out)[1]["weights_digest"] == load_checkpoint(alone)[1]["weights_digest"]
    for stale in cluster.faults.glob("*.started"):
        stale.unlink()


def test_faults_are_answered_and_recorded(cluster: Cluster, experiment: Experiment, tmp_path: Path) -> None:
    """NaN, an exception, kill -9, a slow site, one that never comes, one that comes back, an update far away."""
    cluster.misbehave()
    plan = {
        "alpha": {"3": "shape"},
        "beta": {"1": "nan", "2": "wait for never", "3": "nan"},
        "gamma": {"1": "fail", "2": "wait for gamma-may-go", "3": "more"},
    }
    (cluster.faults / "faults.json").write_text(json.dumps(plan))
    measured = cluster.faults / "seconds"
    deadline = max(15.0, 0.6 * float(measured.read_text()) if measured.exists() else 60.0)
    out = tmp_path / "faults"
    config = experiment(rounds=4, min_sites=1, join_timeout=2, round_timeout=deadline)
    command = cluster.federate(config, out)
    cluster.wait((cluster.faults / "beta.2.started").exists, "round 2")
    cluster.kill("deployment.supernode", str(cluster.root), "bundles/beta/")
    cluster.wait(lambda: len(rounds(out)) == 2, "the deadline of round 2")
    (cluster.faults / "gamma-may-go").touch()
    said = ended(cluster, command, out)
    assert command.returncode == 2
    assert not (out / "model.safetensors").exists()
    first, second = rounds(out)
    assert first["sites"] == second["sites"] == 1
    assert {site: reason.split(":")[0] for site, reason in first["left_out"].items()} == {
        "beta": "array 'project.weight' has NaN or infinite values",
        "delta": "not connected",
        "gamma": "OSError",
    }
    assert "No space left on device" in first["left_out"]["gamma"]
    assert not any(word in json.dumps(first) + said for word in ("patients", "Jane", "scan.nii"))
    late = f"no reply within {deadline:g} s"
    # Whether the deadline or the server's own notice, about a minute after the last sign of life, comes first.
    assert second["left_out"].pop("beta") in (late, GONE)
    assert second["left_out"] == {"delta": "not connected", "gamma": late}
    assert "round 3: usable replies of 0 of 4 sites" in said
    assert "array 'project.weight' is float32 (1," in said

    plan = {"alpha": {"1": "wait for beta-is-back"}, "gamma": {"1": "far"}}
    (cluster.faults / "faults.json").write_text(json.dumps(plan))
    out = tmp_path / "back"
    config = experiment(rounds=2, min_sites=1, join_timeout=2, norm_rule="clip")
    command = cluster.federate(config, out, *cluster.sites)
    cluster.wait((cluster.faults / "alpha.1.started").exists, "round 1")
    cluster.wait(lambda: cluster.log("beta").count("SuperNode ID") > 1, "beta comes back")
    (cluster.faults / "beta-is-back").touch()
    said = ended(cluster, command, out)
    assert command.returncode == 0, said
    first, second = rounds(out)
    assert second["left_out"] == second["clipped"] == {}
    assert set(first["left_out"]) <= {"beta"}
    assert list(first["clipped"]) == ["gamma"]
    assert "norm of the update" in first["clipped"]["gamma"]
    assert (out / "model.safetensors").exists()


def test_killed_server_resumes_to_the_same_weights(cluster: Cluster, experiment: Experiment, tmp_path: Path) -> None:
    cluster.misbehave()
    (cluster.faults / "faults.json").write_text(json.dumps({"beta": {"2": "wait for beta-may-go"}}))
    for stale in cluster.faults.glob("*.started"):
        stale.unlink()
    config, out = experiment(seed=5, rounds=2), tmp_path / "killed"
    command = cluster.federate(config, out, *cluster.sites)
    cluster.wait((cluster.faults / "beta.2.started").exists, "round 2")
    before = {site: cluster.log(site).count("SuperNode ID") for site in cluster.sites}
    cluster.kill("flower-superlink", str(cluster.federation))
    (cluster.faults / "beta-may-go").touch()
    assert "SuperLink" in ended(cluster, command, out)
    assert command.returncode == 2
    assert len(rounds(out)) == 1
    cluster.wait(lambda: "the SuperLink ended by itself" in cluster.log("server"), "the server's end")
    cluster.serve()
    for site in cluster.sites:
        cluster.wait(lambda site=site: cluster.log(site).count("SuperNode ID") > before[site], f"{site} is back")  # type: ignore[misc]
    command = cluster.federate(config, out, *cluster.sites)
    said = ended(cluster, command, out)
    assert command.returncode == 0, said
    assert "round 1/2" not in said
    here = federate(config, cluster.sites, tmp_path / "here", progress=False)
    assert (out / "model.safetensors").read_bytes() == here.read_bytes()
