"""How far a long work is: a bar on a terminal, now and then a line in a file or a pipe."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_PAUSE = 30.0  # seconds between two lines


class ProgressBar(Progress):
    """rich's bars with counts and times. Where the console is no terminal nothing is drawn over.

    There a line says how far a task is, half a minute after it began and every half a minute from then on.

    Args:
        shown: False shows nothing at all.
        console: where; None = standard error.
        keep: whether a finished bar stays on the screen.
    """

    def __init__(self, shown: bool = True, console: Console | None = None, *, keep: bool = True) -> None:
        console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._lines = shown and not console.is_terminal
        self._told: dict[TaskID, float] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        super().__init__(*columns, *times, console=console, disable=not shown or self._lines, transient=not keep)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As rich's."""
        super().update(task_id, **changes)
        self._tell(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As rich's."""
        super().advance(task_id, advance)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        if not self._lines:
            return
        now, task = time.monotonic(), self._tasks[task_id]
        if now - self._told.setdefault(task_id, now) < _PAUSE:
            return
        self._told[task_id] = now
        passed, done = task.elapsed or 0.0, int(task.completed)
        left = task.time_remaining
        rest = f", about {_clock(left)} left" if left is not None and not task.finished else ""
        of = f" of {int(task.total)}" if task.total is not None else ""
        self.console.print(f"{task.description}: {done}{of}, {_clock(passed)} passed{rest}", markup=False)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
