"""A SuperNode that installs approved apps only: Flower's own step, with Flower's own stores in memory."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.fab import Fab
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import start_client_internal as inner

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.deployment.supernode import approving, main
from fedcowpro.federated.governance.audit_log import read_audit

FAB = b"an app"
DIGEST = hashlib.sha256(FAB).hexdigest()


class State:
    """A node's memory: what was stored is kept."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.installed: list[bytes] = []

    def get_run(self, run_id: int) -> None:
        return None

    def get_node_id(self) -> int:
        return 2

    def get_run_series_context(self, series: int) -> None:
        return None

    def set_run_series_context(self, series: int, context: object) -> None:
        pass

    def store_run(self, run: object) -> None:
        pass

    def store_fab(self, fab: Fab) -> None:
        self.installed.append(fab.content)

    def store_message(self, message: Message) -> None:
        self.messages.append(message)

    def create_task(self, **given: object) -> None:
        return None  # Flower gives up here; the app is stored


def pull(
    apps: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, node: dict[str, str] | None = None
) -> tuple[State, int | None]:
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 7, 1, 1
    monkeypatch.setattr(inner, "get_fused_config_from_fab", lambda content, run: {})
    state = State()
    message = Message(RecordDict(), 2, "train")
    given: dict[str, Any] = {
        "state": state,
        "object_store": SimpleNamespace(preregister=lambda *_: [], put=lambda *_: None),
        "node_config": node or {},
        "receive": lambda: (message, None),
        "get_run": lambda run: SimpleNamespace(fab_hash=DIGEST, series_id=1, primary_task_type=""),
        "get_fab": lambda fab_hash, run: Fab(DIGEST, FAB, {}),
        "pull_object": lambda *_: b"",
        "confirm_message_received": lambda *_: None,
        "trusted_entities": None,
    }
    return state, approving(inner._pull_and_store_message, apps)(**given)


def test_an_approved_app_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    state, _ = pull(("0" * 64, DIGEST), monkeypatch)
    assert state.installed == [FAB]
    assert state.messages == []


def test_another_app_is_not_and_the_server_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    state, run = pull(("0" * 64,), monkeypatch)
    assert state.installed == []
    assert run == 7
    (reply,) = state.messages
    assert reply.has_error()
    assert reply.error.reason == f"the site's policy does not name the app {DIGEST}"


def test_an_app_that_is_refused_leaves_a_line_in_the_sites_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "audit.jsonl"
    pull(("0" * 64,), monkeypatch, {"site-name": "north", "site-path": "/data", "audit-log": str(log)})
    (entry,), problems, _ = read_audit(log)
    assert (problems, entry.event.site, entry.event.kind, entry.event.decision) == ([], "north", "app", "refused")
    assert DIGEST in entry.event.reason


def test_no_message_is_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"receive": lambda: None, "get_fab": None, "state": State(), "object_store": None}
    rest = dict.fromkeys(("node_config", "get_run", "pull_object", "confirm_message_received", "trusted_entities"))
    assert approving(inner._pull_and_store_message, ())(**given, **rest) is None


@pytest.mark.slow
def test_a_policy_with_apps_is_needed(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("")
    with pytest.raises(FedCoWProError, match="names no app"):
        main(["--policy", str(tmp_path / "policy.yaml"), "--insecure"])
    own = ["--policy", str(tmp_path / "policy.yaml")]
    command = [sys.executable, "-m", "fedcowpro.federated.deployment.supernode", *own]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


TWO_REFUSALS_AT_ONCE = """
import os, signal, threading, time
from flwr.supercore.exit.signal_handler import register_signal_handlers
from flwr.supercore.telemetry import EventType
from fedcowpro.federated.deployment.supernode import end_with

def node():
    threading.Thread(target=threading.Event().wait).start()  # as Flower's server of the node's own processes
    register_signal_handlers(event_type=EventType.RUN_SUPERNODE_LEAVE)
    def refused():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=refused, daemon=True).start()
    time.sleep(600)

end_with(node)
"""


@pytest.mark.slow
def test_a_node_ends_when_two_calls_are_refused_at_once() -> None:
    quiet = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0"}
    command = [sys.executable, "-c", TWO_REFUSALS_AT_ONCE]
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode in (0, 130), done.stderr
