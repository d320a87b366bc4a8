"""Signs that a training goes wrong, read from the rounds' records by fixed rules (docs/federation-safety.md).

A rule about training asks for its sign in several rounds, for a single odd round is common in a training of few steps.
A reply that no honest site gives is a sign at once. Of the rounds before only what the rules need is kept, so that a
round costs as much as it has sites.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from fedcowpro.federated.monitoring.rounds import ORGANS, RoundRecord, SiteRecord

NORM_FACTOR, NORM_ROUNDS, NORM_AT_ONCE = 3.0, 2, 10.0
COSINE_ROUNDS = 2
LOSS_FACTOR, LOSS_ROUNDS = 1.5, 2
DICE_LOW, DICE_HIGH, DICE_ROUNDS = 0.02, 0.95, 2
TRAFFIC_FACTOR, TRAFFIC_ROUNDS = 2.0, 10
SLICES_FACTOR = 10.0  # from there on a site's weight is capped (`aggregate.WEIGHT_CAP`)
ABSENT_ROUNDS = 2
_FEWEST = 3  # sites: of two, nobody can say which is the odd one


@dataclass(frozen=True)
class Alarm:
    """A sign at a site in a round; `name` is that of the rule, `text` says it in words with the numbers."""

    round: int
    site: str
    name: str
    text: str

    def line(self) -> dict[str, object]:
        """For metrics.jsonl."""
        return {"kind": "alarm", "round": self.round, "site": self.site, "alarm": self.name, "text": self.text}


class AlarmWatch:
    """Follows a run round by round.

    Args:
        rounds: that the run has already.
    """

    def __init__(self, rounds: Iterable[RoundRecord] = ()) -> None:
        self._sites: dict[str, _History] = {}
        self._absent: dict[str, int] = {}  # rounds since it took part that left it out
        self._known: list[Alarm] = []
        for record in rounds:
            self.signs(record)

    def signs(self, record: RoundRecord) -> list[Alarm]:
        """All signs that there are in the next round."""
        usual, found = _Usual(record), []
        for site in record.sites:
            history = self._sites.setdefault(site.site, _History())
            history.add(site, usual)
            for name, rule in _RULES.items():
                if text := rule(history, usual):
                    found.append(Alarm(record.round, site.site, name, text))
        for name in record.unsound:
            reason = record.left_out.get(name)
            text = f"its reply was left out: {reason}" if reason else "its shares for the sum were unsound"
            found.append(Alarm(record.round, name, "reply", text))
        for name, reason in record.clipped.items():
            found.append(Alarm(record.round, name, "reply", f"its update was {reason}"))
        for site in record.sites:
            self._absent.pop(site.site, None)
        for name, reason in record.left_out.items():
            times = self._absent[name] = self._absent.get(name, 0) + 1
            if times >= ABSENT_ROUNDS:
                text = f"left out in {times} rounds in a row, now: {reason}"
                found.append(Alarm(record.round, name, "absent", text))
        self._known = found
        return found

    def new(self, record: RoundRecord) -> list[Alarm]:
        """The signs of the next round that the round before it did not have."""
        known = {(alarm.site, alarm.name) for alarm in self._known}
        return [alarm for alarm in self.signs(record) if (alarm.site, alarm.name) not in known]


def alarms(rounds: Sequence[RoundRecord]) -> list[Alarm]:
    """All signs that there are in the last of these rounds."""
    return AlarmWatch(rounds[:-1]).signs(rounds[-1]) if rounds else []


class _Numbers:
    """A number of each site of a round; NaN counts as none."""

    def __init__(self, values: Iterable[float]) -> None:
        self._sorted = sorted(value for value in values if not math.isnan(value))

    def __len__(self) -> int:
        return len(self._sorted)

    def median_without(self, value: float) -> float:
        """Median of all others than the site that has this one; NaN where there are none."""
        count, place = len(self._sorted) - 1, bisect_left(self._sorted, value)
        if count < 1:
            return math.nan
        middle = ((count - 1) // 2, count // 2)
        low, high = (self._sorted[index if index < place else index + 1] for index in middle)
        return (low + high) / 2


class _Usual:
    """What is usual in a round, as each site is compared with the others."""

    def __init__(self, record: RoundRecord) -> None:
        self.sites = len(record.sites)
        self.norms = _Numbers(site.update_norm for site in record.sites)
        self.bytes_up = _Numbers(site.bytes_up for site in record.sites)
        self.bytes_down = _Numbers(site.bytes_down for site in record.sites)
        self.slices = median([site.train_slices for site in record.sites]) if record.sites else math.nan


@dataclass
class _History:
    """What the rules need of a site's rounds, the last one included."""

    last: deque[SiteRecord] = field(default_factory=lambda: deque(maxlen=2))
    factors: deque[float] = field(default_factory=lambda: deque(maxlen=NORM_ROUNDS))  # norm to the others' median
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=LOSS_ROUNDS))
    lowest: float = math.nan  # loss before those
    first: bool = True
    bytes_up: deque[int] = field(default_factory=lambda: deque(maxlen=TRAFFIC_ROUNDS))  # before the last round
    bytes_down: deque[int] = field(default_factory=lambda: deque(maxlen=TRAFFIC_ROUNDS))

    @property
    def now(self) -> SiteRecord:
        return self.last[-1]

    def add(self, site: SiteRecord, usual: _Usual) -> None:
        # The site's first round is not compared with: it may carry what later ones need not.
        if self.last and not self.first:
            self.bytes_up.append(self.now.bytes_up)
            self.bytes_down.append(self.now.bytes_down)
        self.first = not self.last
        if len(self.losses) == LOSS_ROUNDS and math.isfinite(self.losses[0]):
            self.lowest = min(self.losses[0], math.inf if math.isnan(self.lowest) else self.lowest)
        self.losses.append(site.losses.get("total", math.nan))
        others = usual.norms.median_without(site.update_norm)
        comparable = usual.sites >= _FEWEST and others > 0 and not math.isnan(site.update_norm)
        self.factors.append(site.update_norm / others if comparable else 0.0)
        self.last.append(site)


