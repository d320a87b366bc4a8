"""What a study folder says of itself, as plain text: from a number of its table to the run that it comes from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from fedcowpro.checkpoint import flat_settings, load_checkpoint
from fedcowpro.evaluate.episodes import load_episodes
from fedcowpro.federated.folder import RunFolder
from fedcowpro.show_text import UNKNOWN, columns_text, facts_text, indented, versions_text
from fedcowpro.study.table import COSTS, RECORD, TABLE, read_record


def is_study(path: Path) -> bool:
    """Whether a study lies in a folder."""
    return (path / RECORD).is_file()


def show_study(path: Path) -> str:
    """Summary of a study folder: the command, versions, trials with their digests, data, settings of each arm.

    Raises:
        FedCoWProError: a damaged record or run.
    """
    record = read_record(path) or {}
    arms: dict[str, Any] = record.get("arms", {})
    trials = [(arm, seed, trial) for arm, entry in arms.items() for seed, trial in entry["seeds"].items()]
    scored = sum((path / trial["results"]).is_file() for _, _, trial in trials)
    facts: dict[str, object] = {
        "study": f"{record['name']}: {record.get('question', '')}",
        "folder": path,
        "command": record.get("command") or UNKNOWN,
        "versions": versions_text(record),
        "trials": f"{scored} of {len(trials)} scored, in {record['seconds']:g} seconds of a clock",
        "seeds": ", ".join(dict.fromkeys(seed for _, seed, _ in trials)),
        "compared with": record.get("compare") or UNKNOWN,
    }
    if failed := record.get("failed"):
        facts["failed"] = "; ".join(failed)
    facts |= {name: f"SHA-256 {_sha256(path / name)}" for name in (TABLE, COSTS) if (path / name).is_file()}
    rows = [_trial(path, arm, seed, trial) for arm, seed, trial in trials]
    parts = [
        facts_text(facts),
        f"trials: a row of {TABLE} is in the results of its arm and seed; 'fedcowpro show RUN' has the training",
        columns_text([("arm", "seed", "settings", "weights", "run", "results"), *rows]),
        "scored data: cases of an evaluation site, with the digest of its images and labels",
        columns_text([("site", "digest", "annotated", "queries"), *_data(path, arms)]),
    ]
    for arm, entry in arms.items():
        clients = ", ".join(f"{name}: {len(cases)}" for name, cases in entry["train"].items()) or "none"
        parts += [f"arm '{arm}' ({entry['regime']}; cases of training sites: {clients})"]
    for title, settings in _settings(arms):
        parts += [title, indented(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))]
    return "\n".join(parts)


def _trial(path: Path, arm: str, seed: str, trial: Mapping[str, Any]) -> tuple[str, ...]:
    settings, weights = "-", "untrained"
    if trial["folder"]:
        run = RunFolder(path / trial["folder"])
        settings = run.record()["config_digest"] if (run.path / "run.json").is_file() else "not begun"
        finished = run.model_file.is_file()
        weights = load_checkpoint(run.model_file)[1]["weights_digest"][:16] if finished else "not finished"
    results = _joined(path, trial["results"]) if (path / trial["results"]).is_file() else "not scored"
    return arm, seed, settings, weights, _joined(path, trial["folder"]), results


def _data(path: Path, arms: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: dict[tuple[str, ...], None] = {}
    for entry in arms.values():
        files = [(path / trial["results"]).with_suffix(".episodes.json") for trial in entry["seeds"].values()]
        for file in (file for file in files if file.is_file()):
            plan = load_episodes(file)
            for episode in plan.episodes:
                queries = ", ".join(episode.queries)
                rows[episode.site, plan.digests[episode.site], episode.support_case, queries] = None
    return list(rows) or [("-",) * 4]


def _settings(arms: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The first arm's settings as they are, of the others what differs."""
    flat = {arm: flat_settings(entry["settings"]) for arm, entry in arms.items()}
    for number, (arm, entry) in enumerate(arms.items()):
        if number == 0:
            first = flat[arm]
            yield f"settings of '{arm}'", entry["settings"]
        elif changed := {name: value for name, value in flat[arm].items() if first.get(name) != value}:
            yield f"settings of '{arm}' that differ from these", changed


def _joined(folder: Path, relative: str | None) -> str:
    return "-" if relative is None else os.path.normpath(folder / relative)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
