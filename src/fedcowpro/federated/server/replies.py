"""Replies of sites to a training message: whole and sound, or refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import Message, MetricRecord
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedcowpro.federated.monitoring.rounds import Arrays
from fedcowpro.federated.transport import messages as records
from fedcowpro.federated.transport.encoding import decode


@dataclass(frozen=True)
class Reply:
    """A reply that passed all checks."""

    arrays: Arrays
    slices: float
    metrics: MetricRecord
    size: int


class BadReply(Exception):
    """Why a reply is not used."""


def check_reply(message: Message, before: Arrays, expected: frozenset[str], file: Path) -> Reply:
    """A reply to a training message.

    Args:
        before: the model as the site got it.
        expected: names of the tensors asked for.
        file: where its tensors are kept.

    Raises:
        BadReply: anything is not as it should be.
    """
    if message.has_error():
        raise BadReply(records.failure(message))
    record = records.array_record(message.content, records.ARRAYS)
    metrics = message.content.get(records.METRICS)
    if record is None or not isinstance(metrics, MetricRecord):
        raise BadReply(f"the reply has {sorted(message.content)} instead of arrays and metrics")
    if missing := sorted(expected - set(record)):
        raise BadReply(f"{len(missing)} arrays are missing, '{missing[0]}' among them")
    if extra := sorted(set(record) - expected):
        raise BadReply(f"{len(extra)} arrays are not asked for, '{extra[0]}' among them")
    arrays = {}
    for name in sorted(record):
        try:
            arrays[name] = decode(record[name], before[name])
        except ValueError as error:
            raise BadReply(f"array '{name}' {error}") from error
        if not np.isfinite(arrays[name]).all():
            raise BadReply(f"array '{name}' has NaN or infinite values")
    slices = metrics.get(records.WEIGHT)
    if not isinstance(slices, int | float) or not math.isfinite(slices) or slices <= 0:
        raise BadReply(f"its weight '{records.WEIGHT}' is {slices}, expected a positive number")
    return Reply(StoredArrays(file, arrays), float(slices), metrics, records.payload_bytes(message.content))


class StoredArrays(Mapping[str, np.ndarray]):
    """Arrays in a file; each look reads one of them."""

    def __init__(self, file: Path, arrays: Mapping[str, np.ndarray]) -> None:
        self._file, self._names = file, sorted(arrays)
        try:
            save_file({name: np.asarray(arrays[name], order="C") for name in self._names}, file)
        except SafetensorError as error:  # its own kind even where the disk is full
            raise OSError(f"{file} cannot be written: {error}") from error

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self._file, framework="np") as stored:
            return np.asarray(stored.get_tensor(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
