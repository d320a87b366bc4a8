"""Replies of sites to a training message: whole and sound, or refused with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedcowpro.core.text import printable
from fedcowpro.federated.monitoring.rounds import Arrays
from fedcowpro.federated.transport import messages as records
from fedcowpro.federated.transport.answers import BadAnswer, Metrics, read_metrics
from fedcowpro.federated.transport.encoding import decode

ROOM = 256 * 2**20  # bytes of a round's replies that stay in memory


@dataclass(frozen=True)
class Reply:
    """A reply that passed all checks."""

    arrays: Arrays
    metrics: Metrics
    size: int


class BadReply(Exception):
    """Why a reply is not used."""


class FailedReply(BadReply):
    """The site, or its engine, says itself that it has none."""


def check_reply(message: Message, before: Arrays, expected: frozenset[str], store: ReplyStore) -> Reply:
    """A reply to a training message.

    Args:
        before: the model as the site got it.
        expected: names of the tensors asked for.
        store: keeps its tensors.

    Raises:
        BadReply: anything is not as it should be.
    """
    record, metrics = contents_of(message)
    if missing := sorted(expected - set(record)):
        raise BadReply(f"{len(missing)} arrays are missing, '{missing[0]}' among them")
    if extra := sorted(set(record) - expected):
        raise BadReply(f"{len(extra)} arrays are not asked for, '{printable(extra[0])}' among them")
    arrays = {}
    for name in sorted(record):
        try:
            arrays[name] = decode(record[name], before[name])
        except ValueError as error:
            raise BadReply(f"array '{name}' {error}") from error
        if not np.isfinite(arrays[name]).all():
            raise BadReply(f"array '{name}' has NaN or infinite values")
        if name.endswith("running_var") and (arrays[name] < 0).any():
            raise BadReply(f"array '{name}' has negative variances")
    return Reply(store.keep(arrays), metrics, records.payload_bytes(message.content))


def contents_of(message: Message) -> tuple[ArrayRecord, Metrics]:
    """The two records of a reply that brings tensors.

    Raises:
        FailedReply: an error.
        BadReply: other records, or numbers that are not of their type or within their bounds.
    """
    if message.has_error():
        raise FailedReply(records.failure(message))
    arrays, metrics = message.content.get(records.ARRAYS), message.content.get(records.METRICS)
    found = set(message.content) == {records.ARRAYS, records.METRICS}
    if not found or not isinstance(arrays, ArrayRecord) or not isinstance(metrics, MetricRecord):
        raise BadReply(f"the reply has {printable(sorted(message.content))} instead of arrays and metrics")
    try:
        return arrays, read_metrics(metrics)
    except BadAnswer as error:
        raise BadReply(f"metric {error}") from error


class ReplyStore:
    """Tensors of a round's replies: in memory while there is room, those beyond it in files until the round ends.

    Args:
        folder: for the files; None = the system's for temporary files.
        room: bytes of tensors that stay in memory.
    """

    def __init__(self, folder: Path | None = None, room: int | None = None) -> None:
        self._folder, self._room = folder, ROOM if room is None else room
        self._files: TemporaryDirectory[str] | None = None
        self._count = 0

    def __enter__(self) -> ReplyStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._files is not None:
            self._files.cleanup()

    def keep(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """The same arrays, to be read until the store is closed; OSError where the disk is full."""
        size = sum(array.nbytes for array in arrays.values())
        if size <= self._room:
            self._room -= size
            return arrays
        if self._files is None:
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
            self._files = TemporaryDirectory(prefix="replies-", dir=self._folder)
        self._count += 1
        return StoredArrays(Path(self._files.name) / f"{self._count}.safetensors", arrays)


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
