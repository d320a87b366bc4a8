"""Watching a run folder: the table, the lines, and a run that is interrupted and goes on."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from fedcowpro.config import ExperimentConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.monitoring.watch import dashboard, follow, fresh_lines, read_run, spark
from fedcowpro.federated.run import federate

Experiment = Callable[..., ExperimentConfig]


def drawn(run: Path) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(dashboard(read_run(run)))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, sites: dict[str, Path]) -> Path:
    config = ExperimentConfig.model_validate(
        {
            "threads": 1,
            "model": {"encoder": "tiny", "channels": 8},
            "train": {"batch": 2},
            "federation": {"rounds": 2, "local_steps": 1},
        }
    )
    run = tmp_path_factory.mktemp("watched") / "run"
    federate(config, sites, run, progress=False, evaluate=True)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_finished_run(run: Path) -> None:
    text = drawn(run)
    assert "round 2/2" in text
    assert "finished" in text
    for site in ("alpha", "beta", "gamma"):
        assert f" {site}" in text
    seen = read_run(run)
    assert f"{seen.records[-1].sites[0].losses['total']:.3f}" in text
    assert "none" in text  # these sites have no labels: no score


def test_before_the_first_round_and_without_a_run(run: Path, tmp_path: Path) -> None:
    (run / "metrics.jsonl").unlink()
    (run / "model.json").unlink()
    text = drawn(run)
    assert text.count("waiting") == 3
    assert "round 0/2" in text
    with pytest.raises(FedCoWProError, match="no folder of a run"):
        read_run(tmp_path)


def test_left_out_and_alarms_are_shown(run: Path) -> None:
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [line for line in lines if line.get("site") != "beta"]
    for line in kept:
        if line["kind"] == "round":
            line["left_out"] = {"beta": "no reply"}
    kept.append({"kind": "alarm", "round": 2, "site": "beta", "alarm": "absent", "text": "left out in 2 rounds"})
    file.write_text("".join(json.dumps(line) + "\n" for line in kept))
    text = drawn(run)
    assert "left out: no reply  alarm: absent" in text
    assert "round 2, beta: left out in 2 rounds" in text


def test_half_a_line_is_waited_for(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "si')
    assert len(read_run(run).records) == 2


def test_lines_are_told_once_and_again_after_a_resumption(run: Path) -> None:
    file, told = run / "metrics.jsonl", list[str]()
    whole = file.read_text().splitlines(keepends=True)
    file.write_text("".join(whole[:5]))
    assert len(fresh_lines(run, told)) == 5
    assert fresh_lines(run, told) == []
    file.write_text("".join(whole[:4]))
    assert fresh_lines(run, told) == []
    file.write_text("".join([*whole[:3], *whole[4:]]))
    assert fresh_lines(run, told) == [line.rstrip("\n") for line in whole[4:]]


def test_a_run_is_followed_to_its_end(run: Path) -> None:
    card = (run / "model.json").read_text()
    (run / "model.json").unlink()
    seen = follow(run, pause=0.01)
    assert not next(seen).finished
    (run / "model.json").write_text(card)
    assert [one.finished for one in seen] == [True]


def test_spark_keeps_the_order_and_gaps() -> None:
    assert spark([1.0, float("nan"), 8.0]) == "▁ █"
    assert spark([2.0, 2.0]) == "▁▁"
    assert spark([float("nan")]) == " "


@pytest.mark.parametrize("table", [False, True])
def test_the_starter_sees_a_bar_and_on_request_the_table(
    sites: dict[str, Path],
    experiment: Experiment,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    table: bool,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal; a file gets a line every half minute
    federate(experiment(rounds=1, local_steps=1), sites, tmp_path, progress=True, watch=table)
    text = capsys.readouterr().err
    assert "round 1/1" in text
    assert ("cosine" in text) == table
    assert text.removesuffix("\x1b[?25h").endswith("\n")  # what is said next begins a line; the cursor is back


def test_texts_of_sites_are_shown_without_control_characters(run: Path) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07[bold]"
    left_out = {"kind": "round", "round": 3, "left_out": {"beta": evil}, "bytes_up": 0}
    alarm = {"kind": "alarm", "round": 3, "site": f"beta{evil}", "alarm": "reply", "text": evil}
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in (left_out, alarm))
    text = drawn(run)
    assert not {"\x1b", "\x07"} & set(text)
    assert "left out: ?[2J?]0;owned?[bold]" in "".join(text.split("\n"))


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
def test_deeply_nested_files_are_no_run(run: Path, name: str) -> None:
    (run / name).write_text("[" * 100_000)
    with pytest.raises(FedCoWProError, match="is no folder of a run"):
        read_run(run)
