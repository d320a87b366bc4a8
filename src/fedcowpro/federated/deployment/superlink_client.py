"""Calls to the SuperLink on this machine, without a start of Flower's command line for each. Internals of Flower."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StopRunRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.federated.deployment.layout import Coordinator, FederationFile

_KNOWN = "already in use"  # a key of an earlier start, from the state that was kept


@dataclass(frozen=True)
class RunState:
    """A run as the SuperLink sees it; `status` is pending, starting, running, or finished with how."""

    number: int
    status: str
    outcome: str
    details: str


def list_runs(coordinator: Coordinator, settings: FederationFile, number: int | None = None) -> list[RunState] | None:
    """The SuperLink's runs, or the one; None where it does not answer."""
    try:
        with _client(coordinator, settings) as client:
            found = client.ListRuns(ListRunsRequest(run_id=number)).run_dict
    except httpx.HTTPError:
        return None
    states = {key: run.status for key, run in found.items()}
    return [RunState(key, one.status, one.sub_status, one.details) for key, one in sorted(states.items())]


def stop_run(coordinator: Coordinator, settings: FederationFile, number: int) -> bool:
    """Whether the SuperLink stops the run."""
    try:
        with _client(coordinator, settings) as client:
            return bool(client.StopRun(StopRunRequest(run_id=number)).success)
    except httpx.HTTPError:
        return False


def register_key(coordinator: Coordinator, settings: FederationFile, site: str) -> None:
    """Make a site's public key known.

    Raises:
        FedCoWProError: the SuperLink refuses it.
    """
    file = coordinator.public_key(site)
    try:
        with _client(coordinator, settings) as client:
            client.RegisterNode(RegisterNodeRequest(public_key=_key_bytes(coordinator, site), name=site))
    except (httpx.HTTPError, ValueError, OSError) as error:
        text = error.response.text if isinstance(error, httpx.HTTPStatusError) else str(error)
        if _KNOWN not in text.lower():
            raise FedCoWProError(
                f"the SuperLink refuses the key of '{site}': {text[-500:]}",
                "a key of its own for each site",
                f"see {file}",
            ) from error


def write_known_sites(coordinator: Coordinator, settings: FederationFile) -> None:
    """Tell the door the sites' public keys, as their SuperNodes show them with each call.

    Raises:
        FedCoWProError: a key that cannot be read.
    """
    lines = []
    for site in settings.sites:
        try:
            lines.append(f'  "{b64encode(_key_bytes(coordinator, site)).decode()}" 1;  # {site}')
        except (ValueError, OSError) as error:
            raise FedCoWProError(
                f"the public key of '{site}' cannot be read: {error}", "one line that begins with ecdsa-sha2-nistp",
                f"see {coordinator.public_key(site)}",
            ) from error  # fmt: skip
    name = FLEET_HTTP_PUBLIC_KEY_HEADER.replace("-", "_")
    text = "\n".join([f"map $http_{name} $registered {{", "  default 0;", *lines, "}", ""])
    write_atomic(coordinator.known_sites, text.encode())


def _key_bytes(coordinator: Coordinator, site: str) -> bytes:
    key = load_ssh_public_key(coordinator.public_key(site).read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return public_key_to_bytes(key)


@contextmanager
def _client(coordinator: Coordinator, settings: FederationFile) -> Iterator[ControlHttpClient]:
    address, authority = f"127.0.0.1:{settings.superlink_port}", coordinator.ca.read_bytes()
    version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
    with ControlHttpClient.from_server_address(address, False, authority, interceptors=[version]) as client:
        yield client
