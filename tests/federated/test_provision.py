"""What `federation init` writes, `join` says and `check` finds, without a server."""

from __future__ import annotations

import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store

from fedcowpro.cli import main
from fedcowpro.config import ExperimentConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.deployment import check as checks
from fedcowpro.federated.deployment import site as sites_process
from fedcowpro.federated.deployment import submit
from fedcowpro.federated.deployment.check import check_site
from fedcowpro.federated.deployment.coordinator import serve_federation
from fedcowpro.federated.deployment.keys import certificate_hosts, fingerprint, make_site_key, public_of
from fedcowpro.federated.deployment.layout import Coordinator, FederationFile
from fedcowpro.federated.deployment.programs import until_stopped
from fedcowpro.federated.deployment.provision import init_federation
from fedcowpro.federated.deployment.superlink_client import RunState
from fedcowpro.federated.simulate import require_ray

HOSTS = ("fl.example.org", "10.0.0.5")


def make(root: Path, *sites: str, **more: object) -> Coordinator:
    data = {"hosts": HOSTS, "sites": sites, **more}
    init_federation(root, FederationFile.model_validate(data))
    return Coordinator(root)


def content(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_each_role_gets_its_own_and_nothing_else(tmp_path: Path) -> None:
    made = make(tmp_path, "north", "south")
    files = content(tmp_path)
    private = [name for name, text in files.items() if b"PRIVATE KEY" in text]
    assert sorted(private) == [
        "authority/ca.key", "bundles/north/site.key", "bundles/south/site.key", "coordinator/server.key",
    ]  # fmt: skip
    assert all(stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600 for name in private)
    assert sorted(file.name for file in made.bundle("north").iterdir()) == [
        "README.md", "ca.crt", "fedcowpro-site.service", "site-policy.yaml", "site.key", "site.yaml", "start.sh",
    ]  # fmt: skip
    assert b"south" not in b"".join(text for name, text in files.items() if name.startswith("bundles/north"))
    for site in ("north", "south"):
        public = public_of(made.bundle(site) / "site.key")
        assert public == made.public_key(site).read_bytes()
        entry = yaml.safe_load((made.bundle(site) / "site.yaml").read_text())
        assert (entry["site"], entry["key"], entry["coordinator"]) == (site, fingerprint(public), "fl.example.org:9443")


def test_the_server_certificate_is_for_the_hosts_and_signed_by_the_authority(tmp_path: Path) -> None:
    made = make(tmp_path, "north")
    assert certificate_hosts(made.certificate) == [*HOSTS, "localhost", "127.0.0.1"]
    authority = x509.load_pem_x509_certificate(made.ca.read_bytes())
    server = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    builder = PolicyBuilder().store(Store([authority]))
    assert builder.build_server_verifier(x509.DNSName("fl.example.org")).verify(server, [])
    with pytest.raises(x509.verification.VerificationError):
        builder.build_server_verifier(x509.DNSName("other.example.org")).verify(server, [])
    other = make(tmp_path / "other", "north")
    strangers = Store([x509.load_pem_x509_certificate(other.ca.read_bytes())])
    with pytest.raises(x509.verification.VerificationError):
        PolicyBuilder().store(strangers).build_server_verifier(x509.DNSName("fl.example.org")).verify(server, [])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze: apt-get install systemd")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    made = make(tmp_path / "my federation", "north")
    coordinator, site = made.folder / "fedcowpro-coordinator.service", made.bundle("north") / "fedcowpro-site.service"
    program = Path(sys.executable).with_name("fedcowpro")
    site.write_text(site.read_text().replace("/opt/fedcowpro/bin/fedcowpro", str(program)))
    for unit in (coordinator, site):
        done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_texts_are_what_they_seem(tmp_path: Path) -> None:
    made = make(tmp_path / "my federation", "north", listen="127.0.0.1", port=18443, superlink_port=18092)
    for text in content(tmp_path).values():
        assert b"$name" not in text
        assert b"$folder" not in text
    assert f'federation serve "{made.root}"' in (made.folder / "fedcowpro-coordinator.service").read_text()
    for script in (made.folder / "start.sh", made.bundle("north") / "start.sh"):
        subprocess.run(["sh", "-n", str(script)], check=True)
        assert script.stat().st_mode & 0o100
    if shutil.which("nginx"):
        (made.folder / "proxy").mkdir()
        test = ["nginx", "-t", "-p", f"{made.folder}/", "-e", str(tmp_path / "log"), "-c", str(made.proxy)]
        done = subprocess.run(test, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_keys_are_never_overwritten_and_sites_can_be_added(tmp_path: Path) -> None:
    make(tmp_path, "north")
    before = content(tmp_path)
    made = make(tmp_path, "south", port=9999)
    after = content(tmp_path)
    same = [name for name in before if "key" in name or name.endswith((".crt", ".pub")) or name.startswith("bundles")]
    assert len(same) > 8
    assert all(before[name] == after[name] for name in same)
    assert made.read().sites == ("north", "south")
    assert b"listen 0.0.0.0:9999 ssl" in after["coordinator/nginx.conf"]
    with pytest.raises(FedCoWProError, match=r"is not for \['new.example.org'\]"):
        make(tmp_path, "north", hosts=("new.example.org",))
    with pytest.raises(FedCoWProError, match="holds the federation 'fedcowpro'"):
        make(tmp_path, "north", name="another")
    with pytest.raises(FedCoWProError, match="never overwritten"):
        make_site_key(made.bundle("north") / "site.key")


def test_an_interrupted_init_goes_on(tmp_path: Path) -> None:
    made = make(tmp_path, "north")
    made.public_key("north").unlink()
    key = (made.bundle("north") / "site.key").read_bytes()
    make(tmp_path, "north")
    assert (made.bundle("north") / "site.key").read_bytes() == key
    assert made.public_key("north").exists()


def test_a_site_may_make_its_own_key(tmp_path: Path) -> None:
    (tmp_path / "own.pub").write_bytes(make_site_key(tmp_path / "own"))
    settings = FederationFile(hosts=HOSTS, sites=("north",))
    init_federation(tmp_path / "fed", settings, {"north": tmp_path / "own.pub"})
    made = Coordinator(tmp_path / "fed")
    assert not (made.bundle("north") / "site.key").exists()
    assert made.public_key("north").read_bytes() == (tmp_path / "own.pub").read_bytes()
    for bad in (tmp_path / "own", tmp_path / "none"):
        with pytest.raises(FedCoWProError):
            init_federation(tmp_path / "other", settings, {"north": bad})
    with pytest.raises(FedCoWProError, match="a public key for"):
        init_federation(tmp_path / "fed", settings, {"south": tmp_path / "own.pub"})


def test_init_asks_for_keys_made_at_the_hospitals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: object) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["federation", *map(str, words)])
        return int(str(ended.value.code or 0))

    init = ("init", tmp_path / "fed", "--host", "127.0.0.1")
    assert run(*init, "--site", "north", "--site", "south") == 2
    assert "fedcowpro federation key site.key" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "fed").exists()
    for site in ("north", "south"):
        assert run("key", tmp_path / f"{site}.key") == 0
    assert run("key", tmp_path / "north.key") == 2  # never overwritten
    given = [word for site in ("north", "south") for word in ("--site", f"{site}={tmp_path / site}.key.pub")]
    assert run(*init, *given) == 0
    made = Coordinator(tmp_path / "fed")
    assert not [name for name, text in content(made.root / "bundles").items() if b"PRIVATE KEY" in text]
    assert "Put `site.key`" in (made.bundle("north") / "README.md").read_text()
    assert run(*init, "--site", "north", "--site", "west", "--make-keys") == 0  # those that are there are known
    assert "The coordinator made it" in (made.bundle("west") / "README.md").read_text()
    assert (made.bundle("west") / "site.key").exists()


