"""What lies in a run, a study, a checkpoint or a table of results, as plain text: enough to do it again."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedcowpro.config.base import flat_settings
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.episodes import load_episodes
from fedcowpro.evaluation.model_card import CARD_NAME
from fedcowpro.evaluation.protocol import COLUMNS, read_results
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.model.checkpoint import FILE_NAME, load_checkpoint, state_digest
from fedcowpro.study.table import COSTS, RECORD, TABLE, read_record

_UNKNOWN = "not recorded"


def show(path: Path) -> str:
    """Summary of a run, a study, a checkpoint or a CSV of results, without a line break at the end.

    Args:
        path: run folder; study folder; `.safetensors` file or a folder with `model.safetensors`; `.csv` file.

    Raises:
        FedCoWProError: something else, or one of these that is missing, damaged or not as its digests say.
    """
    if (path / "run.json").is_file():
        return _run(RunFolder(path))
    if (path / RECORD).is_file():
        return _study(path)
    if (path / FILE_NAME).is_file():
        return _checkpoint(path / FILE_NAME)
    if path.suffix == ".safetensors" and not path.is_dir():
        return _checkpoint(path)
    if path.suffix == ".csv" and not path.is_dir():
        return _results(path)
    got = f"{path} is none of these" if path.exists() else f"no file or folder {path}"
    raise FedCoWProError(
        got, "a run or study folder, a checkpoint (.safetensors) or a CSV of results", "give the path of one of them"
    )


def _run(folder: RunFolder) -> str:
    record, text = folder.record(), _config_text(folder.config_file)
    config = yaml.safe_load(text)
    rounds = config.get("federation", {}).get("rounds", _UNKNOWN)
    if finished := folder.is_finished(rounds):
        weights = f"digest {load_checkpoint(folder.model_file)[1]['weights_digest']}, checked"
    elif (last := folder.last_round()) is not None:
        weights = f"digest {state_digest(last.state)} of round {last.number}, checked"
    else:
        weights = "none yet"
    facts = {
        "run": folder.path,
        "rounds": f"{folder.completed()} of {rounds}, {'' if finished else 'not '}finished",
        "started": record.get("started", _UNKNOWN),
        "command": record.get("command") or _UNKNOWN,
        "same again": _again(folder, config),
        "seed": record.get("seed", _UNKNOWN),
        "versions": _versions_text(record),
        "settings": f"digest {record['config_digest']}",
        "weights": weights,
    }
    made = [folder.path / name for name in (CARD_NAME, "tensorboard", "mlruns")]
    if found := [str(file) for file in made if file.exists()]:
        facts["also there"] = ", ".join(found)
    columns = ("name", "modality", "cases", "train_slices", "size", "digest")
    sites = [[str(site.get(column, "-")) for column in columns] for site in record["sites"].values()]
    parts = [
        _facts_text(facts), "sites", _columns_text([columns, *sites]), *_tables(folder.path),
        f"config ({folder.config_file})", _indented(text),
    ]  # fmt: skip
    return "\n".join(parts)


def _again(folder: RunFolder, config: Mapping[str, Any]) -> str:
    """The command that makes the same weights from the run's own settings, in a folder of its own."""
    new = folder.path.with_name(f"{folder.path.resolve().name}-again")
    command = shlex.join(["fedcowpro", "federate", str(folder.config_file), "--out", str(new)])
    paths = {str(site["name"]): site.get("path") for site in config.get("sites", ())}
    command += "".join(f" --site {name}=FOLDER" for name, path in paths.items() if path is None)
    relative = any(path is not None and not Path(path).is_absolute() for path in paths.values())
    return command + (" (in the folder that the sites' paths start from)" if relative else "")


def _config_text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
        if not isinstance(yaml.safe_load(text), dict):
            raise ValueError("no settings in it")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise FedCoWProError(
            f"{file} cannot be read: {error}", "the settings of the run", "bring the file back"
        ) from error
    return text


