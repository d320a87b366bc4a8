"""Cases made one after the other, or by worker processes that end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.processes import end_with_parent, single_threaded
from fedcowpro.data.preparation.case import CaseJob, Outcome, attempt

_EVERY = 0.2  # seconds between looks at how far the workers are
_shares: MutableSequence[float] = []  # in a worker: of every case, how much of it is done


def workers_for(asked: int | None, jobs: int) -> int:
    """Number of processes: what was asked for, or one per core; at most one per job."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(asked or cores, jobs)


def outcomes(jobs: Sequence[CaseJob], workers: int, tell: Callable[[float], None]) -> Iterator[Outcome]:
    """What became of each case, in the order in which they finish.

    Args:
        jobs: at least one; they are begun in this order.
        workers: processes; 1 = this one.
        tell: is told now and then how many cases are done, parts of cases included.

    Raises:
        FedCoWProError: a worker process ended unexpectedly.
    """
    if workers == 1:
        for done, job in enumerate(jobs):
            yield attempt(job, lambda share, done=done: tell(done + share))  # type: ignore[misc]
        return
    # Spawned, because forking a process that runs threads (torch's, the progress bar's) can lock up.
    context = multiprocessing.get_context("spawn")
    shares = context.Array("d", len(jobs), lock=False)  # each entry has one writer
    with single_threaded(), ProcessPoolExecutor(workers, context, _begin, (shares,)) as pool:
        waiting: set[Future[Outcome]] = {pool.submit(_attempt, job, number) for number, job in enumerate(jobs)}
        try:
            while waiting:
                finished, waiting = wait(waiting, _EVERY, FIRST_COMPLETED)
                tell(sum(shares))
                for future in finished:
                    yield future.result()
        except BrokenProcessPool as error:
            raise FedCoWProError(
                "a worker process ended unexpectedly",
                "enough memory for the volumes in work at a time",
                "run again with fewer workers (finished volumes are kept); in a script of your own, call "
                "this under if __name__ == '__main__'",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin(shares: MutableSequence[float]) -> None:
    """In a new worker."""
    global _shares
    _shares = shares
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # instead of a traceback per worker
    end_with_parent()  # workers of a killed process would wait for work for ever


def _attempt(job: CaseJob, number: int) -> Outcome:
    def tell(share: float) -> None:
        _shares[number] = share

    result = attempt(job, tell)
    if not isinstance(result, tuple):
        tell(1.0)
    return result
