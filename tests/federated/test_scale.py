"""Many sites: what the server does for a round grows with their number and not with its square."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedcowpro.config import FederationConfig, PrepareConfig
from fedcowpro.core.versions import versions
from fedcowpro.federated.monitoring.alarms import AlarmWatch
from fedcowpro.federated.monitoring.rounds import RoundRecord, SiteRecord
from fedcowpro.federated.server import exchange as exchange_module
from fedcowpro.federated.server.client_registry import ClientRegistry
from fedcowpro.federated.server.exchange import exchange
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.server.server_app import model_card
from fedcowpro.federated.server.update_limits import limit_updates

FEW, MANY = 150, 1200  # eight times as many: a square would take 64 times as long
HERE = versions()
SETTINGS = PrepareConfig(modality="ct").model_dump_json()


class FarEngine:
    """Sites that describe themselves, and answer anything else; each call is counted."""

    def __init__(self, count: int) -> None:
        InProcessGrid(ClientApp(), {})  # messages need the identity that it sets
        self.names = {node: f"s{node}" for node in range(2, count + 2)}
        self.calls, self.most = 0, 0
        self._waiting: dict[str, Message] = {}

    def get_nodes(self) -> list[Any]:
        return [SimpleNamespace(node_id=node, name="", last_activated_at="") for node in self.names]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        self._waiting = {str(number): message for number, message in enumerate(messages)}
        return list(self._waiting)

    def pull_messages(self, keys: Iterable[str]) -> list[Message]:
        replies = [self._reply(key) for key in keys]
        self.calls, self.most = self.calls + 1, max(self.most, len(replies))
        return replies

    def _reply(self, key: str) -> Message:
        message = self._waiting.pop(key)
        content: dict[str, Any] = _description(self.names[message.metadata.dst_node_id])
        reply = Message(RecordDict(content if message.metadata.message_type == "query" else {}), reply_to=message)
        reply.metadata.__dict__["_reply_to_message_id"] = key
        return reply


def _description(name: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": name, "modality": "ct", "cases": 1, "train_slices": 4}
    facts |= {"size": 256, "digest": "0" * 32, "settings": SETTINGS}
    return {"facts": ConfigRecord(facts), "versions": ConfigRecord({**HERE})}


def grows(work: Callable[[int], Callable[[], object]]) -> float:
    """How many times as much of the processor's time the work takes for many sites as for few; best of two."""

    def seconds(count: int) -> float:
        times = []
        for _ in range(2):
            do = work(count)
            began = time.process_time()
            do()
            times.append(time.process_time() - began)
        return min(times)

    return seconds(MANY) / seconds(FEW)


def records_of(count: int, rounds: int) -> list[RoundRecord]:
    rng = np.random.default_rng(0)
    site = SiteRecord("", 1 / count, 40, 1, {"total": 1.0}, 0.5, 1.0, 0.5, 1.0, 1000, 1000)
    return [
        RoundRecord(
            number,
            tuple(replace(site, site=f"s{i}", update_norm=float(rng.uniform(1, 5))) for i in range(count)),
            {f"gone{i}": "no reply" for i in range(count // 10)},
        )
        for number in range(1, rounds + 1)
    ]


def test_alarms_grow_with_the_sites() -> None:
    def work(count: int) -> Callable[[], object]:
        made = records_of(count, 3)
        watch = AlarmWatch(made[:2])
        return lambda: watch.new(made[2])

    assert grows(work) < 25


def test_admission_and_names_grow_with_the_sites() -> None:
    def work(count: int) -> Callable[[], object]:
        registry, engine = ClientRegistry([f"s{node}" for node in range(2, count + 2)]), FarEngine(count)

        def do() -> None:
            registry.update(engine)  # type: ignore[arg-type]
            registry.update(engine)  # type: ignore[arg-type]
            assert len(registry.nodes()) == count
            assert registry.absent() == {}

        return do

    assert grows(work) < 25


def test_limits_and_the_card_grow_with_the_sites(experiment: Callable[..., Any]) -> None:
    before = {"w": np.zeros(4)}

    def limits(count: int) -> Callable[[], object]:
        replies = {f"s{i}": {"w": np.ones(4)} for i in range(count)}
        return lambda: limit_updates(before, replies, FederationConfig())

    assert grows(limits) < 25

    def card(count: int) -> Callable[[], object]:
        registry, engine = ClientRegistry([]), FarEngine(count)
        registry.update(engine)  # type: ignore[arg-type]
        facts = registry.facts()
        return lambda: model_card(experiment(), facts, 1)

    assert grows(card) < 25


@pytest.mark.parametrize(("size", "at_once"), [(1_000, 500), (3_000_000, 89), (10**9, 1)])
def test_replies_are_asked_for_in_as_few_calls_as_memory_allows(size: int, at_once: int) -> None:
    engine = FarEngine(500)
    messages = [Message(RecordDict(), node, "train") for node in engine.names]
    replies = list(exchange(engine, messages, None, size))  # type: ignore[arg-type]
    assert [one.metadata.src_node_id for one in replies] == list(engine.names)
    assert engine.most == at_once
    assert engine.calls == -(-500 // at_once)


def test_looks_take_no_more_than_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With very many sites a look takes long; the next one comes as much later."""

    class Slow(FarEngine):
        now = slept = 0.0

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now, self.slept = self.now + seconds, self.slept + seconds

        def pull_messages(self, keys: Iterable[str]) -> list[Message]:
            self.now += 0.5
            ready = [key for key in keys if int(key) < self.now]  # one a second
            return super().pull_messages(ready)

    engine = Slow(60)
    monkeypatch.setattr(exchange_module, "time", engine)
    messages = [Message(RecordDict(), node, "train") for node in engine.names]
    assert len(list(exchange(engine, messages, None, 10**8))) == 60  # type: ignore[arg-type]
    assert engine.slept >= 0.45 * engine.now
