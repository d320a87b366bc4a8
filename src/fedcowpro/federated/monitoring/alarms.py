"""Signs that a training goes wrong, read from the rounds' records by fixed rules (docs/federation-safety.md).

A rule about training asks for its sign in several rounds, for a single odd round is common in a training of few steps.
A reply that no honest site gives is a sign at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from fedcowpro.federated.monitoring.rounds import ORGANS, RoundRecord, SiteRecord

NORM_FACTOR, NORM_ROUNDS, NORM_AT_ONCE = 3.0, 2, 10.0
COSINE_ROUNDS = 2
LOSS_FACTOR, LOSS_ROUNDS = 1.5, 2
DICE_LOW, DICE_HIGH, DICE_ROUNDS = 0.02, 0.95, 2
TRAFFIC_FACTOR = 2.0
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


def alarms(rounds: Sequence[RoundRecord]) -> list[Alarm]:
    """All signs that there are in the last of these rounds."""
    if not rounds:
        return []
    last = rounds[-1]
    found = []
    for site in last.sites:
        told = [_of(site.site, record) for record in rounds]
        own = [record for record in told if record is not None]
        for name, rule in _RULES.items():
            if text := rule(own, rounds):
                found.append(Alarm(last.round, site.site, name, text))
    for site_name in last.unsound:
        reason = last.left_out.get(site_name)
        text = f"its reply was left out: {reason}" if reason else "its shares for the sum were unsound"
        found.append(Alarm(last.round, site_name, "reply", text))
    for site_name, reason in last.clipped.items():
        found.append(Alarm(last.round, site_name, "reply", f"its update was {reason}"))
    for site_name, reason in last.left_out.items():
        recent = rounds[-ABSENT_ROUNDS:]
        if len(recent) == ABSENT_ROUNDS and all(site_name in record.left_out for record in recent):
            text = f"left out in {_streak(site_name, rounds)} rounds in a row, now: {reason}"
            found.append(Alarm(last.round, site_name, "absent", text))
    return found


def new_alarms(rounds: Sequence[RoundRecord]) -> list[Alarm]:
    """The signs of the last round that the round before did not have."""
    known = {(alarm.site, alarm.name) for alarm in alarms(rounds[:-1])}
    return [alarm for alarm in alarms(rounds) if (alarm.site, alarm.name) not in known]


def _norm(own: Sequence[SiteRecord], rounds: Sequence[RoundRecord]) -> str:
    """The update is far longer than the median of the other sites' in the same rounds, or at once beyond measure."""
    factors = []
    for record in rounds[-NORM_ROUNDS:]:
        site = _of(own[-1].site, record)
        others = [one.update_norm for one in record.sites if one.site != own[-1].site]
        if site is None or len(record.sites) < _FEWEST or not median(others) > 0:
            factors.append(0.0)
        else:
            factors.append(site.update_norm / median(others))
    if factors[-1] > NORM_AT_ONCE or (len(factors) == NORM_ROUNDS and min(factors) > NORM_FACTOR):
        return f"its update is {factors[-1]:.1f} times as long as the median of the others' (diverges)"
    return ""


def _cosine(own: Sequence[SiteRecord], rounds: Sequence[RoundRecord]) -> str:
    """The update points away from the aggregated one."""
    values = [record.update_cosine for record in own[-COSINE_ROUNDS:]]
    if len(values) == COSINE_ROUNDS and all(value is not None and value < 0 for value in values):
        return (
            f"its update points away from the common one in {COSINE_ROUNDS} rounds, cosine {values[-1]:.2f} (diverges)"
        )
    return ""


def _loss(own: Sequence[SiteRecord], rounds: Sequence[RoundRecord]) -> str:
    """The loss is far above the lowest that the site had."""
    losses = [record.losses.get("total", math.nan) for record in own]
    if len(losses) <= LOSS_ROUNDS:
        return ""
    lowest = min((loss for loss in losses[:-LOSS_ROUNDS] if math.isfinite(loss)), default=math.nan)
    if lowest > 0 and all(loss > LOSS_FACTOR * lowest for loss in losses[-LOSS_ROUNDS:]):
        return f"its loss rose to {losses[-1]:.3f}, {losses[-1] / lowest:.1f} times its lowest (diverges)"
    return ""


def _collapse(own: Sequence[SiteRecord], rounds: Sequence[RoundRecord]) -> str:
    """Pseudo-labels that are found always or never teach nothing any more."""
    values = [record.pseudo_dice for record in own[-DICE_ROUNDS:]]
    # Where updates are secret, sites may tell neither losses nor Dice.
    if ORGANS in own[-1].losses:
        return ""
    if own[-1].steps == 0 or (math.isnan(values[-1]) and own[-1].losses):
        return "it trained on no episode (pseudo-labels collapse)"
    if len(values) == DICE_ROUNDS and (max(values) < DICE_LOW or min(values) > DICE_HIGH):
        return f"its Dice on pseudo-labels is {values[-1]:.3f} in {DICE_ROUNDS} rounds (pseudo-labels collapse)"
    return ""


def _traffic(own: Sequence[SiteRecord], rounds: Sequence[RoundRecord]) -> str:
    """Messages are far larger or smaller than the other sites' in this round, or than the site's own before.

    The site's first round is not compared with: it may carry what later ones need not.
    """
    now = own[-1]
    others = [site for site in rounds[-1].sites if site.site != now.site]
    before = own[1:-1]
    for name, kind in (("bytes_up", "sent"), ("bytes_down", "received")):
        size = getattr(now, name)
        usual = [median(getattr(one, name) for one in given) for given in (others, before) if len(given) >= 2]
        for value in usual:
            if value > 0 and not value / TRAFFIC_FACTOR <= size <= value * TRAFFIC_FACTOR:
                return f"it {kind} {size / 1e6:.2f} MB, usual are {value / 1e6:.2f} MB (unusual traffic)"
    return ""


def _slices(own: Sequence[SiteRecord], rounds: Sequence[RoundRecord]) -> str:
    """The site says that it has far more slices than the others, so that its weight is capped."""
    now, counts = own[-1], [site.train_slices for site in rounds[-1].sites]
    if len(counts) >= _FEWEST and now.train_slices > SLICES_FACTOR * median(counts):
        return f"it says that it has {now.train_slices} slices, the median of all is {median(counts):g} (weight capped)"
    return ""


_RULES: Mapping[str, Callable[[Sequence[SiteRecord], Sequence[RoundRecord]], str]] = {
    "norm": _norm,
    "cosine": _cosine,
    "loss": _loss,
    "collapse": _collapse,
    "traffic": _traffic,
    "slices": _slices,
}
NAMES = (*_RULES, "reply", "absent")


def _of(site: str, record: RoundRecord) -> SiteRecord | None:
    return next((one for one in record.sites if one.site == site), None)


def _streak(site: str, rounds: Sequence[RoundRecord]) -> int:
    count = 0
    for record in reversed(rounds):
        if site not in record.left_out:
            break
        count += 1
    return count
