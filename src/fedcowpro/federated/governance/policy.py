"""Whether a site's policy permits a message: plain functions that say why not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast, get_args

from flwr.app import Message

from fedcowpro.config import EpisodeConfig, InferConfig, ModelConfig, TrainConfig
from fedcowpro.config.base import Config
from fedcowpro.config.policy import ANY, Kind, SitePolicy
from fedcowpro.core.package import package_digest
from fedcowpro.core.text import from_json, printable
from fedcowpro.federated.governance.tally import Tally
from fedcowpro.federated.transport import messages as records
from fedcowpro.federated.transport.site_errors import SiteError

Part = TypeVar("Part", bound=Config)
SHOWN = 16  # hex digits of a digest in a sentence
_MOST = 10**6  # rounds of a run, or sites
_SECURE = (records.SECURE_KEYS, records.SECURE_SHARES, records.SECURE_UNMASK)


class RefusedError(SiteError):
    """A site's policy does not permit a message; the text is fit to be sent back."""


def refusal_behind(error: BaseException | None) -> RefusedError | None:
    """The refusal that an error is or was raised from; None for all other errors."""
    while error is not None and not isinstance(error, RefusedError):
        error = error.__cause__
    return error


@dataclass(frozen=True)
class Announcement:
    """What a message says of itself: `settings` are the experiment as the server tells it."""

    kind: str
    run: str = ""
    round: int = 0
    package: str = ""
    participants: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def federation(self) -> Mapping[str, Any]:
        """The part of the settings on rounds and averaging."""
        return _mapping(self.settings.get("federation"))

    @property
    def quorum(self) -> int:
        """Fewest sites whose updates make an average."""
        given = self.federation.get("min_sites")
        fewest = self.participants if given is None else _number(given)
        return 0 if fewest is None else min(int(fewest), self.participants)


def announcement(message: Message) -> Announcement:
    """Read a message's settings; what it does not say is empty or 0.

    Raises:
        RefusedError: settings that cannot be read.
    """
    given = records.config_record(message.content, records.CONFIG)
    try:
        said = Announcement(
            printable(message.metadata.message_type.removeprefix("query.")),
            str(given.get(records.RUN, "")),
            int(str(given.get(records.ROUND, 0))),
            str(given.get(records.PACKAGE, "")),
            int(str(given.get(records.PARTICIPANTS, 0))),
            _mapping(from_json(str(given.get(records.EXPERIMENT, "{}")))),
        )
    except ValueError as error:
        raise RefusedError("the message's settings cannot be read") from error
    if said.run != printable(said.run) or not (0 <= said.round <= _MOST and 0 <= said.participants <= _MOST):
        raise RefusedError("the message's name of the run, round or number of sites is none")
    return said


def check_message(policy: SitePolicy, said: Announcement, log: Callable[[], Tally], now: datetime) -> None:
    """Whether the policy permits a message, by what it announces and what was done before.

    Questions that read nothing but counts (kind 'query') always pass. Of the messages of secure aggregation the first
    one of a round has to pass what a training has to, so that a site which refuses is not missed later.

    Args:
        policy: of the site.
        said: by the message.
        log: counts the lines of the site's audit log; it is asked only where rounds are counted.
        now: local time.

    Raises:
        RefusedError: with the reason, for the server to read.
    """
    kind = "train" if said.kind in _SECURE else said.kind
    if kind not in get_args(Kind):
        return
    if kind not in policy.messages:
        raise RefusedError(f"messages of kind '{kind}' are not allowed here, only {', '.join(policy.messages)}")
    _check_hours(policy, now)
    if said.kind in _SECURE[1:]:
        return
    allowed = policy.packages or (package_digest(),)
    if ANY not in allowed and said.package not in allowed:
        which = "one that the site lists" if policy.packages else f"the site's own, {allowed[0][:SHOWN]}"
        raise RefusedError(f"the server's package is {said.package[:SHOWN] or 'not announced'}, allowed is {which}")
    if said.kind != "evaluate" and said.quorum < policy.min_participants:
        raise RefusedError(
            f"at least {policy.min_participants} sites have to be in an average; {said.participants} take part and "
            f"{said.quorum} are enough for the server (federation.min_sites)"
        )
    _check_architecture(policy, said)
    _check_privacy(policy, said)
    _check_costs(policy, said)
    if kind == "train":
        if said.settings.get("teaching") is not None and not policy.teaching:
            raise RefusedError("the site's annotated cases and volumes may not teach a network of organs (teaching)")
        _check_rounds(policy, said, log, now)


def architecture_digest(model: ModelConfig) -> str:
    """Of the model's settings without the path of a weight file."""
    return model.model_copy(update={"weights": None}).digest()


def _check_hours(policy: SitePolicy, now: datetime) -> None:
    if policy.hours is None:
        return
    start, end = policy.hours
    inside = start <= now.hour < end if start < end else now.hour >= start or now.hour < end
    if not inside:
        raise RefusedError(f"the site works between {start} and {end} o'clock, here it is {now.hour}:{now.minute:02}")


