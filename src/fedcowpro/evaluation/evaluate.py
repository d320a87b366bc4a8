"""Score a model on labelled site folders: what `fedcowpro evaluate` does, as one function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast

import pandas as pd

from fedcowpro.core.device import choose_device
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import load_episodes, plan_episodes
from fedcowpro.evaluation.fine_tuned import FineTuned, Trained
from fedcowpro.evaluation.protocol import PROTOCOLS, TEACHINGS, Teaching, table_of, write_results
from fedcowpro.evaluation.run import TOLERANCE, Grid, Method, evaluate_episode
from fedcowpro.evaluation.summary import BEFORE
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.oneshot.organ_model import OrganModel, is_organ_model
from fedcowpro.oneshot.predictor import OneShotPredictor


def evaluate(
    model: str | PathLike[str] | None,
    sites: Mapping[str, str | PathLike[str]],
    *,
    out: str | PathLike[str] | None = None,
    episodes: str | PathLike[str] | None = None,
    support: Sequence[str] = (),
    every_support: bool = False,
    cross: bool = False,
    queries: Sequence[str] = (),
    organs: Sequence[str] = (),
    protocols: Sequence[str] = PROTOCOLS,
    settings: Mapping[str, Any] | None = None,
    head: str | None = None,
    grid: str = "native",
    tolerance: float = TOLERANCE,
    method: str = "fedcowpro",
    untrained: bool = False,
    teachings: Sequence[str] = (),
    steps: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    on_case: Callable[[str, str, str], None] | None = None,
    on_step: Callable[..., None] | None = None,
) -> pd.DataFrame:
    """Segment every query case like one annotated case of its site, and score it; one row per score.

    Args:
        model: checkpoint file or run folder; None takes the model that comes with the package. A fine-tuned model of
            organs is scored as it is: it needs no example, and settings of inference do not apply.
        sites: folder of each prepared site with labels, by its name.
        out: CSV to write; the episodes go beside it (OUT.episodes.json), for other models to be scored alike.
        episodes: file of an earlier evaluation: the same supports, queries and slices. Without one, the roles given to
            `prepare` hold, or the next five arguments.
        support: ids of the annotated cases; together they are one example.
        every_support: each held-out case supports in turn.
        cross: each site's example for every site's queries too.
        queries: ids of the cases to segment.
        organs: names; none takes all.
        protocols: of `PROTOCOLS`.
        settings: fields of `InferConfig` in place of the model's own.
        head: kind of head in place of the trained one.
        grid: where scores are taken: 'native', each volume's own, or 'prepared', as in the literature.
        tolerance: of NSD, in mm.
        method: name in the column `method`.
        untrained: score the encoder before training too, with the same settings, as method "untrained".
        teachings: score networks that learn each example, too: "fine-tuned", "self-trained" or "supervised" (see
            `FineTuned`), under these names. With `out` they are kept in OUT.networks, and an evaluation that was
            interrupted goes on.
        steps: of training of these networks; None = the recipe's own number.
        seed: of the training of these networks; None = the model's.
        device: what computes (see `OneShotSegmenter`).
        on_case: told method, site and case of each finished query.
        on_step: told the `Progress` of a network's training after each step.

    Returns:
        Columns `method`, `seed`, `site`, `case`, `organ`, `protocol`, the scores (`dice` in 0..1, `hd95` in mm, ...;
        NaN: not defined), the support, and one column per setting of inference.

    Raises:
        FedCoWProError: a file that cannot be read, a protocol, case or organ that is not there, `episodes` beside
            arguments that choose episodes, or other sites than the episodes were made for.
    """
    if unknown := set(protocols) - set(PROTOCOLS):
        raise FedCoWProError(f"protocol {sorted(unknown)}", f"among {PROTOCOLS}", "correct --protocol")
    if grid not in ("native", "prepared"):
        raise FedCoWProError(f"--grid {grid}", "native or prepared", "correct --grid")
    if unknown := set(teachings) - set(TEACHINGS):
        raise FedCoWProError(f"teaching {sorted(unknown)}", f"among {TEACHINGS}", "correct --teach")
    if method in teachings or (untrained and method == BEFORE):
        raise FedCoWProError(f"--method {method}, the name of another method", "a name of its own", "correct --method")
    opened = {name: Site.open(Path(path)) for name, path in sites.items()}
    overrides = dict(settings or {})
    place = choose_device(device)
    organ_model = OrganModel.load(Path(model), place) if model is not None and is_organ_model(Path(model)) else None
    if organ_model is not None and (overrides or head or untrained or teachings):
        raise FedCoWProError(
            f"{model}, a fine-tuned model of organs, beside settings of inference, --head, --untrained or --teach",
            "the model alone",
            "leave them out, or give the model that it was fine-tuned from",
        )
    path = None if model is None or organ_model else Path(model)
    loaded = load_predictor(path, overrides, head, evaluation=True, device=place)
    if episodes is None:
        plan = plan_episodes(
            opened,
            supports=support,
            queries=queries,
            organs=organs,
            slices=loaded.predictor.config.support_slices,
            every_support=every_support,
            cross=cross,
        )
    elif support or queries or organs or every_support or cross or "support_slices" in overrides:
        raise FedCoWProError(
            f"--episodes {episodes} beside options that choose episodes",
            "one of the two",
            "leave out --support, --queries, --organs, --support-slices, --every-support and --cross",
        )
    else:
        plan = load_episodes(Path(episodes))
        plan.require_sites(opened)
    methods: dict[str, tuple[OneShotPredictor | Method, int]] = {}
    if organ_model is not None:
        methods[method] = (Trained(organ_model), int(organ_model.card.get("seed", 0)))
    for label, candidate in {**({BEFORE: loaded.untrained()} if untrained else {}), method: loaded}.items():
        methods.setdefault(label, (candidate.predictor, candidate.seed))
    folder = None if out is None else Path(out).with_suffix(".networks")
    for teaching in cast("Sequence[Teaching]", teachings):
        own = loaded.seed if seed is None else seed
        methods[teaching] = (FineTuned(loaded, teaching, steps, own, folder, on_step), own)
    rows = []
    for label, (candidate_method, its_seed) in methods.items():
        for episode in plan.episodes:

            def told(case: str, label: str = label, site: str = episode.site) -> None:
                if on_case is not None:
                    on_case(label, site, case)

            rows += evaluate_episode(
                candidate_method,
                opened,
                episode,
                method=label,
                seed=its_seed,
                protocols=protocols,
                grid=cast("Grid", grid),
                tolerance=tolerance,
                on_case=told,
            )
    if out is not None:
        plan.save(Path(out).with_suffix(".episodes.json"))
        write_results(Path(out), rows)
    return table_of(rows)
