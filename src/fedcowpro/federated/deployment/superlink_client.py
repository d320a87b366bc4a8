"""Calls to the SuperLink on this machine, without a start of Flower's command line for each. Internals of Flower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StopRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedcowpro.core.errors import FedCoWProError
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
        key = load_ssh_public_key(file.read_bytes())
        assert isinstance(key, ec.EllipticCurvePublicKey)
        with _client(coordinator, settings) as client:
            client.RegisterNode(RegisterNodeRequest(public_key=public_key_to_bytes(key), name=site))
    except (httpx.HTTPError, ValueError, OSError) as error:
        text = error.response.text if isinstance(error, httpx.HTTPStatusError) else str(error)
        if _KNOWN not in text.lower():
            raise FedCoWProError(
                f"the SuperLink refuses the key of '{site}': {text[-500:]}",
                "a key of its own for each site",
                f"see {file}",
            ) from error


@contextmanager
def _client(coordinator: Coordinator, settings: FederationFile) -> Iterator[ControlHttpClient]:
    address, authority = f"127.0.0.1:{settings.superlink_port}", coordinator.ca.read_bytes()
    version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
    with ControlHttpClient.from_server_address(address, False, authority, interceptors=[version]) as client:
        yield client
