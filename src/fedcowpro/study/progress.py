"""What a running study shows: how much is done, the rounds in work, the time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.study.plan import Plan, StudyJob

_EVALUATION = 20  # steps; about what scoring some volumes takes


class StudyProgress:
    """A bar over all work of a plan, on standard error; in a file, a line whenever a run or an evaluation is done.

    Work is counted in optimiser steps; a table of scores counts as some.
    """

    def __init__(self, plan: Plan, visible: bool) -> None:
        self._plan = plan
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._lines = visible and not self._console.is_terminal
        # Over the whole time, because runs of one study differ in speed.
        self._bar = Progress(
            *columns, console=self._console, disable=not visible or self._lines, speed_estimate_period=float("inf")
        )
        self._finished: set[str] = set()
        self._total = sum(_steps(job) for job in plan.jobs.values()) + _EVALUATION * len(plan.scorings())
        self._task = self._bar.add_task("starting", total=self._total)
        self._started, self._before = time.monotonic(), -1  # work that earlier calls did
        self._told = (-1, -1)

    def __enter__(self) -> StudyProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, active: Sequence[StudyJob], scored: int) -> None:
        """Show the state: jobs in work, and the number of evaluations that are done."""
        done = scored * _EVALUATION
        trained, training = 0, 0
        rounds = []
        for job in self._plan.jobs.values():
            if not job.trains:
                continue
            training += 1
            total = job.config.federation.rounds
            now = total if job.key in self._finished else RunFolder(job.folder).completed()
            if now == total:
                self._finished.add(job.key)
                trained += 1
            elif job in active:
                rounds.append(f"{now}/{total}")
            done += _steps(job) * now // total
        text = f"runs {trained}/{training}, evaluations {scored}/{len(self._plan.scorings())}"
        if rounds:
            text += f", now at round {', '.join(rounds)}"
        self._bar.update(self._task, completed=done, description=text)
        self._before = done if self._before < 0 else self._before
        if self._lines and (trained, scored) != self._told:
            self._told = (trained, scored)
            self._console.print(f"{text}: {self._passed(done)}")

    def _passed(self, done: int) -> str:
        """'40%, 0:12:10 passed, 0:18:15 left', the rest at the pace of this call."""
        seconds, now = time.monotonic() - self._started, done - self._before
        left = f", {_clock(seconds * (self._total - done) / now)} left" if now else ""
        return f"{100 * done // max(self._total, 1)}%, {_clock(seconds)} passed{left}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _steps(job: StudyJob) -> int:
    federation = job.config.federation
    return len(job.sites) * federation.rounds * federation.local_steps
