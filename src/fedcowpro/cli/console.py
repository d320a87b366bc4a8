"""Where the command line prints, how it starts and how it ends."""

from __future__ import annotations

import io
import signal
import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from fedcowpro import __version__
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.extras import explained

_PATIENCE = 2  # Ctrl-C that a process bears

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Sites learn together without labels; then one annotated example segments an organ in any volume.",
)
# Paths are printed as they are: brackets are no markup, long lines are not broken.
out = Console(soft_wrap=True, markup=False, highlight=False)
err = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends with a message on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may have letters that a console cannot write
            stream.reconfigure(errors="backslashreplace")
    if arguments is None:
        signal.signal(signal.SIGINT, _Interrupt())
    warnings.showwarning = lambda message, *_: err.print(f"note: {message}")
    try:
        with explained():
            app(args=list(arguments) if arguments is not None else None)
    except FedCoWProError as error:
        fail(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        fail(
            FedCoWProError(
                f"{where}{error.strerror or error}",
                "files and folders that can be read and written",
                "check the path, its rights and the space on the disk",
            )
        )
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which need not be loaded here
            raise
        remedy = "use --device cpu, or end what else uses it"
        fail(FedCoWProError("the GPU has not enough memory", "more of it", remedy))
    except KeyboardInterrupt:
        sys.exit(130)


class _Interrupt:
    """Ctrl-C ends a command, which then tidies up; a second one does not disturb that, a third kills the process."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count == 1:
            raise KeyboardInterrupt
        if self._count > _PATIENCE:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def fail(error: FedCoWProError) -> NoReturn:
    err.print(f"error: {error}")
    sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"fedcowpro {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
