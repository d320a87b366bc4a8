"""What a study folder tells: scores, costs, and the record of what was done. Rewritten whole, at any moment readable.

STUDY/table.csv    a row for each score: arm, then the columns of the evaluation
STUDY/costs.csv    a row for each finished training
STUDY/study.json   arms with digests, folders and settings; versions, seconds, the command
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.evaluation.protocol import COLUMNS, read_results
from fedcowpro.study.plan import COST, Plan, StudyJob, Trial
from fedcowpro.study.spec import Study

TABLE, COSTS, RECORD = "table.csv", "costs.csv", "study.json"
COST_COLUMNS = (
    "run", "arms", "seed", "clients", "cases", "rounds", "local_steps", "measured_rounds", "seconds",
    "cpu_seconds", "seconds_per_round", "site_seconds", "bytes_down", "bytes_up", "start_rss_mb", "peak_rss_mb",
)  # fmt: skip


def read_table(folder: Path) -> pd.DataFrame:
    """The scores of a study, also of one that is not finished: `arm` and the columns of `read_results`.

    Raises:
        FedCoWProError: no table there, or a damaged one.
    """
    table = read_results(folder / TABLE)
    if "arm" not in table.columns:
        raise FedCoWProError(f"{folder / TABLE} has no column 'arm'", "the table of a study", "run the study again")
    return table


def write_table(folder: Path, trials: Sequence[Trial], results: Path) -> int:
    """Write the scores of all trials that are evaluated, in the order of the trials; returns how many trials are.

    A model that several trials share was scored once: its rows stand under each arm and seed. Numbers are copied as
    they were written.
    """
    rows: list[dict[str, str]] = []
    evaluated = 0
    for trial in trials:
        file = results / f"{trial.scoring}.csv"
        if not file.is_file():
            continue
        evaluated += 1
        with file.open(encoding="utf-8", newline="") as stream:
            rows += [{"arm": trial.variant.arm, **row, "seed": str(trial.seed)} for row in csv.DictReader(stream)]
    columns = list(dict.fromkeys(key for row in rows for key in row)) or ["arm", *COLUMNS]
    _write(folder / TABLE, columns, rows)
    return evaluated


def write_costs(folder: Path, plan: Plan) -> None:
    """Write what each finished training took: `COST_COLUMNS`; bytes of all rounds, memory in megabytes.

    `seconds` (of a clock) and `cpu_seconds` are those of the `measured_rounds`, which are fewer than `rounds` where the
    study was killed meanwhile. `site_seconds` are the local training of all sites in all rounds. `start_rss_mb` is the
    memory of the process before the training, `peak_rss_mb` its largest until the end.
    """
    arms: dict[str, list[str]] = {}
    for trial in plan.trials:
        arms.setdefault(trial.job, []).append(trial.variant.arm)
    rows = []
    for digest, job in plan.jobs.items():
        if (job.folder / COST).is_file():
            rows.append(_cost(job, "; ".join(dict.fromkeys(arms[digest]))))
    _write(folder / COSTS, COST_COLUMNS, rows)


def _cost(job: StudyJob, arms: str) -> dict[str, object]:
    cost: dict[str, Any] = json.loads((job.folder / COST).read_text(encoding="utf-8"))
    lines = (job.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    sites = [record for record in records if record["kind"] == "site"]
    counted = json.loads((job.folder / "run.json").read_text(encoding="utf-8"))["sites"]
    measured, seconds = cost["measured_rounds"], cost["seconds"]
    return {
        "run": job.key,
        "arms": arms,
        "seed": job.config.seed,
        "clients": len(job.sites),
        "cases": sum(site["cases"] for site in counted.values()),
        "rounds": job.config.federation.rounds,
        "local_steps": job.config.federation.local_steps,
        "seconds_per_round": round(seconds / measured, 3) if measured else "",
        "site_seconds": round(sum(site["seconds"] for site in sites), 3),
        "bytes_down": sum(site["bytes_down"] for site in sites),
        "bytes_up": sum(site["bytes_up"] for site in sites),
        **{name: "" if value is None else value for name, value in cost.items()},
    }


def record_of(study: Study, plan: Plan, out: Path) -> dict[str, Any]:
    """The arms with all that defines them, for study.json; folders are relative to `out`."""
    arms: dict[str, Any] = {}
    for trial in plan.trials:
        variant, job = trial.variant, plan.jobs[trial.job]
        scoring = next(one for one in job.scorings if one.key == trial.scoring)
        scored = scoring.sites
        entry = arms.setdefault(
            variant.arm,
            {
                "regime": variant.regime,
                "settings": variant.config.model_dump(mode="json", exclude={"sites", "seed"}),
                "train": {name: [member.id for member in members] for name, members in variant.sites.items()},
                "evaluation": {
                    name: site.model_dump(mode="json") | {"folder": _relative(scored[name].path, out)}
                    for name, site in variant.evaluation.items()
                },
                "seeds": {},
            },
        )
        entry["seeds"][str(trial.seed)] = {
            "run": trial.job,
            "folder": _relative(job.folder, out) if job.trains else None,
            "results": _relative(scoring.out, out),
        }
    return {"name": study.name, "question": study.question, "compare": study.compare, "arms": arms}


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write study.json."""
    write_atomic(folder / RECORD, json.dumps(record, indent=2) + "\n")


def read_record(folder: Path) -> dict[str, Any] | None:
    """study.json, or None where there is none.

    Raises:
        FedCoWProError: it is damaged.
    """
    file = folder / RECORD
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(record, dict) and isinstance(record["name"], str) and isinstance(record["seconds"], int | float):
            return record
        detail = "not the record of a study"
    except (ValueError, KeyError) as error:
        detail = repr(error)
    raise FedCoWProError(
        f"{file} is damaged ({detail})",
        "the record of a study",
        "delete that file and run the study again; finished runs and evaluations are kept",
    )


def _write(file: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(file, buffer.getvalue())
