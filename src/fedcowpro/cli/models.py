"""Commands that use and score models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.table import Table

from fedcowpro.cli.console import app, err
from fedcowpro.cli.console import out as echo
from fedcowpro.cli.options import inference_overrides, site_folders, split_list
from fedcowpro.core.errors import FedCoWProError

if TYPE_CHECKING:
    from fedcowpro.evaluation.protocol import Row
    from fedcowpro.evaluation.run import Grid


@app.command()
def evaluate(
    model: Annotated[Path, typer.Option(help="Checkpoint file or run folder.")],
    site: Annotated[list[str], typer.Option(help="Site folder with labels, NAME=FOLDER or FOLDER; repeat.")],
    out: Annotated[Path, typer.Option(help="CSV to write.")],
    more: Annotated[list[str] | None, typer.Argument(help="More site folders.", metavar="[SITE]...")] = None,
    episodes: Annotated[
        Path | None, typer.Option(help="Episode file of an earlier evaluation: the same supports, queries and slices.")
    ] = None,
    support: Annotated[
        str | None, typer.Option(help="Annotated case, several as 1,2; default by role, else the first.")
    ] = None,
    every_support: Annotated[
        bool, typer.Option("--every-support", help="Each held-out case supports in turn.")
    ] = False,
    cross: Annotated[bool, typer.Option("--cross", help="Each site's support for every site's queries too.")] = False,
    queries: Annotated[str | None, typer.Option(help="Case ids; default by role, else the others.")] = None,
    organs: Annotated[str | None, typer.Option(help="Organ names, comma-separated; default all.")] = None,
    protocol: Annotated[list[str] | None, typer.Option(help="gt-range, whole-volume; default both.")] = None,
    support_slices: Annotated[str | None, typer.Option(help="Slices used per organ: a number or all.")] = None,
    pairing: Annotated[str | None, typer.Option(help="bag, or chunk (published, gt-range).")] = None,
    keep_components: Annotated[
        bool | None, typer.Option(help="Keep as many parts of an organ as the support has.")
    ] = None,
    refine: Annotated[int | None, typer.Option(help="Radius in pixels of the edge-aware filter; 0 is off.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Probability above which a pixel is the organ.")] = None,
    scales: Annotated[str | None, typer.Option(help="Sizes at which slices are encoded, as 0.75,1,1.25.")] = None,
    head: Annotated[
        str | None,
        typer.Option(help="cowpro, cowpro-raw, alpnet, panet or nearest-support; default the one that was trained."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any inference setting, FIELD=VALUE; repeat.")
    ] = None,
    grid: Annotated[
        str, typer.Option(help="Where scores are taken: native, each volume's own; prepared, as in the literature.")
    ] = "native",
    tolerance: Annotated[float, typer.Option(help="Of NSD, in mm.")] = 2.0,
    method: Annotated[str, typer.Option(help="Name in the column 'method'.")] = "fedcowpro",
    untrained: Annotated[
        bool, typer.Option(help="Score the encoder before training too, with the same settings.")
    ] = False,
) -> None:
    """Score a model on labelled sites with one annotated case each; writes one tidy row per score.

    The episodes (supports, slices, queries) are written beside the table, for other models to be scored alike.
    """
    from fedcowpro.data.preparation.site import Site
    from fedcowpro.evaluation.episodes import load_episodes, plan_episodes
    from fedcowpro.evaluation.protocol import PROTOCOLS, write_results
    from fedcowpro.evaluation.run import evaluate_episode
    from fedcowpro.oneshot.loading import load_predictor

    wanted = tuple(protocol or PROTOCOLS)
    if unknown := set(wanted) - set(PROTOCOLS):
        raise FedCoWProError(f"protocol {sorted(unknown)}", f"among {PROTOCOLS}", "correct --protocol")
    opened = {name: Site.open(path) for name, path in site_folders([*site, *(more or [])], {}).items()}
    overrides = inference_overrides(support_slices, pairing, keep_components, refine, threshold, scales, settings or ())
    if grid not in ("native", "prepared"):
        raise FedCoWProError(f"--grid {grid}", "native or prepared", "correct --grid")
    loaded = load_predictor(model, overrides, head, evaluation=True)
    chosen = {"supports": split_list(support), "queries": split_list(queries), "organs": split_list(organs)}
    given = {name: value for name, value in chosen.items() if value}
    if episodes is None:
        plan = plan_episodes(
            opened, **given, slices=loaded.predictor.config.support_slices, every_support=every_support, cross=cross
        )
    elif given or every_support or cross or support_slices is not None:
        raise FedCoWProError(
            f"--episodes {episodes} beside options that choose episodes",
            "one of the two",
            "leave out --support, --queries, --organs, --support-slices, --every-support and --cross",
        )
    else:
        plan = load_episodes(episodes)
        plan.require_sites(opened)
    methods = {"untrained": loaded.untrained()} if untrained else {}
    methods[method] = loaded
    rows = []
    for label, candidate in methods.items():
        for episode in plan.episodes:
            rows += evaluate_episode(
                candidate.predictor,
                opened,
                episode,
                method=label,
                seed=candidate.seed,
                protocols=wanted,
                grid=cast("Grid", grid),
                tolerance=tolerance,
                on_case=partial(_tell, f"{label}, {episode.site}"),
            )
    plan.save(out.with_suffix(".episodes.json"))
    write_results(out, rows)
    echo.print(_summary(rows))
    echo.print(f"{out}: {len(rows)} rows")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the phantom patients and the training.")] = 0,
) -> None:
    """Show the whole of it on synthetic patients: four sites learn together, then one example segments."""
    from fedcowpro.demo.run import run_demo

    report = run_demo(out, seed)
    echo.print(f"report: {report}")


def _tell(where: str, case: str) -> None:
    err.print(f"{where}: case {case}")


def _summary(rows: Sequence[Row]) -> Table:
    """Mean Dice per method, site and protocol."""
    scores: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        if row.dice == row.dice:
            scores.setdefault((row.method, row.site), {}).setdefault(row.protocol, []).append(row.dice)
    protocols = list(dict.fromkeys(row.protocol for row in rows))
    table = Table("method", "site", *(f"{protocol} Dice" for protocol in protocols))
    for (method, site), by_protocol in scores.items():
        means = (by_protocol.get(protocol, []) for protocol in protocols)
        table.add_row(method, site, *(f"{sum(d) / len(d):.3f}" if d else "-" for d in means))
    return table
