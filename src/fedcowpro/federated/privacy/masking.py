"""Masks that cancel in a sum (Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving ML").

Each site u has a seed b_u and, with every other site v, a secret s_uv from X25519 key agreement. It sends
y_u = x_u + PRG(b_u) + sum over v > u of PRG(s_uv) - sum over v < u of PRG(s_uv) modulo 2^32. The sum over sites that
answered has only the masks b_u and, for sites that dropped out, s_uv. Shares of both lie with all sites (Shamir); of
each site the server gets shares of one of the two only. Standard primitives of `cryptography` and `pycryptodome`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedcowpro.federated.privacy.noise import KEY_BYTES, keystream

_TRIES = 2000  # choices of shares; with one false one, so many sites at least are no hindrance
SECRET_BYTES = 16  # of a seed: 128 bits, what the sharing takes


@dataclass(frozen=True)
class Secrets:
    """Seeds of a site for one round: of its own mask, its key pair for masks, its key pair for sealed shares."""

    mask: bytes
    key: bytes
    channel: bytes

    @classmethod
    def fresh(cls) -> Secrets:
        return cls(os.urandom(SECRET_BYTES), os.urandom(SECRET_BYTES), os.urandom(SECRET_BYTES))


def derive(secret: bytes, purpose: str) -> bytes:
    """A 32-byte key for one purpose (HKDF-SHA256)."""
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=f"fedcowpro/{purpose}".encode()).derive(secret)


def public_key(seed: bytes) -> bytes:
    """32 bytes; that of the X25519 key pair which `seed` determines."""
    raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    return _private(seed).public_key().public_bytes(*raw)


def agree(seed: bytes, other: bytes, purpose: str) -> bytes:
    """The 32-byte key that the owners of two key pairs share, for one purpose.

    Raises:
        ValueError: `other` is no usable public key.
    """
    return derive(_private(seed).exchange(X25519PublicKey.from_public_bytes(other)), purpose)


def split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """`count` shares of 16 bytes; any `threshold` of them give the secret back, fewer tell nothing."""
    return [share for _, share in Shamir.split(threshold, count, secret, ssss=False)]


def join(shares: Mapping[int, bytes]) -> bytes:
    """The secret from enough shares, by their place in `split`'s list from 0."""
    return bytes(Shamir.combine([(place + 1, share) for place, share in shares.items()], ssss=False))


def commitment(seed: bytes) -> bytes:
    """32 bytes that tell nothing of a seed and fit no other one, so that it is known again when shares give it."""
    return derive(seed, "commitment")


def recover(
    shares: Mapping[int, bytes], threshold: int, fits: Callable[[bytes], bool]
) -> tuple[bytes, set[int]] | None:
    """The secret from shares of which some may be false, and the places of the false ones.

    Args:
        shares: by their place in `split`'s list from 0.
        threshold: number of shares that give the secret.
        fits: whether it is the secret.

    Returns:
        None where no `threshold` of the shares give it, as far as was tried.
    """
    for chosen in islice(combinations(sorted(shares), threshold), _TRIES):
        given = {place: shares[place] for place in chosen}
        secret = join(given)
        if fits(secret):
            del given[chosen[0]]  # the others determine, with any true share, the same secret
            rest = shares.keys() - {*chosen}
            return secret, {place for place in rest if join({**given, place: shares[place]}) != secret}
    return None


def seal(key: bytes, content: bytes) -> bytes:
    """Encrypted and authenticated (ChaCha20-Poly1305); a key seals one message only, so the nonce is constant."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), content, None)


def unseal(key: bytes, sealed: bytes) -> bytes:
    """What was sealed.

    Raises:
        ValueError: another key, or altered bytes.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, None)
    except InvalidTag as error:
        raise ValueError("a sealed share was altered, or sealed for another") from error


def no_smaller_sum(threshold: int, sites: int, fewest: int) -> bool:
    """Whether a server cannot make the sites' shares tell a sum of fewer than `fewest`, whoever it says has answered.

    A site takes only lists of `threshold` sites that answered, or more, and tells shares of the keys of the others:
    all of them together of sites (sites - threshold) keys at most. To take sites out of a sum until fewest - 1 are
    left, it needs `threshold` shares of each of their keys.
    """
    return threshold * (sites - fewest + 1) > sites * (sites - threshold)


def own_mask(seed: bytes, count: int) -> np.ndarray:
    """PRG(b_u): `count` words."""
    return _words(derive(seed, "own mask"), count)


def pair_masks(site: str, seed: bytes, others: Mapping[str, bytes], count: int) -> np.ndarray:
    """Sum over `others` (public key by name) of PRG(s_uv), positive for those whose names come after `site`."""
    total = np.zeros(count, np.uint32)
    for other, public in others.items():
        words = _words(agree(seed, public, "pair mask"), count)
        total = total + words if other > site else total - words
    return total


def sum_unmasked(
    masked: Mapping[str, np.ndarray],
    mask_seeds: Mapping[str, bytes],
    key_seeds: Mapping[str, bytes],
    publics: Mapping[str, bytes],
) -> np.ndarray:
    """Sum of the sites' words without masks.

    Args:
        masked: of each site that answered.
        mask_seeds: of each site that answered.
        key_seeds: of each site that shared its secrets and did not answer.
        publics: public key for masks of all sites that shared their secrets.
    """
    count = len(next(iter(masked.values())))
    total = np.zeros(count, np.uint32)
    for site, words in masked.items():
        total += words - own_mask(mask_seeds[site], count)
    for gone, seed in key_seeds.items():
        # The survivors' masks with `gone` are, from its side, the opposite of its own with them.
        total += pair_masks(gone, seed, _only(publics, masked), count)
    return total


def _only(publics: Mapping[str, bytes], names: Iterable[str]) -> dict[str, bytes]:
    return {name: publics[name] for name in names}


def _private(seed: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(derive(seed, "key pair"))


def _words(key: bytes, count: int) -> np.ndarray:
    return np.frombuffer(keystream(key, 4 * count), np.dtype("<u4")).astype(np.uint32)
