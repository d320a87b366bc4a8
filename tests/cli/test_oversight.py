"""The commands policy, digest, audit and watch, as their users type them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from flwr.cli.build import build_fab_from_disk

from fedcowpro.cli import main
from fedcowpro.config import ExperimentConfig, load
from fedcowpro.config.policy import SitePolicy
from fedcowpro.core.package import package_digest
from fedcowpro.federated.deployment.keys import make_key_pair
from fedcowpro.federated.deployment.layout import FederationFile
from fedcowpro.federated.deployment.provision import init_federation
from fedcowpro.federated.governance.audit_log import AuditLog, Event
from fedcowpro.federated.governance.policy import architecture_digest


def run(*arguments: object) -> int:
    """Exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump({"model": {"encoder": "tiny"}, "federation": {"rounds": 4, "local_steps": 7}}))
    return file


@pytest.fixture
def log(tmp_path: Path) -> Path:
    made = AuditLog(tmp_path / "audit.jsonl")
    for number, site in enumerate(("north", "south", "north"), 1):
        made.append(Event("server", site, "out", "train", "sent", "run", number, 1000 * number, "ab" * 32))
    made.append(Event("server", "south", "in", "train", "refused", "run", 3, reason="[hours] between 20 and 6"))
    return made.path


def test_digests(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("digest", experiment) == 0
    text = capsys.readouterr().out
    assert package_digest() in text
    assert architecture_digest(load(ExperimentConfig, experiment).model) in text


def test_digest_of_an_app(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = FederationFile(hosts=("127.0.0.1",), sites=("north",))
    init_federation(tmp_path / "fed", settings)
    folder = tmp_path / "fed" / "coordinator" / "app"
    bundle = tmp_path / "app.fab"
    bundle.write_bytes(build_fab_from_disk(folder))
    for app in (folder, bundle):
        assert run("digest", "--app", app) == 0
        assert hashlib.sha256(bundle.read_bytes()).hexdigest() in capsys.readouterr().out
    assert run("digest", "--app", tmp_path / "fed") == 2
    assert "is no app" in capsys.readouterr().err


def test_a_policy_is_written_read_and_asked(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "site-policy.yaml"
    assert run("policy", file, experiment, "--new") == 0
    rules = load(SitePolicy, file)
    assert (rules.max_local_steps, rules.packages, rules.min_participants) == (7, (package_digest(),), 3)
    assert run("policy", file, experiment, "--new") == 2  # never over another
    assert run("policy", file) == 0
    assert "max_local_steps: 7" in capsys.readouterr().out
    assert run("policy", file, experiment, "--sites", "3") == 1  # 'layers' is not allowed
    assert "train: allowed" in capsys.readouterr().out
    assert run("policy", file, experiment, "--sites", "2") == 1
    assert "train: at least 3 sites" in capsys.readouterr().out
    file.write_text(file.read_text().replace("[train, evaluate]", "[train, evaluate, layers]"))
    assert run("policy", file, experiment) == 0
    assert run("policy", tmp_path / "other.yaml") == 2
    assert run("policy", tmp_path / "other.yaml", "--new") == 2


def test_a_policy_pins_the_peers_of_secure_sums(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load(experiment.read_text())
    settings["model"]["frozen_norm"] = True
    settings["federation"] |= {"weighting": "uniform", "privacy": {"secure_aggregation": True}}
    experiment.write_text(yaml.safe_dump(settings))
    publics = {name: make_key_pair(tmp_path / f"{name}.key") for name in ("south", "west")}
    given = [word for name, file in publics.items() for word in ("--peer", f"{name}={file}")]
    assert run("policy", tmp_path / "pinned.yaml", experiment, "--new", *given) == 0
    rules = load(SitePolicy, tmp_path / "pinned.yaml")
    assert rules.privacy.secure_aggregation
    assert rules.peers == {name: file.read_text().strip() for name, file in publics.items()}
    assert run("policy", tmp_path / "pinned.yaml", experiment) == 1  # 'layers' is not allowed
    assert "train: allowed" in capsys.readouterr().out
    assert run("policy", tmp_path / "open.yaml", experiment, "--new") == 0
    assert load(SitePolicy, tmp_path / "open.yaml").peers == {}
    assert "could invent sites" in (tmp_path / "open.yaml").read_text()
    for wrong in (["--peer", "south"], given[:2], ["--peer", f"south={tmp_path / 'south.key'}"]):
        assert run("policy", tmp_path / "wrong.yaml", experiment, "--new", *wrong) == 2
    assert not (tmp_path / "wrong.yaml").exists()
    assert run("policy", tmp_path / "pinned.yaml", *given) == 2


def test_audit_shows_filters_and_sums(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("audit", log) == 0
    shown = capsys.readouterr()
    assert "[hours] between 20 and 6" in " ".join(shown.out.split())
    assert shown.out.splitlines()[-1].startswith("whole: 4 lines; head 4:")
    assert run("audit", log, "--json", "--site", "north") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["site"], line["round"]) for line in lines] == [("north", 1), ("north", 3)]
    assert run("audit", log, "--json", "--round", "3", "--kind", "train", "--decision", "refused") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert run("audit", log.parent, "--totals", "--site", "north") == 0  # a run folder has its log inside
    text = capsys.readouterr().out
    assert "4,000" in text
    assert "2026" not in text


def test_a_broken_log_ends_with_1(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("audit", log) == 0
    head = capsys.readouterr().out.split("head ")[1].strip()
    assert run("audit", log, "--head", head) == 0
    assert run("audit", log, "--head", "nonsense") == 2
    assert run("audit", log, "--head", "3:" + "0" * 64) == 1
    capsys.readouterr()
    log.write_text(log.read_text().replace('"sent"', '"kept"', 1))
    assert run("audit", log) == 1
    *_, broken, remedy = capsys.readouterr().out.splitlines()
    assert broken == "broken: line 1 was changed: its digest is another"
    assert "do not trust this log" in remedy
    # Who rewrites all of it makes a whole chain: then only a head that was noted down elsewhere tells.
    log.unlink()
    (log.parent / "audit.jsonl.head").unlink()
    for number in range(4):
        AuditLog(log).append(Event("server", "north", "out", "train", "sent", round=number))
    assert run("audit", log) == 0
    assert run("audit", log, "--head", head) == 1


def test_watch_wants_a_run(tmp_path: Path) -> None:
    assert run("watch", tmp_path, "--once") == 2


def test_texts_of_others_are_shown_without_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = AuditLog(tmp_path / "audit.jsonl")
    made.append(Event("server", "north\x1b[2J", "in", "train\x07", "refused", "run", 1, reason="\x1b]0;owned\x07 no"))
    assert run("audit", made.path) == 0
    shown = capsys.readouterr().out
    assert not {"\x1b", "\x07"} & set(shown)
    assert "owned" in shown
