"""What each encoding loses is bounded, never accumulates, and bytes from elsewhere do no harm."""

from __future__ import annotations

import tracemalloc
from io import BytesIO

import numpy as np
import pytest
from flwr.app import Array
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fedcowpro.federated.transport import codec
from fedcowpro.federated.transport.encoding import decode, encode

SHAPES = npst.array_shapes(min_dims=1, max_dims=4, max_side=9)
# Numbers whose quotients and products with others of their tensor are ordinary ones.
FLOATS = st.floats(-(2.0**100), 2.0**100, width=32).filter(lambda x: x == 0 or abs(x) > 2.0**-100)
CHANGES = SHAPES.flatmap(lambda shape: npst.arrays(np.float32, shape, elements=FLOATS))


def again(kind: codec.Kind, change: np.ndarray, share: float = 1.0) -> np.ndarray:
    found = codec.unpack(kind, codec.pack(kind, change, share), change.shape)
    assert found.shape == change.shape
    assert found.dtype == np.float32
    return found


@given(CHANGES)
def test_half_precision_keeps_its_bound(change: np.ndarray) -> None:
    exact = change.astype(np.float64)
    error = np.abs(again("fp16", change) - exact)
    assert (error <= np.abs(exact) / 2048 * 1.001 + np.abs(exact).max() / 2**24).all()


@given(CHANGES)
def test_eight_bits_keep_the_bound_of_their_row(change: np.ndarray) -> None:
    exact = change.astype(np.float64).reshape(len(change), -1)
    error = np.abs(again("int8", change).reshape(exact.shape) - exact)
    assert (error <= np.abs(exact).max(axis=1, keepdims=True) / 254 * 1.001).all()


@given(CHANGES, st.floats(0.01, 1))
def test_the_largest_entries_are_sent_and_no_others(change: np.ndarray, share: float) -> None:
    count = int(np.ceil(share * change.size))
    found = again("topk", change, share).ravel()
    magnitude = np.abs(change.ravel())
    sent = np.flatnonzero(found)
    assert len(sent) <= count
    least = np.sort(magnitude)[-count]
    left = np.delete(magnitude, sent)
    # Entries below a 2^25th of the largest become zero in half precision.
    assert (left <= np.maximum(least, magnitude.max() * 2.0**-24)).all()
    bound = magnitude.astype(np.float64) / 2048 * 1.001 + float(magnitude.max()) / 2**24
    assert (np.abs(found - change.ravel().astype(np.float64)) <= bound)[sent].all()


def test_of_equal_entries_the_first_are_sent() -> None:
    change = np.array([[1, -2, 1, 1], [0, 1, 2, 1]], np.float32)
    np.testing.assert_array_equal(again("topk", change, 0.5), [[1, -2, 1, 0], [0, 0, 2, 0]])
    np.testing.assert_array_equal(again("topk", np.zeros((2, 3), np.float32), 0.5), np.zeros((2, 3)))


@pytest.mark.parametrize("size", [1 << 16, (1 << 16) + 1])
def test_positions_in_small_and_large_tensors(size: int) -> None:
    change = np.zeros(size, np.float32)
    change[[0, size - 1]] = -1, 2
    np.testing.assert_array_equal(again("topk", change, 2 / size), change)


@pytest.mark.parametrize("kind", codec.KINDS)
def test_numbers_too_small_to_divide_by_become_zeros(kind: codec.Kind) -> None:
    change = np.full((2, 3), 1e-45, np.float32)
    assert np.abs(again(kind, change)).max() <= 2e-45


@pytest.mark.parametrize(("kind", "most"), [("none", 4.1), ("fp16", 2.1), ("int8", 1.1), ("topk", 0.25)])
def test_bytes_of_each_encoding(kind: str, most: float) -> None:
    value = np.random.default_rng(0).normal(size=(64, 500)).astype(np.float32)
    record, _ = encode({"w": value}, {"w": np.zeros_like(value)}, kind, share=0.05)
    assert len(record["w"].data) <= most * value.size
    assert len(record["w"].data) > 0.9 * most * value.size / 1.15


