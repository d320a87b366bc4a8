"""A site's app that misbehaves as it is told, for the tests of a federation between processes.

FEDCOWPRO_TEST_FAULTS is a folder; its file faults.json says per site and round what goes wrong, and under 'describe'
how the site describes itself. Where nothing is said, the app is the product's own.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedcowpro.federated.site.client_app import app as honest
from fedcowpro.federated.transport.packing import is_packed, pack, unpack
from fedcowpro.federated.transport.site_errors import sanitised

FOLDER = "FEDCOWPRO_TEST_FAULTS"
PATIENCE = 600  # seconds
app = ClientApp()


def scaled(content: RecordDict, factor: float, ending: str = "") -> None:
    arrays = content["arrays"]
    for name in [name for name in arrays if name.endswith(ending)]:
        arrays[name] = Array(arrays[name].numpy() * np.float32(factor))


# What is done to a reply to a training.
LIES: dict[str, Callable[[RecordDict], object]] = {
    "nan": lambda content: scaled(content, np.nan, "project.weight"),
    "far": lambda content: content["arrays"].update({KERNEL: Array(kernel(content) + np.float32(1000))}),
    "shape": lambda content: content["arrays"].update({KERNEL: Array(kernel(content)[:1])}),
    "more": lambda content: content["arrays"].update({"more": Array(kernel(content))}),
    "times 1e5": lambda content: scaled(content, 1e5),
    "statistics": lambda content: scaled(content, 1e4, "running_mean"),
    "junk": lambda content: content["arrays"].update({"junk": Array(np.zeros(12_000_000, np.uint8))}),
    "infinite steps": lambda content: content["metrics"].update({"steps": math.inf}),
    "giant": lambda content: content["metrics"].update({"num-examples": 1_000_000}),
    "list": lambda content: content["metrics"].update({"loss-total": [1.0, 2.0]}),
    "no records": lambda content: content.clear(),
}
# What a site says of itself.
FACTS: dict[str, dict[str, Any]] = {"list": {"cases": [1, 2]}, "size": {"size": 128}, "text": {"settings": "{[" * 500}}
KERNEL = "project.weight"


def kernel(content: RecordDict) -> np.ndarray:
    return np.asarray(content["arrays"][KERNEL].numpy())


def fault_of(context: Context, when: str) -> str:
    told = json.loads(file.read_text()) if (file := Path(os.environ[FOLDER]) / "faults.json").exists() else {}
    return str(told.get(context.node_config["site-name"], {}).get(when, ""))


def changed(reply: Message, change: Callable[[RecordDict], object]) -> Message:
    packed = is_packed(reply.content)
    content = unpack(reply.content) if packed else reply.content
    change(content)
    reply.content = pack(content) if packed else content
    return reply


@app.query()
def describe(message: Message, context: Context) -> Message:
    reply, fault = honest(message, context), fault_of(context, "describe")
    return changed(reply, lambda content: content["facts"].update(FACTS[fault])) if fault else reply


@app.train()
@sanitised
def train(message: Message, context: Context) -> Message:
    folder = Path(os.environ[FOLDER])
    site, number = context.node_config["site-name"], str(message.content["config"]["server-round"])
    fault = fault_of(context, number)
    (folder / f"{site}.{number}.started").touch()
    if fault == "fail":
        raise OSError(28, "No space left on device", "/data/patients/Jane Doe/scan.nii.gz")
    if fault.startswith("wait for "):
        end = time.monotonic() + PATIENCE
        while not (folder / fault.removeprefix("wait for ")).exists() and time.monotonic() < end:
            time.sleep(0.1)
    reply = honest(message, context)
    return changed(reply, LIES[fault]) if fault in LIES else reply
