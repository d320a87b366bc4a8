"""How the shell is met: help by user, one proposal for what was mistyped, quiet, JSON, completion, logs."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from rich.console import Console

from fedcowpro.cli import app, main
from fedcowpro.cli.console import PANELS
from fedcowpro.core import progress
from fedcowpro.core.progress import ProgressBar

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, standard output and standard error of a command."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code: object = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        assert isinstance(code, int)
        return code, printed.out, printed.err

    return call


def test_help_has_every_command_in_the_panel_of_its_user(run: Run) -> None:
    listed = [name for names in PANELS.values() for name in names]
    assert sorted(listed) == sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    _, out, _ = run("--help")
    places = [out.index(panel) for panel in PANELS]
    assert places == sorted(places)
    for (panel, names), (start, end) in zip(PANELS.items(), pairwise([*places, len(out)]), strict=True):
        for name in names:
            assert re.search(rf"│ {name} ", out[start:end]), (panel, name)
    assert listed[0] == "segment"


@pytest.mark.parametrize(
    ("typed", "got", "meant"),
    [
        (["segmet"], "no command 'segmet'", "did you mean 'segment'?"),
        (["federation", "ini"], "no command 'ini'", "did you mean 'init'?"),
        (["segment", "--suport", "x"], "no option '--suport'", "did you mean '--support'?"),
        (["evaluate", "--modle=x"], "no option '--modle'", "did you mean '--model'?"),
        (["frobnicate"], "no command 'frobnicate'", "fedcowpro --help lists them"),
        (["--versoin"], "no option '--versoin'", "did you mean '--version'?"),
    ],
)
def test_one_proposal_for_what_was_mistyped(run: Run, typed: list[str], got: str, meant: str) -> None:
    code, out, err = run(*typed)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {got}\n")
    assert meant in err
    assert err.count("did you mean") <= 1


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        (["segment", "--out", "o"], ["fedcowpro segment without --query", "pattern in quotes"]),
        (["audit"], ["fedcowpro audit without LOG", "Audit log (audit.jsonl)"]),
        (["evaluate", "--tolerance", "wide"], ["--tolerance: 'wide' is not a valid float", "Of NSD, in mm."]),
        (["devices", "two"], ["unexpected extra argument (two)", "fedcowpro devices --help"]),
    ],
)
def test_wrong_usage_says_what_was_wanted(run: Run, typed: list[str], parts: list[str]) -> None:
    code, _, err = run(*typed)
    assert code == 2
    assert err.count("error:") == err.count("expected:") == err.count("remedy:") == 1
    for part in parts:
        assert part in err


def test_without_a_command_help_is_shown(run: Run) -> None:
    code, out, err = run()
    assert code == 2
    assert "Masks from one example" in out
    assert "error" not in err


def test_quiet_and_json_of_segment(run: Run, phantoms: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    scans, out = phantoms / "ct", tmp_path / "masks"
    common = ["--model", tiny_checkpoint, "--support", scans / "image_1.nii.gz", "--out", out]
    common += ["--support-mask", scans / "label_1.nii.gz", "--organs", "1=liver,4=spleen"]
    code, printed, err = run("segment", *common, "--query", scans / "image_2.nii.gz", "--quiet")
    assert (code, printed, err) == (0, "", "")
    assert (out / "image_2_mask.nii.gz").is_file()

    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    queries = ["--query", scans / "image_2.nii.gz", "--query", tmp_path / "broken.nii.gz"]
    code, printed, err = run("segment", *common, *queries, "--json")
    assert code == 3
    told = json.loads(printed)
    (query,), (failed,) = told["queries"], told["failed"]
    assert (query["status"], query["modality"]) == ("kept", "ct")
    assert query["mask"] == str(out / "image_2_mask.nii.gz")
    assert [organ["name"] for organ in query["organs"]] == ["liver", "spleen"]
    assert all(organ["confidence"] is None or 0 <= organ["confidence"] <= 1 for organ in query["organs"])
    assert failed["query"].endswith("broken.nii.gz")
    assert "broken.nii.gz" in err
    # What one command was told does not silence the next.
    assert "image_2_mask" in run("segment", *common, "--query", scans / "image_2.nii.gz")[1]


def test_json_of_devices_and_datasets(run: Run) -> None:
    code, out, _ = run("devices", "--json")
    assert code == 0
    assert {"name", "about", "auto"} == set(json.loads(out)[0])
    assert json.loads(run("datasets", "chaos", "--json")[1])[0]["organs"]["1"] == "liver"


@pytest.mark.slow
def test_completion_knows_commands_options_and_values() -> None:
    def complete(words: str, place: int) -> list[str]:
        asked = {"_FEDCOWPRO_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
        command = [sys.executable, "-m", "fedcowpro.cli"]
        done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("fedcowpro seg", 1) == ["segment"]
    assert {"--support", "--support-mask"} <= set(complete("fedcowpro segment --supp", 2))
    assert complete("fedcowpro segment --modality ", 3) == ["ct", "mr"]


def test_progress_in_a_file_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    log = io.StringIO()
    with ProgressBar(True, Console(file=log, soft_wrap=True)) as bar:
        task = bar.add_task("segmenting", total=20)
        for _ in range(20):
            bar.advance(task)
    text = log.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    lines = text.splitlines()
    assert 3 <= len(lines) <= 8
    assert all(re.match(r"segmenting: \d+ of 20, \d:\d\d:\d\d passed", line) for line in lines)


def test_progress_of_quick_work_leaves_no_line() -> None:
    log = io.StringIO()
    for shown in (True, False):
        with ProgressBar(shown, Console(file=log)) as bar:
            task = bar.add_task("segmenting", total=2)
            bar.update(task, completed=2)
    assert log.getvalue() == ""


def test_progress_on_a_terminal_is_a_bar() -> None:
    screen = io.StringIO()
    with ProgressBar(True, Console(file=screen, force_terminal=True, width=100)) as bar:
        bar.advance(bar.add_task("segmenting", total=2))
        bar.refresh()
    assert "━" in screen.getvalue()
