"""Long work in one thread beside the event loop, with progress that can be followed and a way to stop it."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Literal

from fedcowpro.core.errors import FedCoWProError

log = logging.getLogger(__name__)
State = Literal["waiting", "running", "done", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")


class Cancelled(Exception):
    """The work was stopped on request."""


@dataclass
class Job:
    """One piece of work. The worker writes its fields, anyone may read them.

    Attributes:
        id: names the job within its session.
        state: from waiting to one of `ENDED`.
        stage: what is being done, for people.
        done, total: steps of the stage.
        error: got, expected, remedy of a failed job.
        notes: what its user should know of what was left out.
    """

    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    state: State = "waiting"
    stage: str = "waiting for other work"
    done: int = 0
    total: int = 0
    error: dict[str, str] | None = None
    notes: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def report(self, stage: str, done: int, total: int) -> None:
        """Say how far the work is.

        Raises:
            Cancelled: it is to stop.
        """
        self.stage, self.done, self.total = stage, done, total
        if self.stopped():
            raise Cancelled

    def cancel(self) -> None:
        """Ask the work to stop at its next step; work that waits never starts."""
        self._stop.set()
        if self.state == "waiting":
            self.state = "cancelled"

    def stopped(self) -> bool:
        """Whether the work is to stop."""
        return self._stop.is_set()

    @property
    def ended(self) -> bool:
        """Whether nothing more happens."""
        return self.state in ENDED

    def to_json(self) -> dict[str, Any]:
        """What a page shows."""
        return {
            "id": self.id,
            "state": self.state,
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "error": self.error,
            "notes": list(self.notes),
        }


class Worker:
    """A thread that does jobs in the order in which they come."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Job, Callable[[Job], None]] | None] = SimpleQueue()
        self._current: Job | None = None
        self._thread = threading.Thread(target=self._run, name="fedcowpro-worker", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Job], None]) -> Job:
        """Do `work(job)` in the thread; it calls `job.report` often."""
        job = Job()
        self._queue.put((job, work))
        return job

    def close(self, seconds: float = 10) -> None:
        """Stop the running job and the thread."""
        if self._current is not None:
            self._current.cancel()
        self._queue.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            job, work = item
            self._current = job
            if job.stopped():
                job.state = "cancelled"
                continue
            job.state = "running"
            try:
                work(job)
            except Cancelled:
                job.state = "cancelled"
            except FedCoWProError as error:
                job.error = {"got": error.got, "expected": error.expected, "remedy": error.remedy}
                job.state = "failed"
            except Exception as error:
                log.error("job failed: %s at %s", type(error).__name__, place_of(error))
                job.error = {
                    "got": "the program failed at this task",
                    "expected": "a result",
                    "remedy": "try again; if it stays so, report what the server printed",
                }
                job.state = "failed"
            else:
                job.state = "done"


def place_of(error: BaseException) -> str:
    """Module and line that an error comes from; its text may quote a path or a header and is for no log."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}"