def _norm(site: _History, usual: _Usual) -> str:
    """The update is far longer than the median of the other sites' in the same rounds, or at once beyond measure."""
    now = site.factors[-1]
    if now > NORM_AT_ONCE or (len(site.factors) == NORM_ROUNDS and min(site.factors) > NORM_FACTOR):
        return f"its update is {now:.1f} times as long as the median of the others' (diverges)"
    return ""


def _cosine(site: _History, usual: _Usual) -> str:
    """The update points away from the aggregated one."""
    values = [record.update_cosine for record in site.last]
    if len(values) == COSINE_ROUNDS and all(value is not None and value < 0 for value in values):
        return (
            f"its update points away from the common one in {COSINE_ROUNDS} rounds, cosine {values[-1]:.2f} (diverges)"
        )
    return ""


def _loss(site: _History, usual: _Usual) -> str:
    """The loss is far above the lowest that the site had."""
    lowest, now = site.lowest, site.losses[-1]
    if lowest > 0 and all(loss > LOSS_FACTOR * lowest for loss in site.losses):
        return f"its loss rose to {now:.3f}, {now / lowest:.1f} times its lowest (diverges)"
    return ""


def _collapse(site: _History, usual: _Usual) -> str:
    """Pseudo-labels that are found always or never teach nothing any more."""
    values = [record.pseudo_dice for record in site.last]
    # Where updates are secret, sites may tell neither losses nor Dice.
    if ORGANS in site.now.losses:
        return ""
    if site.now.steps == 0 or (math.isnan(values[-1]) and site.now.losses):
        return "it trained on no episode (pseudo-labels collapse)"
    if len(values) == DICE_ROUNDS and (max(values) < DICE_LOW or min(values) > DICE_HIGH):
        return f"its Dice on pseudo-labels is {values[-1]:.3f} in {DICE_ROUNDS} rounds (pseudo-labels collapse)"
    return ""


def _traffic(site: _History, usual: _Usual) -> str:
    """Messages are far larger or smaller than the other sites' in this round, or than the site's own before."""
    ways = (
        ("sent", site.now.bytes_up, usual.bytes_up, site.bytes_up),
        ("received", site.now.bytes_down, usual.bytes_down, site.bytes_down),
    )
    for kind, size, all_sites, before in ways:
        known = [all_sites.median_without(size)] if len(all_sites) >= _FEWEST else []
        known += [median(before)] if len(before) >= 2 else []
        for value in known:
            if value > 0 and not value / TRAFFIC_FACTOR <= size <= value * TRAFFIC_FACTOR:
                return f"it {kind} {size / 1e6:.2f} MB, usual are {value / 1e6:.2f} MB (unusual traffic)"
    return ""


def _slices(site: _History, usual: _Usual) -> str:
    """The site says that it has far more slices than the others, so that its weight is capped."""
    count = site.now.train_slices
    if usual.sites >= _FEWEST and count > SLICES_FACTOR * usual.slices:
        return f"it says that it has {count} slices, the median of all is {usual.slices:g} (weight capped)"
    return ""


_RULES: Mapping[str, Callable[[_History, _Usual], str]] = {
    "norm": _norm,
    "cosine": _cosine,
    "loss": _loss,
    "collapse": _collapse,
    "traffic": _traffic,
    "slices": _slices,
}
NAMES = (*_RULES, "reply", "absent")
