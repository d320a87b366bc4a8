"""Flower's programs as child processes: found beside this Python, silent towards the world, ended with us."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.deployment.layout import flower_environment

_GRACE = 15.0  # seconds that a program has to end by itself


def program(name: str) -> str:
    """Path of a program: beside this Python, else on PATH.

    Raises:
        FedCoWProError: it is not there.
    """
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        raise FedCoWProError(
            f"no program '{name}'", "an installed one",
            "apt-get install nginx-light" if name == "nginx" else "install fedcowpro again, with the extra 'federated'",
        )  # fmt: skip
    return found


def environment(home: Path) -> dict[str, str]:
    """Of a child; Flower calls its own programs by their bare names."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, **flower_environment(home), "PATH": path}


def flwr(home: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """One call of Flower's command line, with what it printed."""
    command = [program("flwr"), *arguments]
    return subprocess.run(command, env=environment(home), capture_output=True, text=True, check=False)


def start(
    arguments: Sequence[str], home: Path, log: IO[str] | None = None, more: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a program that runs until it is ended; `log` takes its output, None passes it on.

    A session of its own: a Ctrl-C in the terminal reaches us, and we end the program in its turn.
    """
    home.mkdir(parents=True, exist_ok=True)
    command = [program(arguments[0]), *arguments[1:]]
    child = {**environment(home), **(more or {})}
    output = subprocess.STDOUT if log is not None else None
    return subprocess.Popen(command, env=child, stdout=log, stderr=output, text=True, start_new_session=True)


def end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End programs with their children, the last started first; those that do not listen are killed."""
    for process in reversed(processes):
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind
        process.wait()


@contextmanager
def until_stopped() -> Iterator[None]:
    """SIGTERM, as a service manager sends it, ends a block as Ctrl-C does; more of them change nothing."""
    signals = (signal.SIGTERM, signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        for one in signals:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {one: signal.signal(one, stop) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def require_free(address: str, port: int) -> None:
    """Raises FedCoWProError where another program has the port."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError as error:
            raise FedCoWProError(
                f"{address}:{port} cannot be used: {error.strerror}", "a free port of this machine",
                "end the program that has it (an earlier server?), or choose another by federation init",
            ) from error  # fmt: skip
