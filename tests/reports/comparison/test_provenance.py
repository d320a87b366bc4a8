"""The page tells which slices segmented which cases, with which settings, and where a mark cannot be."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from made import scores, table, write_study
from test_answer import Written

from common import TINY
from fedcowpro.cli.options import inference_overrides
from fedcowpro.config import InferConfig
from fedcowpro.evaluation.episodes import Episode, Episodes, Example
from fedcowpro.evaluation.options import options_of
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.predictor import OneShotPredictor


def save_episodes(file: Path, case: str, slices: dict[str, tuple[int, ...]]) -> None:
    example = Example(site="ct", case=case, slices=slices)
    episode = Episode(
        site="ct", support_slices=3, supports=(example,), queries=("c1", "c2"), organs=tuple(slices)
    )  # fmt: skip
    file.parent.mkdir(exist_ok=True)
    Episodes(version=1, fedcowpro="0.1.0", digests={"ct": "d1" * 8}, episodes=(episode,)).save(file)


def rows_after(page: str, caption: str) -> list[str]:
    lines = page.partition(caption)[2].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| ---")) + 1
    return list(takewhile(lambda line: line.startswith("|"), lines[start:]))


def test_the_manifest_of_a_table_is_on_its_page(tmp_path: Path, written: Written) -> None:
    file = table(tmp_path / "a.csv", scores({"a": 0.0, "b": 0.1}, cases=2))
    save_episodes(tmp_path / "a.episodes.json", "s1", {"liver": (2, 4, 6), "spleen": (0,)})
    page = written(file)
    assert rows_after(page, "Episodes. ") == ["| ct | ct | s1 | liver 3, 5, 7; spleen 1 | c1, c2 | all |"]


def test_the_manifest_has_the_names_of_the_page(tmp_path: Path, written: Written) -> None:
    files = [table(tmp_path / f"{name}.csv", scores({"m": shift}, cases=2)) for name, shift in (("x", 0.0), ("y", 0.1))]
    save_episodes(tmp_path / "x.episodes.json", "s1", {"liver": (1,)})
    assert rows_after(written(*files), "Episodes. ") == ["| ct | ct | s1 | liver 2 | c1, c2 | x |"]


def test_arms_of_a_study_with_other_episodes_have_their_own_row(tmp_path: Path, written: Written) -> None:
    rows = scores({"one": 0.0, "two": 0.1, "three": 0.1}, cases=2, seeds=[0, 1])
    study = write_study(tmp_path / "study", rows, {"one": [], "two": [], "three": []}, "one")
    page = written(study)
    assert "Episodes. " not in page  # none were kept
    results = [re.search(rf"\| {arm} \| 0 \| \S+ \| (\S+) \|", page).group(1) for arm in ("one", "two", "three")]  # type: ignore[union-attr]
    for file, slices in zip(results, ((1,), (1, 2), (1, 2)), strict=True):
        save_episodes((study / file).with_suffix(".episodes.json"), "s1", {"liver": slices})
    assert rows_after(written(study), "Episodes. ") == [
        "| ct | ct | s1 | liver 2 | c1, c2 | one |", "| ct | ct | s1 | liver 2, 3 | c1, c2 | two and three |",
    ]  # fmt: skip


def test_settings_in_common_are_said_once(tmp_path: Path, written: Written) -> None:
    rows = scores({"a": 0.0, "b": 0.1})
    page = written(table(tmp_path / "a.csv", rows))
    assert (
        "the same for all methods and protocols: support slices 3, pairing all-slices, refine 12, tolerance mm 2."
        in page
    )
    assert "Settings of inference that differ" not in page
    other = [replace(row, options={**row.options, "refine": "0"}) if row.method == "b" else row for row in rows]
    page = written(table(tmp_path / "b.csv", other))
    assert "support slices 3, pairing all-slices, tolerance mm 2." in page
    assert rows_after(page, "Settings of inference that differ") == [
        "| a | whole-volume | 12 |", "| b | whole-volume | 0 |",
    ]  # fmt: skip


def test_marks_that_cannot_be_are_said_to_be_impossible(tmp_path: Path, written: Written) -> None:
    methods, two = {"a": 0.0, "b": 0.3, "c": 0.3}, ("liver", "spleen")
    few = written(table(tmp_path / "a.csv", scores(methods, cases=7, organs=two)), reference="a")
    assert "There can be none here: even a method that is better in all of 7 cases" in few
    assert "among 4 comparisons, which takes 8 cases." in few
    assert "▲ (" not in few
    enough = written(table(tmp_path / "b.csv", scores(methods, cases=8, organs=two)), reference="a")
    assert enough.count("▲ (") == 4
    assert "There can be none" not in enough
    mixed = [*scores(methods, cases=8, organs=two), *scores(methods, cases=3, sites=["mr"], organs=["liver"])]
    assert "A row of fewer than 8 cases can hardly have one." in written(
        table(tmp_path / "c.csv", mixed), reference="a"
    )


def test_methods_that_differ_from_each_other_only_are_told(tmp_path: Path, written: Written) -> None:
    words = "none is shown to differ from the reference"
    path = table(tmp_path / "a.csv", scores({"a": 0.0, "b": 0.011, "c": -0.011}, noise=0.03))
    page = written(path, reference="a")
    assert "no difference shown: 'b'" in page
    assert words in page
    assert words not in written(table(tmp_path / "b.csv", scores({"a": 0.0, "b": 0.1, "c": 0.1})), reference="a")
    assert words not in written(
        table(tmp_path / "c.csv", scores({"a": 0.0, "b": 0.0, "c": 0.0}, noise=0.1)), reference="a"
    )


def test_the_command_of_a_table_has_the_settings_of_its_scores(tmp_path: Path, written: Written) -> None:
    config = InferConfig(scales=(0.75, 1), flip=True, axial_prior=1.5, keep_components=False)
    columns = {**options_of(OneShotPredictor(build_model(TINY, 0), config)), "pairing": "same-part"}
    rows = [replace(row, options={**row.options, **columns}) for row in scores({"a": 0.0})]
    page = written(table(tmp_path / "a.csv", rows))
    words = shlex.split(next(line for line in page.splitlines() if line.startswith("fedcowpro evaluate")))
    given = {words[i]: words[i + 1] for i in range(2, len(words) - 1) if words[i].startswith("--")}
    others = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    names = ("--support-slices", "--pairing", None, "--refine", "--threshold", "--scales")
    read = inference_overrides(*(given.get(name) if name else "--keep-components" in words for name in names), others)
    settings = {**read, "refine": int(read["refine"]), "threshold": float(read["threshold"])}
    assert "--no-keep-components" in words
    assert InferConfig.model_validate(settings) == config.model_copy(update={"pairing": "same-part"})
