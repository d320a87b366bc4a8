"""Where every number comes from: files, settings, data, versions, and the commands that make them again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from fedcowpro import __version__
from fedcowpro.evaluation.episodes import Episode, Episodes, load_episodes
from fedcowpro.evaluation.options import settings_of
from fedcowpro.evaluation.summary import BEFORE
from fedcowpro.reports.comparison import wording
from fedcowpro.reports.comparison.comparable import TOLERANCE, options_of
from fedcowpro.reports.comparison.inputs import Inputs
from fedcowpro.reports.comparison.naming import SOURCE
from fedcowpro.reports.comparison.settings import ComparisonSettings
from fedcowpro.reports.comparison.sites import digest_of, site_folders
from fedcowpro.reports.comparison.sources import Scores, Source
from fedcowpro.reports.comparison.trainings import MODEL, Training, read_json
from fedcowpro.reports.toolkit.blocks import Block, Cell, Command, Section, Table, Text
from fedcowpro.reports.toolkit.numbers import MISSING, listed, shown

_OWN = ("pairing", "scales", "refine", "threshold", "keep_components")  # settings with an option of their own


def provenance(
    inputs: Inputs, settings: ComparisonSettings, command: str | None, folders: Mapping[str, Path]
) -> Section:
    """Everything that it takes to check or repeat the page."""
    blocks: list[Block] = [
        Text(wording.PROVENANCE.format(version=__version__, seed=settings.seed, resamples=settings.resamples))
    ]
    if command:
        blocks.append(Command("This page", command))
    for source in inputs.sources:
        if (source.record or {}).get("command"):
            blocks.append(Command(f"Trainings and scores of {source.path}", str((source.record or {})["command"])))
    for source in inputs.sources:
        if source.kind == "run":
            words = ["fedcowpro", "federate", str(source.path / "config.yaml"), "--out", "NEW_RUN"]
            blocks.append(Command(f"Training of {source.path}", shlex.join(words)))
        if source.kind != "study":
            for scores in source.tables:
                lines = "\n".join(_evaluate(source, scores, folders))
                blocks.append(Command(f"Scores of {scores.file}; words in capitals are for you to fill in", lines))
    files, episodes = _tables(inputs), _episodes(inputs)
    blocks += [grid for grid in (files, episodes) if grid.rows]
    blocks += [Text(wording.IDS, "note")] if episodes.rows else []
    blocks += _settings(inputs)
    grids = (_runs(inputs), _training_data(inputs), _scored_data(inputs), _trials(inputs))
    blocks += [grid for grid in grids if grid.rows]
    return Section("Where the numbers come from", tuple(blocks))


def _evaluate(source: Source, scores: Scores, folders: Mapping[str, Path]) -> Iterator[str]:
    """A command per method of a table."""
    sites = dict.fromkeys([*scores.rows["site"], *(name for name in scores.rows["support_site"] if "+" not in name)])
    if scores.episodes is not None:
        sites = dict.fromkeys(scores.episodes.digests)
    trained = {method: run.folder for run in source.trainings for method, _ in run.users}
    for method, rows in scores.rows.groupby("method", sort=False):
        model = str(trained.get(str(method), source.path if source.kind == "run" else "MODEL"))
        words = ["fedcowpro", "evaluate", "--model", model]
        words += [word for name in sites for word in ("--site", f"{name}={folders.get(name, 'FOLDER')}")]
        if scores.episodes is not None:
            words += ["--episodes", str(scores.episodes_file)]
        for protocol in dict.fromkeys(rows["protocol"]):
            words += ["--protocol", protocol]
        words += [word for option in options_of(rows) for word in _option(option, rows)]
        if TOLERANCE in rows.columns:
            words += ["--tolerance", str(rows[TOLERANCE].iloc[0])]
        words += ["--untrained"] if method == BEFORE else ["--method", str(method)]
        yield shlex.join([*words, "--out", "NEW.csv"])


def _option(option: str, rows: pd.DataFrame) -> list[str]:
    values = [value for value in dict.fromkeys(rows[option]) if value != ""]
    if not values:
        return []
    setting = settings_of({option: values[0]})
    if setting and option not in _OWN:
        return ["--set", f"{option}={json.dumps(setting[option])}"]
    name = "--" + option.replace("_", "-")
    if values[0] in ("true", "false"):
        return [name if values[0] == "true" else f"--no-{name[2:]}"]
    # Whole-volume scores always have the one way of pairing; the other one was asked for.
    return [name, next((value for value in values if value != "all-slices"), values[0]).replace("+", ",")]


def _tables(inputs: Inputs) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for source in inputs.sources:
        for scores in source.tables:
            methods = listed(list(dict.fromkeys(map(str, scores.rows["method"]))))
            seeds = ", ".join(map(str, sorted(scores.rows["seed"].unique())))
            episodes = f"{scores.episodes_file.name}, {scores.episodes_digest}" if scores.episodes else MISSING
            version = scores.episodes.fedcowpro if scores.episodes else _version(source.record)
            rows.append((str(scores.file), scores.digest, str(len(scores.rows)), methods, seeds, episodes, version))
    head = ("Table of scores", "SHA-256", "Rows", "Methods", "Seeds", "Episodes, SHA-256", "fedcowpro")
    return Table(head, tuple(rows), words=len(head), caption="Files; digests are the first 16 hex digits")


def _episodes(inputs: Inputs) -> Table:
    """The manifest: annotated cases, their slices and the cases that were asked, with the methods that it held for."""
    found: dict[tuple[str, ...], dict[str, None]] = {}
    for methods, plan in _plans(inputs):
        for episode in plan.episodes:
            slices = [f"{organ} {_slices(episode, organ)}" for organ in episode.organs]
            row = (episode.site, episode.support_site, episode.support_case, "; ".join(slices))
            found.setdefault((*row, ", ".join(episode.queries)), {}).update(dict.fromkeys(methods))
    everyone = set(inputs.methods)
    rows = tuple((*row, "all" if everyone <= set(methods) else listed(list(methods))) for row, methods in found.items())
    head = ("Site", "Annotated at", "Annotated case", "Slices", "Cases", "Methods")
    return Table(head, rows, words=len(head), caption=f"Episodes. {wording.EPISODES}")


def _plans(inputs: Inputs) -> Iterator[tuple[list[str], Episodes]]:
    """Methods and their episodes, from the files beside tables and beside each trial of a study."""
    number = -1
    for source in inputs.sources:
        for scores in source.tables:
            number += 1
            # Under the names that the methods have on this page; a table may have no comparable row.
            mine = inputs.rows.loc[inputs.rows[SOURCE] == number, "method"]
            if scores.episodes is not None and len(mine):
                yield list(dict.fromkeys(map(str, mine))), scores.episodes
        for arm, entry in source.arms.items():
            for results in dict.fromkeys(trial["results"] for trial in entry["seeds"].values()):
                file = (source.path / results).with_suffix(".episodes.json")
                if file.is_file():
                    yield [arm], load_episodes(file)


def _slices(episode: Episode, organ: str) -> str:
    parts = [", ".join(str(z + 1) for z in example.slices.get(organ, ())) for example in episode.supports]
    return " + ".join(part or MISSING for part in parts)


def _settings(inputs: Inputs) -> list[Block]:
    """What all methods have in common in a sentence, the rest in a table."""
    options = [name for name in (*options_of(inputs.rows), TOLERANCE) if name in inputs.rows.columns]
    values = {name: inputs.rows[name].map(str).unique() for name in ("support_slices", *options)}
    common = [f"{_words(name)} {shown(found[0])}" for name, found in values.items() if len(found) == 1]
    differing = [name for name, found in values.items() if len(found) > 1]
    blocks: list[Block] = [Text(wording.SAME_SETTINGS.format(settings=", ".join(common)), "note")] if common else []
    rows = []
    for (method, protocol), part in inputs.rows.groupby(["method", "protocol"], sort=False):
        cells = (" or ".join(sorted(map(str, part[option].unique()))) for option in differing)
        rows.append((str(method), str(protocol), *(shown(cell) for cell in cells)))
    head = ("Method", "Protocol", *map(_words, differing))
    grid = Table(
        head, tuple(rows), words=len(head), caption="Settings of inference that differ, as the tables have them"
    )
    return [*blocks, grid] if differing and rows else blocks


def _words(name: str) -> str:
    return name.replace("_", " ")


def _runs(inputs: Inputs) -> Table:
    versions = [_all_versions(run) for run in inputs.trainings]
    alike = len(set(versions)) == 1
    rows = []
    for run, known in zip(inputs.trainings, versions, strict=True):
        facts = (run.record.get("config_digest"), _weights(run), run.record.get("started"))
        rows.append((run.label, str(run.seed), str(run.folder), *map(shown, facts), *([] if alike else [known])))
    head = ("Method", "Seed", "Run", "Settings", "Weights", "Started", *([] if alike else ["Versions"]))
    caption = "Trainings, with digests of settings and weights" + (f"; all with {versions[0]}" if alike else "")
    return Table(head, tuple(rows), words=len(head), caption=caption)


def _all_versions(run: Training) -> str:
    return ", ".join(f"{name} {version}" for name, version in run.record.get("versions", {}).items()) or "no versions"


def _weights(run: Training) -> str:
    card = (run.folder / MODEL).with_suffix(".json")
    return shown(read_json(card, "the card of a model").get("weights_digest", ""))[:16] if card.is_file() else MISSING


def _training_data(inputs: Inputs) -> Table:
    rows: dict[tuple[str, ...], None] = {}
    for run in inputs.trainings:
        for name, site in run.record.get("sites", {}).items():
            facts = (site.get("modality"), site.get("cases"), site.get("train_slices"), site.get("digest"))
            rows[run.label, name, *map(shown, facts)] = None
    head = ("Method", "Client", "Modality", "Cases", "Training slices", "Digest")
    return Table(head, tuple(rows), words=len(head), caption="Training data")


def _scored_data(inputs: Inputs) -> Table:
    rows: dict[tuple[str, ...], None] = {}
    for source in inputs.sources:
        for scores in source.tables:
            for name, digest in (scores.episodes.digests if scores.episodes else {}).items():
                rows[name, digest, str(scores.episodes_file)] = None
        for (_, name), folder in site_folders(source).items():
            rows[name, digest_of(folder), str(folder)] = None
    return Table(("Site", "Digest", "As in"), tuple(rows), words=3, caption="Scored data")


def _trials(inputs: Inputs) -> Table:
    rows = [
        (arm, seed, shown(trial.get("run")), shown(trial.get("results")))
        for source in inputs.sources
        for arm, entry in source.arms.items()
        for seed, trial in entry.get("seeds", {}).items()
    ]
    head = ("Arm", "Seed", "Run", "Its scores, in the study's folder")
    return Table(head, tuple(rows), words=len(head), caption="Trials of studies: where each row of the table is from")


def _version(record: Mapping[str, object] | None) -> str:
    versions = (record or {}).get("versions")
    return shown(versions.get("fedcowpro")) if isinstance(versions, Mapping) else MISSING
