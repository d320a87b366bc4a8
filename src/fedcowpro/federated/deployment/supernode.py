"""Flower's SuperNode that installs apps only which the site's policy names.

    python -m fedcowpro.federated.deployment.supernode --policy site-policy.yaml [options of flower-supernode]

A SuperNode installs whatever app the server hands it, and the app is code. The policy inside fedcowpro's own app cannot
stand before another one, so this stands before the installation: an app whose digest is not among the policy's `apps`
gets an error reply. It wraps one internal function of Flower, which is pinned to one release for such reasons.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from flwr.app import Error, Message, UserConfig
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import ErrorCode
from flwr.supernode import start_client_internal as inner

from fedcowpro.config import load
from fedcowpro.config.policy import SitePolicy
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.governance.audit_log import Event
from fedcowpro.federated.governance.enforcement import log_of

_OPTION = "--policy"
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


def main(arguments: list[str]) -> None:
    """Start the node; `arguments` are those of flower-supernode, and the policy.

    Raises:
        FedCoWProError: no policy, or one that names no app.
    """
    if _OPTION not in arguments[:-1]:
        raise FedCoWProError(f"no {_OPTION} FILE", "the site's policy", f"add {_OPTION} site-policy.yaml")
    place = arguments.index(_OPTION)
    policy = load(SitePolicy, Path(arguments[place + 1]))
    if not policy.apps:
        raise FedCoWProError(
            f"{arguments[place + 1]} names no app", "digests under 'apps'", "add the one that the coordinator tells you"
        )
    # Flower reads the command line itself.
    sys.argv = ["flower-supernode", *arguments[:place], *arguments[place + 2 :]]
    inner._pull_and_store_message = approving(inner._pull_and_store_message, policy.apps)
    from flwr.supernode.cli import flower_supernode

    flower_supernode()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except FedCoWProError as mistake:
        sys.stderr.write(f"error: {mistake}\n")
        sys.exit(2)
