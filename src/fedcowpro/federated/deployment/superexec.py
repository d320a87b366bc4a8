"""Flower's SuperExec, which starts a process for each message, with processes that have the program loaded already.

    python -c "from fedcowpro.federated.deployment.superexec import main; main()" [options of flower-superexec]

Every message still gets a fresh process with memory of its own. But it is a fork of one that has imported torch, Flower
and this package, so it begins at once and not after seconds. What stood before an app stands before it here, too: the
SuperNode's check of the policy's `apps` comes first, and the fork watches the process that ordered it as Flower's own
would. Where such processes cannot be had, it says so and works as Flower does by itself. Touches internals of Flower.

A module that Python runs by its name would be run again in every fork, hence the line above.
"""

from __future__ import annotations

import inspect
import multiprocessing
import sys
import time
from collections.abc import Callable
from logging import ERROR, INFO
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from typing import Any

from flwr.supercore import log
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec import run_superexec as inner
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult
from flwr.supernode.runtime.run_clientapp import run_clientapp

LOADED = ("fedcowpro.federated.site.client_app", "fedcowpro.federated.deployment.superexec", "torch._dynamo")
_START = 120.0  # seconds that the first fork has, with the imports before it


class NoForksError(RuntimeError):
    """Why there are no processes that have the program loaded: one line."""


class Pause:
    """`time` for a loop of Flower's that sleeps between two looks: short sleeps first, longer ones in a long wait.

    Args:
        longest: seconds of the loop's own sleep; shorter ones of the same module wait for work that is being done.
    """

    QUICK, SHARE = 0.05, 0.02  # seconds; of the time waited so far

    def __init__(self, longest: float = 0.0) -> None:
        self._longest, self._since = longest, time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Instead of `time.sleep`."""
        now = time.monotonic()
        if seconds < self._longest:  # there is work
            self._since = now
            time.sleep(min(seconds, self.QUICK))
        else:
            time.sleep(min(seconds, max(self.QUICK, self.SHARE * (now - self._since))))

    def restart(self) -> None:
        """There is work: the next sleeps are short again."""
        self._since = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class ForkingExecutor(SubprocessExecutor):
    """Starts sites' apps as forks of a process that has the program loaded, all else as Flower does.

    Raises:
        NoForksError: there can be no such process.
    """

    def __init__(self) -> None:
        try:
            self._context = multiprocessing.get_context("forkserver")
        except ValueError as error:
            raise NoForksError(f"{sys.platform} has no forks: {error}") from error
        self._context.set_forkserver_preload(list(LOADED))
        self._running: list[BaseProcess] = []
        self.launched: Callable[[], None] = lambda: None
        self._try()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        self.launched()
        ours = spec.insecure and not (spec.suppress_output or spec.runtime_dependency_install)
        if spec.task_type != TaskType.CLIENT_APP or not ours:
            return super().launch(spec)
        process = self._context.Process(target=_answer, args=(spec.runtime_api_address, spec.token, spec.parent_pid))
        try:
            process.start()
        except (OSError, EOFError) as error:
            log(ERROR, "No fork for a message, which gets a new process (%s: %s)", type(error).__name__, error)
            return super().launch(spec)
        self._running = [one for one in self._running if one.is_alive()] + [process]  # is_alive takes the dead away
        return LaunchResult.accepted()

    def close(self) -> None:
        """End what runs; else this process would wait for it, and it for this process."""
        for process in self._running:
            process.terminate()

    def _try(self) -> None:
        """One fork that tells what it has; the imports of all later ones happen here."""
        told: SimpleQueue[list[str]] = self._context.SimpleQueue()
        process = self._context.Process(target=_lacking, args=(told, LOADED))
        try:
            process.start()
            process.join(_START)
        except (OSError, EOFError) as error:
            raise NoForksError(f"{type(error).__name__}: {error}") from error
        if process.exitcode != 0:
            process.kill()
            raise NoForksError(f"the first fork ended with {process.exitcode} within {_START:.0f} s")
        if lacking := told.get():
            raise NoForksError(f"{', '.join(lacking)} could not be loaded before the forks")


def odd_internals() -> str:
    """What of Flower is not as this module needs it, on one line; empty where all is."""
    expected = {"runtime_api_address", "token", "insecure", "certificates", "parent_pid", "runtime_dependency_install"}
    if found := expected ^ set(inspect.signature(run_clientapp).parameters):
        return f"run_clientapp has other arguments: {sorted(found)}"
    source = inspect.getsource(inner.run_superexec)
    if "time.sleep(task_poll_interval)" not in source or "executor = get_executor(" not in source:
        return "run_superexec is another one"
    return ""


def main() -> None:
    """Start the SuperExec; the command line is that of flower-superexec."""
    from flwr.supercore.cli import flower_superexec

    sys.argv[0] = "flower-superexec"
    try:
        if odd := odd_internals():
            raise NoForksError(f"of this version of Flower, {odd}")
        executor = ForkingExecutor()
    except NoForksError as error:
        log(ERROR, "Each message gets a new process, as Flower does by itself: %s", error)
    else:
        pause = Pause()
        executor.launched = pause.restart
        inner.time = pause  # type: ignore[assignment]
        inner.get_executor = lambda *_, **__: executor
        log(INFO, "Messages are answered by forks of a process that has the program loaded")
    flower_superexec()


def _answer(address: str, token: str, parent: int | None) -> None:
    """In a fork: Flower's own process of a message, from here on."""
    import numpy as np

    np.random.seed()  # else all forks would draw the same where an app uses NumPy's shared generator
    run_clientapp(address, token, insecure=True, certificates=None, parent_pid=parent)


def _lacking(told: SimpleQueue[list[str]], names: tuple[str, ...]) -> None:
    """In a fork: which modules are not there."""
    told.put([name for name in names if name not in sys.modules])
