"""Commands that use and score models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fedcowpro.cli.console import app, err
from fedcowpro.cli.console import out as echo
from fedcowpro.cli.options import (
    AsJson,
    Device,
    Quiet,
    a_device,
    inference_overrides,
    print_json,
    site_folders,
    split_list,
)

if TYPE_CHECKING:
    import pandas as pd


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
    pairing: Annotated[str | None, typer.Option(help="all-slices, or same-part (published, gt-range).")] = None,
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
    teach: Annotated[
        str | None,
        typer.Option(
            help="Score networks that learn each example, too; comma-separated: fine-tuned (on the example), "
            "self-trained (also on query and training cases without labels), supervised (on training cases with "
            "labels: the ceiling)."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of these networks.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of these networks; default the model's.")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score a model on labelled sites with one annotated case each; writes one tidy row per score.

    The episodes (supports, slices, queries) are written beside the table, for other models to be scored alike.
    """
    from fedcowpro.evaluation.evaluate import evaluate as run
    from fedcowpro.evaluation.protocol import PROTOCOLS

    table = run(
        model,
        site_folders([*site, *(more or [])], {}),
        out=out,
        episodes=episodes,
        support=split_list(support) or (),
        every_support=every_support,
        cross=cross,
        queries=split_list(queries) or (),
        organs=split_list(organs) or (),
        protocols=tuple(protocol or PROTOCOLS),
        settings=inference_overrides(
            support_slices, pairing, keep_components, refine, threshold, scales, settings or ()
        ),
        head=head,
        grid=grid,
        tolerance=tolerance,
        method=method,
        untrained=untrained,
        teachings=split_list(teach) or (),
        steps=steps,
        seed=seed,
        device=str(a_device(device, quiet)),
        on_case=lambda method, site, case: None if quiet else err.print(f"{method}, {site}: case {case}"),
    )
    echo.print(_summary(table))
    echo.print(f"{out}: {len(table)} rows")
    if as_json:
        means = _means(table).stack().reset_index(name="dice")
        print_json({"table": str(out), "rows": len(table), "mean_dice": means.to_dict("records")})


@app.command()
def devices(as_json: AsJson = False) -> None:
    """List what can compute here, by the names that --device takes."""
    from fedcowpro.core.device import choose_device, list_devices

    chosen = str(choose_device("auto"))
    if as_json:
        print_json([{"name": name, "about": about, "auto": name == chosen} for name, about in list_devices().items()])
    for name, about in list_devices().items():
        echo.print(f"{name}  {about}{'  (auto)' if name == chosen else ''}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the phantom patients and the training.")] = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Show the whole of it on synthetic patients: four sites learn together, then one example segments."""
    from fedcowpro.demo.run import run_demo

    report = run_demo(out, seed, device=str(a_device(device, quiet)), progress=not quiet)
    echo.print(f"report: {report}")


def _means(results: pd.DataFrame) -> pd.DataFrame:
    """Mean Dice: a row per method and site, a column per protocol."""
    return results.groupby(["method", "site", "protocol"], sort=False)["dice"].mean().unstack("protocol", sort=False)


def _summary(results: pd.DataFrame) -> Table:
    """Mean Dice per method, site and protocol, in the order of the rows; '-' where none is defined."""
    means = _means(results)
    table = Table("method", "site", *(f"{protocol} Dice" for protocol in means))
    for (method, site), values in means.iterrows():
        table.add_row(method, site, *("-" if value != value else f"{value:.3f}" for value in values))
    return table