@pytest.mark.parametrize("kind", codec.KINDS)
def test_error_feedback_makes_the_sum_arrive(kind: str) -> None:
    """The sum of what arrives differs from the sum of what was sent by the last loss only, which does not grow."""
    rng = np.random.default_rng(1)
    start = {"w": np.zeros((16, 80), np.float32)}
    mean = rng.normal(size=(16, 80)).astype(np.float32)
    lost, total, arrived, gaps = np.zeros_like(mean), np.zeros_like(mean, np.float64), 0.0, []
    for _ in range(200):
        change = mean + rng.normal(size=mean.shape).astype(np.float32) / 10
        total += change
        target = change + lost
        _, decoded = encode({"w": target}, start, kind, share=0.05)
        lost = target - decoded["w"]
        arrived = arrived + decoded["w"].astype(np.float64)
        gaps.append(float(np.linalg.norm(total - arrived)))
        assert gaps[-1] == pytest.approx(float(np.linalg.norm(lost)), rel=1e-3, abs=1e-2)
    assert gaps[-1] / np.linalg.norm(total) < {"fp16": 1e-5, "int8": 1e-4, "topk": 0.12}[kind]
    assert max(gaps[100:]) < 1.2 * max(gaps[:100])


def test_small_tensors_and_those_without_a_start_travel_bit_for_bit() -> None:
    rng = np.random.default_rng(2)
    values = {
        "vector": rng.normal(size=4096).astype(np.float32),  # as a running statistic
        "small": rng.normal(size=(32, 9)).astype(np.float32),
        "new": rng.normal(size=(64, 64)).astype(np.float32),
    }
    start = {name: np.zeros_like(value) for name, value in values.items()}
    record, lossy = encode(values, {name: start[name] for name in ("vector", "small")}, "topk", 0.01)
    assert lossy == {}
    for name, value in values.items():
        np.testing.assert_array_equal(decode(record[name], start[name]), value)


# ---------------------------------------------------------------- bytes from elsewhere

START = np.ones((40, 30), np.float32)


def npy(value: np.ndarray) -> bytes:
    stream = BytesIO()
    np.save(stream, value)
    return stream.getvalue()


def header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def packed(stype: str, data: bytes, dtype: str = "float32", shape: tuple[int, ...] = (40, 30)) -> Array:
    return Array(dtype, shape, stype, data)


SCALE = np.float32(1).tobytes()
RAW = "numpy.ndarray"
BAD = {
    "other shape": (packed("fedcowpro/int8", b"", shape=(10**9, 10**9)), r"is float32 \(1000000000, 1000000000\)"),
    "other type": (packed("fedcowpro/fp16", b"", dtype="float64"), "is float64"),
    "unknown": (packed("zip", b""), "encoding 'zip' is not known"),
    "no prefix": (packed("int8", bytes(160 + 1200)), "encoding 'int8' is not known"),
    "short int8": (packed("fedcowpro/int8", bytes(1359)), "1359 bytes of int8, expected 1360"),
    "long fp16": (packed("fedcowpro/fp16", bytes(10**6)), "1000000 bytes of fp16, expected 2404"),
    "empty topk": (packed("fedcowpro/topk", b""), "no topk"),
    "torn topk": (packed("fedcowpro/topk", SCALE + bytes(3)), "no topk"),
    "topk of too many": (packed("fedcowpro/topk", SCALE + bytes(4 * 1201)), "no topk"),
    "position outside": (packed("fedcowpro/topk", SCALE + b"\xb0\x04" + b"\0\0"), "not ascending below 1200"),
    "position twice": (packed("fedcowpro/topk", SCALE + b"\1\0\1\0" + bytes(4)), "not ascending below 1200"),
    "huge header": (packed(RAW, header((10**6, 10**6))), "its bytes hold float32"),
    "other header": (packed(RAW, npy(np.ones((30, 40), np.float32))), "its bytes hold float32"),
    "objects": (packed(RAW, header((40, 30), "|O") + bytes(9600)), "its bytes hold object"),
    "cut off": (packed(RAW, npy(START)[:-1]), "its bytes hold float32"),
    "no array": (packed(RAW, b"no array"), "cannot be read"),
    "nothing": (packed(RAW, b""), "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bytes_are_refused_without_the_memory_that_they_claim(name: str) -> None:
    array, message = BAD[name]
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        decode(array, START)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 1_000_000


@settings(max_examples=300)
@given(st.sampled_from([RAW, *(f"fedcowpro/{kind}" for kind in codec.KINDS)]), st.data())
def test_any_bytes_give_an_array_or_a_reason(stype: str, data: st.DataObject) -> None:
    whole = encode({"w": START + 1}, {"w": START}, stype.removeprefix("fedcowpro/"), 0.1)[0]["w"].data
    at = data.draw(st.integers(0, len(whole)))
    garbage = whole[:at] + data.draw(st.binary(max_size=40)) + whole[at + data.draw(st.integers(0, 40)) :]
    try:
        found = decode(packed(stype, garbage), START)
    except ValueError:
        return
    assert found.shape == START.shape
    assert found.dtype == START.dtype
