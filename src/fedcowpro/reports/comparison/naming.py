"""Tables of several files as one, in which a name stands for one method."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd

from fedcowpro.evaluation.metrics import METRICS
from fedcowpro.evaluation.protocol import COLUMNS
from fedcowpro.evaluation.summary import BEFORE
from fedcowpro.reports.comparison.sources import Source, with_distinct_labels
from fedcowpro.reports.comparison.trainings import Training
from fedcowpro.reports.toolkit.numbers import count, listed

SCORE = [column for column in COLUMNS if column not in METRICS]  # what makes a score another one
SOURCE = "source"  # column: the number of the table


def joined(sources: Sequence[Source]) -> tuple[pd.DataFrame, list[Training], list[str]]:
    """All scores, all trainings with the names that their methods got, and sentences on what was done.

    A method of one name in several tables of scores is one method, with more seeds, sites or cases. Where two tables
    have the same score of it with different values, or one of them is a study, or its runs were trained with different
    settings, these are several methods, named by the tables. Scores that are the same to the last digit count once.
    """
    labels = with_distinct_labels(sources)
    owned = [(source, scores) for source in sources for scores in source.tables]
    frames = [scores.rows.assign(**{SOURCE: number}) for number, (_, scores) in enumerate(owned)]
    notes: list[str] = []
    renamed: dict[tuple[int, str], str] = {}
    names = list(dict.fromkeys(str(name) for frame in frames for name in frame["method"]))
    for name in names:
        holders = [index for index, frame in enumerate(frames) if (frame["method"] == name).any()]
        if len(holders) < 2:
            continue
        parts = pd.concat([frames[index][frames[index]["method"] == name] for index in holders])
        owners = [owned[index][0] for index in holders]
        if _is_one(name, parts, owners):
            notes.append(f"'{name}' is put together from {listed([labels[index] for index in holders])}.")
            continue
        for index in holders:
            renamed[index, name] = _new_name(name, labels[index], frames[index], {*names, *renamed.values()})
        notes.append(
            f"'{name}' of {listed([labels[index] for index in holders])} are different methods, here named "
            f"{listed([repr(renamed[index, name]) for index in holders])}."
        )
    for index, frame in enumerate(frames):
        changes = {name: new for (place, name), new in renamed.items() if place == index}
        frames[index] = frame.assign(method=frame["method"].replace(changes))
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*COLUMNS, SOURCE])
    options = [column for column in table.columns if column not in (*COLUMNS, SOURCE)]
    table[options] = table[options].fillna("").astype(str)
    # Twice in one table is a mistake, which the statistics refuse.
    again = table.duplicated([column for column in table.columns if column != SOURCE]) & ~table.duplicated()
    if again.any():
        notes.append(f"{count(int(again.sum()), 'score')} found in more than one table, with equal values, count once.")
    return table[~again].reset_index(drop=True), _trainings(sources, renamed), notes


def _is_one(name: str, parts: pd.DataFrame, owners: Sequence[Source]) -> bool:
    """Whether rows of one name are those of one method."""
    clash = parts.drop(columns=SOURCE).drop_duplicates().duplicated(SCORE).any()
    if clash or (len(owners) > 1 and any(source.kind == "study" for source in owners)):
        return False
    runs = [training for source in owners for training in source.trainings if training.settings]
    if name == BEFORE:
        return len({json.dumps(training.settings.get("model")) for training in runs}) < 2
    mine = [training for training in runs if name in [method for method, _ in training.users]]
    return len({json.dumps(training.settings) for training in mine}) < 2


def _new_name(name: str, label: str, frame: pd.DataFrame, taken: set[str]) -> str:
    alone = frame["method"].nunique() == 1 and label not in taken
    new = label if alone else f"{name} ({label})"
    while new in taken:
        new += "'"
    return new


def _trainings(sources: Sequence[Source], renamed: dict[tuple[int, str], str]) -> list[Training]:
    """Trainings with their methods' new names; a run's tables may have given one method several."""
    found, first = [], 0
    for source in sources:
        places = range(first, first + len(source.tables))
        first += len(source.tables)
        for training in source.trainings:
            users = []
            for method, seed in training.users:
                names = [renamed[place, method] for place in places if (place, method) in renamed] or [method]
                users += [(name, seed) for name in names]
            found.append(training.used_by(users))
    return found