def _check_architecture(policy: SitePolicy, said: Announcement) -> None:
    if not policy.architectures or said.kind == "layers":
        return
    try:
        found = architecture_digest(ModelConfig.model_validate(said.settings.get("model", {})))
    except ValueError as error:
        raise RefusedError("the settings of the model cannot be read") from error
    if found not in policy.architectures:
        raise RefusedError(f"the architecture {found} is not among those that the site allows")


def _check_privacy(policy: SitePolicy, said: Announcement) -> None:
    wanted, given = policy.privacy, _mapping(said.federation.get("privacy"))
    mechanism, secure = str(given.get("mechanism", "none")), given.get("secure_aggregation") is True
    if mechanism not in wanted.mechanism:
        raise RefusedError(f"differential privacy is '{mechanism}', required is {' or '.join(wanted.mechanism)}")
    if wanted.secure_aggregation and not secure:
        raise RefusedError("updates are not aggregated securely (federation.privacy.secure_aggregation)")
    clip, noise = _number(given.get("clip")), _number(given.get("noise_multiplier"))
    clipped = "none" if mechanism == "none" and not secure else ""
    if wanted.max_clip is not None and (clipped == "none" or clip is None or clip > wanted.max_clip):
        raise RefusedError(f"updates are clipped at {_shown(clip, clipped)}, required is {wanted.max_clip:g} or less")
    least = wanted.min_noise_multiplier
    if least is not None and (mechanism == "none" or noise is None or noise < least):
        raise RefusedError(f"the noise multiplier is {_shown(noise, mechanism)}, required is {least:g} or more")


def _check_costs(policy: SitePolicy, said: Announcement) -> None:
    """What a step or a slice costs, so that a run within its steps is not without bounds."""
    if said.kind == "layers":
        return
    if said.kind == "evaluate":
        infer = _part(InferConfig, said, "inference")
        count, most = infer.support_slices, policy.max_support_slices
        if most is not None and (count == "all" or count > most):
            raise RefusedError(f"{count} annotated slices per organ are announced, allowed are {most}")
        if (area := sum(scale**2 for scale in infer.scales)) > policy.max_scales:
            raise RefusedError(f"scales whose squares sum to {area:g} are announced, allowed is {policy.max_scales:g}")
    else:
        images = _part(TrainConfig, said, "train").batch * (1 + _part(EpisodeConfig, said, "episodes").support_views)
        if images > policy.max_step_images:
            raise RefusedError(f"{images} slices per step are announced, allowed are {policy.max_step_images}")
    channels = _part(ModelConfig, said, "model").channels
    if channels is not None and channels > policy.max_channels:
        raise RefusedError(f"{channels} channels are announced, allowed are {policy.max_channels}")


def _part(kind: type[Part], said: Announcement, name: str) -> Part:
    try:
        return kind.model_validate(said.settings.get(name, {}))
    except ValueError as error:
        raise RefusedError(f"the settings under '{name}' cannot be read") from error


def _check_rounds(policy: SitePolicy, said: Announcement, log: Callable[[], Tally], now: datetime) -> None:
    parts = [said.federation, *([_mapping(said.settings["teaching"])] if said.settings.get("teaching") else [])]
    steps, rounds = (_most([_number(part.get(name)) for part in parts]) for name in ("local_steps", "rounds"))
    if policy.max_local_steps is not None and (steps is None or steps > policy.max_local_steps):
        raise RefusedError(f"{_shown(steps)} steps per round are announced, allowed are {policy.max_local_steps}")
    if policy.max_rounds is not None and (rounds is None or max(rounds, said.round) > policy.max_rounds):
        raise RefusedError(f"{_shown(rounds)} rounds are announced, allowed are {policy.max_rounds}")
    of_a_day = policy.max_rounds if policy.max_rounds_per_day is None else policy.max_rounds_per_day
    if of_a_day is None and policy.max_total_rounds is None:
        return
    done = log()
    of_run = done.of_run.get(said.run, 0)
    if policy.max_rounds is not None and of_run >= policy.max_rounds:
        raise RefusedError(f"the site has trained {of_run} rounds of this run, as many as it allows")
    # Whatever names the server gives to runs.
    yesterday = (now.astimezone(UTC) - timedelta(days=1)).isoformat(timespec="milliseconds")
    today = sum(time > yesterday for time in done.recent)
    if of_a_day is not None and today >= of_a_day:
        raise RefusedError(f"the site has trained {today} rounds of all runs in 24 hours, as many as it allows")
    if policy.max_total_rounds is not None and done.trained >= policy.max_total_rounds:
        raise RefusedError(f"the site has trained {done.trained} rounds of all runs, as many as it allows")


def _most(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _shown(value: float | None, mechanism: str = "") -> str:
    return "none" if mechanism == "none" else "not announced" if value is None else f"{value:g}"
