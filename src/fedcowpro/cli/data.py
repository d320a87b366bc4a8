"""Commands on data: datasets to site folders, and a look at what became of them."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedcowpro.cli.console import app
from fedcowpro.cli.console import out as echo
from fedcowpro.cli.options import AsJson, Quiet, case_ids, numbers, organ_names, print_json, split_list
from fedcowpro.core.errors import FedCoWProError

if TYPE_CHECKING:
    from fedcowpro.data.datasets.base import Options


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
    list_cases: Annotated[
        bool, typer.Option("--list", help="List the cases with their ids and where they lie, and prepare nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Turn a folder of volumes into a site folder: axial slices and superpixel pseudo-labels."""
    from fedcowpro.config import PrepareConfig, parse
    from fedcowpro.data.datasets.base import Options
    from fedcowpro.data.preparation.prepare import prepare as run
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
    ids, held_out, queries, named = case_ids(cases, more), support, split_list(query) or [], organ_names(organs)
    if split is not None:
        if ids is not None or held_out is not None or queries:
            raise FedCoWProError(
                f"--split {split} beside --cases, --support or --query",
                "one of the two",
                "leave the ids to the split, or write a split file of your own",
            )
        folds, fold = load_fold(split)
        ids, held_out, queries = list(fold.cases), fold.support, list(fold.query)
        dataset, part, named = dataset or folds.dataset, part or folds.part, named or folds.organs
    adapter_options = Options(
        part, images, labels, reuse_superpixels, partial(_key, key or Path(f"{out.resolve()}.key"))
    )
    if list_cases:
        _list_cases(source, dataset, adapter_options)
        return
    site = run(
        source,
        out,
        config,
        dataset=dataset,
        options=adapter_options,
        organs=named,
        cases=ids,
        support=held_out,
        query=queries,
        test_organs=_test_organs(setting, split_list(test_organs) or []),
        workers=workers,
        progress=not quiet,
    )
    kinds = " and ".join(kind.upper() for kind in site.modalities)
    echo.print(
        f"{out}: {len(site.cases)} cases of '{site.manifest.dataset}' ({kinds}), "
        f"{site.n_train_slices} slices to train on, {len(site.labelled_cases)} cases with labels (kept apart)"
    )


@app.command()
def datasets(
    name: Annotated[str | None, typer.Argument(help="Of one dataset; default all.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the datasets that 'prepare' knows: layout on disk, licence, where to get them, organs."""
    from fedcowpro.data.datasets.registry import adapters

    known = adapters()
    if name is not None and name not in known:
        raise FedCoWProError(f"dataset '{name}'", f"one of: {', '.join(known)}", "correct the name, or leave it out")
    chosen = [adapter.about for key, adapter in known.items() if name in (None, key)]
    if as_json:
        print_json([vars(about) for about in chosen])
    for about in chosen:
        echo.print(f"{about.name}: {about.title}")
        facts = {
            "licence": [about.licence],
            "get it": [about.home],
            "parts": [", ".join(about.parts)] if about.parts else [],
            "organs": [", ".join(f"{value} {organ}" for value, organ in about.organs.items()) or "as the files say"],
            "on disk": about.layout,
        }
        for key, lines in facts.items():
            for number, line in enumerate(lines):
                echo.print(f"  {key if number == 0 else '':9}{line}")
        echo.print()


@app.command()
def inspect(
    site: Annotated[Path, typer.Argument(help="Site folder.")],
    out: Annotated[Path, typer.Option(help="HTML page to write.")],
    quiet: Quiet = False,
) -> None:
    """Show what a site's volumes and pseudo-labels look like, and what may train badly."""
    from fedcowpro.data.preparation.site import Site
    from fedcowpro.reports.site_report.inspect import inspect as run

    for warning in run(Site.open(site), out, progress=not quiet):
        echo.print(f"warning: {warning}")
    echo.print(f"page: {out}")


def _list_cases(source: Path, dataset: str | None, options: Options) -> None:
    """Print id, modality, labels and place of every case. For DICOM this says whose pseudonym is whose."""
    from fedcowpro.data.datasets.registry import adapter_for

    adapter = adapter_for(source, dataset, patterns=bool(options.images or options.labels))
    found = adapter.find(source, options)
    for note in found.notes:
        warnings.warn(note, stacklevel=2)
    widest = max(len(scan.id) for scan in found.scans)
    for scan in found.scans:
        files = scan.image.files
        place = files[0] if len(files) == 1 else f"{files[0].parent} ({len(files)} files)"
        labels = "labels" if scan.labels is not None else "-"
        echo.print(f"{scan.id:{widest}}  {(scan.modality or '?').upper():2}  {labels:6}  {place}")


def _key(file: Path) -> bytes:
    from fedcowpro.volume.dicom import load_or_make_key

    return load_or_make_key(file)


def _test_organs(setting: int, test_organs: list[str]) -> list[str]:
    if setting not in (1, 2) or (setting == 2) != bool(test_organs):
        raise FedCoWProError(
            f"--setting {setting} with test organs {', '.join(test_organs) or 'none'}",
            "setting 1 without, or setting 2 with --test-organs",
            "for example --setting 2 --test-organs liver,spleen",
        )
    return test_organs
