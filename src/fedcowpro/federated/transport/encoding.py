"""The model as it travels between server and sites, in the precision that the settings say.

Down: the tensors in which the model differs from the initial one, which every site builds for itself from its
installed package; its digest travels instead. So a message needs nothing of the messages before it: a site that was
away or began anew reads it as any other. Up: the tensors that the site trained.

`float32` sends values, bit for bit. `float16` sends the change of each tensor but vectors since what the receiver has
(down: the initial model; up: the model that the site received): two bytes an entry, and an error of at most 1/2048 of
the change or 2^-25, whichever is larger. A change beyond 65504 becomes infinite, which who reads it refuses.
"""

from __future__ import annotations

import math
from functools import lru_cache
from io import BytesIO

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.lib import format as npy
from torch import Tensor

from fedcowpro.config import ExperimentConfig, ModelConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.monitoring.rounds import Arrays
from fedcowpro.federated.transport import messages as records
from fedcowpro.model.checkpoint import state_digest
from fedcowpro.model.segmenter import build_model

HALF = "float16"
_SAME = "use the same versions of fedcowpro and torch at the server and at all sites, or set federation.initial to send"


def encode(values: Arrays, start: Arrays, precision: str) -> ArrayRecord:
    """Tensors as a record.

    Args:
        start: what the receiver has already, by name; a tensor without one travels as it is.
        precision: "float32" or "float16".
    """
    record = ArrayRecord()
    for name in sorted(values):
        value = values[name]
        if precision == HALF and name in start and value.ndim > 1:
            with np.errstate(over="ignore"):  # who reads checks for finite values
                value = (value - start[name]).astype(HALF)
        record[name] = Array(value)
    return record


def decode(array: Array, start: np.ndarray) -> np.ndarray:
    """A tensor out of a record, of the shape and type of `start`, from which its change counts.

    Raises:
        ValueError: the array is of another shape or type, or its bytes are not what they should be.
    """
    shape, half = tuple(array.shape), array.dtype == HALF and start.dtype == np.float32
    if shape != start.shape or not (half or array.dtype == str(start.dtype)):
        raise ValueError(f"is {array.dtype} {shape}, expected {start.dtype} {start.shape}")
    if array.stype != "numpy.ndarray":
        raise ValueError(f"cannot be read: encoding '{array.stype[:40]}' is not known")
    value = _read_npy(array.data, shape, np.dtype(HALF) if half else start.dtype)
    return start + value if half else value


class Downlink:
    """The server's side of what goes down.

    Args:
        initial: the model before training, where sites build it themselves; else all of a model travels, as it is.
        precision: "float32" or "float16".
    """

    def __init__(self, initial: Arrays | None = None, precision: str = "float32") -> None:
        self._initial, self._precision = initial or {}, precision
        self._digest = state_digest(records.from_numpy(self._initial))

    def encode(self, values: Arrays, config: ConfigRecord) -> tuple[RecordDict, Arrays]:
        """The message to every site, and the model as sites will have it."""
        initial = self._initial
        changed = {
            name: value
            for name, value in values.items()
            if name not in initial or not np.array_equal(value, initial[name])
        }
        record = encode(changed, initial, self._precision)
        if initial:
            config[records.INITIAL] = self._digest
        rounded = {name: decode(array, initial[name]) for name, array in record.items() if array.dtype == HALF}
        return RecordDict({records.ARRAYS: record, records.CONFIG: config}), {**values, **rounded}


def receive(content: RecordDict, config: ExperimentConfig) -> dict[str, Tensor]:
    """The model that the server sent to this site.

    Args:
        content: of the message.

    Raises:
        FedCoWProError: arrays that cannot be read, or that count from an initial model which this site has not.
    """
    arrays = records.array_record(content, records.ARRAYS) or ArrayRecord()
    expected = records.config_record(content, records.CONFIG).get(records.INITIAL)
    if expected is None:
        return records.to_tensors(arrays)
    initial, found = initial_model(config.model, config.seed)
    if found != expected:
        raise FedCoWProError(
            f"this site's initial weights have the digest {found[:16]}", f"{str(expected)[:16]}, the server's", _SAME
        )
    start, changed = records.to_numpy(initial), {}
    for name, array in arrays.items():
        try:
            if name not in start:
                raise ValueError("is no tensor of this model")
            changed[name] = decode(array, start[name])
        except ValueError as error:
            raise FedCoWProError(
                f"array '{name}' of the server's model {error}", f"a model of '{config.model.encoder}'", _SAME
            ) from error
    return {**initial, **records.from_numpy(changed)}


@lru_cache(maxsize=1)  # the sites of one process have the same; who gets it must not change it
def initial_model(config: ModelConfig, seed: int) -> tuple[dict[str, Tensor], str]:
    """The floating-point tensors before training as this package builds them, and their digest."""
    state = build_model(config, seed).state_dict()
    initial = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    return initial, state_digest(initial)


def _read_npy(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array as `numpy.save` writes it; unlike `numpy.load`, nothing is made of the size that its header claims.

    Raises:
        ValueError: other bytes, or an array of another shape or type.
    """
    stream = BytesIO(data)
    try:
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        found, by_columns, kind = readers[npy.read_magic(stream)](stream)
    except Exception as error:  # the header is a Python literal: bad ones fail in every way that a parser can
        raise ValueError(f"cannot be read: no array of NumPy's format 1 or 2 ({type(error).__name__})") from error
    start = stream.tell()
    if (found, kind) != (shape, dtype) or len(data) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"cannot be read: its bytes hold {kind} {found} in {len(data) - start} bytes, expected {dtype} {shape}"
        )
    values = np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if by_columns else "C")
    return np.array(values, order="C")  # a copy that may be changed
