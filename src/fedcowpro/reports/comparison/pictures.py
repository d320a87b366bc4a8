"""Pictures of three cases: predictions are computed anew, with the settings and supports of the table's rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import Episode, plan_episodes
from fedcowpro.evaluation.options import settings_of
from fedcowpro.evaluation.run import evaluate_episode
from fedcowpro.evaluation.summary import BEFORE
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.reports.comparison import wording
from fedcowpro.reports.comparison.cases import Pick, picks
from fedcowpro.reports.comparison.evidence import Evidence
from fedcowpro.reports.comparison.judge import MAIN, Judge
from fedcowpro.reports.comparison.sites import site_folders
from fedcowpro.reports.comparison.trainings import MODEL
from fedcowpro.reports.demo_report.sections import overlays
from fedcowpro.reports.toolkit.blocks import Block, Items, Raw, Text
from fedcowpro.reports.toolkit.html import number
from fedcowpro.reports.toolkit.overlays import Overlay

_SAME = 0.0005  # Dice; less is rounding


@dataclass(frozen=True)
class Shelf:
    """Where images and models are.

    Attributes:
        sites: name -> site folder; those that a study composed are found without it.
        models: method -> checkpoint or run folder; those of studies and run folders are found without it.
    """

    sites: Mapping[str, Path]
    models: Mapping[str, Path]


def pictures(evidence: Evidence, judge: Judge, shelf: Shelf) -> list[Block]:
    """Best, median and worst case of the method with the highest mean Dice: by that method and by the reference.

    Raises:
        FedCoWProError: no picture could be made; it says why.
    """
    rows = evidence.rows[evidence.rows["protocol"] == evidence.protocol]
    cells = judge.cells(rows, MAIN)
    if cells is None:
        return []
    others = [name for name in cells.values if name != evidence.reference]
    best = max(others, key=lambda name: float(cells.values[name].mean()))
    shown, reasons = [], dict[str, None]()
    for pick in picks(cells, best):
        for method in dict.fromkeys((best, evidence.reference or best)):
            try:
                shown.append(_overlay(evidence, shelf, pick, method))
            except FedCoWProError as error:
                reasons[f"No picture of '{method}' for case {pick.case} of {pick.site}: {error.got}."] = None
                last = error
    if not shown:
        raise FedCoWProError(
            f"--pictures: {last.got}", last.expected, "name them with --site NAME=FOLDER and --model METHOD=RUN"
        ) from last
    blocks: list[Block] = [Text(wording.PICTURES), Raw(overlays(shown))]
    return [*blocks, Items(tuple(reasons))] if reasons else blocks


def _overlay(evidence: Evidence, shelf: Shelf, pick: Pick, method: str) -> Overlay:
    rows = evidence.rows
    mine = rows[(rows["method"] == method) & (rows["site"] == pick.site) & (rows["case"] == pick.case)]
    model, seed = _model(evidence, shelf, method, sorted(map(int, mine["seed"].unique())), pick.site)
    mine = mine[mine["seed"] == seed]
    first = mine.iloc[0]
    mine = mine[mine["support_case"] == first["support_case"]]
    site = Site.open(_folder(evidence, shelf, method, pick.site))
    sites = {pick.site: site}
    episode = _episode(evidence, sites, mine)
    settings = settings_of(first.to_dict())
    predictor = _predictor(evidence, method, model, settings, str(first.get("head") or "") or None)
    masks: dict[int, npt.NDArray[np.bool_]] = {}

    def keep(_case: str, organ: int, mask: np.ndarray) -> None:
        masks[organ] = mask

    scores = evaluate_episode(
        predictor, sites, episode, method=method, seed=seed, protocols=["whole-volume"], on_prediction=keep
    )
    truth, example = site.labels(pick.case), episode.supports[0]
    annotated = site.labels(example.case)
    organs = {value: name for value, name in site.organs.items() if name in episode.organs}
    z = _fullest(truth, organs, range(len(truth)))
    used = sorted({z for zs in example.slices.values() for z in zs})
    z_example = _fullest(annotated, organs, used)
    now = float(np.nanmean([row.dice for row in scores]))
    then = mine.loc[mine["protocol"] == "whole-volume", MAIN].mean()
    differs = f" (in the table: {number(then)})" if abs(now - then) > _SAME else ""
    return Overlay(
        site=pick.site,
        organs=organs,
        support_image=site.image_slice(example.case, z_example),
        support_labels=annotated[z_example],
        query_image=site.image_slice(pick.case, z),
        prediction=_label_map(masks, z),
        truth=truth[z],
        caption=f"Case {pick.case}, the {pick.which} one of '{pick.method}', segmented by '{method}' (seed {seed}): "
        f"whole-volume Dice {number(now)}{differs}. Slice {z + 1} of {len(truth)}; annotated case "
        f"{example.case}, slice {z_example + 1} of {len(annotated)}.",
    )


def _model(evidence: Evidence, shelf: Shelf, method: str, seeds: list[int], site: str) -> tuple[Path, int]:
    """Checkpoint of a method and the seed of the scores that it gave."""
    if method in shelf.models:
        return shelf.models[method], seeds[0]
    for seed in seeds:
        for run in evidence.trainings:
            if (method, seed) in run.users and (run.folder / MODEL).is_file():
                # With local normalisation a training site has a model of its own.
                own = run.folder / "sites" / f"{site}.safetensors"
                return own if own.is_file() else run.folder, seed
    if _is_untrained(evidence, method):
        wanted = _model_settings(evidence, method)
        for run in sorted(evidence.trainings, key=lambda run: run.seed not in seeds):
            fits = wanted is None or run.settings.get("model") == wanted
            if fits and (run.folder / MODEL).is_file():
                return run.folder, run.seed if run.seed in seeds else seeds[0]
    raise FedCoWProError(f"no model of '{method}'", "a checkpoint or a run folder", "name it")


def _is_untrained(evidence: Evidence, method: str) -> bool:
    regimes = [source.arms[method].get("regime") for source in evidence.sources if method in source.arms]
    return method == BEFORE if not regimes else regimes == ["untrained"]


def _model_settings(evidence: Evidence, method: str) -> Any:
    return next((s.arms[method]["settings"]["model"] for s in evidence.sources if method in s.arms), None)


def _predictor(
    evidence: Evidence, method: str, model: Path, settings: Mapping[str, Any], head: str | None
) -> OneShotPredictor:
    loaded = load_predictor(model, settings, head)
    return (loaded.untrained() if _is_untrained(evidence, method) else loaded).predictor


def _folder(evidence: Evidence, shelf: Shelf, method: str, site: str) -> Path:
    if site in shelf.sites:
        return shelf.sites[site]
    for source in evidence.sources:
        folders = site_folders(source)
        if (method, site) in folders:
            return folders[method, site]
    raise FedCoWProError(f"no folder of site '{site}'", "the site folder that was scored", "name it")


def _episode(evidence: Evidence, sites: Mapping[str, Site], rows: pd.DataFrame) -> Episode:
    """The episode of a case: from the file beside its table, else as the rows have it."""
    first = rows.iloc[0]
    name, case, support = (str(first[column]) for column in ("site", "case", "support_case"))
    if first["support_site"] != name:
        raise FedCoWProError(f"a support of site '{first['support_site']}'", "a support of the query's site", "none")
    for source in evidence.sources:
        for scores in source.tables:
            for episode in scores.episodes.episodes if scores.episodes else ():
                fits = (episode.site, episode.support_site, episode.support_case) == (name, name, support)
                if fits and case in episode.queries and episode.support_numbers == first["support_slices"]:
                    assert scores.episodes is not None
                    if sites[name].labelled_digest != scores.episodes.digests[name]:
                        raise FedCoWProError(
                            f"{sites[name].path} has the digest {sites[name].labelled_digest}, the scores' site "
                            f"'{name}' had {scores.episodes.digests[name]}",
                            "the site folder that was scored",
                            "name it",
                        )
                    return episode.model_copy(update={"queries": (case,)})
    slices = str(first["support_slices"]).split("+")[0]
    planned = plan_episodes(
        sites,
        supports=support.split("+"),
        queries=[case],
        organs=sorted(set(rows["organ"])),
        slices="all" if slices == "all" else int(slices),
    )
    return planned.episodes[0]


def _label_map(masks: Mapping[int, npt.NDArray[np.bool_]], z: int) -> npt.NDArray[np.uint8]:
    """One slice as labels; where organs overlap, the one that is smaller in the slice stays visible."""
    slices = {organ: mask[z] for organ, mask in masks.items()}
    out = np.zeros(next(iter(slices.values())).shape, np.uint8)
    for organ in sorted(slices, key=lambda value: -int(slices[value].sum())):
        out[slices[organ]] = organ
    return out


def _fullest(labels: npt.NDArray[np.uint8], organs: Mapping[int, str], among: Any) -> int:
    """The slice with most organs, then with the largest."""
    slices = list(among)
    areas = np.stack([(labels[slices] == organ).sum((1, 2)) for organ in organs])
    return int(slices[int(np.lexsort((areas.sum(0), (areas > 0).sum(0)))[-1])])
