"""Commands of a federation between machines."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from fedcowpro.cli.console import Commands, app
from fedcowpro.cli.console import out as echo
from fedcowpro.core.errors import FedCoWProError

federation = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Between machines: keys, the coordinator's server, the sites."
)
app.add_typer(federation, name="federation")
_FAST = "Forks of a loaded process for messages, short sleeps; --no-fast: as Flower does by itself."


@federation.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the federation, at the coordinator.")],
    host: Annotated[list[str], typer.Option(help="Name or address by which sites call the coordinator; repeat.")],
    site: Annotated[
        list[str],
        typer.Option(help="NAME=PUBLIC_KEY, the key made there (federation key); repeat. More may follow later."),
    ],
    name: Annotated[str, typer.Option(help="Of the federation.")] = "fedcowpro",
    port: Annotated[int, typer.Option(help="Of the public door.")] = 9443,
    listen: Annotated[str, typer.Option(help="Address of this machine for the public door.")] = "0.0.0.0",
    superlink_port: Annotated[int, typer.Option(help="Of the SuperLink, on loopback.")] = 9092,
    fast: Annotated[bool, typer.Option(help=f"{_FAST} For all sites, and for each message.")] = True,
    make_keys: Annotated[
        bool, typer.Option("--make-keys", help="Make the keys of sites here for which no public key is given.")
    ] = False,
) -> None:
    """Write certificates, a folder per site, start commands and the proxy's configuration; no key is overwritten."""
    from fedcowpro.config import parse
    from fedcowpro.federated.deployment.layout import FederationFile
    from fedcowpro.federated.deployment.provision import init_federation, names_of_sites

    names, keys = names_of_sites(site)
    data = {"name": name, "hosts": tuple(host), "listen": listen, "port": port, "superlink_port": superlink_port}
    data |= {"fast": fast}
    settings = parse(FederationFile, {**data, "sites": names}, "options of init")
    _, new = init_federation(folder, settings, keys, make_keys=make_keys)
    for one in new:
        echo.print(f"{folder}/bundles/{one}: give this folder to '{one}', and to nobody else")
    echo.print(f"start the server: fedcowpro federation serve {shlex.quote(str(folder))}")


@federation.command()
def key(
    file: Annotated[Path, typer.Argument(help="Private key to be made (site.key); FILE.pub beside it.")],
) -> None:
    """At a hospital: make its key pair. The private key stays; the public one is for the coordinator and the peers."""
    from fedcowpro.federated.deployment.keys import make_key_pair

    public = make_key_pair(file)
    echo.print(f"{file}: stays here, and nobody else may have it")
    echo.print(f"{public}: send it to the coordinator, and to the other hospitals for the 'peers' of their policies")


@federation.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="Folder of the federation.")],
    keep_state: Annotated[
        bool, typer.Option("--keep-state", help="Nodes and the list of runs outlive the server, in a file.")
    ] = False,
    no_proxy: Annotated[
        bool, typer.Option("--no-proxy", help="An nginx of the system is the public door, with coordinator/nginx.conf.")
    ] = False,
) -> None:
    """Run the coordinator's server until it is stopped: the SuperLink on loopback, and the door that sites reach."""
    from fedcowpro.federated.deployment.coordinator import serve_federation

    serve_federation(folder, keep_state=keep_state, proxy=not no_proxy, say=echo.print)


@federation.command()
def join(
    bundle: Annotated[Path, typer.Argument(help="Folder that the coordinator made for this site.")],
    site_folder: Annotated[Path, typer.Option(help="Prepared data of this site.")],
    run: Annotated[
        bool, typer.Option("--run", help="Take part until stopped, instead of printing the command.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(help="On loopback, for the site's own processes; default a free one.")
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of the node's configuration, say threads=4; repeat.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="What this site permits; default site-policy.yaml in the bundle.")
    ] = None,
    audit_log: Annotated[Path | None, typer.Option(help="This site's log; default audit.jsonl in the bundle.")] = None,
    fast: Annotated[bool | None, typer.Option(help=f"{_FAST} Default: as site.yaml says.")] = None,
) -> None:
    """What a site runs to take part; with --run, run it and keep it running."""
    from fedcowpro.federated.deployment.layout import Bundle
    from fedcowpro.federated.deployment.site import check_site_folder, node_command, run_site, with_options
    from fedcowpro.federated.governance.enforcement import AUDIT, POLICY

    check_site_folder(site_folder)
    files = Bundle(bundle)
    given = {POLICY: policy, AUDIT: audit_log}
    settings = {key: str(path.absolute()) for key, path in given.items() if path is not None}
    site = with_options(files.read(), {**_node_settings(node or []), **settings}, fast)
    if run:
        run_site(bundle, site, site_folder, port=port, say=echo.print)
        return
    command = node_command(files, site, site_folder, port or 9094)
    echo.print(f"FLWR_HOME={shlex.quote(str(files.home))} FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 \\")
    echo.print(f"  {shlex.join(command)}")


@federation.command()
def check(
    bundle: Annotated[Path, typer.Argument(help="Folder that the coordinator made for this site.")],
    site_folder: Annotated[Path, typer.Option(help="Prepared data of this site.")],
    config: Annotated[Path | None, typer.Option(help="YAML of the experiment, for the dry round.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Leave out what calls the coordinator.")] = False,
) -> None:
    """Whether this site can take part: versions, key, certificate, clock, disk, data, a dry round."""
    from fedcowpro.config import ExperimentConfig, load
    from fedcowpro.federated.deployment.check import check_site

    experiment = load(ExperimentConfig, config) if config is not None else None
    failed = 0
    for finding in check_site(bundle, site_folder, experiment, online=not offline):
        echo.print(finding.line())
        failed += not finding.ok
    if failed:
        raise typer.Exit(2)


def _node_settings(given: list[str]) -> dict[str, Any]:
    found = {}
    for text in given:
        key, separator, value = text.partition("=")
        if not separator or not key or key in ("site-name", "site-path"):
            raise FedCoWProError(
                f"--node {text}", "KEY=VALUE, of another key than site-name and site-path", "as threads=4"
            )
        found[key] = yaml.safe_load(value)
    return found
