"""What the sites of a run told: scores of its models on their own cases, refusals, and alarms of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedcowpro.reports.comparison import wording
from fedcowpro.reports.comparison.evidence import Evidence
from fedcowpro.reports.comparison.trainings import Training
from fedcowpro.reports.toolkit.blocks import Block, Cell, Grid, Heading, Items, Section, Text, Value, columns
from fedcowpro.reports.toolkit.html import MISSING, number

_FIRST = ("global", "own")  # models that are no site's
Entry = Mapping[str, Any]


def federation(evidence: Evidence) -> Section | None:
    """A matrix of models and sites per run, in the last round that was scored; then alarms."""
    scored = [run for run in evidence.trainings if run.scores]
    alarmed = [
        f"{_name(run)}, round {line['round']}, site {line['site']}: {line['text']}."
        for run in evidence.trainings
        for line in run.alarms
    ]
    if not scored and not alarmed:
        return None
    blocks: list[Block] = []
    if scored:
        blocks += [Text(wording.FEDERATED_SCORES), *_matrix(scored), *_organs(scored), *_refusals(scored)]
    if alarmed:
        blocks += [Heading("Alarms"), Text(wording.ALARMS), Items(tuple(alarmed))]
    return Section("What the sites measured" if scored else "Alarms of the training", tuple(blocks))


def _matrix(runs: Sequence[Training]) -> list[Grid]:
    """Rows: models; columns: sites that measured."""
    sites = sorted({entry["site"] for run in runs for entry in run.scores})
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        found = {(entry["model"], entry["site"]): entry for entry in _last(run)}
        for model in sorted({model for model, _ in found}, key=lambda name: (name not in _FIRST, name)):
            cells = [_cell(found.get((model, site), {}).get("scores", ())) for site in sites]
            rows.append((_name(run), model, *cells))
    return columns(("Run", "Model", *(f"cases of {site}" for site in sites)), rows, 2, words=2)


def _organs(runs: Sequence[Training]) -> list[Block]:
    """Per organ and protocol: the models that are no site's."""
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        for entry in _last(run):
            for score in entry["scores"] if entry["model"] in _FIRST else ():
                mean = score["mean"]
                cells = (MISSING, MISSING) if mean is None else (number(mean), number(score["sd"]))
                cases = "too few" if mean is None else str(score["cases"])
                names = (_name(run), entry["model"], entry["site"], score["organ"], score["protocol"])
                rows.append((*names, *cells, cases))
    if not rows:
        return []
    head = ("Run", "Model", "Site", "Organ", "Protocol", "Mean Dice", "SD over cases", "Cases")
    return [Heading("Organ by organ"), Grid(head, tuple(rows), words=5)]


def _refusals(runs: Sequence[Training]) -> list[Block]:
    said = dict.fromkeys(
        f"{_name(run)}, site {entry['site']}, model {entry['model']}: {entry['reason']}."
        for run in runs
        for entry in _last(run)
        if entry["reason"]
    )
    return [Heading("Sites without a number"), Items(tuple(said))] if said else []


def _last(run: Training) -> list[Entry]:
    newest = max(entry["round"] for entry in run.scores)
    return [entry for entry in run.scores if entry["round"] == newest]


def _cell(scores: Sequence[Entry]) -> Cell:
    known = [score for score in scores if score["protocol"] == "whole-volume" and score["mean"] is not None]
    if not known:
        return MISSING
    return Value(number(sum(s["mean"] for s in known) / len(known)), f"n = {min(s['cases'] for s in known)}")


def _name(run: Training) -> str:
    return f"{run.label}, seed {run.seed}"
