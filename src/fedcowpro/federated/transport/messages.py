"""Names inside the messages, and tensors to and from Flower's records."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from torch import Tensor

# Records of a message.
ARRAYS = "arrays"
METRICS = "metrics"
CONFIG = "config"
FACTS = "facts"
VERSIONS = "versions"
SCORES = "scores"
# Key of CONFIG: digest of the initial model.
INITIAL = "initial"
# Record of a site's own state: its layers, which stay there.
LOCAL = "local"
# The question for its layers, and its kind of message.
LAYERS = "layers"
ASK_FOR_LAYERS = f"{MessageType.QUERY}.{LAYERS}"
# Secure aggregation: its questions, the site's state of a round, the masked words among ARRAYS.
SECURE_KEYS, SECURE_SHARES, SECURE_UNMASK = "secure_keys", "secure_shares", "secure_unmask"
SECURE = "secure"
SIGNATURE, SIGNATURES = "signature", "signatures"  # of the list of keys, by one site and by all
MASKED = "masked"
# Keys of CONFIG (server to site).
EXPERIMENT = "experiment"
ROUND = "server-round"
RUN = "run"
PACKAGE = "package"  # digest of the server's sources
PARTICIPANTS = "participants"  # sites that a round's messages go to
MODEL = "model"  # evaluation: whose model comes with the message
OWN_LAYERS = "own-layers"  # evaluation: whether the site puts its own normalisation layers in
# Keys of METRICS (site to server).
WEIGHT = "num-examples"
LOSS_PREFIX = "loss-"
ABSTAINS = "abstains"  # 1: the site had nothing to learn from

_REASON_LENGTH = 600  # characters
# How Flower's client process words an exception: <class 'package.module.Kind'>:<'text'>
_CARRIED = re.compile(r"<class '(?:\w+\.)*(\w+)'>:<'(.*)'>")


def to_record(state: Mapping[str, Tensor]) -> ArrayRecord:
    """Tensors as a record of serialised arrays, sorted by name."""
    return ArrayRecord({name: state[name].detach() for name in sorted(state)})


def to_tensors(record: ArrayRecord) -> dict[str, Tensor]:
    """A record as tensors of the types that were sent.

    Raises:
        ValueError: an array's bytes are no NumPy array.
    """
    return {name: torch.from_numpy(array.numpy()) for name, array in record.items()}


def to_numpy(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors as arrays on the same memory."""
    return {name: tensor.detach().numpy() for name, tensor in state.items()}


def from_numpy(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays as tensors on the same memory."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def array_record(content: RecordDict, name: str) -> ArrayRecord | None:
    """The arrays called `name`, or None where there are none."""
    record = content.get(name)
    return record if isinstance(record, ArrayRecord) else None


def config_record(content: RecordDict, name: str) -> ConfigRecord:
    """The settings called `name`, empty where there are none."""
    record = content.get(name)
    return record if isinstance(record, ConfigRecord) else ConfigRecord()


def payload_bytes(content: RecordDict) -> int:
    """Size of a message's records in bytes, without the engine's own framing."""
    return sum(record.count_bytes() for record in content.values())


def failure(message: Message) -> str:
    """Why an error reply is one, on one line; in the words of the exception alone, whichever engine carried it."""
    text = " ".join((message.error.reason or "no reason given").split())
    carried = _CARRIED.fullmatch(text)
    words = f"{carried[1]}: {carried[2]}" if carried else text
    words = "".join(letter if letter.isprintable() else "?" for letter in words)
    return words.removeprefix("SiteError: ")[:_REASON_LENGTH]


REFUSED = 6  # Flower's ErrorCode.MOD_FAILED_PRECONDITION


def content_digest(content: RecordDict) -> str:
    """SHA-256 over the records of a message: names, types, shapes and bytes of arrays, values of the others."""
    digest = hashlib.sha256()
    for name, record in sorted(content.items()):
        digest.update(json.dumps([name, type(record).__name__]).encode())
        if isinstance(record, ArrayRecord):
            for key, array in sorted(record.items()):
                digest.update(json.dumps([key, array.dtype, list(array.shape), len(array.data)]).encode())
                digest.update(array.data)
        else:
            digest.update(json.dumps(sorted(record.items()), default=repr).encode())
    return digest.hexdigest()
