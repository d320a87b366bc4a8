"""What a site signs in a round of secure aggregation, with the key that it signs in with: ECDSA over SHA-384.

It is the list of all sites' public keys of the round as the site was given it. The site's own keys in it are new in
each round, so that no signature fits another one; and who holds signatures of others under the same list knows that
no key in it was changed on the way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedcowpro.core.errors import FedCoWProError

SIGNATURE_BYTES = 160  # at most: two numbers of 521 bits in DER
_PURPOSE = "fedcowpro/secure-aggregation/1"
_SCHEME = ec.ECDSA(hashes.SHA384())


def round_statement(
    run: str, number: int, threshold: int, names: Sequence[str], keys: Sequence[bytes], channels: Sequence[bytes]
) -> bytes:
    """The list that all sites of a round sign: names, public keys for masks and for sealed shares, in one order."""
    sites = [[name, key.hex(), channel.hex()] for name, key, channel in zip(names, keys, channels, strict=True)]
    return json.dumps([_PURPOSE, run, number, threshold, sites]).encode()


def sign(key: ec.EllipticCurvePrivateKey, signer: str, statement: bytes) -> bytes:
    """The signature of the site `signer`, in DER."""
    return key.sign(_signed(signer, statement), _SCHEME)


def is_signed(public: str, signer: str, statement: bytes, signature: bytes) -> bool:
    """Whether the owner of a public key (a line in OpenSSH's form) has signed this as `signer`."""
    try:
        key = serialization.load_ssh_public_key(public.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(signature, _signed(signer, statement), _SCHEME)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


def read_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A site's private key.

    Raises:
        FedCoWProError: no readable private key of the kind that Flower takes.
    """
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FedCoWProError(
            f"{path} is no readable private key: {error}", "an ECDSA key in OpenSSH's form, without a passphrase",
            "put the site's own key there; without one, make a pair (fedcowpro federation key) and send the public one",
        ) from error  # fmt: skip
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FedCoWProError(
            f"{path} is a key of another kind", "an ECDSA key", "make one: fedcowpro federation key FILE"
        )
    return key


def _signed(signer: str, statement: bytes) -> bytes:
    return json.dumps([_PURPOSE, signer]).encode() + b"\n" + statement
