"""`fedcowpro federation join`: a site's SuperNode, kept running."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fedcowpro.config import load, parse
from fedcowpro.config.policy import SitePolicy
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.deployment.layout import Bundle, SiteFile
from fedcowpro.federated.deployment.programs import end, start, until_stopped
from fedcowpro.federated.deployment.reach import reach
from fedcowpro.federated.deployment.supernode_client import sign_in
from fedcowpro.federated.governance.enforcement import AUDIT, NO_POLICY, POLICY, SITE_KEY

SUPERNODE = "fedcowpro.federated.deployment.supernode"
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 60.0  # seconds before a restart: at first, and after many
_STEADY = 120.0  # seconds after which a SuperNode counts as well started


def node_command(bundle: Bundle, site: SiteFile, site_folder: Path, port: int) -> list[str]:
    """The command line of the site's SuperNode, with the site's policy and audit log.

    Args:
        port: on this machine's loopback address, for the SuperNode's own processes.

    Raises:
        FedCoWProError: a policy that cannot be read.
    """
    own = {SITE_KEY: str(bundle.key), AUDIT: str(bundle.audit)}
    consent = {**own, **({POLICY: str(bundle.policy)} if bundle.policy.exists() else {})}
    node = {**consent, **site.node, "site-name": site.site, "site-path": str(site_folder.absolute())}
    # Values are TOML; a string of JSON is one of TOML too.
    config = " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in node.items())
    policy = node.get(POLICY, NO_POLICY)
    ours: list[str] = ["--fast"] if site.fast else []
    if policy != NO_POLICY and load(SitePolicy, Path(str(policy))).apps:  # only these are installed
        ours += ["--policy", str(policy)]
    command = [sys.executable, "-m", SUPERNODE, *ours]
    command += ["--superlink", site.coordinator, "--root-certificates", str(bundle.ca)]
    command += ["--auth-supernode-private-key", str(bundle.key)]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--node-config", config]


def run_site(
    root: Path,
    site: SiteFile,
    site_folder: Path,
    *,
    port: int | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Keep the site's SuperNode running until it is stopped (Ctrl-C, SIGTERM).

    A SuperNode ends when the server refuses it, as it does for about a minute after the site's last one died; it is
    started again, after longer and longer pauses. Where the coordinator cannot be reached, none is started, and a line
    says why.

    Args:
        root: the site's bundle.
        site: what its file says, and what was added to it.
        site_folder: prepared data.
        port: see `node_command`; default one that is free.
    """
    bundle = Bundle(root)
    pause = _FIRST_PAUSE
    running: list[subprocess.Popen[str]] = []
    with until_stopped():
        try:
            while True:
                command = node_command(bundle, site, site_folder, port or free_port())
                began = time.monotonic()
                if not (why := _unreachable(bundle, site)):
                    node = start(command, bundle.home)
                    running.append(node)
                    say(f"site '{site.site}' calls {site.coordinator}")
                    node.wait()
                    end([running.pop()])
                    why = _refusal(bundle, site) or f"the SuperNode ended with code {node.returncode}"
                pause = _FIRST_PAUSE if time.monotonic() - began > _STEADY else pause
                say(f"{why}; next try in {pause:.0f} s")
                time.sleep(pause)
                pause = min(_LONGEST_PAUSE, 2 * pause)
        except KeyboardInterrupt:
            say("stopped")
        finally:
            end(running)


def _unreachable(bundle: Bundle, site: SiteFile) -> str:
    """Why the coordinator's door cannot be reached; empty where it can."""
    try:
        reach(site.coordinator, bundle.ca).close()
    except FedCoWProError as error:
        return f"{error.got} ({error.remedy})"
    return ""


def _refusal(bundle: Bundle, site: SiteFile) -> str:
    """Why the server does not let this site in; empty where it does."""
    try:
        sign_in(site.coordinator, bundle.ca, bundle.key)
    except FedCoWProError as error:
        return f"{error.got} ({error.remedy})"
    return ""


def with_options(site: SiteFile, settings: dict[str, str | int | float | bool], fast: bool | None = None) -> SiteFile:
    """The site's file with more of the node's configuration, and `fast` where it is given."""
    data = {**site.model_dump(), "node": {**site.node, **settings}}
    return parse(SiteFile, data if fast is None else {**data, "fast": fast}, "options of join")


def free_port() -> int:
    """A port of the loopback address that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def check_site_folder(path: Path) -> None:
    """Raises FedCoWProError where there is no folder."""
    if not path.is_dir():
        raise FedCoWProError(f"no folder {path}", "a prepared site folder", "make one: fedcowpro prepare")
