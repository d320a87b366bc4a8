"""Commands and options that were typed wrongly, said like every other mistake: once, and with one proposal."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

import click

from fedcowpro.core.errors import FedCoWProError


def unknown_command(typed: str, known: Iterable[str], of: str) -> FedCoWProError:
    """A command of `of` that is not there."""
    return FedCoWProError(f"no command '{typed}'", f"a command of '{of}'", _proposal(typed, known, of))


def mistake_of(error: click.UsageError) -> FedCoWProError:
    """What the parser of the command line found wrong, in our words."""
    context = error.ctx
    command = context.command_path if context is not None else "fedcowpro"
    if isinstance(error, click.NoSuchOption):
        options = context.command.params if context is not None else []
        known = [name for option in options for name in option.opts if not getattr(option, "hidden", False)]
        remedy = _proposal(error.option_name, known, command)
        return FedCoWProError(f"no option '{error.option_name}'", f"an option of '{command}'", remedy)
    remedy = f"see {command} --help"
    if isinstance(error, click.BadParameter) and error.param is not None:
        parameter, about = error.param, getattr(error.param, "help", None) or "a value that fits"
        name = parameter.opts[0] if parameter.param_type_name == "option" else parameter.human_readable_name
        if isinstance(error, click.MissingParameter):
            return FedCoWProError(f"{command} without {name}", f"{name}: {about}", remedy)
        return FedCoWProError(f"{name}: {error.message.rstrip('.')}", about, remedy)
    return FedCoWProError(error.format_message().rstrip("."), f"options and arguments of '{command}'", remedy)


def _proposal(typed: str, known: Iterable[str], command: str) -> str:
    close = get_close_matches(typed, list(known), n=1)
    return f"did you mean '{close[0]}'?" if close else f"{command} --help lists them"
