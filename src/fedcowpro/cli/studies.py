"""Commands that compare: studies, comparisons, and where a result comes from."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedcowpro.cli.console import app
from fedcowpro.cli.console import out as echo
from fedcowpro.cli.options import Quiet, site_folders


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="YAML of the study (see experiments/).")],
    out: Annotated[Path, typer.Option(help="Folder of the study; one that was interrupted goes on.")],
    workers: Annotated[int | None, typer.Option(help="Processes of one thread each; default one per core.")] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Folder of volumes, trainings and scores that several studies share; default --out."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Replaces the study's device.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train and score every arm of a study with every seed; nothing twice."""
    from fedcowpro.study.run import run_study

    table = run_study(file, out, workers=workers, store=store, device=device, progress=not quiet)
    echo.print(f"scores: {table}")


@app.command()
def compare(
    sources: Annotated[list[Path], typer.Argument(help="Tables of results, run folders, study folders.")],
    out: Annotated[Path, typer.Option(help="Page to write: .html or .md.")],
    reference: Annotated[
        str | None, typer.Option(help="Method that the others are compared with; default the study's, or untrained.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Protocol that answers the question; default whole-volume.")
    ] = None,
    margin: Annotated[
        float, typer.Option(help="Largest difference of Dice that counts as none; choose it before you look.")
    ] = 0.02,
    infinite_hd95: Annotated[
        float | None, typer.Option(help="mm that an infinite HD95 (an organ missed or invented) counts as.")
    ] = None,
    interval: Annotated[
        str, typer.Option(help="How intervals are made: studentised, t, percentile or bca (see docs/studies.md).")
    ] = "studentised",
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    site: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER of a site, for the modality of its cases.")
    ] = None,
) -> None:
    """Compare methods case by case, with intervals and tests, on one page."""
    from fedcowpro.reports.comparison.page import compare_page

    page = compare_page(
        sources,
        out,
        reference=reference,
        margin=margin,
        protocol=protocol,
        infinite=infinite_hd95,
        seed=seed,
        command=shlex.join(["fedcowpro", *sys.argv[1:]]),
        sites=site_folders(site or [], {}) if site else {},
        interval=interval,  # type: ignore[arg-type]
    )
    echo.print(f"page: {page}")


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="Run or study folder, checkpoint or table of results.")],
) -> None:
    """Print where a result comes from: settings, versions, seed, digests of data and weights, the command."""
    from fedcowpro.reports.show import show as text_of

    echo.print(text_of(path))


@app.command()
def card(
    model: Annotated[Path, typer.Argument(help="Checkpoint file or run folder.")],
    results: Annotated[Path | None, typer.Option(help="Table of 'evaluate', for a section with intervals.")] = None,
    data_licence: Annotated[str | None, typer.Option(help="Licence of the training data, in words.")] = None,
) -> None:
    """Write a model card (MODEL_CARD.md) beside a checkpoint."""
    from fedcowpro.evaluation.model_card import write_model_card

    echo.print(f"card: {write_model_card(model, results, data_licence)}")
