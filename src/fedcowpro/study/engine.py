"""Runs jobs side by side, each in a process of its own; the folders on disk tell how far they are."""

from __future__ import annotations

import multiprocessing
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.processes import single_threaded
from fedcowpro.study.plan import StudyJob

_LOOK = 0.2  # seconds between two looks at the jobs


@dataclass(frozen=True)
class Failure:
    """A job that did not succeed: the last words of its process; all of them are in the job's log."""

    job: StudyJob
    reason: str


def run_jobs(
    jobs: Sequence[StudyJob], workers: int, logs: Path, *, on_look: Callable[[Sequence[StudyJob]], None] | None = None
) -> list[Failure]:
    """Do all jobs, each in a process of its own; one that fails, or is killed, does not stop the others.

    Args:
        jobs: in the order in which they start.
        workers: processes at a time, each with one thread.
        logs: folder of the logs.
        on_look: called several times a second with the jobs in work.

    Returns:
        The jobs that failed.

    Raises:
        KeyboardInterrupt: passed on after all processes were ended.
    """
    logs.mkdir(parents=True, exist_ok=True)
    if sys.platform == "linux":
        # Libraries load once, in seconds; each job is a fork that starts at once with memory of its own.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["fedcowpro.study.worker", "torch._dynamo"])  # the first optimiser loads that
    else:  # a forked process must not use the system's libraries
        context = multiprocessing.get_context("spawn")
    waiting, running, failures = deque(jobs), dict[BaseProcess, StudyJob](), list[Failure]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.popleft()
                job.log.unlink(missing_ok=True)
                process = context.Process(target=_work, args=(job,))
                with single_threaded():
                    process.start()
                running[process] = job
            if on_look is not None:
                on_look([*running.values()])
            wait([one.sentinel for one in running], _LOOK)
            for ended in [one for one in running if one.exitcode is not None]:
                job = running.pop(ended)
                if ended.exitcode:
                    failures.append(Failure(job, _reason(ended.exitcode, job.log)))
    finally:
        # All that a job writes is whole or not there, so it may be ended at any moment.
        for one in running:
            one.kill()
        for one in running:
            one.join()
    return failures


def require_success(failures: Sequence[Failure], of: int, name: Callable[[StudyJob], str]) -> None:
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


def _work(job: StudyJob) -> None:
    from fedcowpro.study.worker import work  # here, because it loads torch

    work(job)


def _reason(code: int, log: Path) -> str:
    """Why a job failed: its error, else the last line that it printed."""
    if code < 0:
        return f"ended by signal {-code} (too little memory, for example)"
    if not log.is_file():
        return f"ended with code {code} before it began (scripts must call this under if __name__ == '__main__')"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"ended with code {code}"])[-1]
