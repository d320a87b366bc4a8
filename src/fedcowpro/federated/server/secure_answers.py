"""What a site may answer to the questions of secure aggregation: types and sizes, checked before anything is used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

from flwr.app import ConfigRecord
from pydantic import AfterValidator, Field

from fedcowpro.federated.privacy.masking import SECRET_BYTES, agree
from fedcowpro.federated.privacy.noise import KEY_BYTES
from fedcowpro.federated.privacy.signing import SIGNATURE_BYTES
from fedcowpro.federated.transport.answers import Answer, BadAnswer, checked

_SEALED_BYTES = 2 * SECRET_BYTES + 16  # a share of both secrets, and what authenticates it


def _usable(key: bytes) -> bytes:
    agree(os.urandom(SECRET_BYTES), key, "trial")  # ValueError where nobody could agree on anything with it
    return key


def _share(value: bytes) -> bytes:
    if len(value) not in (0, SECRET_BYTES):
        raise ValueError(f"{len(value)} bytes")
    return value


def _sealed(value: bytes) -> bytes:
    if len(value) not in (0, _SEALED_BYTES):
        raise ValueError(f"{len(value)} bytes")
    return value


_Key = Annotated[bytes, Field(strict=True, min_length=KEY_BYTES, max_length=KEY_BYTES), AfterValidator(_usable)]


class Keys(Answer):
    """Public keys of a site for one round, and what its mask's seed can be told by."""

    mask: _Key
    channel: _Key
    commitment: Annotated[bytes, Field(strict=True, min_length=KEY_BYTES, max_length=KEY_BYTES)]


class SealedShares(Answer):
    """Sealed shares of a site's secrets, one for each site, empty for its own place; its signature, if it has a key."""

    sealed: list[Annotated[bytes, Field(strict=True), AfterValidator(_sealed)]]
    signature: Annotated[bytes, Field(strict=True, max_length=SIGNATURE_BYTES)] = b""


class Shares(Answer):
    """One share of each site's secrets; empty where the sealed one could not be opened."""

    of: list[Annotated[str, Field(strict=True)]]
    shares: list[Annotated[bytes, Field(strict=True), AfterValidator(_share)]]


def read_keys(record: ConfigRecord) -> Keys:
    """Raises BadAnswer."""
    names = {"public-key": "mask", "public-channel": "channel"}
    return checked(Keys, {names.get(name, name): value for name, value in record.items()})


def read_sealed(record: ConfigRecord, names: Sequence[str], site: str) -> SealedShares:
    """Sealed shares of `site` for each of `names`, and its signature.

    Raises:
        BadAnswer: they are not one for each.
    """
    found = checked(SealedShares, dict(record))
    if [bool(one) for one in found.sealed] != [name != site for name in names]:
        raise BadAnswer(f"'sealed' has {sum(map(bool, found.sealed))} shares, asked were {len(names) - 1}")
    return found


def read_shares(record: ConfigRecord, names: Sequence[str]) -> list[bytes]:
    """A site's shares of the secrets of each of `names`.

    Raises:
        BadAnswer: they are not one for each.
    """
    found = checked(Shares, dict(record))
    if found.of != list(names) or len(found.shares) != len(names):
        raise BadAnswer(f"'shares' are {len(found.shares)}, of {len(found.of)} sites, asked were {len(names)}")
    return found.shares
