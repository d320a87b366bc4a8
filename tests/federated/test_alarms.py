"""Alarms: each rule with made-up records, one with a training that is made to go wrong, none in a sound one."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedcowpro.config import ExperimentConfig
from fedcowpro.federated.monitoring.alarms import NAMES, Alarm, AlarmWatch, alarms
from fedcowpro.federated.monitoring.rounds import RoundRecord, SiteRecord, read_rounds
from fedcowpro.federated.run import federate

SOUND = SiteRecord("", 1 / 3, 10, 5, {"total": 2.0}, 0.6, 1.0, 0.7, 3.0, 1000, 1000)


def rounds(count: int, sites: str = "abc", **odd: Callable[[int], object]) -> list[RoundRecord]:
    """Sound rounds, where site 'a' has odd values; each function gives that of a round, from 1."""
    made = []
    for number in range(1, count + 1):
        records = [replace(SOUND, site=site) for site in sites]
        records[0] = replace(records[0], **{name: value(number) for name, value in odd.items()})
        made.append(RoundRecord(number, tuple(records), {}, 1.0))
    return made


def names(found: list[Alarm]) -> set[tuple[str, str]]:
    return {(alarm.site, alarm.name) for alarm in found}


def test_sound_rounds_raise_none() -> None:
    made = rounds(6, losses=lambda n: {"total": 2.0 + 0.4 * (-1) ** n}, update_norm=lambda n: 2.5)
    assert all(alarms(made[:length]) == [] for length in range(7))


@pytest.mark.parametrize(
    ("name", "count", "odd", "said"),
    [
        ("norm", 2, {"update_norm": lambda n: 3.5}, "3.5 times as long"),
        ("norm", 1, {"update_norm": lambda n: 11.0}, "11.0 times"),
        ("cosine", 2, {"update_cosine": lambda n: -0.2}, "-0.20"),
        ("loss", 4, {"losses": lambda n: {"total": 1.0 if n < 3 else 1.0 * n}}, "rose to 4.000"),
        ("collapse", 2, {"pseudo_dice": lambda n: 0.97}, "0.970"),
        ("collapse", 2, {"pseudo_dice": lambda n: 0.01}, "0.010"),
        ("collapse", 1, {"pseudo_dice": lambda n: math.nan}, "no episode"),
        ("collapse", 1, {"steps": lambda n: 0}, "no episode"),
        ("traffic", 1, {"bytes_up": lambda n: 2500}, "sent 0.00 MB"),
        ("traffic", 1, {"bytes_down": lambda n: 400}, "received"),
        ("slices", 1, {"train_slices": lambda n: 10**9}, "weight capped"),
    ],
)
def test_each_rule(name: str, count: int, odd: dict[str, Callable[[int], object]], said: str) -> None:
    made = rounds(count, **odd)
    assert names(alarms(made)) == {("a", name)}
    assert said in alarms(made)[0].text
    assert alarms(made[:-1]) == []  # one round less is not enough


def test_traffic_is_compared_with_the_sites_own_rounds_but_the_first() -> None:
    sizes = {1: 9000, 2: 1000, 3: 1000, 4: 3000}
    for number, record in enumerate(made := rounds(4, "ab", bytes_up=lambda n: sizes[n]), 1):
        assert bool(alarms(made[:number])) == (number == 4), record


def test_two_sites_have_no_odd_one_out() -> None:
    assert alarms(rounds(3, "ab", update_norm=lambda n: 50.0)) == []


def test_a_site_that_is_left_out_repeatedly() -> None:
    made = [replace(record, left_out={"d": "no reply"}) for record in rounds(3)]
    assert alarms(made[:1]) == []
    assert names(alarms(made)) == {("d", "absent")}
    assert "3 rounds in a row, now: no reply" in alarms(made)[0].text


def test_an_alarm_that_goes_on_is_raised_once() -> None:
    made = rounds(4, update_cosine=lambda n: -0.5)
    watch = AlarmWatch()
    assert [len(watch.new(record)) for record in made] == [0, 1, 0, 0]
    assert AlarmWatch(made[:1]).new(made[1]) == alarms(made[:2])  # a run that goes on


def test_secret_updates_raise_none() -> None:
    hidden = {"pseudo_dice": math.nan, "losses": {}, "update_norm": math.nan, "update_cosine": None}
    made = [
        RoundRecord(number, tuple(replace(SOUND, site=site, **hidden) for site in "abc"), {}) for number in (1, 2, 3)
    ]
    assert alarms(made) == []


def lines(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_training_that_goes_wrong_raises_an_alarm(
    make_site: Callable[..., Path],
    experiment: Callable[..., ExperimentConfig],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At one site each superpixel is a whole slice: there is nothing to tell apart, and the Dice is near 1 at once."""
    sites = {name: make_site(name, seed=seed) for seed, name in enumerate(("a", "b", "bad"))}
    file = sites["bad"] / "cases" / "case-1" / "superpixels.npy"
    np.save(file, np.ones_like(np.load(file)))
    manifest = sites["bad"] / "manifest.json"
    content = json.loads(manifest.read_text())
    content["cases"][0]["areas"] = [[64 * 64]] * 4
    manifest.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING, "fedcowpro.watch"):
        federate(experiment(rounds=3), sites, tmp_path / "run", progress=False)
    raised = [line for line in lines(tmp_path / "run") if line["kind"] == "alarm"]
    assert {(line["site"], line["alarm"]) for line in raised} == {("bad", "collapse")}
    assert "site 'bad'" in caplog.text
    assert "collapse" in caplog.text
    assert len(read_rounds(tmp_path / "run" / "metrics.jsonl")) == 3
    card = (tmp_path / "run" / "MODEL_CARD.md").read_text()
    assert "collapse" in card
    assert "'bad'" not in card


def test_a_sound_training_raises_none(
    experiment: Callable[..., ExperimentConfig], finished: Callable[[ExperimentConfig], Path]
) -> None:
    out = finished(experiment())
    assert [line for line in lines(out) if line["kind"] == "alarm"] == []
    assert "No alarm" in (out / "MODEL_CARD.md").read_text()


def test_the_document_names_every_rule() -> None:
    text = (Path(__file__).parents[2] / "docs" / "federation-safety.md").read_text()
    assert all(f"| `{name}` |" in text for name in NAMES)
