"""Scores that sites gave of a model: what travels, and the files in the run folder.

RUN/evaluation.json has an entry for each round, model and site: the scores, or the reason why there are none.
RUN/evaluation.csv has the same as a table, one row per organ and protocol.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from fedcowpro.config import Config
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.core.text import from_json

FILE, TABLE, FORMAT = "evaluation.json", "evaluation.csv", "fedcowpro-evaluation/1"
GLOBAL, OWN = "global", "own"  # names of models that are no site's
FEWEST = 2  # cases behind any number, whatever a policy says: one has no spread, and is a patient
_COLUMNS = ("round", "model", "site", "organ", "protocol", "cases", "mean", "sd", "reason")


class OrganScore(Config):
    """Dice of one organ at one site: mean, standard deviation (of a sample) and number of cases behind them.

    All three are None where the cases are too few for the site's policy.
    """

    organ: str = Field(min_length=1, max_length=80)
    protocol: Literal["gt-range", "whole-volume"]
    cases: int | None = Field(None, ge=FEWEST)
    mean: float | None = Field(None, ge=0, le=1)
    sd: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _all_or_none(self) -> OrganScore:
        if len({value is None for value in (self.cases, self.mean, self.sd)}) > 1:
            raise ValueError("cases, mean and sd: all of them or none")
        return self


_SCORES = TypeAdapter(tuple[OrganScore, ...])


@dataclass(frozen=True)
class SiteScores:
    """What a site said of a model: scores, or the reason why it has none.

    `model` is 'global', 'own' (the global model with the site's own normalisation layers), or the name of the site
    whose layers it has.
    """

    round: int
    model: str
    site: str
    scores: tuple[OrganScore, ...]
    reason: str = ""

    @property
    def dice(self) -> float | None:
        """Mean Dice over organs, in the protocol that uses nothing of the truth; None without scores."""
        means = [score.mean for score in self.scores if score.protocol == "whole-volume" and score.mean is not None]
        return sum(means) / len(means) if means else None


def to_text(scores: Sequence[OrganScore]) -> str:
    """As JSON, for a message."""
    return json.dumps([score.model_dump() for score in scores])


def from_text(text: str) -> tuple[OrganScore, ...]:
    """What `to_text` wrote, checked.

    Raises:
        ValueError: anything else.
    """
    return _SCORES.validate_json(text)


def keep_scores(run: Path, found: Sequence[SiteScores]) -> None:
    """Add scores to the run folder; earlier ones of the same round, model and site are replaced."""
    kept = {(one.round, one.model, one.site): one for one in (*read_scores(run), *found)}
    ordered = [kept[key] for key in sorted(kept)]
    entries = [{**asdict(one), "scores": [score.model_dump() for score in one.scores]} for one in ordered]
    write_atomic(run / FILE, (json.dumps({"format": FORMAT, "results": entries}, indent=1) + "\n").encode())
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for one in ordered:
        start = (one.round, one.model, one.site)
        for score in one.scores:
            rest = ("fewer cases than the site's policy asks for" if score.mean is None else "",)
            writer.writerow((*start, score.organ, score.protocol, score.cases, score.mean, score.sd, *rest))
        if not one.scores:
            writer.writerow((*start, "", "", "", "", "", one.reason))
    write_atomic(run / TABLE, buffer.getvalue().encode())


def read_scores(run: Path) -> list[SiteScores]:
    """The scores in a run folder; none where nobody asked for them.

    Raises:
        FedCoWProError: a damaged file.
    """
    file = run / FILE
    if not file.exists():
        return []
    try:
        content = from_json(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"not of format {FORMAT}")
        return [
            SiteScores(**{**entry, "scores": tuple(OrganScore.model_validate(score) for score in entry["scores"])})
            for entry in content["results"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FedCoWProError(f"{file}: {error}", "the scores of a run", "bring the file back, or remove it") from error


def forget_scores(run: Path, completed: int) -> None:
    """Drop scores of rounds that will be done again."""
    found = read_scores(run)
    kept = [one for one in found if one.round <= completed]
    if len(kept) < len(found):
        (run / FILE).unlink()
        keep_scores(run, kept)


def metrics_lines(found: Iterable[SiteScores]) -> list[dict[str, Any]]:
    """For metrics.jsonl: a line for each model and site."""
    return [
        {"kind": "evaluation", "round": one.round, "model": one.model, "site": one.site, "dice": one.dice}
        | ({"reason": one.reason} if one.reason else {})
        for one in found
    ]
