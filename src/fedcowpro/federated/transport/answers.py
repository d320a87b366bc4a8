"""What a site may say, field by field: the type and the bounds of all that a reply tells, checked before it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fedcowpro.config import PrepareConfig
from fedcowpro.core.text import printable
from fedcowpro.federated.site.local_training import SiteFacts
from fedcowpro.federated.transport import messages as records

Kind = TypeVar("Kind", bound="Answer")


class BadAnswer(ValueError):
    """Why an answer is not used: one line, fit to be printed."""


def _finite_or_nan(value: float) -> float:
    if math.isinf(value):
        raise ValueError("infinite")
    return value


def _in_unit_or_nan(value: float) -> float:
    if not (math.isnan(value) or 0 <= value <= 1):
        raise ValueError("not in 0..1")
    return value


def _settings(text: str) -> str:
    PrepareConfig.model_validate_json(text)
    return text


Name = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=64)]
Count = Annotated[int, Field(strict=True, ge=0, le=10**7)]
Value = Annotated[float, Field(strict=True), AfterValidator(_finite_or_nan)]
Term = Annotated[str, StringConstraints(strict=True, pattern=r"^[a-z][a-z0-9_-]*$", max_length=40)]


class Answer(BaseModel):
    """Base of all that a site may say: no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Facts(Answer):
    """`SiteFacts`."""

    name: Name
    modality: Literal["ct", "mr", "ct+mr"]
    cases: Annotated[Count, Field(ge=1)]
    train_slices: Annotated[Count, Field(ge=1)]
    size: Annotated[int, Field(strict=True, ge=32, le=4096, multiple_of=32)]
    digest: Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-z]+$", max_length=128)]
    settings: Annotated[str, StringConstraints(strict=True, max_length=20_000), AfterValidator(_settings)]


class Metrics(Answer):
    """Numbers that come with a site's tensors; NaN where it has none. `weight` are the slices that it trained on."""

    weight: Annotated[float, Field(strict=True, gt=0, le=10**7, allow_inf_nan=False)]
    steps: Count = 0
    abstains: Annotated[int, Field(strict=True, ge=0, le=1)] = 0
    seconds: Value = math.nan
    pseudo_dice: Annotated[float, Field(strict=True), AfterValidator(_in_unit_or_nan)] = math.nan
    losses: Annotated[dict[Term, Value], Field(max_length=32)] = Field(default_factory=dict)


def read_facts(record: Mapping[str, Any]) -> SiteFacts:
    """Facts of a site from its answer.

    Raises:
        BadAnswer: a field that lacks, is not known, or is not of its type or within its bounds.
    """
    return SiteFacts(**checked(_Facts, dict(record)).model_dump())


def read_metrics(record: Mapping[str, Any]) -> Metrics:
    """Numbers of a site from its reply.

    Raises:
        BadAnswer: as `read_facts`.
    """
    names = {records.WEIGHT: "weight", "pseudo-dice": "pseudo_dice"}
    found: dict[str, Any] = {"losses": {}}
    for key, value in record.items():
        if key.startswith(records.LOSS_PREFIX):
            found["losses"][key.removeprefix(records.LOSS_PREFIX)] = value
        else:
            found[names.get(key, key)] = value
    return checked(Metrics, found)


def checked(kind: type[Kind], found: dict[str, Any]) -> Kind:
    """An answer as its model.

    Raises:
        BadAnswer: a field that lacks, is not known, or is not of its type or within its bounds.
    """
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        field = printable(".".join(map(str, first["loc"])))
        value = "missing" if first["type"] == "missing" else repr(first["input"])
        raise BadAnswer(f"'{field}' is {printable(value)}: {printable(first['msg'], 120)}") from error
    except OverflowError as error:
        raise BadAnswer(f"a number beyond measure: {printable(error)}") from error