def _study(path: Path) -> str:
    """The command, versions, trials with their digests, data, settings of each arm."""
    record = read_record(path) or {}
    arms: dict[str, Any] = record.get("arms", {})
    trials = [(arm, seed, trial) for arm, entry in arms.items() for seed, trial in entry["seeds"].items()]
    scored = sum((path / trial["results"]).is_file() for _, _, trial in trials)
    facts: dict[str, object] = {
        "study": f"{record['name']}: {record.get('question', '')}",
        "folder": path,
        "command": record.get("command") or _UNKNOWN,
        "versions": _versions_text(record),
        "trials": f"{scored} of {len(trials)} scored, in {record['seconds']:g} seconds of a clock",
        "seeds": ", ".join(dict.fromkeys(seed for _, seed, _ in trials)),
        "compared with": record.get("compare") or _UNKNOWN,
    }
    if failed := record.get("failed"):
        facts["failed"] = "; ".join(failed)
    facts |= {name: f"SHA-256 {_sha256(path / name)}" for name in (TABLE, COSTS) if (path / name).is_file()}
    rows = [_trial(path, arm, seed, trial) for arm, seed, trial in trials]
    parts = [
        _facts_text(facts),
        f"trials: a row of {TABLE} is in the results of its arm and seed; 'fedcowpro show RUN' has the training",
        _columns_text([("arm", "seed", "settings", "weights", "run", "results"), *rows]),
        "scored data: cases of an evaluation site, with the digest of its images and labels",
        _columns_text([("site", "digest", "annotated", "queries"), *_data(path, arms)]),
    ]
    for arm, entry in arms.items():
        clients = ", ".join(f"{name}: {len(cases)}" for name, cases in entry["train"].items()) or "none"
        parts += [f"arm '{arm}' ({entry['regime']}; cases of training sites: {clients})"]
    for title, settings in _settings(arms):
        parts += [title, _indented(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))]
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


def _checkpoint(path: Path) -> str:
    state, card = load_checkpoint(path)
    data = card.get("data", {})
    modalities = ", ".join(f"{kind} at {count}" for kind, count in data.get("modalities", {}).items())
    counts = f"{data.get('cases')} cases and {data.get('train_slices')} slices"
    if "sites" in data:  # the model of the package saw none
        counts += f" of {data['sites']} sites ({modalities})"
    facts = {
        "checkpoint": f"{path}, {sum(tensor.numel() for tensor in state.values()):,} values",
        "round": f"{card.get('round', _UNKNOWN)} of {card.get('rounds', _UNKNOWN)}",
        "seed": card.get("seed", _UNKNOWN),
        "versions": _versions_text(card),
        "settings": f"digest {card.get('config_digest', _UNKNOWN)}",
        "weights": f"digest {card['weights_digest']}, checked",
        "data": counts if data else _UNKNOWN,
    }
    if (model_card := path.with_name(CARD_NAME)).is_file() and path.name == FILE_NAME:
        facts["model card"] = model_card
    for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
        if (folder / "run.json").is_file():
            facts["made by"] = f"the run in {folder}: fedcowpro show {shlex.quote(str(folder))}"
            break
    shown = {name: card[name] for name in ("model", "normalisation", "inference", "prepare") if name in card}
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    return "\n".join([_facts_text(facts), *_tables(path.parent), "config (of its card)", _indented(text)])


def _results(path: Path) -> str:
    table = read_results(path)
    names = {name: sorted(map(str, table[name].unique())) for name in ("method", "seed", "site", "organ", "protocol")}
    facts: dict[str, object] = {
        "results": f"{path}, {len(table)} scores of {len(table.groupby(['site', 'case']))} cases",
        "file": f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}",
        **{f"{name}s": ", ".join(found) for name, found in names.items()},
    }
    beside = _episodes_of(path)
    if not beside.is_file():
        return _facts_text({**facts, "episodes": f"no file {beside.name} beside it"})
    plan = load_episodes(beside)
    facts["episodes"] = f"{beside}, {len(plan.episodes)} of fedcowpro {plan.fedcowpro}"
    facts["same again"] = (
        f"fedcowpro evaluate --model MODEL --episodes {shlex.quote(str(beside))} --out NEW.csv"
        + "".join(f" --site {shlex.quote(name)}=FOLDER" for name in plan.digests)
    )
    return "\n".join([_facts_text(facts), "sites", _columns_text([("name", "digest"), *plan.digests.items()])])


def _tables(folder: Path) -> list[str]:
    """Tables of results in a folder and in the one that holds it, whatever model they are of."""
    found = []
    for file in sorted({*folder.glob("*.csv"), *folder.resolve().parent.glob("*.csv")}):
        if _is_table(file):
            episodes = _episodes_of(file)
            found.append(f"  {file} ({episodes.name if episodes.is_file() else 'no episode file'})")
    return ["results in this folder and beside it", *found] if found else []


def _is_table(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8") as lines:
            return lines.readline(4096).strip().startswith(",".join(COLUMNS))
    except (OSError, UnicodeDecodeError):
        return False


def _episodes_of(results: Path) -> Path:
    return results.with_suffix(".episodes.json")


def _versions_text(record: Mapping[str, Any]) -> str:
    """The versions of a record in one line."""
    return ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items()) or _UNKNOWN


def _facts_text(facts: Mapping[str, object]) -> str:
    """Names and values, a line each."""
    width = max(map(len, facts)) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in facts.items())


def _columns_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length with aligned columns, _indented."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line}".rstrip() for line in lines)


def _indented(text: str) -> str:
    """Lines of text, _indented."""
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())
