"""`fedcowpro federation serve`: the SuperLink on loopback, the sites' keys, and the door that sites reach."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.federated.deployment.keys import days_left
from fedcowpro.federated.deployment.layout import Coordinator, FederationFile
from fedcowpro.federated.deployment.programs import end, require_free, start, until_stopped
from fedcowpro.federated.deployment.superlink_client import register_key, write_known_sites

CONNECTION = "fedcowpro"  # name of the SuperLink in Flower's own configuration
_START = 90.0  # seconds that a SuperLink has to answer
_LOOK = 1.0  # seconds between two looks at the programs


def serve_federation(
    root: Path, *, keep_state: bool = False, proxy: bool = True, say: Callable[[str], None] = print
) -> None:
    """Run the server until it is stopped (Ctrl-C, SIGTERM).

    Args:
        root: the federation's folder.
        keep_state: SuperLink's state in a file, so that nodes and the list of runs outlive it. Runs resume from
            their own folders in any case.
        proxy: False leaves the public door to an nginx that the system runs.
        say: told what happens.

    Raises:
        FedCoWProError: a program is missing or ends by itself.
    """
    coordinator = Coordinator(root)
    settings = coordinator.read()
    if days_left(coordinator.certificate) <= 0:
        raise FedCoWProError(
            f"{coordinator.certificate} has expired", "a valid certificate",
            "move server.crt and server.key away and run: fedcowpro federation init, as before",
        )  # fmt: skip
    write_known_sites(coordinator, settings)
    require_free("127.0.0.1", settings.superlink_port)
    if proxy:
        require_free(settings.listen, settings.port)
    running: list[subprocess.Popen[str]] = []
    with until_stopped():
        try:
            link = start(_superlink(coordinator, settings, keep_state), coordinator.home)
            running.append(link)
            _wait_for(coordinator, settings, link)
            for site in register(coordinator, settings):
                say(f"site '{site}' may connect")
            if proxy:
                (coordinator.folder / "proxy").mkdir(exist_ok=True)
                running.append(start(_nginx(coordinator), coordinator.home))
                say(f"sites reach {settings.listen}:{settings.port}")
            while all(process.poll() is None for process in running):
                time.sleep(_LOOK)
            what = " and ".join(
                "the proxy" if one is not link else "the SuperLink" for one in running if one.poll() is not None
            )
            raise FedCoWProError(
                f"{what} ended by itself", "a program that runs until it is stopped",
                "see what it printed above; another program may use the port",
            )  # fmt: skip
        except KeyboardInterrupt:
            say("stopped")
        finally:
            end(running)


def connection(coordinator: Coordinator, settings: FederationFile) -> None:
    """Write how Flower's command line reaches the SuperLink on this machine."""
    coordinator.home.mkdir(parents=True, exist_ok=True)
    lines = [
        "[superlink]",
        f'default = "{CONNECTION}"',
        f"[superlink.{CONNECTION}]",
        f'address = "127.0.0.1:{settings.superlink_port}"',
        f"root-certificates = {json.dumps(str(coordinator.ca))}",
    ]
    write_atomic(coordinator.home / "config.toml", ("\n".join(lines) + "\n").encode())


def register(coordinator: Coordinator, settings: FederationFile) -> list[str]:
    """Make the sites' public keys known to the SuperLink; returns the sites.

    Raises:
        FedCoWProError: the SuperLink refuses a key.
    """
    for site in settings.sites:
        register_key(coordinator, settings, site)
    return list(settings.sites)


def _superlink(coordinator: Coordinator, settings: FederationFile, keep_state: bool) -> list[str]:
    command = ["flower-superlink", "--host", "127.0.0.1", "--port", str(settings.superlink_port)]
    command += ["--ssl-certfile", str(coordinator.certificate), "--ssl-keyfile", str(coordinator.key)]
    command += ["--ssl-ca-certfile", str(coordinator.ca), "--enable-supernode-auth"]
    command += ["--disable-runtime-dependency-installation"]  # else it fetches packages for each run
    return [*command, "--database", str(coordinator.state)] if keep_state else command


def _nginx(coordinator: Coordinator) -> list[str]:
    log = coordinator.folder / "proxy" / "error.log"
    command = ["nginx", "-p", f"{coordinator.folder}/", "-e", str(log), "-c", str(coordinator.proxy)]
    # Started by root, its workers would be 'nobody', who may not come to the folder where pieces of messages wait.
    return [*command, "-g", f"user {_owner(coordinator.folder)};"] if os.geteuid() == 0 else command


def _owner(folder: Path) -> str:
    try:
        return folder.owner()
    except KeyError:  # a number without a name
        return "root"


def _wait_for(coordinator: Coordinator, settings: FederationFile, link: subprocess.Popen[str]) -> None:
    """Until the SuperLink answers over TLS."""
    context = ssl.create_default_context(cafile=str(coordinator.ca))
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and link.poll() is None:
        door = http.client.HTTPSConnection("127.0.0.1", settings.superlink_port, timeout=5, context=context)
        try:
            door.request("GET", "/health")
            door.getresponse().read()
            return
        except OSError:
            time.sleep(0.5)
        finally:
            door.close()
    raise FedCoWProError(
        f"the SuperLink does not answer at 127.0.0.1:{settings.superlink_port}", "an answer after its start",
        "see what it printed above; another program may use the port",
    )  # fmt: skip
