"""Records of trainings: what each client did in each round, and how far it went from the others."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.summary import rounds_table

RECORD, METRICS_FILE, CONFIG, MODEL = "run.json", "metrics.jsonl", "config.yaml", "model.safetensors"
_OF_ONE_RUN = ("seed", "sites", "threads", "inference")  # inference: the columns of the scores tell
User = tuple[str, int]


@dataclass(frozen=True)
class Training:
    """One run.

    Attributes:
        key: its folder's name.
        folder: where it lies.
        record: run.json.
        rounds: rows (site, round): those of `summary.rounds_table`, with `weight` (share of the average) and
            `drift` (see `with_drift`).
        left_out: site -> number of rounds in which it was left out of the average.
        users: (method, seed) of the scores that its model got.
        settings: config.yaml without what may differ between runs of one method; empty where it is missing.
    """

    key: str
    folder: Path
    record: Mapping[str, Any]
    rounds: pd.DataFrame
    left_out: Mapping[str, int]
    users: tuple[User, ...]
    settings: Mapping[str, Any]

    def used_by(self, users: Sequence[User]) -> Training:
        """The same with other users."""
        return replace(self, users=tuple(dict.fromkeys(users)))

    @property
    def seed(self) -> int:
        """Of the training."""
        return int(self.record.get("seed", 0))

    @property
    def label(self) -> str:
        """The methods that use it, else its folder."""
        return "; ".join(dict.fromkeys(method for method, _ in self.users)) or self.key

    @property
    def clients(self) -> list[str]:
        """Names of its sites."""
        return sorted(self.rounds["site"].unique())


def read_training(folder: Path, users: Sequence[User] = ()) -> Training:
    """Read a run folder, also of a run that is not finished.

    Raises:
        FedCoWProError: no run there, or damaged records.
    """
    record = read_json(folder / RECORD, "the record of a run")
    sites, left_out = [], dict[str, int]()
    for line in _lines(folder / METRICS_FILE):
        if line.get("kind") == "site":
            sites.append(line)
        for site in line.get("left_out") or {}:
            left_out[site] = left_out.get(site, 0) + 1
    settings, key = _settings(folder / CONFIG), folder.resolve().name
    return Training(key, folder, record, with_drift(sites), left_out, tuple(users), settings)


def with_drift(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """`rounds_table` with the columns `weight` and `drift`.

    Drift is the distance of a client's update from the mean update, in units of the mean update's norm: 0 = the
    client did what all did together. Lines hold a client's norm n and its cosine c to the mean, not the mean's norm
    M; but as the mean is the sum of w times the updates, M = sum of w c n, and drift = sqrt(n^2 - 2 c n M + M^2) / M.
    It is NaN where a weight or a norm is missing or the mean does not move.
    """
    table = rounds_table(lines)
    given = {(str(line.get("site")), line.get("round")): line.get("weight") for line in lines}
    keys = zip(table["site"].astype(str), table["round"], strict=True)
    table["weight"] = pd.to_numeric(pd.Series([given.get(key) for key in keys], index=table.index), errors="coerce")
    norm, along = table["update_norm"], table["update_norm"] * table["update_cosine"].fillna(0)
    known = (table["weight"] * along).where(norm.notna())
    mean = known.groupby(table["round"]).transform(lambda part: part.sum() if part.notna().all() else math.nan)
    mean = mean.where(mean > 0)
    table["drift"] = np.sqrt((norm**2 - 2 * along * mean + mean**2).clip(lower=0)) / mean
    return table


def read_json(file: Path, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        FedCoWProError: missing or damaged.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FedCoWProError(f"{file}: {error}", what, "check the folder, or make it again") from error
    if not isinstance(found, dict):
        raise FedCoWProError(f"{file} holds no object", what, "check the folder, or make it again")
    return found


def _settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        return {name: found[name] for name in sorted(found) if name not in _OF_ONE_RUN}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError) as error:
        raise FedCoWProError(f"{file}: {error}", "the settings of a run", "bring the file back") from error


def _lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last one that an interruption cut short is left out."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise FedCoWProError(f"{file}: {error}", "the log of a run", "check the file") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise FedCoWProError(
                f"{file}, line {number}: {error}", "lines of JSON", "bring the file back, or leave out this run"
            ) from error
        if isinstance(entry, dict):
            found.append(entry)
    return found
