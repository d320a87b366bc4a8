"""A site's app that misbehaves as it is told, for the tests of a federation between processes.

FEDCOWPRO_TEST_FAULTS is a folder; its file faults.json says per site and round what goes wrong. Where nothing is said,
the app is the product's own.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, Context, Message
from flwr.clientapp import ClientApp

from fedcowpro.federated.site.client_app import app as honest
from fedcowpro.federated.transport.packing import is_packed, pack, unpack
from fedcowpro.federated.transport.site_errors import sanitised

FOLDER = "FEDCOWPRO_TEST_FAULTS"
PATIENCE = 600  # seconds
app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    return honest(message, context)


@app.train()
@sanitised
def train(message: Message, context: Context) -> Message:
    folder = Path(os.environ[FOLDER])
    site, number = context.node_config["site-name"], str(message.content["config"]["server-round"])
    fault = json.loads((folder / "faults.json").read_text()).get(site, {}).get(number, "")
    (folder / f"{site}.{number}.started").touch()
    if fault == "fail":
        raise OSError(28, "No space left on device", "/data/patients/Jane Doe/scan.nii.gz")
    if fault.startswith("wait for "):
        end = time.monotonic() + PATIENCE
        while not (folder / fault.removeprefix("wait for ")).exists() and time.monotonic() < end:
            time.sleep(0.1)
    reply = honest(message, context)
    packed = is_packed(reply.content)
    if packed:
        reply.content = unpack(reply.content)
    arrays = reply.content["arrays"]
    name = "project.weight"
    value = arrays[name].numpy()
    if fault == "nan":
        arrays[name] = Array(np.full_like(value, np.nan))
    elif fault == "far":
        arrays[name] = Array(value + np.float32(1000))
    elif fault == "shape":
        arrays[name] = Array(value[:1])
    elif fault == "more":
        arrays["more"] = Array(value)
    if packed:
        reply.content = pack(reply.content)
    return reply
