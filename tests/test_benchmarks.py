"""`make bench`: what is over its limit or does not run is named, and what is done is not run again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from common import script

HERE = Path(__file__).parents[1] / "benchmarks"
SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from ratios import ratio
print("runs", file=open("runs.txt", "a"))
ratio("a step", {value}, "a product", 2.0, 3)
sys.exit({code})
"""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(HERE))
    module = script(HERE / "all.py")
    for name, value, code in (("good", 4.0, 0), ("slow", 9.0, 0), ("broken", 1.0, 3)):
        (tmp_path / f"{name}.py").write_text(SCRIPT.format(here=str(HERE), value=value, code=code))
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "PARTS", {name: f"{name}.py" for name in ("good", "slow", "broken")})
    monkeypatch.chdir(tmp_path)
    return module


def run(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["all.py", "--out", "out", *words])
    bench.main()


def test_what_is_within_its_limit_is_not_run_again(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in ([], [], ["--overwrite"]):
        run(bench, monkeypatch, "--only", "good", *words)
    assert (tmp_path / "runs.txt").read_text().count("runs") == 2
    assert "| a step | 4 CPU s | 2 | a product | 3 |" in (tmp_path / "out" / "performance.md").read_text()
    part = json.loads((tmp_path / "out" / "performance.json").read_text())["good"]
    assert part["rows"][0]["ratio"] == 2
    assert {"fedcowpro", "torch"} <= set(part["versions"])


def test_what_is_over_its_limit_or_broken_is_named(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"(?s)broken ended with code 3.*a step: 4\.5, at most 3"):
        run(bench, monkeypatch)
