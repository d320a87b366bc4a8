"""Evaluation encodes each slice once, and with whole volumes learns nothing from a query's truth."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import ORGANS, PLAIN, TINY
from fedcowpro.config import InferConfig
from fedcowpro.core.overlap import dice
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import Episode, plan_episodes
from fedcowpro.evaluation.options import options_of, settings_of
from fedcowpro.evaluation.protocol import PROTOCOLS, Row, gt_range
from fedcowpro.evaluation.run import evaluate_episode
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.oneshot.slices import pick_slices, slices_of
from fedcowpro.volume.checks import UNKNOWN

QUERIES = ("2", "3")
Predictions = dict[tuple[str, int], np.ndarray]


def predictor(**settings: Any) -> OneShotPredictor:
    return OneShotPredictor(build_model(TINY, 0), PLAIN.model_copy(update=settings))


def episode_of(site: Site, ours: OneShotPredictor) -> Episode:
    """Case 1 supports, 2 and 3 are the queries."""
    wanted = ours.config.support_slices
    (episode,) = plan_episodes({"here": site}, supports=["1"], queries=QUERIES, slices=wanted).episodes
    return episode


def run(site: Site, ours: OneShotPredictor, **options: Any) -> tuple[list[Row], Predictions]:
    predictions: Predictions = {}

    def keep(case: str, organ: int, mask: np.ndarray) -> None:
        predictions[case, organ] = mask

    rows = evaluate_episode(
        ours, {"here": site}, episode_of(site, ours), method="mine", seed=4, on_prediction=keep, **options
    )
    return rows, predictions


def relabelled(site: Site, target: Path, **labels: np.ndarray) -> Site:
    """A copy of a site with other labels for some cases (named `case_<id>`); its pixels are the volumes' own."""
    shutil.copytree(site.path, target)
    for name, array in labels.items():
        case = name.removeprefix("case_")
        np.save(target / "labels" / f"{case}.npy", array)
        with np.load(target / "volumes" / f"{case}.npz") as own:
            np.savez(target / "volumes" / f"{case}.npz", **{**own, "labels": array})
    return Site.open(target)


def count_encoded(ours: OneShotPredictor) -> list[int]:
    """Slices that go through the encoder from now on, per call."""
    seen: list[int] = []
    encode = ours.model.encode
    ours.model.encode = lambda images: seen.append(len(images)) or encode(images)  # type: ignore[method-assign]
    return seen


def support_slices_used(site: Site, wanted: int | str) -> set[int]:
    """Of case 1: those chosen for its organs, and the empty ones, which are fewer than `background_slices`."""
    labels = site.labels("1")
    empty = {int(z) for z in np.flatnonzero(~labels.any(axis=(1, 2)))}
    return {z for organ in ORGANS for z in pick_slices(slices_of(labels, organ), wanted)} | empty


@pytest.mark.parametrize("wanted", [3, 1, "all"])
def test_encoder_calls_equal_distinct_slices(ct_site: Site, wanted: int | str) -> None:
    ours = predictor(support_slices=wanted)
    seen = count_encoded(ours)
    run(ct_site, ours)
    depth = len(ct_site.labels("2")) + len(ct_site.labels("3"))
    assert sum(seen) == ours.encoded_slices == len(support_slices_used(ct_site, wanted)) + depth


def test_views_multiply_encoder_calls(ct_site: Site) -> None:
    plain, views = predictor(), predictor(flip=True)
    run(ct_site, plain)
    run(ct_site, views)
    assert views.encoded_slices == 2 * plain.encoded_slices
    scales = predictor(flip=True, scales=(0.5, 1.0, 1.5))
    run(ct_site, scales)
    assert scales.encoded_slices == 6 * plain.encoded_slices


@pytest.mark.parametrize(
    "settings", [{}, {"keep_components": True}, {"refine": 12}, {"pairing": "same-part"}, {"support_slices": "all"}]
)
def test_whole_volume_learns_nothing_from_the_querys_truth(
    ct_site: Site, tmp_path: Path, settings: dict[str, Any]
) -> None:
    _, before = run(ct_site, predictor(**settings))
    rng = np.random.default_rng(0)
    truth = {case: ct_site.labels(case) for case in QUERIES}
    shuffled = {f"case_{case}": rng.permutation(labels.ravel()).reshape(labels.shape) for case, labels in truth.items()}
    empty = {f"case_{case}": np.zeros_like(labels) for case, labels in truth.items()}
    for number, labels in enumerate((shuffled, empty)):
        _, after = run(relabelled(ct_site, tmp_path / str(number), **labels), predictor(**settings))
        assert before.keys() == after.keys() == {(case, organ) for case in QUERIES for organ in ORGANS}
        for key, mask in before.items():
            np.testing.assert_array_equal(mask, after[key])


