"""Changes of tensors as few bytes, and back; pure functions of arrays.

Each encoding is deterministic and bounded: what it loses is at most what its line says, for an entry x of a tensor
(or of a row: all entries of one output channel) whose largest magnitude is m.

fp16    scale m, then half precision of x / m                      2 bytes an entry     |x| / 2048 + m / 2^24
int8    a scale m / 127 per row, then round(x / scale)             1 byte an entry      m / 254, m of the row
topk    scale m, positions and half precision of the largest      4 or 6 bytes for     all of an entry left out
        entries                                                    each entry sent

What is lost is not lost for good: who encodes adds it to the next change (error feedback, see `traffic`).
Numbers are little-endian. Bytes from elsewhere are checked against the shape that the reader expects before anything
of that size is made.
"""

from __future__ import annotations

import math
from io import BytesIO
from typing import Literal, get_args

import numpy as np
from numpy.lib import format as npy

Kind = Literal["fp16", "int8", "topk"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_SMALL = 1024
_SCALE, _HALF, _BYTE = np.dtype("<f4"), np.dtype("<f2"), np.dtype("i1")


def is_small(shape: tuple[int, ...]) -> bool:
    """Whether a tensor travels in full precision: vectors (biases, scales, running statistics) and few entries."""
    return len(shape) < 2 or math.prod(shape) < _SMALL


def pack(kind: Kind, change: np.ndarray, share: float = 1.0) -> bytes:
    """A change of a tensor as bytes.

    Args:
        change: finite floating-point values of any shape, at least one-dimensional.
        share: of the entries that `topk` sends, rounded up.
    """
    values = np.ascontiguousarray(change, _SCALE)
    if kind == "int8":
        rows = values.reshape(len(values), -1)
        scale = (np.abs(rows).max(axis=1) / np.float32(127)).astype(_SCALE)
        steps = np.clip(np.rint(rows / _divisor(scale)[:, None]), -127, 127)
        return scale.tobytes() + steps.astype(_BYTE).tobytes()
    flat = values.reshape(-1)
    scale = np.abs(flat).max(keepdims=True)
    if kind == "fp16":
        return scale.tobytes() + (flat / _divisor(scale)).astype(_HALF).tobytes()
    chosen = _largest(np.abs(flat), math.ceil(share * flat.size))
    half = (flat[chosen] / _divisor(scale)).astype(_HALF)
    return scale.tobytes() + chosen.astype(_position(flat.size)).tobytes() + half.tobytes()


def unpack(kind: Kind, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The change that `pack` made bytes of, as float32 of `shape`.

    Raises:
        ValueError: bytes that `pack` does not make of a tensor of this shape.
    """
    size = math.prod(shape)
    if kind == "int8":
        rows = shape[0]
        _check_length(kind, data, rows * _SCALE.itemsize + size)
        scale = np.frombuffer(data, _SCALE, rows)
        steps = np.frombuffer(data, _BYTE, offset=scale.nbytes).reshape(rows, -1)
        return np.asarray((steps * scale[:, None]).reshape(shape), np.float32)
    if kind == "fp16":
        _check_length(kind, data, _SCALE.itemsize + size * _HALF.itemsize)
        scale = np.frombuffer(data, _SCALE, 1)
        return np.asarray((np.frombuffer(data, _HALF, offset=scale.nbytes) * scale).reshape(shape), np.float32)
    position = _position(size)
    count, rest = divmod(len(data) - _SCALE.itemsize, position.itemsize + _HALF.itemsize)
    if count < 0 or rest or count > size:
        raise ValueError(f"{len(data)} bytes are no {kind} of {shape}")
    scale = np.frombuffer(data, _SCALE, 1)
    chosen = np.frombuffer(data, position, count, offset=scale.nbytes).astype(np.int64)
    if count and (chosen[-1] >= size or (np.diff(chosen) < 1).any()):
        raise ValueError(f"positions of {kind} are not ascending below {size}")
    values = np.zeros(size, np.float32)
    values[chosen] = np.frombuffer(data, _HALF, offset=scale.nbytes + chosen.size * position.itemsize) * scale
    return values.reshape(shape)


def read_npy(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array as `numpy.save` writes it; unlike `numpy.load`, nothing is made of the size that its header claims.

    Raises:
        ValueError: other bytes, or an array of another shape or type.
    """
    stream = BytesIO(data)
    try:
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        found, by_columns, kind = readers[npy.read_magic(stream)](stream)
    except Exception as error:  # the header is a Python literal: bad ones fail in every way that a parser can
        raise ValueError(f"no array of NumPy's format 1 or 2 ({type(error).__name__})") from error
    start = stream.tell()
    if (found, kind) != (shape, dtype) or len(data) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"its bytes hold {kind} {found} in {len(data) - start} bytes, expected {dtype} {shape}")
    values = np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if by_columns else "C")
    return np.array(values, order="C")  # a copy that may be changed


def _largest(magnitude: np.ndarray, count: int) -> np.ndarray:
    """Ascending positions of the `count` largest entries, the first ones of equals; zeros are not among them."""
    least = np.partition(magnitude, magnitude.size - count)[magnitude.size - count]
    above = np.flatnonzero(magnitude > least)
    equal = np.flatnonzero(magnitude == least)[: count - above.size] if least > 0 else above[:0]
    return np.sort(np.concatenate((above, equal)))


def _divisor(scale: np.ndarray) -> np.ndarray:
    """A tensor of zeros, or of numbers too small to divide by, becomes zeros."""
    return np.where(scale > 0, scale, np.float32(1))


def _position(size: int) -> np.dtype:
    return np.dtype("<u2" if size <= 1 << 16 else "<u4")


def _check_length(kind: Kind, data: bytes, expected: int) -> None:
    if len(data) != expected:
        raise ValueError(f"{len(data)} bytes of {kind}, expected {expected}")
