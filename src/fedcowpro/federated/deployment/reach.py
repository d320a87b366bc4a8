"""The way from a site to the coordinator's door: an open TLS connection, or one sentence that says what is wrong."""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.deployment.keys import days_left

_TIMEOUT = 10.0  # seconds
_NOT_YET_VALID, _EXPIRED = 9, 10  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED


def reach(coordinator: str, ca: Path) -> http.client.HTTPSConnection:
    """An open connection, the server's certificate verified; the caller closes it.

    Args:
        coordinator: HOST:PORT.
        ca: certificate of the federation's authority.

    Raises:
        FedCoWProError: a certificate that is not the federation's or not valid now, a server that is down, no way.
    """
    if days_left(ca) <= 0:
        raise FedCoWProError(f"{ca} has expired", "a valid certificate", "ask the coordinator for a new bundle")
    host, _, port = coordinator.rpartition(":")
    context = ssl.create_default_context(cafile=str(ca))
    door = http.client.HTTPSConnection(host.strip("[]"), int(port), timeout=_TIMEOUT, context=context)
    try:
        door.connect()
    except ssl.SSLCertVerificationError as error:
        raise _not_verified(coordinator, error) from error
    except ssl.SSLError as error:
        raise FedCoWProError(
            f"{coordinator} does not speak TLS as it should: {error}", "the coordinator's door",
            "see whether address and port are the coordinator's, and whether a proxy stands between",
        ) from error  # fmt: skip
    except (ConnectionRefusedError, ConnectionResetError) as error:
        raise FedCoWProError(
            f"the coordinator's server is down: nothing answers at {coordinator}", "a server that runs",
            "wait, or ask the coordinator to start it: fedcowpro federation serve",
        ) from error  # fmt: skip
    except OSError as error:
        raise FedCoWProError(
            f"{coordinator} cannot be reached: {error}", "an open way to the coordinator",
            "ask your network's administrators to let this address and port out; ask the coordinator whether it runs",
        ) from error  # fmt: skip
    return door


def _not_verified(coordinator: str, error: ssl.SSLCertVerificationError) -> FedCoWProError:
    if error.verify_code == _NOT_YET_VALID:
        return FedCoWProError(
            f"{coordinator} shows a certificate that is not yet valid by this machine's clock", "one that is valid now",
            "set the clock (timedatectl set-ntp true); if it is right, the coordinator's was wrong: tell them",
        )  # fmt: skip
    if error.verify_code == _EXPIRED:
        return FedCoWProError(
            f"{coordinator} shows a certificate that has expired", "one that is valid now",
            "ask the coordinator to renew it; see also whether this machine's clock is right",
        )  # fmt: skip
    return FedCoWProError(
        f"{coordinator} shows a certificate that is not the federation's: {error.verify_message}",
        "a certificate signed by ca.crt, for this name",
        "ask the coordinator; if an own proxy of this hospital opens TLS connections, except this address from it",
    )
