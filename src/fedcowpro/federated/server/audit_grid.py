"""The server's side of the audit: a grid that notes every message it passes on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedcowpro.federated.governance.audit_log import AuditLog, Event
from fedcowpro.federated.transport import messages as records
from fedcowpro.federated.transport.messages import REFUSED, content_digest

_PAUSE = 1.0  # seconds; each writing waits for the disk twice, which with many sites takes longer than all else


def engine_of(grid: Grid) -> Grid:
    """The grid that does the work."""
    return grid.inner if isinstance(grid, AuditedGrid) else grid


class AuditedGrid(Grid):
    """Passes everything to another grid and writes a line for each message and each reply, at most a second later.

    Args:
        grid: that does the work.
        log: of the server.

    Attributes:
        names: of the sites by node, as far as they are known.
        inner: the other grid.
    """

    def __init__(self, grid: Grid, log: AuditLog) -> None:
        self.inner, self._log = grid, log
        self.names: Mapping[int, str] = {}
        self._registered: dict[int, str] = {}
        self._run_name = ""
        self._last: tuple[RecordDict | None, tuple[int, str]] = (None, (0, ""))
        self._rounds: dict[int, int] = {}
        self._waiting: dict[str, int] = {}  # node that each message went to

    def name_run(self, name: str) -> None:
        """From now on lines have this name of the run."""
        self._run_name = name

    def set_run(self, run: Run) -> None:
        self.inner.set_run(run)

    @property
    def run(self) -> Run:
        return self.inner.run

    def get_node_ids(self) -> Iterable[int]:
        return self.inner.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """As the other grid says; the names that keys are registered for hold until the sites tell their own."""
        nodes = list(self.inner.get_nodes())
        self._registered = {node.node_id: node.name for node in nodes if node.name}
        return nodes

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return self.inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = self._sent(messages)
        keys = list(self.inner.push_messages(sent))
        nodes = (message.metadata.dst_node_id for message in sent)
        self._waiting |= {key: node for key, node in zip(keys, nodes, strict=False) if key}
        return keys

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(self.inner.pull_messages(message_ids))
        keys = [reply.metadata.reply_to_message_id for reply in replies]
        # Who died is answered for by the server itself, under the server's own number.
        nodes = [self._waiting.pop(key, one.metadata.src_node_id) for key, one in zip(keys, replies, strict=True)]
        if replies:
            self._log.append(*map(self._reply, replies, nodes))
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        pending: list[Event] = []
        written = time.monotonic()
        try:
            for reply in self.inner.send_and_receive(self._sent(messages), timeout=timeout):
                pending.append(self._reply(reply, reply.metadata.src_node_id))
                if time.monotonic() - written > _PAUSE:
                    self._log.append(*pending)
                    pending, written = [], time.monotonic()
                yield reply
        finally:
            if pending:
                self._log.append(*pending)

    def note(self, site: str, kind: str, decision: str, number: int, reason: str = "", content: str = "") -> None:
        """A line about something else than a message."""
        self._log.append(Event("server", site, "", kind, decision, self._run_name, number, 0, content, reason))

    def _sent(self, messages: Iterable[Message]) -> list[Message]:
        """A list, because Flower's own grid goes over the messages twice; noted at one go."""
        listed, events = list(messages), []
        for message in listed:
            number = int(str(records.config_record(message.content, records.CONFIG).get(records.ROUND, 0)))
            node = message.metadata.dst_node_id
            self._rounds[node] = number
            size, digest = self._measured(message)
            events.append(self._event(node, "out", message, "sent", number, size, digest))
        self._log.append(*events)
        return listed

    def _reply(self, reply: Message, node: int) -> Event:
        number = self._rounds.get(node, 0)
        if reply.has_error():
            decision = "refused" if reply.error.code == REFUSED else "failed"
            reason = records.failure(reply) if decision == "refused" else ""
            return self._event(node, "in", reply, decision, number, reason=reason)
        size, digest = records.payload_bytes(reply.content), content_digest(reply.content)
        return self._event(node, "in", reply, "received", number, size, digest)

    def _event(
        self,
        node: int,
        direction: str,
        message: Message,
        decision: str,
        number: int,
        size: int = 0,
        content: str = "",
        reason: str = "",
    ) -> Event:
        site = self.names.get(node) or self._registered.get(node) or f"node {node}"
        kind = message.metadata.message_type
        return Event("server", site, direction, kind, decision, self._run_name, number, size, content, reason)

    def _measured(self, message: Message) -> tuple[int, str]:
        """Bytes and digest. All sites get the same records: they are computed once."""
        if self._last[0] is not message.content:
            found = records.payload_bytes(message.content), content_digest(message.content)
            self._last = (message.content, found)
        return self._last[1]
