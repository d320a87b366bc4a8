"""The page shows what a run's sites measured, who gave no number and why, and the alarms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def score(organ: str, mean: float | None, cases: int | None = 4, protocol: str = "whole-volume") -> dict[str, Any]:
    spread = None if mean is None else 0.1
    return {"organ": organ, "protocol": protocol, "cases": cases if spread else None, "mean": mean, "sd": spread}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"seed": 3, "sites": {}}))
    lines = [
        {"kind": "site", "round": 1, "site": "north", "weight": 1.0, "losses": {"total": 2.0}},
        {"kind": "round", "round": 1, "left_out": {}},
        {"kind": "alarm", "round": 1, "site": "west", "alarm": "norm", "text": "its update is 12 times as long"},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    entries = [
        (1, "global", "north", [score("liver", 0.11)], ""),
        (
            2,
            "global",
            "north",
            [score("liver", 0.5), score("spleen", 0.7), score("liver", 0.9, protocol="gt-range")],
            "",
        ),
        (2, "global", "west", [], "refused by the site's policy: fewer than 3 cases"),
        (2, "north", "north", [score("liver", 0.81, 5), score("spleen", None)], ""),
    ]
    results = [dict(zip(("round", "model", "site", "scores", "reason"), entry, strict=True)) for entry in entries]
    (folder / "evaluation.json").write_text(json.dumps({"format": "fedcowpro-evaluation/1", "results": results}))
    return folder


def test_matrix_refusals_and_alarms(run: Path, written: Callable[..., str]) -> None:
    text = written(run)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    matrix = [row for row in rows if row[:2] in (["first, seed 3", "global"], ["first, seed 3", "north"])][:2]
    assert [row[2].split()[0] for row in matrix] == ["0.600", "0.810"]  # of the last round, means over organs
    assert "n = 4" in matrix[0][2]
    assert "n = 5" in matrix[1][2]
    assert matrix[0][3] == "–"
    assert "site west, model global: refused by the site's policy: fewer than 3 cases." in text
    assert "round 1, site west: its update is 12 times as long." in text
    assert "0.110" not in text
    assert "What the sites measured" in written(run, name="page.html")


def test_a_run_without_either_has_no_such_section(run: Path, written: Callable[..., str]) -> None:
    (run / "evaluation.json").unlink()
    file = run / "metrics.jsonl"
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if '"alarm"' not in line))
    text = written(run)
    assert "What the sites measured" not in text
    assert "Alarms" not in text
