"""A package that only an extra brings and that is missing: an error that says how to get it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedcowpro.core.errors import FedCoWProError

FEDERATED = ("flwr", "cryptography", "httpx", "Crypto")  # as they are imported; `Crypto` is pycryptodome


@contextmanager
def explained() -> Iterator[None]:
    """Turns the failed import of a package of the extra `federated` into a `FedCoWProError`; others pass through."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in FEDERATED:
            raise
        raise FedCoWProError(
            f"no package '{package}'", "it is needed to train over several sites", "pip install 'fedcowpro[federated]'"
        ) from error
