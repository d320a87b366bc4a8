"""Bytes, seconds and peak memory of the messages in either precision, for models of several sizes.

    python benchmarks/traffic.py [--models lite0 resnet101 60M]

Random weights, and an update of them of random numbers; the server's message, the site's reply and its decoding at
the server each once, through Flower's records and chunks of at most 5 MB, as they go over the network. Each
measurement is a process of its own; memory is how much its largest resident set grew over that before encoding.
`60M` is a ResNet-101 with further tensors up to 60 million entries.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from ratios import peak_memory, ratio

from fedcowpro.config import ModelConfig
from fedcowpro.federated.site.local_training import exchanged_names, trained_names
from fedcowpro.federated.transport import messages as records
from fedcowpro.federated.transport.encoding import Downlink, decode, encode
from fedcowpro.model.segmenter import build_model

PRECISIONS = ("float32", "float16")
MODELS = ("lite0", "resnet101", "60M")
LIMIT = 0.55  # of the bytes of float16 to those of float32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    print("| model | precision | MB down | MB up | encode (s) | decode (s) | memory (MB) | chunks up |")
    print("|---|---|---|---|---|---|---|---|")
    for model in options.models:
        sent = []
        for precision in PRECISIONS:
            command = [sys.executable, __file__, "--one", model, precision]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            numbers = json.loads(done.stdout.splitlines()[-1])
            print(f"| {model} | {precision} | " + " | ".join(numbers) + " |", flush=True)
            sent.append(float(numbers[0]) + float(numbers[1]))
        ratio(f"traffic of a round, {model}, float16", sent[1], "float32", sent[0], LIMIT, "MB")


def measure(model: str, precision: str) -> list[str]:
    """Megabytes down and up, seconds to encode and to decode a reply, megabytes of memory, number of chunks."""
    initial, trained = weights(model)
    rng = np.random.default_rng(0)
    now = {name: value + noise(rng, value) for name, value in initial.items()}
    before = peak_memory()
    common, sent = Downlink(initial, precision).encode(now, ConfigRecord())
    update = {name: sent[name] + noise(rng, sent[name]) for name in trained}
    started = time.perf_counter()
    reply = encode(update, sent, precision)
    encoding = time.perf_counter() - started
    del update
    chunks = {name: array.slice_array() for name, array in reply.items()}
    assert all(len(chunk.data) <= FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE for part in chunks.values() for _, chunk in part)
    arrived = ArrayRecord()
    for name, array in reply.items():
        data = b"".join(bytes(chunk.data) for _, chunk in chunks[name])
        arrived[name] = Array(array.dtype, tuple(array.shape), array.stype, data)
    started = time.perf_counter()
    for name, array in arrived.items():
        assert np.isfinite(decode(array, sent[name])).all()
    decoding = time.perf_counter() - started
    sizes = (records.payload_bytes(content) / 1e6 for content in (common, RecordDict({records.ARRAYS: reply})))
    numbers = [
        *(f"{size:.2f}" for size in sizes),
        f"{encoding:.2f}",
        f"{decoding:.2f}",
        f"{(peak_memory() - before) * 2**20 / 1e6:.0f}",
    ]
    return [*numbers, str(sum(len(part) for part in chunks.values()))]


def weights(model: str) -> tuple[dict[str, np.ndarray], set[str]]:
    """Random weights of a model by name, and the names of those that are trained."""
    encoder = "resnet101" if model == "60M" else model
    built = build_model(ModelConfig(encoder=encoder, channels=256, frozen_norm=True), 0, pretrained=False)
    state = records.to_numpy(built.state_dict())
    found = {name: state[name] for name in exchanged_names(built)}
    trained = trained_names(built)
    while model == "60M" and (lacking := 60_000_000 - sum(value.size for value in found.values())) > 0:
        name = f"more.{len(found)}"
        found[name] = np.zeros((max(1, min(lacking, 2_400_000) // 1000), 1000), np.float32)
        trained.add(name)
    return found, trained


def noise(rng: np.random.Generator, like: np.ndarray) -> np.ndarray:
    return rng.standard_normal(like.shape, np.float32) * np.float32(1e-3)


if __name__ == "__main__":
    main()
