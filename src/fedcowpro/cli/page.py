"""The command that serves the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedcowpro.cli.console import app
from fedcowpro.cli.console import out as echo
from fedcowpro.cli.options import Device, a_device
from fedcowpro.core.errors import FedCoWProError


@app.command()
def serve(
    data: Annotated[
        Path | None, typer.Option(help="Folder of volumes to choose from; files can be dropped too.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Checkpoint file or run folder; default the one that comes with the program.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8765,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that visitors must know; default a new one, printed.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name under which the server is reached; repeat.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate (PEM); with --key.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    max_upload: Annotated[int, typer.Option(min=1, help="MB of one upload.")] = 512,
    max_volume: Annotated[int, typer.Option(min=1, help="MB of one volume in memory.")] = 1024,
    max_memory: Annotated[int, typer.Option(min=1, help="MB of a visitor's volumes.")] = 4096,
    idle: Annotated[float, typer.Option(min=0.1, help="Minutes without a request after which a visit ends.")] = 60.0,
    project: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps what is painted and segmented; default NAME-fedcowpro beside --data."),
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Keep nothing when the visit ends.")] = False,
    device: Device = "auto",
) -> None:
    """Serve a page in the browser: paint one slice, get the volume."""
    from fedcowpro.serve.limits import MEBIBYTE, Limits
    from fedcowpro.serve.run import Where
    from fedcowpro.serve.run import serve as run

    where = Where(host, port, token_file, tuple(allow_host or ()), certificate, key)
    limits = Limits(
        upload=max_upload * MEBIBYTE, expanded=max_volume * MEBIBYTE, memory=max_memory * MEBIBYTE, idle=idle * 60
    )
    if forget and project is not None:
        raise FedCoWProError("--project and --forget", "one of them", "leave one out")
    if project is None and data is not None and not forget:
        project = data.resolve().with_name(f"{data.resolve().name}-fedcowpro")
    run(model, data, where, limits, echo.print, str(a_device(device)), project)
