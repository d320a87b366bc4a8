"""A call to the coordinator with a site's key, as its SuperNode makes it. Touches internals of Flower."""

from __future__ import annotations

from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.deployment.reach import reach

_INTERVAL = 30.0  # seconds, Flower's default between two signs of life


def sign_in(coordinator: str, ca: Path, key: Path) -> str:
    """Come and go once with the site's key; not while its SuperNode is connected.

    Returns:
        What the server said, in a word.

    Raises:
        FedCoWProError: the server does not take the key, or cannot be reached.
    """
    private = load_ssh_private_key(key.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    public = private.public_key()
    signer = NodeAuthHttpInterceptor(private, public)
    client = FleetHttpClient.from_server_address(coordinator, False, ca.read_bytes(), interceptors=[signer])
    try:
        with client:
            asked = ActivateNodeRequest(public_key=public_key_to_bytes(public), heartbeat_interval=_INTERVAL)
            node = client.ActivateNode(asked).node_id
            client.DeactivateNode(DeactivateNodeRequest(node_id=node))
    except httpx.HTTPStatusError as error:
        text = " ".join(error.response.text.split())[:300]
        code = error.response.status_code
        if code == httpx.codes.FORBIDDEN:  # the door's word
            raise FedCoWProError(
                "the server does not know this site's key", "a key that is registered",
                "ask the coordinator to register this site and to start the server again",
            ) from error  # fmt: skip
        if code == httpx.codes.PRECONDITION_FAILED:  # the key passed the door, so it is known
            raise FedCoWProError(
                "a SuperNode with this site's key is connected already, or was a minute ago", "one at a time",
                "stop it and wait a minute; if no other is yours, somebody has a copy of the key: tell the coordinator",
            ) from error  # fmt: skip
        if code in (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT):
            raise FedCoWProError(
                f"the coordinator's door answers, but the server behind it does not ({code})", "a server that runs",
                "wait, or tell the coordinator: fedcowpro federation serve",
            ) from error  # fmt: skip
        raise FedCoWProError(
            f"the server refuses this site's key ({error.response.status_code}: {text})", "a key that it knows",
            "ask the coordinator whether this site is registered; set the clock right",
        ) from error  # fmt: skip
    except httpx.HTTPError as error:
        reach(coordinator, ca).close()  # says it better, where it is the way that fails
        raise FedCoWProError(
            f"no answer from {coordinator}: {error}", "the coordinator's server",
            "ask the coordinator whether it runs",
        ) from error  # fmt: skip
    return "accepted"
