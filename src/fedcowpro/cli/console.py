"""Where the command line prints, how it starts and how it ends."""

from __future__ import annotations

import io
import signal
import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import click
import typer
from rich.console import Console
from typer.core import TyperGroup

from fedcowpro import __version__
from fedcowpro.cli.mistakes import mistake_of, unknown_command
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.extras import explained

_PATIENCE = 2  # Ctrl-C that a process bears

# Who wants what: the panels of `fedcowpro --help`, in this order.
PANELS = {
    "Masks from one example": ("segment", "finetune", "serve"),
    "See it work on synthetic patients": ("demo",),
    "Prepare and look at a site's volumes": ("prepare", "datasets", "inspect"),
    "Train over several sites": ("federate", "federation", "watch"),
    "Answer for a site: what may happen, what did": ("policy", "audit", "digest"),
    "Score and compare models": ("evaluate", "compare", "study", "card", "show"),
    "This machine": ("devices",),
}


class Commands(TyperGroup):
    """A group of commands: in panels where `PANELS` has them, and with one proposal for a command that is not there."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which help shows them."""
        panels = [name for names in PANELS.values() for name in names] if ctx.parent is None else []
        return sorted(self.commands, key=lambda name: panels.index(name) if name in panels else len(panels))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command, which knows its panel."""
        command = super().get_command(ctx, cmd_name)
        if command is not None and ctx.parent is None:
            panel = next((panel for panel, names in PANELS.items() if cmd_name in names), None)
            command.rich_help_panel = panel  # type: ignore[attr-defined]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is meant.

        Raises:
            FedCoWProError: there is none of this name.
        """
        if not ctx.resilient_parsing and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise unknown_command(args[0], self.commands, ctx.command_path)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
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
    out.quiet = False
    code = None
    try:
        with explained():
            given = list(arguments) if arguments is not None else None
            code = app(args=given, prog_name="fedcowpro", standalone_mode=False)
    except click.UsageError as error:
        if not error.message and not isinstance(error, click.MissingParameter):  # help was shown instead
            sys.exit(error.exit_code)
        fail(mistake_of(error))
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
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


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