def lines(root: Path, folder: Path, **more: object) -> dict[str, tuple[bool, str]]:
    found = check_site(root, folder, online=False, **more)  # type: ignore[arg-type]
    return {finding.what: (finding.ok, finding.line()) for finding in found}


def test_check_names_what_is_wrong_and_what_to_do(
    tmp_path: Path, sites: dict[str, Path], experiment: Callable[..., ExperimentConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path, "north", "south")
    bundle = made.bundle("north")
    found = lines(bundle, sites["alpha"], experiment=experiment())
    assert [what for what, (ok, _) in found.items() if not ok] == [], found
    assert list(found) == ["versions", "key", "authority", "policy", "disk", "site folder", "dry round"]
    assert "allows train, evaluate" in found["policy"][1]

    summed = experiment(weighting="uniform", privacy={"secure_aggregation": True}, normalisation="local",
                        new_site_layers="initial")  # fmt: skip
    assert "it pins no peers" in lines(bundle, sites["alpha"], experiment=summed)["policy"][1]

    (bundle / "site-policy.yaml").write_text("max_local_steps: 1\n")
    ok, text = lines(bundle, sites["alpha"], experiment=experiment())["policy"]
    assert not ok
    assert "2 steps per round are announced, allowed are 1" in text
    assert lines(bundle, sites["alpha"])["policy"][0]
    (bundle / "audit.jsonl").write_text("no log\n")
    assert "line 1 is no entry" in lines(bundle, sites["alpha"])["policy"][1]
    (bundle / "audit.jsonl").unlink()
    (bundle / "site.key").chmod(0o644)
    assert "remedy: chmod 600" in lines(bundle, sites["alpha"])["key"][1]
    (bundle / "site.key").chmod(0o600)
    shutil.copy(made.bundle("south") / "site.key", bundle / "site.key")
    ok, text = lines(bundle, sites["alpha"])["key"]
    assert not ok
    assert "the coordinator has" in text
    (bundle / "site.key").write_text("no key")
    assert not lines(bundle, sites["alpha"])["key"][0]
    (bundle / "ca.crt").write_text("no certificate")
    assert not lines(bundle, sites["alpha"])["authority"][0]
    found = lines(bundle, tmp_path / "nowhere")
    assert not found["site folder"][0]
    assert not found["dry round"][0]
    monkeypatch.setattr(checks, "FREE", 1e9)
    assert "GB free" in lines(bundle, sites["alpha"])["disk"][1].splitlines()[0]
    assert not lines(bundle, sites["alpha"])["disk"][0]
    monkeypatch.setattr(checks, "versions", lambda: {"fedcowpro": "9", "flwr": "1", "torch": "1", "numpy": "1"})
    ok, text = lines(bundle, sites["alpha"])["versions"]
    assert not ok
    assert "pip install --find-links . fedcowpro==" in text


def test_check_by_the_command_line(tmp_path: Path, sites: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    made = make(tmp_path, "north", hosts=("127.0.0.1",), port=1)
    words = ["federation", "check", str(made.bundle("north")), "--site-folder", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    said = capsys.readouterr().out
    assert "FAILED server: the coordinator's server is down: nothing answers at 127.0.0.1:1" in said
    assert "administrators" not in said
    assert "ok     key" in said
    with pytest.raises(SystemExit) as ended:
        main(["federation", "check", str(tmp_path), "--site-folder", str(tmp_path)])
    assert ended.value.code == 2
    assert "no site.yaml" in capsys.readouterr().err


def test_join_prints_what_to_run(tmp_path: Path, sites: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    made = make(tmp_path, "north")
    words = ["federation", "join", str(made.bundle("north")), "--site-folder", str(sites["alpha"])]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--node", "threads=2"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "-m fedcowpro.federated.deployment.supernode --fast --superlink fl.example.org:9443" in said
    assert f'threads=2 site-name="north" site-path="{sites["alpha"]}"' in said
    bundle = made.bundle("north")
    assert f'audit-log="{bundle / "audit.jsonl"}" site-policy="{bundle / "site-policy.yaml"}"' in said
    policy = tmp_path / "own.yaml"
    policy.write_text(f"apps: [{'a' * 64}]\n")
    with pytest.raises(SystemExit):
        main([*words, "--policy", str(policy), "--audit-log", str(tmp_path / "own.jsonl")])
    said = capsys.readouterr().out
    assert f"-m fedcowpro.federated.deployment.supernode --fast --policy {policy} --superlink" in said
    assert f'audit-log="{tmp_path / "own.jsonl"}" site-policy="{policy}"' in said
    with pytest.raises(SystemExit):
        main([*words, "--no-fast"])
    assert "deployment.supernode --superlink fl.example.org:9443" in capsys.readouterr().out
    for wrong in ("threads", "site-name=south"):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--node", wrong])
        assert ended.value.code == 2


def test_a_node_that_ends_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, "north")
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(
        sites_process, "start", lambda *_: subprocess.Popen(["false"], text=True, start_new_session=True)
    )
    monkeypatch.setattr(sites_process.time, "sleep", sleep)
    refusals = ["", "a SuperNode with this site's key is connected already", ""]
    monkeypatch.setattr(sites_process, "_unreachable", lambda *_: "")
    monkeypatch.setattr(sites_process, "_refusal", lambda *_: refusals.pop(0))
    said: list[str] = []
    bundle = sites_process.Bundle(made.bundle("north"))
    sites_process.run_site(bundle.root, bundle.read(), tmp_path, say=said.append)
    assert pauses == [2, 4, 8]
    assert said[3] == "a SuperNode with this site's key is connected already; next try in 4 s"
    assert "ended with code 1" in said[1]
    assert said[-1] == "stopped"


def test_a_second_signal_does_not_disturb_the_tidying_up() -> None:
    tidied, before = [], signal.getsignal(signal.SIGINT)
    with until_stopped():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
            tidied.append("all")
    assert tidied == ["all"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_server_does_not_speak_to_anothers(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        made = make(tmp_path, "north", superlink_port=other.getsockname()[1])
        with pytest.raises(FedCoWProError, match="cannot be used"):
            serve_federation(made.root)


def test_engine_options_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("seed: 0")
    for words in (["--engine", "cluster"], ["--engine", "deploy"], ["--federation", str(tmp_path)]):
        with pytest.raises(SystemExit) as ended:
            main(["federate", str(config), "--out", str(tmp_path / "run"), *words])
        assert ended.value.code == 2
        assert "process, ray, or deploy with --federation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("outcome", "details", "words"),
    [
        ("failed", "ServerApp failed with exception: disk is full", "disk is full"),
        ("stopped", "", "ended as 'stopped'"),
        ("completed", "", "has no whole result"),
    ],
)
def test_a_deployed_run_that_fails_is_an_error(
    tmp_path: Path, experiment: Callable[..., ExperimentConfig], monkeypatch: pytest.MonkeyPatch,
    outcome: str, details: str, words: str,
) -> None:  # fmt: skip
    made = make(tmp_path / "fed", "north")
    answers = iter([[], None, [RunState(7, "running", "", "")], [RunState(7, "finished", outcome, details)]])

    def flwr(home: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(arguments, 0, '{"success": true, "run-id": "7"}', "")

    monkeypatch.setattr(submit, "flwr", flwr)
    monkeypatch.setattr(submit, "list_runs", lambda *_: next(answers))
    monkeypatch.setattr(submit, "_LOOK", 0.01)
    with pytest.raises(FedCoWProError, match=words):
        submit.federate_deployed(experiment(), made.root, tmp_path / "run", say=lambda text: None)


def test_one_run_at_a_time_and_only_on_a_server(
    tmp_path: Path, experiment: Callable[..., ExperimentConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path / "fed", "north")
    monkeypatch.setattr(submit, "list_runs", lambda *_: [RunState(5, "running", "", "")])
    with pytest.raises(FedCoWProError, match="run 5 is going on"):
        submit.federate_deployed(experiment(), made.root, tmp_path / "run")
    monkeypatch.setattr(submit, "list_runs", lambda *_: None)
    with pytest.raises(FedCoWProError, match="did not take the call"):
        submit.federate_deployed(experiment(), made.root, tmp_path / "run")
    with pytest.raises(FedCoWProError, match=r"sites \['west'\]"):
        submit.federate_deployed(experiment(), made.root, tmp_path / "run", sites=["west"])
    with pytest.raises(FedCoWProError, match=r"no federation\.yaml"):
        submit.federate_deployed(experiment(), tmp_path, tmp_path / "run")


def test_without_ray_the_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedcowpro.federated.simulate.find_spec", lambda name: None)
    with pytest.raises(FedCoWProError, match="no package 'ray'"):
        require_ray()


def test_the_key_is_of_the_kind_that_the_engine_takes(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    make_site_key(tmp_path / "key")
    key = load_ssh_private_key((tmp_path / "key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
