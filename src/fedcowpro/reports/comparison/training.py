"""How the trainings went: convergence, divergence of clients, time and traffic."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from fedcowpro.evaluation.summary import share_of_model
from fedcowpro.reports.comparison import wording
from fedcowpro.reports.comparison.inputs import Inputs
from fedcowpro.reports.comparison.training_charts import curves
from fedcowpro.reports.comparison.trainings import Training
from fedcowpro.reports.toolkit.blocks import Block, Cell, Chart, Heading, Items, Section, Table, Text, Value
from fedcowpro.reports.toolkit.numbers import count, number

_CURVES = (
    ("total", "Training loss", 0.0, None),
    ("pseudo_dice", "Dice on pseudo-labels", 0.0, 1.0),
    ("update_cosine", "Agreement with the mean update (cosine)", 0.0, 1.0),
    ("update_norm", "Size of updates (norm)", 0.0, None),
    ("drift", "Drift from the mean update", 0.0, None),
)
_LISTED = 6  # clients that have rows of their own
_ARROW = "\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}"
Group = tuple[str, list[Training]]


def training(inputs: Inputs) -> Section | None:
    """Curves and tables of all trainings, those of one method together."""
    groups = grouped([one for one in inputs.trainings if len(one.rounds)])
    if not groups:
        return None
    blocks: list[Block] = [Text(wording.TRAINING)]
    for value, title, low, high in _CURVES:
        if any(run.rounds[value].notna().any() for _, runs in groups for run in runs):
            draw = partial(curves, groups, value, title, low=low, high=high)
            blocks.append(Chart(draw, f"{title} of each client over the rounds, a panel per method"))
    blocks += [Heading("First and last round"), _ends(groups)]
    blocks += _left_out(groups)
    blocks += [Heading("Time and traffic"), _traffic(groups), Text(wording.TRAFFIC, "note")]
    return Section("Training", tuple(blocks))


def grouped(trainings: Sequence[Training]) -> list[Group]:
    """Trainings of the same methods, which differ in the seed only."""
    groups: dict[str, list[Training]] = {}
    for one in trainings:
        groups.setdefault(one.label, []).append(one)
    return list(groups.items())


def _ends(groups: Sequence[Group]) -> Table:
    """First and last round per method and client; many clients in one row."""
    rows: list[tuple[Cell, ...]] = []
    for label, runs in groups:
        table = pd.concat([run.rounds.assign(run=index) for index, run in enumerate(runs)])
        clients = sorted(table["site"].unique())
        parts = [(count(len(clients), "client"), table)] if len(clients) > _LISTED else []
        parts = parts or [(str(client), table[table["site"] == client]) for client in clients]
        for client, part in parts:
            rows.append((label, client, str(len(runs)), *_first_and_last(part)))
    head = ("Method", "Client", "Runs", "Loss", "Pseudo-label Dice", "Cosine", "Norm", "Drift")
    caption = "First → last round, mean over runs and clients of the row; the range of the last round below"
    return Table(head, tuple(rows), caption=caption, words=2)


def _first_and_last(part: pd.DataFrame) -> list[Cell]:
    ends = part.groupby(["run", "site"])["round"]
    first, last = part[part["round"] == ends.transform("min")], part[part["round"] == ends.transform("max")]
    cells: list[Cell] = []
    for value, *_ in _CURVES:
        final = last[value].dropna()
        text = f"{number(first[value].mean())}{_ARROW}{number(last[value].mean())}"
        cells.append(Value(text, f"{number(final.min())} to {number(final.max())}" if len(final) > 1 else ""))
    return cells


def _left_out(groups: Sequence[Group]) -> list[Block]:
    said = [
        f"{label}, seed {run.seed}: client {site} was left out of the average in {count(rounds, 'round')}."
        for label, runs in groups
        for run in runs
        for site, rounds in run.left_out.items()
    ]
    return [Items(tuple(said))] if said else []


def _traffic(groups: Sequence[Group]) -> Table:
    rows = []
    for label, runs in groups:
        table = pd.concat([run.rounds for run in runs])
        clients, rounds = (
            _span([len(run.clients) for run in runs]),
            _span([run.rounds["round"].nunique() for run in runs]),
        )
        down, up = (table[name].mean() / 1e6 for name in ("bytes_down", "bytes_up"))
        total = np.mean([run.rounds[["bytes_down", "bytes_up"]].sum().sum() for run in runs]) / 1e6
        seconds = table["seconds"]
        cell = Value(number(seconds.mean(), 2), f"{number(seconds.min(), 2)} to {number(seconds.max(), 2)}")
        sizes = (number(down, 2), number(up, 2), number(total, 1), number(share_of_model(table), 2))
        rows.append((label, str(len(runs)), clients, rounds, cell, *sizes))
    head = ("Method", "Runs", "Clients", "Rounds", "Seconds", "MB received", "MB sent", "MB in all", "Share")
    caption = "Per client and round; in all: a run, mean over runs; share: 1 = the model in full precision, each way"
    return Table(head, tuple(rows), caption=caption)


def _span(values: Sequence[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else f"{min(values)} to {max(values)}"
