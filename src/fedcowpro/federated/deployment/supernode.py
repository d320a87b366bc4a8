"""Flower's SuperNode that installs only apps which the site's policy names, does not sleep for long, and ends.

    python -m fedcowpro.federated.deployment.supernode [--policy site-policy.yaml] [--fast] [those of flower-supernode]

A SuperNode installs whatever app the server hands it, and the app is code. The policy inside fedcowpro's own app cannot
stand before another one, so this stands before the installation: an app whose digest is not among the policy's `apps`
gets an error reply. It wraps one internal function of Flower, which is pinned to one release for such reasons.

With `--fast` the node looks for messages more often than every three seconds while a run is going on, and its
SuperExec is `superexec`. Where Flower is not as this needs it, it says so and works as Flower does by itself.

Flower's own program can stay for ever after its work has ended: where the server refuses two calls at once, as it may
after its restart, the second interrupts the exit that the first began, and a thread that is no daemon keeps the
process. The site would be away until somebody looks. Here the process ends with Flower's main thread, and `site`
starts another.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn

from flwr.app import Error, Message, UserConfig
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import ErrorCode
from flwr.supernode import start_client_internal as inner

from fedcowpro.config import load
from fedcowpro.config.policy import SitePolicy
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.deployment.superexec import Pause
from fedcowpro.federated.governance.audit_log import Event
from fedcowpro.federated.governance.enforcement import log_of

_OPTION, _FAST = "--policy", "--fast"
_SUPEREXEC = "from fedcowpro.federated.deployment.superexec import main; main()"
_IDLE = 3.0  # seconds that Flower's SuperNode sleeps between two looks for messages
_log = logging.getLogger(__name__)
Pull = Callable[..., int | None]


def app_digest(app: Path) -> str:
    """SHA-256 of an app as a SuperNode gets it, 64 hex digits.

    Args:
        app: folder of an app, or a bundle (.fab) that `flwr build` made of one.

    Raises:
        FedCoWProError: neither.
    """
    try:
        content = build_fab_from_disk(app) if app.is_dir() else app.read_bytes()
    except (OSError, ValueError) as error:
        raise FedCoWProError(
            f"{app} is no app: {error}", "a folder with Flower's pyproject.toml, or a .fab file",
            "the coordinator's is FEDERATION/coordinator/app",
        ) from error  # fmt: skip
    return hashlib.sha256(content).hexdigest()


class NotApprovedError(Exception):
    """An app that the site's policy does not name."""


def approving(pull: Pull, apps: Collection[str]) -> Pull:
    """Flower's step from a message to an installed app, which refuses other apps.

    Args:
        pull: `_pull_and_store_message`; its arguments come by name.
        apps: SHA-256 of the bundles that are approved, 64 hex digits.
    """

    def checked(**given: Any) -> int | None:
        received: list[Message] = []

        def receive() -> Any:
            found = given["receive"]()
            if found is not None:
                received.append(found[0])
            return found

        def get_fab(fab_hash: str, run_id: int) -> Any:
            fab = given["get_fab"](fab_hash, run_id)
            digest = hashlib.sha256(fab.content).hexdigest()
            if digest not in apps:
                raise NotApprovedError(f"the site's policy does not name the app {digest}")
            return fab

        try:
            return pull(**{**given, "receive": receive, "get_fab": get_fab})
        except NotApprovedError as error:
            _log.error("an app was refused: %s", error)
            _note(given["node_config"], str(error))
            reply = Message(Error(ErrorCode.INVALID_FAB, str(error)), reply_to=received[-1])
            inner._insert_message(reply, given["state"], given["object_store"])
            return received[-1].metadata.run_id

    return checked


def _note(node: UserConfig, reason: str) -> None:
    """A line in the site's audit log."""
    event = Event("site", str(node.get("site-name", "")), "in", "app", "refused", reason=reason)
    try:
        log_of(node).append(event)
    except (FedCoWProError, OSError, KeyError):
        _log.exception("the audit log cannot be used")


def odd_internals() -> str:
    """What of Flower is not as `--fast` needs it, on one line; empty where all is."""
    for function, sleeps in ((inner.start_client_internal, "time.sleep(3)"), (inner._push_messages, "time.sleep(0.5)")):
        if sleeps not in inspect.getsource(function):
            return f"{function.__name__} has no {sleeps}"
    return "" if inner.time is time else "start_client_internal has another clock"


def quicken(arguments: list[str]) -> list[str]:
    """Shorten the node's sleeps and start its SuperExec.

    Args:
        arguments: of flower-supernode, with `--host` and `--port`.

    Returns:
        The arguments with which Flower starts no SuperExec of its own.
    """
    inner.time = Pause(_IDLE)  # type: ignore[assignment]
    host, port = (arguments[arguments.index(name) + 1] for name in ("--host", "--port"))
    command = [sys.executable, "-c", _SUPEREXEC, "--insecure", "--runtime-api-address", f"{host}:{port}"]
    running = subprocess.Popen([*command, "--parent-pid", str(os.getpid())])

    def watch() -> None:
        running.wait()
        _log.error("the SuperExec ended with code %s, and so does the SuperNode", running.returncode)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    return [*arguments, "--isolation", "process"]


def end_with(program: Callable[[], None]) -> NoReturn:
    """Run `program`, and end this process with it, whatever threads there are and whatever interrupts it again."""
    code = 1  # returned: the connection was lost
    try:
        program()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Exception:
        _log.exception("the SuperNode failed")
    finally:
        try:
            sys.stdout.flush()
        finally:
            os._exit(code)


def main(arguments: list[str]) -> NoReturn:
    """Be the node; `arguments` are those of flower-supernode, the policy and `--fast`.

    Raises:
        FedCoWProError: a policy that names no app.
    """
    fast, arguments = _FAST in arguments, [word for word in arguments if word != _FAST]
    if _OPTION in arguments[:-1]:
        place = arguments.index(_OPTION)
        policy = load(SitePolicy, Path(arguments[place + 1]))
        if not policy.apps:
            raise FedCoWProError(
                f"{arguments[place + 1]} names no app", "digests under 'apps'",
                "add the one that the coordinator tells you",
            )  # fmt: skip
        inner._pull_and_store_message = approving(inner._pull_and_store_message, policy.apps)
        arguments = [*arguments[:place], *arguments[place + 2 :]]
    if fast and (odd := odd_internals()):
        _log.error("messages come slower, as by Flower itself: of this version of Flower, %s", odd)
    elif fast:
        arguments = quicken(arguments)
    # Flower reads the command line itself.
    sys.argv = ["flower-supernode", *arguments]
    from flwr.supernode.cli import flower_supernode

    end_with(flower_supernode)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except FedCoWProError as mistake:
        sys.stderr.write(f"error: {mistake}\n")
        sys.exit(2)
