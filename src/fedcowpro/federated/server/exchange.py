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
_ROOM = 256 * 2**20  # bytes of replies that one look brings into memory
_MOST = 1000  # messages that one look asks for


def exchange(
    grid: Grid, messages: Iterable[Message], timeout: float | None = None, reply_size: int = 100_000
) -> Iterator[Message]:
    """A reply for each message, in the order in which they come.

    A node that died is answered for by Flower's server under its own number, and one that is late by nobody. Both
    become an error reply of the node that the message went to.

    Args:
        timeout: seconds for all replies; without effect in one process, where sites work one after the other.
        reply_size: bytes that a reply may be expected to have: several are asked for in one call, but no more than
            memory has room for should all be there.
    """
    if isinstance(engine_of(grid), InProcessGrid):
        yield from grid.send_and_receive(messages)
        return
    if not (sent := list(messages)):
        return
    keys = list(grid.push_messages(sent))
    keys += [""] * (len(sent) - len(keys))
    waiting = {key: message for key, message in zip(keys, sent, strict=True) if key}
    for key, message in zip(keys, sent, strict=True):
        if not key:
            yield _failed(message, "the message could not be delivered")
    at_once = max(1, min(_MOST, _ROOM // reply_size))
    end = None if timeout is None else time.monotonic() + timeout
    since = time.monotonic()
    while waiting and (end is None or time.monotonic() < end):
        found, looked, asked = False, 0.0, list(waiting)
        for start in range(0, len(asked), at_once):
            began = time.monotonic()
            replies = list(grid.pull_messages(asked[start : start + at_once]))
            looked += time.monotonic() - began
            for reply in replies:
                if (key := reply.metadata.reply_to_message_id) not in waiting:
                    continue
                message, found = waiting.pop(key), True
                strange = reply.metadata.src_node_id != message.metadata.dst_node_id
                yield _failed(message, reply.error.reason) if strange and reply.has_error() else reply
        since = time.monotonic() if found else since
        # A look at very many messages takes long: no longer than half of the time is spent on looks.
        pause = max(min(_SLOW, max(_QUICK, _SHARE * (time.monotonic() - since))), looked)
        if waiting:
            time.sleep(pause if end is None else max(0.0, min(pause, end - time.monotonic())))
    for message in waiting.values():
        yield _failed(message, f"no reply within {timeout:g} s")


def _failed(message: Message, reason: str | None) -> Message:
    return Message(Error(_UNAVAILABLE, reason or "the node is gone"), reply_to=message)
