"""The tensors of a record as one block of bytes, for engines that send each tensor by itself.

Flower's network engine makes an HTTP call of its own for each array of a message and each piece of 5 MB of it, at
every hop: some three hundred for a message of `lite0`, six for a packed one. Who asks with a packed message gets a
packed reply. Audit logs, policies and checks see whole records only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from pydantic import Field, TypeAdapter, ValidationError

from fedcowpro.core.text import from_json, printable

PACKED = "packed"  # record with the table of contents
_TABLE, _BLOCK = "table", "block"
_ENCODING = "fedcowpro.block"
_UNREADABLE = 2  # Flower's ErrorCode.CLIENT_APP_RAISED_EXCEPTION
_Text = Annotated[str, Field(strict=True, max_length=256)]
_Number = Annotated[int, Field(strict=True, ge=0, le=2**40)]
# Of each packed record: name, dtype, shape, encoding and bytes of its arrays, in the order of the block.
_CONTENTS = TypeAdapter(dict[_Text, list[tuple[_Text, _Text, tuple[_Number, ...], _Text, _Number]]])


class PackingError(ValueError):
    """A packed message that cannot be opened: one line, fit to be printed."""


def is_packed(content: RecordDict) -> bool:
    """Whether these are the records of a packed message."""
    return PACKED in content


def pack(content: RecordDict) -> RecordDict:
    """Records with the arrays of each as one; marked as packed even where there are none."""
    packed, table = RecordDict(), {}
    for name, record in content.items():
        if not isinstance(record, ArrayRecord):
            packed[name] = record
            continue
        table[name] = [(key, one.dtype, one.shape, one.stype, len(one.data)) for key, one in record.items()]
        block = b"".join(one.data for one in record.values())
        packed[name] = ArrayRecord({_BLOCK: Array("uint8", (len(block),), _ENCODING, block)})
    packed[PACKED] = ConfigRecord({_TABLE: json.dumps(table)})
    return packed


def unpack(content: RecordDict) -> RecordDict:
    """The records that were packed.

    Raises:
        PackingError: no table of contents, or one that does not fit the blocks.
    """
    table, opened = _table(content), RecordDict()
    for name, record in content.items():
        if name in table:
            opened[name] = _open(name, record, table.pop(name))
        elif name != PACKED:
            opened[name] = record
    if table:
        raise PackingError(f"a packed message without its record '{printable(min(table))}'")
    return opened


def _table(content: RecordDict) -> dict[str, list[tuple[str, str, tuple[int, ...], str, int]]]:
    record = content[PACKED]
    try:
        if not isinstance(record, ConfigRecord):
            raise ValueError("no settings")
        return _CONTENTS.validate_python(from_json(str(record[_TABLE])))
    except ValidationError as error:
        raise PackingError(f"a packed message with an odd table: {printable(error.errors()[0]['msg'])}") from error
    except (ValueError, KeyError) as error:
        raise PackingError(f"a packed message without a table: {printable(error)}") from error


def _open(name: str, record: object, entries: list[tuple[str, str, tuple[int, ...], str, int]]) -> ArrayRecord:
    block = record.get(_BLOCK) if isinstance(record, ArrayRecord) else None
    names = {entry[0] for entry in entries}
    if block is None or len(names) != len(entries) or sum(entry[-1] for entry in entries) != len(block.data):
        raise PackingError(f"the table of the packed record '{printable(name)}' does not fit its block")
    arrays, start = ArrayRecord(), 0
    for key, dtype, shape, encoding, size in entries:
        arrays[key] = Array(dtype, shape, encoding, block.data[start : start + size])
        start += size
    return arrays


class PackingGrid(Grid):
    """Packs what goes out over another grid and opens what comes in.

    A reply that cannot be opened becomes an error of its site.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._last: tuple[RecordDict | None, RecordDict] = (None, RecordDict())

    def set_run(self, run: Run) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        return self._grid.run

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        return self._grid.get_nodes()

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        whole = [message.content for message in sent]
        try:
            for message in sent:
                message.content = self._packed(message.content)
            return list(self._grid.push_messages(sent))
        finally:  # the caller's messages stay as they were
            for message, content in zip(sent, whole, strict=True):
                message.content = content
            self._last = (None, RecordDict())

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for reply in self._grid.pull_messages(message_ids):
            yield _opened(reply)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError("messages are pushed and pulled")

    def _packed(self, content: RecordDict) -> RecordDict:
        """All sites get the same records: they are packed once."""
        if self._last[0] is not content:
            self._last = (content, pack(content))
        return self._last[1]


def _opened(reply: Message) -> Message:
    if reply.has_content() and is_packed(reply.content):
        try:
            reply.content = unpack(reply.content)
        except PackingError as error:
            reply.content = None  # type: ignore[assignment]
            reply.error = Error(_UNREADABLE, str(error))
    return reply