def test_rows_say_what_was_done(ct_site: Site) -> None:
    ours, finished = predictor(pairing="same-part", support_slices=2, flip=True), []
    rows, predictions = run(ct_site, ours, on_case=finished.append)
    assert finished == ["2", "3"]
    keys = [(row.case, row.organ, row.protocol) for row in rows]
    assert sorted(keys) == sorted((c, o, p) for c in QUERIES for o in ORGANS.values() for p in PROTOCOLS)
    names = {name: organ for organ, name in ORGANS.items()}
    for row in rows:
        assert (row.method, row.seed, row.site, row.support_site) == ("mine", 4, "here", "here")
        assert (row.support_case, row.support_slices) == ("1", "2")
        assert row.options["pairing"] == ("same-part" if row.protocol == "gt-range" else "all-slices")
        assert row.options["flip"] == "true"
        truth = ct_site.labels(row.case) == names[row.organ]
        if row.protocol == "whole-volume":
            mask = predictions[row.case, names[row.organ]]
            assert mask.shape == truth.shape
            assert row.dice == pytest.approx(dice(mask, truth), nan_ok=True)


def test_rows_hold_all_settings_of_inference() -> None:
    """A table's columns suffice to predict again; a field that is added later has to be among them."""
    config = InferConfig(
        support_slices=5, pairing="same-part", scales=(0.75, 1), flip=True, refine=3, threshold=0.3,
        keep_components=False, background_slices=0, exclusive=False, axial_prior=1.5, quadrant_mask=True,
    )  # fmt: skip
    assert all(getattr(config, name) != getattr(InferConfig(), name) for name in InferConfig.model_fields)
    columns = options_of(OneShotPredictor(build_model(TINY, 0), config))
    settings = settings_of({**columns, "pairing": config.pairing, "modality": "ct", "note": ""})
    assert InferConfig.model_validate({**settings, "support_slices": 5}) == config
    assert settings_of({"head": "cowpro", "refine": "", "scales": ""}) == {}


def test_gt_range_ignores_what_lies_outside_the_organ(ct_site: Site) -> None:
    rows, predictions = run(ct_site, predictor())
    for row in rows:
        organ = next(value for value, name in ORGANS.items() if name == row.organ)
        truth = ct_site.labels(row.case) == organ
        low, high = gt_range(truth)
        if row.protocol == "gt-range":
            inside = dice(predictions[row.case, organ][low : high + 1], truth[low : high + 1])
            assert row.dice == pytest.approx(inside)
            whole = next(r.dice for r in rows if (r.case, r.organ, r.protocol) == (row.case, row.organ, PROTOCOLS[1]))
            assert row.dice >= whole


def test_chunks_use_the_slice_of_their_third(ct_site: Site) -> None:
    """With one support slice the two ways of pairing are one; with three they are not."""
    one = [run(ct_site, predictor(pairing=way, support_slices=1))[0] for way in ("all-slices", "same-part")]
    assert [row.dice for row in one[0]] == pytest.approx([row.dice for row in one[1]])
    three = [run(ct_site, predictor(pairing=way), protocols=("gt-range",))[0] for way in ("all-slices", "same-part")]
    assert [row.dice for row in three[0]] != pytest.approx([row.dice for row in three[1]])


def test_the_support_segments_itself_best(ct_site: Site, tmp_path: Path) -> None:
    """A query with the support's own pixels and truth, and all slices as support, in either protocol."""
    twin = relabelled(ct_site, tmp_path / "twin", case_3=ct_site.labels("1"))
    shutil.copy(twin.path / "volumes" / "1.npz", twin.path / "volumes" / "3.npz")
    rows, _ = run(twin, predictor(support_slices="all"))
    means = {case: np.mean([row.dice for row in rows if row.case == case]) for case in QUERIES}
    assert means["3"] > means["2"] + 0.05


def test_absent_organs(ct_site: Site, tmp_path: Path) -> None:
    liver_free = np.where(ct_site.labels("2") == 1, 0, ct_site.labels("2")).astype(np.uint8)
    no_spleen = np.where(ct_site.labels("1") == 4, 0, ct_site.labels("1")).astype(np.uint8)
    site = relabelled(ct_site, tmp_path / "site", case_2=liver_free, case_1=no_spleen)
    rows, predictions = run(site, predictor())
    assert "spleen" not in {row.organ for row in rows}  # the support lacks it
    of_2 = {row.protocol: row.dice for row in rows if row.case == "2" and row.organ == "liver"}
    assert set(of_2) == {"whole-volume"}
    expected = 0.0 if predictions["2", 1].any() else math.nan
    assert of_2["whole-volume"] == pytest.approx(expected, nan_ok=True)


def two_sites(ct_site: Site, folder: Path) -> dict[str, Site]:
    """The site, and a copy whose organs have other label values and whose case 3 is the only query."""
    other = relabelled(ct_site, folder / "other", **{f"case_{c}": (5 - ct_site.labels(c)) % 5 for c in "123"})
    organs = other.path / "labels" / "organs.json"
    organs.write_text(json.dumps({str(5 - value): name for value, name in ORGANS.items()}))
    return {"here": ct_site, "there": Site.open(other.path)}


