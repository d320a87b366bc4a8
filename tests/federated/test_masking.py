"""Secure aggregation without its engine: masks cancel, single updates are noise, shares give back what they must."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedcowpro.federated.privacy.masking import (
    Secrets,
    agree,
    join,
    own_mask,
    pair_masks,
    public_key,
    seal,
    split,
    sum_unmasked,
    unseal,
)
from fedcowpro.federated.privacy.ring import Ring, pack, unpack

NAMES = ("a", "b", "c", "d")


def round_of(words: dict[str, np.ndarray]) -> tuple[dict[str, Secrets], dict[str, bytes], dict[str, np.ndarray]]:
    secrets = {name: Secrets.fresh() for name in words}
    publics = {name: public_key(secret.key) for name, secret in secrets.items()}
    masked = {}
    for name, own in words.items():
        others = {other: key for other, key in publics.items() if other != name}
        size = len(own)
        masked[name] = own + own_mask(secrets[name].mask, size) + pair_masks(name, secrets[name].key, others, size)
    return secrets, publics, masked


@pytest.mark.parametrize("gone", [(), ("a",), ("c",), ("d",)])
def test_masks_cancel_in_the_sum_of_those_that_answered(gone: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    words = {name: rng.integers(0, 2**32, 1000, dtype=np.uint32) for name in NAMES}
    secrets, publics, masked = round_of(words)
    there = {name: value for name, value in masked.items() if name not in gone}
    found = sum_unmasked(
        there, {name: secrets[name].mask for name in there}, {name: secrets[name].key for name in gone}, publics
    )
    np.testing.assert_array_equal(found, sum(words[name] for name in there).astype(np.uint32))


def test_a_masked_update_looks_random_and_has_nothing_of_the_update() -> None:
    """All-zero words, the easiest to see: bytes are uniform, uncorrelated, and without its own seed stay so."""
    words = {name: np.zeros(50000, np.uint32) for name in NAMES}
    secrets, _, masked = round_of(words)
    partly = masked["a"] - own_mask(secrets["a"].mask, 50000)  # what the server sees if it learns the own mask only
    for seen in (masked["a"], partly):
        counts = np.bincount(seen.view(np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4
    # Fewer than all partners of the sum: the sum of three of four sites is noise as well.
    three = masked["a"] + masked["b"] + masked["c"]
    assert stats.chisquare(np.bincount(three.view(np.uint8), minlength=256)).pvalue > 1e-4
    plain = np.random.default_rng(1).integers(0, 2**20, 50000, dtype=np.uint32)
    _, _, again = round_of({**words, "a": plain})
    assert abs(np.corrcoef(again["a"].astype(float), plain.astype(float))[0, 1]) < 0.02


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 6).flatmap(lambda n: st.tuples(st.integers(2, n), st.just(n))))
def test_any_threshold_shares_give_the_secret_back(case: tuple[int, int]) -> None:
    threshold, count = case
    secret = Secrets.fresh().mask
    shares = split(secret, threshold, count)
    for chosen in itertools.combinations(range(count), threshold):
        assert join({place: shares[place] for place in chosen}) == secret
    if threshold > 2:
        assert join({place: shares[place] for place in range(threshold - 1)}) != secret


def test_two_sites_agree_on_a_key_and_seal_for_each_other_only() -> None:
    one, two, three = (Secrets.fresh().channel for _ in range(3))
    key = agree(one, public_key(two), "share/1/a/b")
    assert key == agree(two, public_key(one), "share/1/a/b") != agree(two, public_key(one), "share/1/b/a")
    sealed = seal(key, b"x" * 32)
    assert unseal(key, sealed) == b"x" * 32
    with pytest.raises(ValueError, match="altered"):
        unseal(agree(three, public_key(one), "share/1/a/b"), sealed)
    with pytest.raises(ValueError, match="altered"):
        unseal(key, sealed[:-1] + bytes([sealed[-1] ^ 1]))


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 50), st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_sums_in_the_ring_are_right_to_half_a_step_each(sites: int, bound: float, seed: int) -> None:
    values = np.random.default_rng(seed).uniform(-bound, bound, (sites, 20))
    values[:, 0], values[:, 1] = bound, -bound
    ring = Ring(bound, sites)
    total = np.zeros(20, np.uint32)
    for own in values:
        total += ring.encode(own)
    error = np.abs(ring.decode_sum(total, sites) - values.sum(0)).max()
    assert error <= sites * ring.step / 2 * 1.01
    assert ring.levels * sites < 2**32


def test_packing_is_undone() -> None:
    arrays = {"b": np.arange(6.0).reshape(2, 3), "a": np.array(7.0)}
    found = unpack(pack(arrays), {name: value.shape for name, value in arrays.items()})
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
