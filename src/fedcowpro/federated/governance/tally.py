"""What a site's policy asks of its log: rounds that it trained, and the norms of weights that it took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

WEIGHTS = "weights"  # the kind of an audit entry about received weights
NORM = "norm"
_KEPT = timedelta(days=2)  # twice what is asked for, because clocks are set


class Noted(Protocol):
    """What is counted of an event of the log."""

    @property
    def kind(self) -> str: ...
    @property
    def decision(self) -> str: ...
    @property
    def run(self) -> str: ...
    @property
    def facts(self) -> Mapping[str, float]: ...


class Tally(BaseModel):
    """Counts over the lines of a log.

    Attributes:
        trained: rounds that were allowed.
        of_run: the same by the run's name.
        recent: when those of the last two days were allowed, UTC as ISO 8601, in order.
        norms: by the run's name, the norm of the last weights that were allowed.
    """

    model_config = ConfigDict(extra="forbid")

    trained: Annotated[int, Field(ge=0)] = 0
    of_run: dict[str, int] = Field(default_factory=dict)
    recent: list[str] = Field(default_factory=list)
    norms: dict[str, float] = Field(default_factory=dict)

    def add(self, event: Noted, time: str) -> None:
        """One more line."""
        if event.decision != "allowed":
            return
        if event.kind == "train":
            self.trained += 1
            self.of_run[event.run] = self.of_run.get(event.run, 0) + 1
            start = (datetime.fromisoformat(time) - _KEPT).isoformat(timespec="milliseconds")
            self.recent = [*(one for one in self.recent if one > start), time]
        elif event.kind == WEIGHTS and NORM in event.facts:
            self.norms[event.run] = event.facts[NORM]

    @classmethod
    def of(cls, lines: Iterable[Any]) -> Tally:
        """Of the entries of a log, in order."""
        tally = cls()
        for entry in lines:
            tally.add(entry.event, entry.time)
        return tally
