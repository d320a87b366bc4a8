"""Tables, runs and studies made by hand, with differences that are known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from fedcowpro.config import PrepareConfig
from fedcowpro.data.preparation.manifest import CaseRecord, Manifest
from fedcowpro.evaluation.protocol import Row, write_results
from fedcowpro.study.table import COST_COLUMNS

RESAMPLES = 199  # of a page


def scores(
    methods: Mapping[str, float],
    *,
    sites: Sequence[str] = ("ct",),
    organs: Sequence[str] = ("liver",),
    cases: int = 14,
    seeds: Sequence[int] = (0, 1, 2),
    protocols: Sequence[str] = ("whole-volume",),
    noise: float = 0.01,
    support: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
    every_metric: bool = False,
) -> list[Row]:
    """Rows in which a method's Dice lies `methods[method]` above that of a case, but for the noise."""
    rows = []
    for m, (method, shift) in enumerate(methods.items()):
        for index in np.ndindex(len(seeds), len(sites), cases, len(organs)):
            seed, site, case, organ = seeds[index[0]], sites[index[1]], f"c{index[2] + 1}", organs[index[3]]
            of_case = np.random.default_rng([2, *index[1:3]]).normal(0, 0.08)
            error = np.random.default_rng([3, m, seed, *index]).normal(0, noise)
            for number, protocol in enumerate(protocols):
                dice = float(np.clip(0.6 + of_case - 0.1 * index[3] + shift + error - 0.05 * number, 0, 1))
                given = {"support_site": site, "support_case": "s1", "support_slices": "3", **(support or {})}
                metrics = others(dice) if every_metric else {}
                rows.append(
                    Row(
                        method=method, seed=seed, site=site, case=case, organ=organ, protocol=protocol, dice=dice,
                        options={"pairing": "all-slices", "refine": "12", "tolerance_mm": "2"} | dict(options or {}),
                        **given, **metrics,
                    )
                )  # fmt: skip
    return rows


def others(dice: float) -> dict[str, float]:
    return {
        "iou": dice / (2 - dice), "precision": min(1, dice + 0.02), "recall": max(0, dice - 0.02),
        "relative_volume_error": 0.4 * (0.7 - dice), "hd95": 40 * (1 - dice), "nsd": min(1, dice + 0.1),
    }  # fmt: skip


def table(path: Path, rows: Sequence[Row]) -> Path:
    write_results(path, rows)
    return path


def write_run(folder: Path, clients: Sequence[str], seed: int, rounds: int = 8, **record: Any) -> Path:
    """A run folder without a model."""
    folder.mkdir(parents=True)
    sites = {name: {"modality": "ct" if "ct" in name else "mr", "cases": 4, "train_slices": 80, "digest": "ab" * 8}
             for name in clients}  # fmt: skip
    known = {"config_digest": f"{seed:016x}", "seed": seed, "started": "2026-01-02T03:04:05+00:00", "sites": sites}
    (folder / "run.json").write_text(json.dumps({**known, "versions": {"fedcowpro": "0.1.0"}, **record}))
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "model": {"encoder": "tiny"}}))
    lines: list[dict[str, Any]] = []
    rng = np.random.default_rng([seed, len(clients)])
    for number in range(1, rounds + 1):
        for index, site in enumerate(clients):
            loss = 2.0 * math.exp(-number / 4) + 0.5 + 0.1 * index + rng.normal(0, 0.02)
            lines.append(
                {
                    "kind": "site", "round": number, "site": site, "weight": 1 / len(clients), "train_slices": 80,
                    "steps": 20, "losses": {"total": loss},
                    "pseudo_dice": 0.8 - 0.5 * math.exp(-number / 3) - 0.01 * seed - 0.02 * index,
                    "update_norm": 1.0 / number + 0.05 * index, "update_cosine": 1.0 if len(clients) == 1 else 0.6,
                    "seconds": 3.0 + index, "bytes_down": 1_500_000, "bytes_up": 1_400_000,
                }
            )  # fmt: skip
        lines.append({"kind": "round", "round": number, "sites": len(clients), "left_out": {}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_study(
    folder: Path,
    rows: Sequence[Row],
    clients: Mapping[str, Sequence[str]],
    compare: str | None = None,
    modalities: Mapping[str, str] | None = None,
) -> Path:
    """A study folder of rows whose method is the arm; arms without clients are untrained.

    Args:
        clients: arm -> names of its training sites.
        modalities: evaluation site -> its cases' modality.
    """
    folder.mkdir(parents=True)
    table(folder / "table.csv", rows)
    frame = pd.read_csv(folder / "table.csv", dtype=str, keep_default_na=False)
    frame.insert(0, "arm", frame["method"])
    frame.assign(method="fedcowpro").to_csv(folder / "table.csv", index=False)
    seeds = sorted({row.seed for row in rows})
    evaluation: dict[str, Any] = {}
    for site, kind in (modalities or {}).items():
        ids = sorted({row.case for row in rows if row.site == site})
        write_manifest(folder / "sites" / site, ids, kind)
        evaluation[site] = {"pool": site, "support": ["s1"], "query": ids, "organs": [], "folder": f"sites/{site}"}
    arms, costs = {}, []
    for arm, names in clients.items():
        trials = {}
        for seed in seeds:
            key = f"{abs(hash_of(arm)):08x}{seed:08x}"
            if names:
                write_run(folder / "runs" / key, names, seed)
                n = len(names)
                costs.append(
                    [key, arm, seed, n, 16, 8, 20, 8, 8 * (2 + n), 8 * (1 + 0.5 * n), 2 + 1.5 * n + 0.1 * seed, 5 * n,
                     10**6, 10**6, 400, 500 + 12 * n]
                )  # fmt: skip
            path = f"runs/{key}" if names else None
            trials[str(seed)] = {"run": key, "folder": path, "results": f"results/{key}.csv"}
        settings = {"model": {"encoder": "tiny"}}
        regime = "federated" if names else "untrained"
        arms[arm] = {"regime": regime, "settings": settings, "evaluation": evaluation, "seeds": trials}
    pd.DataFrame(costs, columns=COST_COLUMNS).to_csv(folder / "costs.csv", index=False)
    record = {
        "name": "example", "question": "Do more clients segment better?", "compare": compare, "arms": arms,
        "versions": {"fedcowpro": "0.1.0"}, "command": "fedcowpro study run example.yaml --out example", "seconds": 1.0,
        "failed": [],
    }  # fmt: skip
    (folder / "study.json").write_text(json.dumps(record))
    return folder


def hash_of(text: str) -> int:
    return sum(ord(letter) * 31**index for index, letter in enumerate(text)) % 2**32


def write_manifest(folder: Path, ids: Sequence[str], kind: Any) -> None:
    roles = {"s1": "support", **dict.fromkeys(ids, "query")}
    records = tuple(
        CaseRecord(
            id=case, modality=kind, guessed=kind, depth=2, spacing=(3, 1, 1), role=role, source="0", areas=((), ())
        )  # type: ignore[arg-type]
        for case, role in roles.items()
    )
    folder.mkdir(parents=True)
    manifest = Manifest(version=2, fedcowpro="0.1.0", dataset="x", settings=PrepareConfig(), cases=records)
    (folder / "manifest.json").write_text(manifest.model_dump_json())
