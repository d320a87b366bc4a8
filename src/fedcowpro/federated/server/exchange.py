"""Messages out, replies in, over any engine: one reply at a time, with a deadline, each under its site's own number."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from flwr.app import Error, Message
from flwr.serverapp import Grid

from fedcowpro.federated.server.audit_grid import engine_of
from fedcowpro.federated.server.in_process_grid import InProcessGrid

_UNAVAILABLE = 5  # Flower's ErrorCode.NODE_UNAVAILABLE
_QUICK, _SLOW = 0.1, 1.0  # seconds between two looks for replies: at first, and after a long wait
_SHARE = 0.05  # of the time waited so far


def exchange(grid: Grid, messages: Iterable[Message], timeout: float | None = None) -> Iterator[Message]:
    """A reply for each message, in the order in which they come.

    A node that died is answered for by Flower's server under its own number, and one that is late by nobody. Both
    become an error reply of the node that the message went to. Only one reply is in memory at a time.

    Args:
        timeout: seconds for all replies; without effect in one process, where sites work one after the other.
    """
    if isinstance(engine_of(grid), InProcessGrid):
        yield from grid.send_and_receive(messages)
        return
    if not (sent := list(messages)):
        return
    keys = list(grid.push_messages(sent))
    waiting = {key: message for key, message in zip(keys, sent, strict=False) if key}
    for message in sent:
        if not any(message is other for other in waiting.values()):
            yield _failed(message, "the message could not be delivered")
    end = None if timeout is None else time.monotonic() + timeout
    since = time.monotonic()
    while waiting and (end is None or time.monotonic() < end):
        found = False
        for key in list(waiting):
            for reply in grid.pull_messages([key]):
                message, found = waiting.pop(key), True
                strange = reply.metadata.src_node_id != message.metadata.dst_node_id
                yield _failed(message, reply.error.reason) if strange and reply.has_error() else reply
        since = time.monotonic() if found else since
        pause = min(_SLOW, max(_QUICK, _SHARE * (time.monotonic() - since)))
        if waiting:
            time.sleep(pause if end is None else max(0.0, min(pause, end - time.monotonic())))
    for message in waiting.values():
        yield _failed(message, f"no reply within {timeout:g} s")


def _failed(message: Message, reason: str | None) -> Message:
    return Message(Error(_UNAVAILABLE, reason or "the node is gone"), reply_to=message)
