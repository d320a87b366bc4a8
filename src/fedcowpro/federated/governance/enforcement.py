"""Policy enforcement: what stands between a message and the site's app. All that goes in and out is noted.

The node's configuration may have `site-policy`, the path of a `SitePolicy` as YAML ('none': everything but odd weights
is permitted; default: the policy's defaults), `audit-log`, the path of the site's log (default: beside the site folder,
SITE.audit.jsonl), and `site-key`, the path of its private key, with which it signs in secure aggregation.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path

from flwr.app import Context, Error, Message, UserConfig
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor

from fedcowpro.config import ExperimentConfig, load
from fedcowpro.config.policy import OPEN, SitePolicy
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.governance.audit_log import AuditLog, Event
from fedcowpro.federated.governance.policy import (
    Announcement,
    RefusedError,
    announcement,
    check_message,
    refusal_behind,
)
from fedcowpro.federated.governance.tally import NORM, WEIGHTS
from fedcowpro.federated.governance.weight_checks import check_weights
from fedcowpro.federated.transport import messages as records
from fedcowpro.federated.transport.messages import REFUSED, content_digest
from fedcowpro.federated.transport.packing import PackingError, is_packed, pack, unpack
from fedcowpro.federated.transport.site_errors import sanitised

POLICY, AUDIT, NO_POLICY = "site-policy", "audit-log", "none"
SITE_KEY = "site-key"
_UNUSABLE = "the site's policy or audit log cannot be used; the site's own output says why"


def policy_of(context: Context) -> SitePolicy:
    """The site's policy.

    Raises:
        FedCoWProError: a file that cannot be read as one.
    """
    given = context.node_config.get(POLICY)
    if given is None:
        return SitePolicy()
    return OPEN if given == NO_POLICY else load(SitePolicy, Path(str(given)))


def enforce_policy(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Pass a message on to the app if the site's policy permits it, else answer with the reason; note both.

    A packed message is opened before, and its reply packed: policy, log and app see whole records.
    """
    packed, bad = is_packed(message.content), ""
    if packed:
        try:
            message.content = unpack(message.content)
        except PackingError as error:
            bad = str(error)
    reply = sanitised(partial(_enforced, call_next=call_next, bad=bad))(message, context)
    if packed and not reply.has_error():
        reply.content = pack(reply.content)
    return reply


def _enforced(message: Message, context: Context, call_next: ClientAppCallable, bad: str) -> Message:
    """`bad` is what makes the message unfit to be judged at all, empty where nothing does."""
    node = context.node_config
    if "site-name" not in node or "site-path" not in node:
        return call_next(message, context)  # which says what is missing
    log, content = log_of(node), content_digest(message.content)
    size, kind = records.payload_bytes(message.content), message.metadata.message_type
    said = Announcement(kind)
    try:
        # Counting the rounds and noting the next one are one step: no other process comes between.
        with log.session() as session:
            refusal = ""
            try:
                if bad:
                    raise RefusedError(bad)
                said = announcement(message)
                check_message(policy_of(context), said, session.tally, datetime.now().astimezone())
            except RefusedError as error:
                refusal = str(error)
            except (FedCoWProError, OSError):
                raise
            except Exception as error:  # the server's words, of any kind
                refusal = f"the message's settings cannot be judged ({type(error).__name__})"
            decision = "refused" if refusal else "allowed"
            session.append(_event(context, said, "in", decision, kind, size, content, refusal))
    except (FedCoWProError, OSError):
        logging.getLogger(__name__).exception("no message is answered")
        return Message(Error(REFUSED, _UNUSABLE), reply_to=message)
    if refusal:
        return _refuse(log, context, said, message, refusal)
    try:
        reply = call_next(message, context)
    except BaseException as error:
        if (refused := refusal_behind(error)) is not None:
            return _refuse(log, context, said, message, str(refused))
        log.append(_event(context, said, "out", "failed", kind, reason=type(error).__name__))
        raise
    if reply.has_error():
        log.append(_event(context, said, "out", "failed", kind, reason="an error reply"))
    else:
        size, content = records.payload_bytes(reply.content), content_digest(reply.content)
        log.append(_event(context, said, "out", "sent", kind, size, content))
    return reply


def approve_weights(
    message: Message, context: Context, config: ExperimentConfig, weights: Mapping[str, Tensor]
) -> None:
    """Check the weights that a message brought, as they are used; the log gets their norm.

    Args:
        weights: all floating-point tensors, decoded.

    Raises:
        RefusedError: see `check_weights`; `enforce_policy` answers with it.
    """
    said = announcement(message)
    with log_of(context.node_config).session() as session:
        try:
            norm = check_weights(policy_of(context), said, config, weights, session.tally)
        except RefusedError as error:
            session.append(_event(context, said, "in", "refused", WEIGHTS, reason=str(error)))
            raise
        session.append(_event(context, said, "in", "allowed", WEIGHTS, facts={NORM: norm}))


def _refuse(log: AuditLog, context: Context, said: Announcement, message: Message, reason: str) -> Message:
    log.append(_event(context, said, "out", "refused", message.metadata.message_type, reason=reason))
    return Message(Error(REFUSED, f"refused by the site's policy: {reason}"), reply_to=message)


def log_of(node: UserConfig) -> AuditLog:
    """The site's log, by the node's configuration."""
    if AUDIT in node:
        return AuditLog(Path(str(node[AUDIT])))
    folder = Path(str(node["site-path"]))
    return AuditLog(folder.with_name(f"{folder.name}.audit.jsonl"))


def _event(
    context: Context,
    said: Announcement,
    direction: str,
    decision: str,
    kind: str,
    size: int = 0,
    content: str = "",
    reason: str = "",
    facts: Mapping[str, float] | None = None,
) -> Event:
    site = str(context.node_config["site-name"])
    return Event(
        "site", site, direction, kind, decision, said.run, said.round, size, content, reason, dict(facts or {})
    )