def test_organs_are_joined_between_sites_by_name(ct_site: Site, tmp_path: Path) -> None:
    """A support of another site gives what the same support of one's own site gives."""
    sites, ours = two_sites(ct_site, tmp_path), predictor()
    plan = plan_episodes(sites, supports=["1"], queries=["3"], cross=True)
    scores = {}
    for episode in plan.episodes:
        rows = evaluate_episode(ours, sites, episode, method="m", seed=0)
        scores[episode.support_site, episode.site] = {(row.organ, row.protocol): row.dice for row in rows}
    assert set(scores) == {(a, b) for a in sites for b in sites}
    assert len(scores["here", "here"]) == 8
    for other in scores.values():
        assert other == pytest.approx(scores["here", "here"])


def test_several_supports_are_one_example(ct_site: Site) -> None:
    ours = predictor(pairing="same-part", background_slices=0)
    (episode,) = plan_episodes({"here": ct_site}, supports=["1", "2"], queries=["3"]).episodes
    seen = count_encoded(ours)
    rows = evaluate_episode(ours, {"here": ct_site}, episode, method="m", seed=0)
    used = sum(len({z for zs in example.slices.values() for z in zs}) for example in episode.supports)
    assert sum(seen) == used + 10
    assert {(row.support_case, row.support_slices) for row in rows} == {("1+2", "3+3")}
    (alone,) = plan_episodes({"here": ct_site}, supports=["1"], queries=["3"]).episodes
    single = evaluate_episode(ours, {"here": ct_site}, alone, method="m", seed=0)
    assert [row.dice for row in rows] != pytest.approx([row.dice for row in single])
    twice = alone.model_copy(update={"supports": alone.supports * 2})
    doubled = evaluate_episode(ours, {"here": ct_site}, twice, method="m", seed=0)
    assert [row.dice for row in doubled] == pytest.approx([row.dice for row in single], abs=1e-6)


def test_background_slices_take_away_what_lies_where_no_organ_is(ct_site: Site) -> None:
    """Cells of empty slices of the example are background of every organ, and foreground of none."""
    (episode,) = plan_episodes({"here": ct_site}).episodes

    def masks(wanted: int) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        ours = predictor(background_slices=wanted, keep_components=False, refine=0)
        evaluate_episode(
            ours, {"here": ct_site}, episode, method="m", seed=0, on_prediction=lambda *given: found.append(given[2])
        )
        return found

    before, after = masks(0), masks(24)
    assert any((a != b).any() for a, b in zip(before, after, strict=True))
    empty = ~ct_site.labels("2").any(axis=(1, 2))
    assert empty.any()
    shown = [sum(int(mask[empty].sum()) for mask in some[: len(some) // 2]) for some in (before, after)]
    assert shown[1] < shown[0]


def test_exclusive_organs_do_not_overlap(ct_site: Site) -> None:
    (episode,) = plan_episodes({"here": ct_site}).episodes
    overlaps = []
    for exclusive in (False, True):
        found: dict[str, list[np.ndarray]] = {}
        evaluate_episode(
            predictor(exclusive=exclusive, keep_components=False), {"here": ct_site}, episode, method="m", seed=0,
            on_prediction=lambda case, organ, mask, found=found: found.setdefault(case, []).append(mask),
        )  # fmt: skip
        overlaps.append(sum(int((np.sum(masks, axis=0) > 1).sum()) for masks in found.values()))
    assert overlaps[0] > 0
    assert overlaps[1] == 0


def test_unknown_voxels_are_not_scored(ct_site: Site, tmp_path: Path) -> None:
    """Where nobody looked, a mask is neither right nor wrong."""
    labels = ct_site.labels("2")
    assert (labels == 0).any()
    site = relabelled(ct_site, tmp_path / "site", case_2=np.where(labels == 0, UNKNOWN, labels).astype(np.uint8))
    rows, predictions = run(site, predictor())
    for row in (row for row in rows if row.case == "2" and row.protocol == "whole-volume"):
        organ = next(value for value, name in ORGANS.items() if name == row.organ)
        assert row.dice == pytest.approx(dice(predictions["2", organ] & (labels > 0), labels == organ))
    plain, _ = run(ct_site, predictor())
    assert [row.dice for row in rows if row.case == "3"] == [row.dice for row in plain if row.case == "3"]


def test_an_unknown_part_of_the_support_is_not_background(ct_site: Site, tmp_path: Path) -> None:
    """With the model of the package, an example of which two slices were annotated."""
    ours = load_predictor(None, evaluation=True).predictor
    means = {}
    for value in (0, UNKNOWN):
        labels = np.full_like(ct_site.labels("1"), value)
        labels[4:6] = ct_site.labels("1")[4:6]
        rows, _ = run(relabelled(ct_site, tmp_path / str(value), case_1=labels), ours)
        means[value] = np.mean([row.dice for row in rows if row.protocol == "whole-volume" and row.organ == "liver"])
    assert means[UNKNOWN] > means[0] + 0.1
