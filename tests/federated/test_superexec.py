"""Processes for messages from one that has the program loaded, and what of Flower that leans on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec import run_superexec
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec
from flwr.supernode import start_client_internal

from fedcowpro.federated.deployment import superexec, supernode
from fedcowpro.federated.deployment.superexec import ForkingExecutor, NoForksError, Pause

pytestmark = pytest.mark.slow

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc: Linux only")


def test_flower_is_as_the_fast_way_needs_it() -> None:
    """Fails where another release of Flower has changed what is replaced: see what it does now, then adapt."""
    assert superexec.odd_internals() == ""
    assert supernode.odd_internals() == ""


def test_another_flower_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superexec, "run_clientapp", lambda token: None)
    assert "other arguments" in superexec.odd_internals()
    monkeypatch.undo()
    monkeypatch.setattr(run_superexec, "run_superexec", lambda: None)
    assert superexec.odd_internals() == "run_superexec is another one"
    monkeypatch.setattr(start_client_internal, "_push_messages", pull_nothing)
    assert supernode.odd_internals() == "pull_nothing has no time.sleep(0.5)"
    monkeypatch.undo()
    monkeypatch.setattr(start_client_internal, "time", SimpleNamespace())
    assert "another clock" in supernode.odd_internals()


def pull_nothing() -> None:
    """Stands for a function of another release."""


@pytest.mark.parametrize("reason", ["no forks here", ""])
def test_where_it_cannot_start_it_says_so_and_flowers_own_way_is_taken(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forking() -> ForkingExecutor:
        if reason:
            raise NoForksError(reason)
        return executor  # type: ignore[return-value]

    executor, said, started = SimpleNamespace(launched=None), [], []
    own = run_superexec.get_executor
    monkeypatch.setattr(run_superexec, "get_executor", own)  # both are put back
    monkeypatch.setattr(run_superexec, "time", time)
    monkeypatch.setattr(superexec, "ForkingExecutor", forking)
    monkeypatch.setattr(superexec, "log", lambda level, text, *rest: said.append(text % rest if rest else text))
    monkeypatch.setattr("flwr.supercore.cli.flower_superexec", lambda: started.append(True))
    monkeypatch.setattr(sys, "argv", ["superexec"])
    superexec.main()
    assert started == [True]
    assert (run_superexec.get_executor is own) == bool(reason)
    (line,) = said
    expected = f"Each message gets a new process, as Flower does by itself: {reason}" if reason else "Messages are"
    assert line.startswith(expected)
    if not reason:
        assert run_superexec.get_executor("subprocess", executor_config=None) is executor
        assert isinstance(run_superexec.time, Pause)


def test_another_flower_means_flowers_own_node(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(supernode, "odd_internals", lambda: "_push_messages has no time.sleep(0.5)")
    monkeypatch.setattr("flwr.supernode.cli.flower_supernode", lambda: started.append(sys.argv))
    monkeypatch.setattr(supernode, "end_with", lambda program: program())
    monkeypatch.setattr(sys, "argv", ["supernode"])
    supernode.main(["--fast", "--insecure"])
    assert started == [["flower-supernode", "--insecure"]]
    assert "as by Flower itself: of this version of Flower, _push_messages has no" in caplog.text


def spec(task: TaskType = TaskType.CLIENT_APP, **more: Any) -> ExecutionSpec:
    given = {
        "task_type": task, "runtime_api_address": "127.0.0.1:1", "token": "t", "insecure": True,
        "root_certificates_path": None, "runtime_dependency_install": False, "parent_pid": os.getpid(),
        "suppress_output": False, "task_id": 1,
    }  # fmt: skip
    return ExecutionSpec(**{**given, **more})


def test_only_a_sites_app_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    forked, others = [], []

    class Process:
        def __init__(self, target: object, args: tuple[object, ...]) -> None:
            self.args = args

        def start(self) -> None:
            forked.append(self.args)
            if self.args[1] == "lost":
                raise EOFError

        def is_alive(self) -> bool:
            return True

    monkeypatch.setattr(ForkingExecutor, "_try", lambda self: None)
    monkeypatch.setattr(SubprocessExecutor, "launch", lambda self, one: others.append(one))
    executor = ForkingExecutor()
    executor._context = SimpleNamespace(Process=Process)  # type: ignore[assignment]
    executor.launch(spec())
    assert forked == [("127.0.0.1:1", "t", os.getpid())]
    left = [
        spec(TaskType.SERVER_APP), spec(insecure=False), spec(suppress_output=True),
        spec(runtime_dependency_install=True), spec(token="lost"),
    ]  # fmt: skip
    for one in left:
        executor.launch(one)
    assert others == left


def test_a_pause_is_short_while_a_run_goes_on_and_long_after(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 3))
        now[0] += seconds

    monkeypatch.setattr(superexec, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now[0], time=lambda: 7.0))
    pause = Pause(3.0)
    pause.sleep(3)
    pause.sleep(0.5)  # waits for work that is being done
    now[0] += 10
    pause.sleep(3)
    now[0] += 1000
    pause.sleep(3)
    assert slept == [0.05, 0.05, 0.201, 3.0]
    pause.restart()
    pause.sleep(3)
    assert slept[-1] == 0.05
    assert pause.time() == 7.0


HEAD = """
import os, sys
from multiprocessing import forkserver
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor.types import ExecutionSpec
from fedcowpro.federated.deployment import superexec
"""


def script(text: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@linux
def test_a_module_that_cannot_be_loaded_before_is_told() -> None:
    """Python itself is silent about it."""
    running = script("""
superexec.LOADED = ("json", "no_such_module")
try:
    superexec.ForkingExecutor()
except superexec.NoForksError as error:
    print(error)
""")
    said, errors = running.communicate(timeout=120)
    assert said.strip() == "no_such_module could not be loaded before the forks", errors


@linux
def test_a_fork_has_the_program_and_ends_with_its_parent() -> None:
    """One that waits for its node, which is killed with all its connections."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        running = script(
            f"""
executor = superexec.ForkingExecutor()
executor.launch(ExecutionSpec(TaskType.CLIENT_APP, "127.0.0.1:{silent.getsockname()[1]}", "token", True, None, False,
                              os.getpid(), False, 1))
(fork,) = executor._running
print(fork.pid, forkserver._forkserver._forkserver_pid, flush=True)
sys.stdin.read()
""",
            stdin=subprocess.PIPE,
        )
        assert running.stdout is not None
        fork, server = map(int, running.stdout.readline().split())
        silent.settimeout(60)
        with silent.accept()[0]:  # it runs, and waits for an answer
            assert alive(fork)
            running.kill()
            running.wait()
    until(lambda: not alive(fork) and not alive(server))
    running.communicate()


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(done: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)
