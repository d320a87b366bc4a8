"""Splits into support, queries and training, as files that people share; four of the literature's come along."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from fedcowpro.config import Config, load
from fedcowpro.core.errors import FedCoWProError

SHIPPED = ("chaos-t2", "btcv", "alpnet-chaos-t2", "alpnet-sabs")


def _quoted(value: object) -> object:
    """YAML reads 0010 as the number 8, so an id is not guessed from a number."""
    if isinstance(value, int | float):
        raise ValueError('write ids in quotes, as in "0010", because YAML reads some numbers as others')
    return value


Id = Annotated[str, BeforeValidator(_quoted)]


class Fold(Config):
    """Ids of cases. `query` and `support` are held out of training."""

    support: Id
    query: tuple[Id, ...] = Field(min_length=1)
    train: tuple[Id, ...] = Field(min_length=1)

    @property
    def cases(self) -> tuple[str, ...]:
        """All cases: training, support, queries."""
        return (*self.train, self.support, *self.query)

    @model_validator(mode="after")
    def _each_case_once(self) -> Fold:
        twice = sorted({case for case in self.cases if self.cases.count(case) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: a case is support, query or training, and named once")
        return self


class Split(Config):
    """The folds of a dataset; `dataset`, `part` and `organs` (where the files do not name them) as for `prepare`."""

    about: str
    dataset: str | None = None
    part: str | None = None
    organs: dict[int, str] | None = None
    folds: tuple[Fold, ...] = Field(min_length=1)


def load_fold(text: str) -> tuple[Split, Fold]:
    """Read 'NAME:FOLD' or 'FILE.yaml:FOLD'; folds count from 0.

    Raises:
        FedCoWProError: not of this form, no such split or fold, or an invalid file.
    """
    name, _, number = text.rpartition(":")
    if not name or not number.isdigit():
        raise FedCoWProError(
            f"--split {text}",
            "NAME:FOLD or FILE.yaml:FOLD, folds from 0",
            f"for example {SHIPPED[0]}:0; shipped: {', '.join(SHIPPED)}",
        )
    if name.endswith((".yaml", ".yml")):
        split = load(Split, Path(name))
    elif name in SHIPPED:
        split = load(Split, Path(str(files(__package__) / f"{name}.yaml")))
    else:
        raise FedCoWProError(
            f"--split {text}: no split '{name}'",
            f"one of {', '.join(SHIPPED)}, or a file that ends with .yaml",
            "correct the name, or write a file as docs/datasets.md shows",
        )
    if int(number) >= len(split.folds):
        raise FedCoWProError(
            f"--split {text}: fold {number}", f"a fold in 0..{len(split.folds) - 1}", "correct the number"
        )
    return split, split.folds[int(number)]
