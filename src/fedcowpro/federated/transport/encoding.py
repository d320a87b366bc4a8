"""What travels between server and sites, encoded as the settings say.

Down: the tensors in which the model differs from the initial one, which every site builds for itself from its
installed package (or got once as bytes and keeps); its digest travels instead. So a message needs nothing of the
messages before it: a site that was away or began anew reads it as any other. Up: the tensors that the site trained.

`none` sends values, bit for bit. The other encodings send the change of each larger tensor since its start (down:
the initial model; up: the model that the site received), and small tensors as they are. Error feedback (Karimireddy
et al. 2019, arXiv 1901.09847): what an encoding lost is added to what is encoded next. A site keeps its loss in its
state; the server's is the difference between its own model and the one it sent, which never leaves its model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fedcowpro.config import ExperimentConfig, FederationConfig, ModelConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.monitoring.rounds import Arrays
from fedcowpro.federated.transport import codec
from fedcowpro.federated.transport import messages as records
from fedcowpro.model.checkpoint import state_digest
from fedcowpro.model.segmenter import build_model

_PREFIX = "fedcowpro/"
_SAME = "use the same versions of fedcowpro and torch at the server and at all sites, or set federation.initial to send"


def encode(values: Arrays, start: Arrays, kind: str, share: float = 1.0) -> tuple[ArrayRecord, dict[str, np.ndarray]]:
    """Tensors as a record, and those of them that lose something, as the receiver will have them.

    Args:
        start: what the receiver has already, by name; a tensor without one travels as it is.
        kind: "none" or one of `codec.KINDS`.
        share: of the entries that "topk" sends.
    """
    record, lossy = ArrayRecord(), {}
    for name in sorted(values):
        value = values[name]
        if kind not in codec.KINDS or name not in start or codec.is_small(value.shape):
            record[name] = Array(value)
            continue
        data = codec.pack(kind, value - start[name], share)
        record[name] = Array(str(value.dtype), tuple(value.shape), _PREFIX + kind, data)
        lossy[name] = decode(record[name], start[name])
    return record, lossy


def decode(array: Array, start: np.ndarray) -> np.ndarray:
    """A tensor out of a record, of the shape and type of `start`, from which its change counts.

    Raises:
        ValueError: the array is of another shape, type or encoding, or its bytes are not what they should be.
    """
    shape, kind = tuple(array.shape), array.stype.removeprefix(_PREFIX)
    if shape != start.shape or array.dtype != str(start.dtype):
        raise ValueError(f"is {array.dtype} {shape}, expected {start.dtype} {start.shape}")
    try:
        if array.stype == "numpy.ndarray":
            return codec.read_npy(array.data, shape, start.dtype)
        if kind not in codec.KINDS or array.stype == kind:
            raise ValueError(f"encoding '{array.stype[:40]}' is not known")
        with np.errstate(over="ignore", invalid="ignore"):  # who reads checks for finite values
            return np.asarray(start + codec.unpack(kind, array.data, shape), start.dtype)
    except ValueError as error:
        raise ValueError(f"cannot be read: {error}") from error


class Downlink:
    """The server's side of what goes down.

    Args:
        config: `downlink` and `initial`.
        initial: the model before training; without one, all of a model travels in each message.
        send: sites get the initial model's bytes, once and after a round in which they gave no good answer.
    """

    def __init__(self, config: FederationConfig, initial: Arrays | None = None, send: bool = False) -> None:
        if send and config.downlink == "none":
            initial = None  # twice the bytes, and no use: nothing is encoded
        self._kind, self._initial = config.downlink, initial or {}
        tensors = records.from_numpy(self._initial)
        self._digest = state_digest(tensors)
        self._bytes = records.to_record(tensors) if send and tensors else None
        self._holders: frozenset[str] = frozenset()

    def encode(self, values: Arrays, config: ConfigRecord) -> tuple[RecordDict, dict[str, np.ndarray]]:
        """The part of the messages that is the same for all sites, and the model as sites will have it."""
        changed = {
            name: value
            for name, value in values.items()
            if name not in self._initial or not np.array_equal(value, self._initial[name])
        }
        record, lossy = encode(changed, self._initial, self._kind)
        if self._initial:
            config[records.INITIAL] = self._digest
        return RecordDict({records.ARRAYS: record, records.CONFIG: config}), {**values, **lossy}

    def content(self, common: RecordDict, site: str) -> RecordDict:
        """A site's message: with the bytes of the initial model, if it may lack them."""
        if self._bytes is None or site in self._holders:
            return common
        return RecordDict({**common, records.INITIAL: self._bytes})

    def answered(self, sites: Iterable[str]) -> None:
        """These sites answered well in this round, so they have the initial model; any other may lack it."""
        self._holders = frozenset(sites)


def receive(content: RecordDict, state: RecordDict, config: ExperimentConfig) -> dict[str, Tensor]:
    """The model that the server sent to this site.

    Args:
        content: of the message.
        state: the site's own; keeps an initial model that came as bytes.

    Raises:
        FedCoWProError: arrays that cannot be read, or that count from an initial model which this site has not.
    """
    arrays = records.array_record(content, records.ARRAYS) or ArrayRecord()
    expected = records.config_record(content, records.CONFIG).get(records.INITIAL)
    if expected is None:
        return records.to_tensors(arrays)
    initial = _initial_of(content, state, config, str(expected))
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


def reply(
    trained: Mapping[str, Tensor], received: Mapping[str, Tensor], state: RecordDict, config: FederationConfig
) -> ArrayRecord:
    """What a site sends after its round; `state` keeps what the encoding lost."""
    kept = records.array_record(state, records.RESIDUAL)
    lost = records.to_numpy(records.to_tensors(kept)) if kept is not None else {}
    values = records.to_numpy(trained)
    values = {name: value + lost[name] if name in lost else value for name, value in values.items()}
    record, lossy = encode(values, records.to_numpy(received), config.uplink, config.topk_share)
    if lossy:
        rest = {name: values[name] - arrived for name, arrived in lossy.items()}
        state[records.RESIDUAL] = records.to_record(records.from_numpy(rest))
    return record


def _initial_of(content: RecordDict, state: RecordDict, config: ExperimentConfig, expected: str) -> dict[str, Tensor]:
    sent = records.array_record(content, records.INITIAL)
    kept = sent if sent is not None else records.array_record(state, records.INITIAL)
    if kept is not None:
        initial = records.to_tensors(kept)
        found = state_digest(initial)
    else:
        initial, found = initial_model(config.model, config.seed)
    if found != expected:
        raise FedCoWProError(
            f"this site's initial weights have the digest {found[:16]}", f"{expected[:16]}, the server's", _SAME
        )
    if sent is not None:
        state[records.INITIAL] = sent
    return initial


@lru_cache(maxsize=1)  # the sites of one process have the same; who gets it must not change it
def initial_model(config: ModelConfig, seed: int) -> tuple[dict[str, Tensor], str]:
    """The floating-point tensors before training as this package builds them, and their digest."""
    state = build_model(config, seed).state_dict()
    initial = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    return initial, state_digest(initial)
