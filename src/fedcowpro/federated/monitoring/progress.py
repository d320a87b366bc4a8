"""What the one who starts a federation in one process sees: a progress bar, and on request the table of `watch`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType

from flwr.app import Message, MetricRecord
from rich.console import Console, Group, RenderableType
from rich.live import Live

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.progress import ProgressBar
from fedcowpro.federated.monitoring.watch import METRICS, dashboard, read_run
from fedcowpro.federated.transport import messages as records


def live_table(console: Console, run: Path, visible: bool) -> AbstractContextManager[object]:
    """The table alone, for a run that other processes do; nothing before the run has a folder."""

    def draw() -> RenderableType:
        try:
            return dashboard(read_run(run))
        except FedCoWProError:
            return ""

    return Live(console=console, get_renderable=draw, refresh_per_second=1) if visible else nullcontext()


class ProgressDisplay:
    """A bar over rounds and sites with the loss of the site that answered last; above it the table, if wanted.

    Args:
        console: where to draw; a file or a pipe gets a line now and then, and the last state of the table.
        run: the run folder.
        completed: number of rounds that are done.
        rounds: number of all.
        sites: number of sites that a round asks.
        visible: draw nothing if False.
        table: draw the table, too.
    """

    def __init__(
        self, console: Console, run: Path, completed: int, rounds: int, sites: int, visible: bool, table: bool
    ) -> None:
        self._progress = ProgressBar(visible, console)
        self._run, self._sites, self._rounds, self._table = run, sites, rounds, table
        self._done = completed * sites
        self._task = self._progress.add_task("starting", total=rounds * sites, completed=self._done)
        self._seen: tuple[float, RenderableType] | None = None
        drawn = visible and (table or console.is_terminal)
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=4) if drawn else None

    def __enter__(self) -> ProgressDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            if not self._live.console.is_terminal:  # in a file or a pipe, Live leaves the last line open
                self._live.console.line()

    def count(self, site: str, reply: Message) -> None:
        """One more answer; those to the questions before and after the rounds have no loss and do not count."""
        metrics = None if reply.has_error() else reply.content.get(records.METRICS)
        trained = isinstance(metrics, MetricRecord) and "steps" in metrics
        if not trained and (not reply.has_error() or reply.metadata.message_type != "train"):
            return
        loss = metrics.get(f"{records.LOSS_PREFIX}total") if isinstance(metrics, MetricRecord) else None
        text = f"loss {loss:.3f}" if isinstance(loss, float) else "done" if trained else "failed"
        number = min(self._done // self._sites + 1, self._rounds)
        self._done += 1
        self._progress.update(
            self._task, completed=self._done, description=f"round {number}/{self._rounds} {site} {text}"
        )

    def _draw(self) -> RenderableType:
        if not self._table:
            return self._progress
        file = self._run / METRICS
        changed = file.stat().st_mtime if file.exists() else 0.0
        if self._seen is None or self._seen[0] != changed:
            self._seen = (changed, dashboard(read_run(self._run)))
        return Group(self._seen[1], self._progress)
