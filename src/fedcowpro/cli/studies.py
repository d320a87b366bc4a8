"""Commands that compare: studies, pages of evidence, and where a result comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedcowpro.cli.console import app
from fedcowpro.cli.console import out as echo


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="YAML of the study (see experiments/).")],
    out: Annotated[Path, typer.Option(help="Folder of the study; one that was interrupted goes on.")],
    workers: Annotated[int | None, typer.Option(help="Processes of one thread each; default one per core.")] = None,
    pools: Annotated[Path | None, typer.Option(help="Prepared volumes that several studies share.")] = None,
) -> None:
    """Train and score every arm of a study with every seed; nothing twice."""
    from fedcowpro.study.run import run_study

    table = run_study(file, out, workers=workers, pools=pools)
    echo.print(f"scores: {table}")


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="Run folder, checkpoint or table of results.")],
) -> None:
    """Print where a result comes from: settings, versions, seed, digests of data and weights, the command."""
    from fedcowpro.show import show as text_of

    echo.print(text_of(path))


@app.command()
def card(
    model: Annotated[Path, typer.Argument(help="Checkpoint file or run folder.")],
    results: Annotated[Path | None, typer.Option(help="Table of 'evaluate', for a section with intervals.")] = None,
    data_licence: Annotated[str | None, typer.Option(help="Licence of the training data, in words.")] = None,
) -> None:
    """Write a model card (MODEL_CARD.md) beside a checkpoint."""
    from fedcowpro.model_card import write_model_card

    echo.print(f"card: {write_model_card(model, results, data_licence)}")
