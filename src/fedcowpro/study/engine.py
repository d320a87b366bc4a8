"""Runs jobs in worker processes, as many at a time as asked; the folders on disk tell how far they are."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.study.plan import Job

# Elsewhere a forked process must not use the system's libraries: there each job starts a worker of its own.
FORKS = sys.platform == "linux"
# Threads of numerical libraries; a worker has one, so that runs are alike whatever the number of workers.
_ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_LOOK = 0.2  # seconds between two looks at the jobs
_PATIENCE = 20  # seconds for a worker to end after its input did


@dataclass(frozen=True)
class Failure:
    """A job that did not succeed: the last words of its worker; all of them are in the job's log."""

    job: Job
    reason: str


def run_jobs(
    jobs: Sequence[Job],
    workers: int,
    logs: Path,
    *,
    inherit: int | None = None,
    on_look: Callable[[Sequence[Job]], None] | None = None,
) -> list[Failure]:
    """Do all jobs, each in a process of its own; one that fails does not stop the others.

    Args:
        jobs: in the order in which they start.
        workers: processes at a time.
        logs: folder of the logs.
        inherit: descriptor that workers hold open (a lock that must not end before them).
        on_look: called several times a second with the jobs in work.

    Returns:
        The jobs that failed.

    Raises:
        KeyboardInterrupt: passed on after all workers were ended.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting: SimpleQueue[Job] = SimpleQueue()
    for one in jobs:
        waiting.put(one)
    slots = [_Slot(logs / f"worker-{number}.log", inherit) for number in range(1, min(workers, len(jobs)) + 1)]
    threads = [threading.Thread(target=slot.work, args=(waiting,), daemon=True) for slot in slots]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            if on_look is not None:
                on_look([job for slot in slots if (job := slot.job) is not None])
            time.sleep(_LOOK)
    finally:
        # All that a worker writes is whole or not there, so it may be ended at any moment.
        with suppress(Empty):
            while True:
                waiting.get_nowait()
        for slot in slots:
            slot.end()
        for thread in threads:
            thread.join()
    return [failure for slot in slots for failure in slot.failures]


def require_success(failures: Sequence[Failure], of: int, name: Callable[[Job], str]) -> None:
    """Raise an error that lists the failures, if there are any.

    Args:
        of: number of all jobs.
        name: the arms and the seed of a job.
    """
    if failures:
        lines = [f"{name(one.job)}: {one.reason} (log: {one.job.log})" for one in failures]
        raise FedCoWProError(
            f"{len(failures)} of {of} runs failed:\n  " + "\n  ".join(lines),
            "runs that succeed; the tables have the results of all others",
            "see the logs, correct the cause and give the same command again: what is finished is kept",
        )


class _Slot:
    """One worker process at a time, and the thread that hands it jobs."""

    def __init__(self, log: Path, inherit: int | None) -> None:
        self.job: Job | None = None
        self.failures: list[Failure] = []
        self._log, self._inherit = log, inherit
        self._process: subprocess.Popen[str] | None = None
        self._ended = False

    def work(self, waiting: SimpleQueue[Job]) -> None:
        """Do jobs until none is left."""
        with suppress(Empty):
            while not self._ended:
                self.job = waiting.get_nowait()
                code = self._do(self.job)
                if code and not self._ended:
                    self.failures.append(Failure(self.job, _reason(code, self.job.log, self._log)))
                self.job = None
        self.end()

    def end(self) -> None:
        """End the process; the job in work stays as far as it is."""
        self._ended = True
        self._close()

    def _do(self, job: Job) -> int:
        """Exit code of a job; negative for a signal."""
        job.log.unlink(missing_ok=True)
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        if self._ended:
            return 1
        with suppress(BrokenPipeError):  # it ended at once: its exit code says so
            process.stdin.write(job.model_dump_json() + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if answer and FORKS:
            return int(answer)
        code = self._close()
        return int(answer) if answer else code or 1

    def _start(self) -> subprocess.Popen[str]:
        with self._log.open("w", encoding="utf-8") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "fedcowpro.study.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **_ENVIRONMENT},
                pass_fds=() if self._inherit is None else (self._inherit,),
                start_new_session=True,  # Ctrl-C is for the study, which then ends its workers
            )

    def _close(self) -> int:
        """End the process and return its exit code; 0 without one."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        try:
            return process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _reason(code: int, *logs: Path) -> str:
    """Why a job failed: its error, else the last line that it or its worker printed."""
    if code < 0:
        return f"ended by signal {-code} (too little memory, for example)"
    for log in logs:
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        lines = [line for line in text.splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        if lines:
            return errors[-1] if errors else lines[-1]
    return f"ended with code {code}"
