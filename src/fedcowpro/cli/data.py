"""Commands on data: datasets to site folders, and a look at what became of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fedcowpro.cli.console import app
from fedcowpro.cli.console import out as echo
from fedcowpro.cli.options import case_ids, numbers, organ_names, split_list
from fedcowpro.errors import FedCoWProError


@app.command()
def prepare(
    source: Annotated[Path, typer.Argument(help="Folder with the volumes: a dataset as downloaded, or your own.")],
    out: Annotated[Path, typer.Option(help="Site folder to make or complete.")],
    more: Annotated[list[str] | None, typer.Argument(help="More ids for --cases.", metavar="[CASE]...")] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the dataset; default: by its layout.")] = None,
    part: Annotated[str | None, typer.Option(help="Part of the dataset, see 'fedcowpro datasets'.")] = None,
    modality: Annotated[str | None, typer.Option(help="ct or mr; default: as the dataset or the values say.")] = None,
    images: Annotated[str | None, typer.Option(help="File pattern; its * is the case id.")] = None,
    labels: Annotated[str | None, typer.Option(help="File pattern of label maps; '' ignores labels.")] = None,
    organs: Annotated[str | None, typer.Option(help="Names of label values, as 1=liver,2=spleen.")] = None,
    cases: Annotated[list[str] | None, typer.Option(help="Case ids, as 1,2,3 or 1 2 3; default all.")] = None,
    support: Annotated[str | None, typer.Option(help="Annotated case, held out of training.")] = None,
    query: Annotated[str | None, typer.Option(help="Case ids to evaluate on, held out of training.")] = None,
    split: Annotated[
        str | None, typer.Option(help="NAME:FOLD or FILE.yaml:FOLD instead of --cases, --support, --query.")
    ] = None,
    setting: Annotated[int, typer.Option(help="1: train on all slices; 2: not on those that show a test organ.")] = 1,
    test_organs: Annotated[str | None, typer.Option(help="Names of the test organs of setting 2.")] = None,
    window: Annotated[str | None, typer.Option(help="CT window in HU, as -125,275.")] = None,
    percentile: Annotated[float | None, typer.Option(help="Upper clip of MR intensities, in percent.")] = None,
    spacing: Annotated[float | None, typer.Option(help="In-plane mm per pixel; default the file's.")] = None,
    size: Annotated[int | None, typer.Option(help="Height and width of a slice in pixels.")] = None,
    superpixels: Annotated[str | None, typer.Option(help="Method of the pseudo-labels.")] = None,
    reuse_superpixels: Annotated[bool, typer.Option(help="Take the dataset's own superpixels (alpnet).")] = False,
    key: Annotated[
        Path | None, typer.Option(help="Secret for the pseudonyms of DICOM cases; default OUT.key, made once.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; default one per core.")] = None,
) -> None:
    """Turn a folder of volumes into a site folder: axial slices and superpixel pseudo-labels."""
    from fedcowpro.config import PrepareConfig, parse
    from fedcowpro.data.datasets.base import Options
    from fedcowpro.data.prepare import prepare as run
    from fedcowpro.data.splits import load_fold

    given = {
        "modality": modality.lower() if modality is not None else None,
        "window": numbers(window, "--window"),
        "percentile": percentile,
        "spacing": spacing,
        "size": size,
        "superpixels": {"method": superpixels} if superpixels is not None else None,
    }
    config = parse(PrepareConfig, {k: v for k, v in given.items() if v is not None}, "options of prepare")
    ids, held_out, queries = case_ids(cases, more), support, split_list(query) or []
    if split is not None:
        if ids is not None or held_out is not None or queries:
            raise FedCoWProError(
                f"--split {split} beside --cases, --support or --query",
                "one of the two",
                "leave the ids to the split, or write a split file of your own",
            )
        folds, fold = load_fold(split)
        ids, held_out, queries = list(fold.cases), fold.support, list(fold.query)
        dataset, part = dataset or folds.dataset, part or folds.part
    site = run(
        source,
        out,
        config,
        dataset=dataset,
        options=Options(
            part, images, labels, reuse_superpixels, partial(_key, key or out.with_name(f"{out.name}.key"))
        ),
        organs=organ_names(organs),
        cases=ids,
        support=held_out,
        query=queries,
        unseen=_unseen(setting, split_list(test_organs) or []),
        workers=workers,
    )
    echo.print(
        f"{out}: {len(site.cases)} cases of '{site.manifest.dataset}' ({' and '.join(site.modalities).upper()}), "
        f"{site.n_train_slices} slices to train on, {len(site.labelled_cases)} cases with labels (kept apart)"
    )


@app.command()
def datasets() -> None:
    """List the datasets that 'prepare' knows: layout on disk, licence, where to get them, organs."""
    from fedcowpro.data.datasets.registry import adapters

    table = Table(show_lines=True)
    for title in ("name", "what", "expected below SOURCE", "organs"):
        table.add_column(title, overflow="fold")
    for name, adapter in adapters().items():
        about = adapter.about
        parts = f"\nparts: {', '.join(about.parts)}" if about.parts else ""
        organs = ", ".join(f"{value} {organ}" for value, organ in about.organs.items()) or "as the files say"
        table.add_row(
            name,
            f"{about.title}{parts}\nlicence: {about.licence}\nget it: {about.home}",
            "\n".join(about.layout),
            organs,
        )
    echo.print(table)


@app.command()
def inspect(
    site: Annotated[Path, typer.Argument(help="Site folder.")],
    out: Annotated[Path, typer.Option(help="HTML page to write.")],
) -> None:
    """Show what a site's volumes and pseudo-labels look like, and what may train badly."""
    from fedcowpro.data.site import Site
    from fedcowpro.evaluate.inspect import inspect as run

    for warning in run(Site.open(site), out):
        echo.print(f"warning: {warning}")
    echo.print(f"page: {out}")


def _key(file: Path) -> bytes:
    from fedcowpro.volume.dicom import load_or_make_key

    return load_or_make_key(file)


def _unseen(setting: int, test_organs: list[str]) -> list[str]:
    if setting not in (1, 2) or (setting == 2) != bool(test_organs):
        raise FedCoWProError(
            f"--setting {setting} with test organs {', '.join(test_organs) or 'none'}",
            "setting 1 without, or setting 2 with --test-organs",
            "for example --setting 2 --test-organs liver,spleen",
        )
    return test_organs
