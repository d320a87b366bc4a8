"""A message in one piece: the same records at the other end, and no table of others that harms."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity

from fedcowpro.federated.governance.audit_log import read_audit
from fedcowpro.federated.governance.enforcement import enforce_policy
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.transport.messages import content_digest
from fedcowpro.federated.transport.packing import PACKED, PackingError, PackingGrid, is_packed, pack, unpack


@pytest.fixture(autouse=True)
def identity() -> None:
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1


def content(count: int = 40) -> RecordDict:
    rng = np.random.default_rng(0)
    arrays = ArrayRecord(
        {f"layer{i}.weight": Array(rng.normal(size=(3, 1 + i % 5)).astype("float32")) for i in range(count)}
    )
    masked = ArrayRecord({"words": Array(np.arange(7, dtype=np.uint64))})
    return RecordDict({"arrays": arrays, "masked": masked, "metrics": MetricRecord({"num-examples": 3})})


def tampered(change: Any) -> RecordDict:
    packed = pack(content())
    table = json.loads(str(packed[PACKED]["table"]))  # type: ignore[index]
    change(table)
    packed[PACKED] = ConfigRecord({"table": json.dumps(table)})
    return packed


def test_a_packed_message_is_the_message() -> None:
    whole = content()
    packed = pack(whole)
    assert not is_packed(whole)
    assert is_packed(packed)
    opened = unpack(packed)
    assert content_digest(opened) == content_digest(whole)
    for name in ("arrays", "masked"):
        assert list(opened[name]) == list(whole[name])
    nothing = RecordDict({"facts": ConfigRecord({"name": "north"})})
    assert content_digest(unpack(pack(nothing))) == content_digest(nothing)
    assert content_digest(unpack(pack(RecordDict({"arrays": ArrayRecord()})))) == content_digest(
        RecordDict({"arrays": ArrayRecord()})
    )


def test_flower_sends_few_pieces_of_it() -> None:
    """Each is an HTTP call at every hop. Fails where Flower cuts messages in another way."""
    arrays = RecordDict({"arrays": content(100)["arrays"], "config": ConfigRecord({"server-round": 1})})
    assert len(get_all_nested_objects(Message(arrays, 2, "train"))) > 200
    assert len(get_all_nested_objects(Message(pack(arrays), 2, "train"))) <= 7


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table["arrays"].pop(),
        lambda table: table["arrays"].append(table["arrays"][0]),
        lambda table: table["arrays"][0].__setitem__(4, -1),
        lambda table: table["arrays"][0].__setitem__(4, 10**30),
        lambda table: table["arrays"][0].__setitem__(4, "12"),
        lambda table: table["arrays"][0].__setitem__(0, table["arrays"][1][0]),
        lambda table: table["arrays"].__setitem__(0, []),
        lambda table: table.update(arrays=7),
        lambda table: table.update(metrics=[]),
        lambda table: table.update(absent=[]),
    ],
)
def test_a_table_that_does_not_fit_is_refused(change: Any) -> None:
    with pytest.raises(PackingError, match="packed"):
        unpack(tampered(change))


@pytest.mark.parametrize("table", ["", "[]", "[" * 100_000, '{"arrays": NaN}', "nonsense", '{"arrays": [["x"]]}'])
def test_other_tables_are_refused(table: str) -> None:
    packed = pack(content())
    packed[PACKED] = ConfigRecord({"table": table})
    with pytest.raises(PackingError):
        unpack(packed)
    for record in (ConfigRecord(), MetricRecord({"table": 1}), ArrayRecord()):
        packed[PACKED] = record
        with pytest.raises(PackingError):
            unpack(packed)


def context(log: Path) -> Context:
    node = {"site-name": "north", "site-path": "/data", "audit-log": str(log), "site-policy": "none"}
    return Context(1, 2, node, RecordDict(), {})


def test_a_site_answers_as_it_was_asked(tmp_path: Path) -> None:
    seen: list[RecordDict] = []

    def app(message: Message, context: Context) -> Message:
        seen.append(message.content)
        return Message(content(), reply_to=message)

    for asked in (pack(content()), content()):
        packed = is_packed(asked)
        reply = enforce_policy(Message(asked, 2, "query"), context(tmp_path / "audit.jsonl"), app)
        assert is_packed(reply.content) == packed
    entries, problems, _ = read_audit(tmp_path / "audit.jsonl")
    assert problems == []
    assert {entry.event.content for entry in entries} == {content_digest(content())}
    assert {content_digest(one) for one in seen} == {content_digest(content())}


def test_a_site_refuses_what_it_cannot_open_and_notes_it(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    asked = tampered(lambda table: table["arrays"].pop())
    reply = enforce_policy(Message(asked, 2, "train"), context(log), lambda *_: pytest.fail("the app was asked"))
    assert "the table of the packed record 'arrays' does not fit its block" in reply.error.reason
    entries, _, _ = read_audit(log)
    assert [entry.event.decision for entry in entries] == ["refused", "refused"]


class Wire(InProcessGrid):
    """Sees what passes, and answers with something else than a packed message where it is told to."""

    def __init__(self, answer: RecordDict) -> None:
        super().__init__(lambda message, _: Message(answer, reply_to=message), {"north": {}, "south": {}})  # type: ignore[arg-type]
        self.seen: list[RecordDict] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        listed = list(messages)
        self.seen += [message.content for message in listed]
        return super().push_messages(listed)


def test_the_servers_side_packs_once_and_opens() -> None:
    wire, whole = Wire(pack(content(3))), content()
    grid = PackingGrid(wire)
    sent = [Message(whole, node, "train") for node in grid.get_node_ids()]
    keys = list(grid.push_messages(sent))
    assert all(message.content is whole for message in sent)
    assert wire.seen[0] is wire.seen[1]
    assert content_digest(unpack(wire.seen[0])) == content_digest(whole)
    replies = list(grid.pull_messages(keys))
    assert [content_digest(reply.content) for reply in replies] == 2 * [content_digest(content(3))]


def test_a_reply_that_cannot_be_opened_is_its_sites_error() -> None:
    grid = PackingGrid(Wire(tampered(lambda table: table["arrays"].pop())))
    sent = [Message(content(), node, "train") for node in grid.get_node_ids()]
    replies = list(grid.pull_messages(grid.push_messages(sent)))
    assert [reply.metadata.src_node_id for reply in replies] == [2, 3]
    assert all("does not fit its block" in reply.error.reason for reply in replies)
