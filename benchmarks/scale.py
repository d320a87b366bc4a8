"""What a round of very many sites costs the server, part by part, in seconds of a core, without the sites' training.

    python benchmarks/scale.py [--sites 100,1000,10000] [--fraction 1] [--encoder tiny]

Sites are stubs in the server's process: each describes itself and sends back the encoder's tensors, a little larger.
Three rounds; the numbers are those of the second and third, which know earlier ones. Each number of sites has a process
of its own, so that the peak of memory is its own. `stubs` are the sites' answers, which no server would make; `sum` is
all without them. Waiting for the disk is not in it: the audit log does so some times a second. Last, the calls by which
a deployed server asks for replies: the engine is a stub with a clock of its own; the sites send 3 MB each, as `lite0`
does, one by one within a minute, and a call takes 5 ms.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from ratios import peak_memory, ratio

from fedcowpro.config import ExperimentConfig, PrepareConfig
from fedcowpro.core.device import reproducible
from fedcowpro.core.versions import versions
from fedcowpro.federated.governance.audit_log import AuditLog
from fedcowpro.federated.monitoring.alarms import AlarmWatch
from fedcowpro.federated.server import evaluation, exchange, server_app
from fedcowpro.federated.server.aggregator import Aggregator
from fedcowpro.federated.server.audit_grid import AuditedGrid
from fedcowpro.federated.server.client_registry import ClientRegistry
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.federated.site.local_training import trained_names
from fedcowpro.model.segmenter import build_model

ROUNDS = 3
_CALL = 0.005  # seconds of a call to a SuperLink on the same machine
# Of the last number of sites to the first: the server's seconds for a site, and its memory.
GROWTH, MEMORY = 1.5, 1.25
PARTS = ("stubs", "names", "audit", "aggregation", "alarms", "records", "rest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", default="100,1000,10000")
    parser.add_argument("--fraction", type=float, default=1.0)
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_measured(options.child, options.fraction, options.encoder)))
        return
    columns = ["sites", *(f"{part} (s)" for part in ("admission", *PARTS, "sum")), "memory (MB)", "calls"]
    print("| " + " | ".join(columns) + " |")
    print("| -- " * len(columns) + "|")
    counts, ends = [int(count) for count in options.sites.split(",")], []
    for count in counts:
        given = ["--fraction", str(options.fraction), "--encoder", options.encoder]
        command = [sys.executable, __file__, "--child", str(count), *given]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        times = [found["admission"], *(found[part] for part in PARTS), found["sum"]]
        numbers = [*(f"{value:.2f}" for value in times), f"{found['memory']:.0f}", str(found["calls"])]
        print(f"| {count} | " + " | ".join(numbers) + " |", flush=True)
        ends.append((1000 * found["sum"] / count, found["memory"]))
    if len(counts) > 1:
        first, last, other = ends[0], ends[-1], f"with {counts[0]}"
        ratio(f"server, a site's share of a round, {counts[-1]} sites", last[0], other, first[0], GROWTH, "CPU ms")
        ratio(f"server, memory, {counts[-1]} sites", last[1], other, first[1], MEMORY, "MiB")


def _measured(count: int, fraction: float, encoder: str) -> dict[str, float]:
    logging.disable(logging.WARNING)
    federation = {"rounds": ROUNDS, "local_steps": 1, "fraction": fraction}
    names = [f"s{number:06d}" for number in range(count)]
    config = ExperimentConfig.model_validate(
        {"model": {"encoder": encoder}, "federation": federation, "sites": [{"name": name} for name in names]}
    )
    clock = _Clock()
    clock.follow()
    began = time.process_time()
    with reproducible(1), tempfile.TemporaryDirectory(prefix="scale-") as folder:
        grid = InProcessGrid(_stub(config), {name: {"site-name": name} for name in names})
        server_app.serve(grid, config, RunFolder(Path(folder) / "run"))
    clock.rounds.append(time.process_time())
    first, *_, last = clock.rounds[1:]
    spent = {part: clock.spent[part] / (ROUNDS - 1) for part in PARTS[:-1]}
    spent["rest"] = (last - first) / (ROUNDS - 1) - sum(spent.values())
    numbers = {"admission": clock.rounds[0] - began, **spent, "sum": sum(spent.values()) - spent["stubs"]}
    return {**numbers, "memory": peak_memory(), "calls": _calls(round(count * fraction))}


class _Clock:
    """Seconds of the processor within each part, without the parts that it calls; of the rounds after the first."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.rounds: list[float] = []  # when each began
        self._within: list[str] = []
        self._since = time.process_time()

    def follow(self) -> None:
        for owner, name, part in (
            (InProcessGrid, "_deliver", "stubs"),
            (ClientRegistry, "update", "names"),
            (ClientRegistry, "nodes", "names"),
            (ClientRegistry, "absent", "names"),
            (ClientRegistry, "facts", "names"),
            (server_app, "draw", "names"),
            (AuditedGrid, "_sent", "audit"),
            (AuditedGrid, "_reply", "audit"),
            (AuditLog, "append", "audit"),
            (Aggregator, "aggregate", "aggregation"),
            (AlarmWatch, "new", "alarms"),
            (server_app, "append_round", "records"),
            (server_app, "model_card", "records"),
            (evaluation, "append_lines", "records"),
            (RunFolder, "commit", "records"),
            (RunFolder, "joined", "records"),
        ):
            setattr(owner, name, self._timed(getattr(owner, name), part))
        real = Aggregator.take_part

        def begin(*given: Any) -> None:
            if len(self.rounds) == 1:
                self.spent.clear()
            self.rounds.append(time.process_time())
            real(*given)

        Aggregator.take_part = begin  # type: ignore[method-assign,assignment]

    def _timed(self, call: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            self._turn()
            self._within.append(part)
            try:
                return call(*given, **named)
            finally:
                self._turn()
                self._within.pop()

        return timed

    def _turn(self) -> None:
        now = time.process_time()
        if self._within:
            self.spent[self._within[-1]] += now - self._since
        self._since = now


def _stub(config: ExperimentConfig) -> ClientApp:
    """Sites that describe themselves and send back what they got, with noise."""
    model, rng = build_model(config.model, config.seed), np.random.default_rng(0)
    tensors = {name: model.state_dict()[name].numpy() for name in sorted(trained_names(model))}
    settings, here = PrepareConfig(modality="ct").model_dump_json(), versions()
    app = ClientApp()

    @app.query()
    def describe(message: Message, context: Context) -> Message:
        facts = {"name": context.node_config["site-name"], "modality": "ct", "cases": 2, "train_slices": 40}
        facts |= {"size": 256, "digest": "0" * 32, "settings": settings}
        content = {"facts": ConfigRecord(facts), "versions": ConfigRecord({**here})}
        return Message(RecordDict(cast("dict[str, Any]", content)), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        noise = np.float32(1e-4 * rng.random())
        arrays = ArrayRecord({name: Array(np.asarray(value + noise)) for name, value in tensors.items()})
        told = {"num-examples": 40, "steps": 1, "seconds": 0.1, "pseudo-dice": 0.5, "loss-total": 1.0}
        return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord(told)}), reply_to=message)

    return app


class _Minute:
    """An engine whose sites answer one by one within a minute, by a clock that only sleep and calls move on."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, 0
        self._waiting: dict[str, tuple[float, Message]] = {}

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        sent = list(messages)
        self._waiting = {str(n): (60 * (n + 1) / len(sent), message) for n, message in enumerate(sent)}
        return list(self._waiting)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.calls += 1
        self.now += _CALL
        ready = [key for key in message_ids if self._waiting[key][0] <= self.now]
        replies = []
        for key in ready:
            replies.append(Message(RecordDict(), reply_to=self._waiting.pop(key)[1]))
            replies[-1].metadata.__dict__["_reply_to_message_id"] = key
        return replies


def _calls(count: int) -> int:
    """Calls for the replies of so many sites that send 3 MB each, as `lite0` does."""
    engine, real = _Minute(), exchange.time
    exchange.time = engine  # type: ignore[assignment]
    messages = [Message(RecordDict(), node, "train") for node in range(2, count + 2)]
    got = sum(1 for _ in exchange.exchange(cast(Grid, engine), messages, None, 3_000_000))
    exchange.time = real
    assert got == count
    return engine.calls


if __name__ == "__main__":
    main()
