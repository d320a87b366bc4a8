"""What is compared, as it lies on disk: a table of scores, the folder of a run, or the folder of a study."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.episodes import Episodes, load_episodes
from fedcowpro.evaluation.protocol import read_results
from fedcowpro.evaluation.summary import BEFORE
from fedcowpro.reports.comparison.trainings import METRICS_FILE, RECORD, Training, User, read_training
from fedcowpro.study import table as study_table

Kind = Literal["table", "run", "study"]
_LENGTH = 16  # hex digits of a file's digest


@dataclass(frozen=True)
class Scores:
    """One table of scores.

    Attributes:
        file: where it lies.
        digest: first 16 hex digits of the file's SHA-256.
        label: what its methods are called by where another table has methods of the same name.
        rows: as `read_results` returns it; in a study, the arm is the method.
        episodes: the episode file beside it, None without one.
        episodes_digest: of that file.
    """

    file: Path
    digest: str
    label: str
    rows: pd.DataFrame
    episodes: Episodes | None = None
    episodes_digest: str | None = None

    @property
    def episodes_file(self) -> Path:
        """Where `evaluate` writes the episodes of this table."""
        return self.file.with_suffix(".episodes.json")


@dataclass(frozen=True)
class Source:
    """What the user named.

    Attributes:
        path: as given.
        tables: of scores; none where nothing was scored yet.
        trainings: runs that it holds.
        record: study.json, empty for the other kinds.
    """

    kind: Kind
    path: Path
    tables: tuple[Scores, ...]
    trainings: tuple[Training, ...] = ()
    record: Mapping[str, Any] | None = None

    @property
    def arms(self) -> Mapping[str, Any]:
        """A study's arms by name."""
        return (self.record or {}).get("arms", {})


def open_source(path: Path) -> Source:
    """Read a source; which kind it is, its files tell.

    Raises:
        FedCoWProError: none of the three, or damaged files.
    """
    if path.is_file():
        return Source("table", path, (_scores(path, path.stem),))
    if (path / study_table.RECORD).is_file():
        return _study(path)
    if (path / RECORD).is_file() or (path / METRICS_FILE).is_file():
        return _run(path)
    raise FedCoWProError(
        f"{path} is {'no table, run or study' if path.exists() else 'not there'}",
        f"a CSV of results, a run folder ({RECORD}) or a study folder ({study_table.RECORD})",
        "check the path",
    )


def with_distinct_labels(sources: Sequence[Source]) -> list[str]:
    """One label per table, in order: its own, with as many folders before it as it takes to be the only one."""
    tables = [scores for source in sources for scores in source.tables]
    labels = [scores.label for scores in tables]
    for depth in range(1, 5):
        alike = [label for label in labels if labels.count(label) > 1]
        for index, scores in enumerate(tables):
            if labels[index] in alike:
                parents = scores.file.absolute().parts[-1 - depth : -1]
                labels[index] = "/".join([*parents, scores.file.stem])
    return [f"{label} ({index})" if labels.count(label) > 1 else label for index, label in enumerate(labels, 1)]


def file_digest(file: Path) -> str:
    """First 16 hex digits of the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:_LENGTH]


def _scores(file: Path, label: str) -> Scores:
    scores = Scores(file, "", label, read_results(file))
    beside = scores.episodes_file
    given = (load_episodes(beside), file_digest(beside)) if beside.is_file() else (None, None)
    return Scores(file, file_digest(file), label, scores.rows, *given)


def _run(path: Path) -> Source:
    tables = tuple(_scores(file, path.resolve().name) for file in sorted(path.glob("results*.csv")))
    training = read_training(path)
    pairs = [
        (str(method), int(seed))
        for scores in tables
        for method, seed in scores.rows[["method", "seed"]].drop_duplicates().itertuples(index=False)
    ]
    users = [(method, seed) for method, seed in pairs if method != BEFORE and seed == training.seed]
    return Source("run", path, tables, (training.used_by(users),))


def _study(path: Path) -> Source:
    record = study_table.read_record(path) or {}
    rows = study_table.read_table(path) if (path / study_table.TABLE).is_file() else None
    tables: tuple[Scores, ...] = ()
    if rows is not None:
        file = path / study_table.TABLE
        rows = rows.assign(method=rows["arm"]).drop(columns="arm")
        tables = (Scores(file, file_digest(file), str(record.get("name", path.name)), rows),)
    users: dict[str, list[User]] = {}
    for arm, entry in record.get("arms", {}).items():
        for seed, trial in entry.get("seeds", {}).items():
            if trial.get("folder"):
                users.setdefault(trial["folder"], []).append((arm, int(seed)))
    trainings = tuple(
        read_training(path / folder, who) for folder, who in users.items() if (path / folder / RECORD).is_file()
    )
    return Source("study", path, tables, trainings, record)
