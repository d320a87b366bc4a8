"""Random bytes and Gaussian noise from AES-256 in counter mode: as unpredictable as its key.

NumPy's and torch's generators are made for simulation; their states can be recovered from their output.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np

KEY_BYTES = 32


def keystream(key: bytes, count: int) -> bytes:
    """`count` bytes that look random without `key` (32 bytes) and are the same each time with it; one key, one use."""
    # Reading a run folder comes by here; that needs no package of the extra 'federated'.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    return encryptor.update(bytes(count))


def noise_key(randomness: str, *parts: object) -> bytes:
    """A key from the operating system (`os`), or one that depends on `parts` only (`seed`, for experiments)."""
    if randomness == "os":
        return os.urandom(KEY_BYTES)
    return hashlib.sha256("/".join(map(str, parts)).encode()).digest()


def gaussian(key: bytes, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Independent standard normal numbers (float64, Box and Muller 1958) for the tensor `name` under `key`."""
    count = int(np.prod(shape))
    pairs = (count + 1) // 2
    own = hashlib.sha256(key + name.encode()).digest()
    raw = np.frombuffer(keystream(own, 16 * pairs), np.uint64) >> np.uint64(11)
    uniform = (raw.astype(np.float64) + 0.5) * 2.0**-53  # within (0, 1): the logarithm is finite
    radius, angle = np.sqrt(-2 * np.log(uniform[:pairs])), 2 * np.pi * uniform[pairs:]
    normal = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))
    return np.asarray(normal[:count].reshape(shape))
