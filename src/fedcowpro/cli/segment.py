"""The command that segments files like an annotated example."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedcowpro.cli.console import app, err
from fedcowpro.cli.console import out as echo
from fedcowpro.cli.options import a_modality, inference_overrides, organ_names
from fedcowpro.core.errors import FedCoWProError

if TYPE_CHECKING:
    from fedcowpro.oneshot.batch import MaskFormat, Segmented
    from fedcowpro.oneshot.loading import Loaded
    from fedcowpro.volume.accept import Painted

SOME_FAILED = 3


@app.command()
def segment(
    support: Annotated[list[Path], typer.Option(help="Annotated image; repeat for several.")],
    support_mask: Annotated[list[Path], typer.Option(help="Its label map, in the same order.")],
    query: Annotated[
        list[Path],
        typer.Option(
            help="Image, DICOM series, folder of either, or pattern in quotes; repeat, or list more at the end."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the masks.")],
    more: Annotated[list[Path] | None, typer.Argument(help="More query images.", metavar="[IMAGE]...")] = None,
    model: Annotated[
        Path | None, typer.Option(help="Checkpoint file or run folder; default the model of this package.")
    ] = None,
    modality: Annotated[str | None, typer.Option(help="ct or mr for all files; default: by their values.")] = None,
    spacing: Annotated[float | None, typer.Option(help="In-plane mm per pixel; default the support's.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Write probabilities too.")] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Write a picture of three slices per query.")] = False,
    file_format: Annotated[str, typer.Option("--format", help="nifti, or dicom-seg for DICOM series.")] = "nifti",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Segment again what is finished, and replace masks of the same query.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", hidden=True)] = False,
    painted: Annotated[
        str | None,
        typer.Option(help="all: empty slices of the masks have no organ; labelled: nothing is known of them."),
    ] = None,
    organs: Annotated[
        str | None, typer.Option(help="Label values to segment and their names, as 1=liver,2=spleen; default all.")
    ] = None,
    support_slices: Annotated[str | None, typer.Option(help="Slices used per organ: a number or all.")] = None,
    keep_components: Annotated[
        bool | None, typer.Option(help="Keep as many parts of an organ as the support has.")
    ] = None,
    refine: Annotated[int | None, typer.Option(help="Radius in pixels of the edge-aware filter; 0 is off.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Probability above which a pixel is the organ.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any inference setting, FIELD=VALUE; repeat.")
    ] = None,
) -> None:
    """Segment volumes like one annotated example; masks lie on each query's own grid.

    Ends with code 0 where all queries have a mask, 3 where some have not, 2 where none has or an option is wrong.
    """
    from fedcowpro.oneshot.batch import load_support, segment_files
    from fedcowpro.oneshot.batch_record import settings_digest, write_run
    from fedcowpro.oneshot.loading import load_predictor
    from fedcowpro.reports.preview import write_preview
    from fedcowpro.volume.find import find_volumes

    if len(support) != len(support_mask):
        raise FedCoWProError(
            f"{len(support)} --support and {len(support_mask)} --support-mask",
            "one mask for each support image",
            "give both options once per annotated volume",
        )
    if file_format not in ("nifti", "dicom-seg"):
        raise FedCoWProError(f"--format {file_format}", "nifti or dicom-seg", "correct --format")
    if again:
        raise FedCoWProError("--again", "its new name", "use --overwrite")
    if painted not in (None, "all", "labelled"):
        raise FedCoWProError(f"--painted {painted}", "all or labelled", "correct --painted")
    masks = {path.resolve() for path in support_mask}
    queries = [path for path in find_volumes([*query, *(more or [])]) if path.resolve() not in masks]
    if not queries:
        raise FedCoWProError("no query but the support's masks", "an image to segment", "correct --query")
    kind, names = a_modality(modality), organ_names(organs) or {}
    overrides = inference_overrides(support_slices, None, keep_components, refine, threshold, others=settings or ())
    loaded = load_predictor(model, overrides)
    predictor, prepares = loaded.predictor, dict(loaded.prepare)
    if spacing is not None:
        prepares = {name: config.model_copy(update={"spacing": spacing}) for name, config in prepares.items()}
    pairs = list(zip(support, support_mask, strict=True))
    example = load_support(predictor, pairs, prepares, kind, names, cast("Painted | None", painted))
    used = _settings(loaded, prepares, pairs, names, kind, file_format) | ({"painted": painted} if painted else {})
    failures: dict[Path, str] = {}
    errors: list[FedCoWProError] = []
    columns = (TextColumn("segmenting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=len(queries))

        def report(result: Segmented) -> None:
            volumes = ", ".join(f"{names.get(organ, organ)}: {ml:.0f} ml" for organ, ml in result.millilitres.items())
            state = "kept; " if result.kept else ""
            echo.print(f"{result.mask}  ({state}{result.modality}; {volumes})")
            bar.advance(task)

        def fail(path: Path, error: FedCoWProError) -> None:
            failures[path] = error.got
            errors.append(error)
            err.print(f"failed: {error}")
            bar.advance(task)

        results = segment_files(
            predictor,
            example,
            queries,
            out,
            prepares,
            modality=kind,
            probabilities=probabilities,
            file_format=cast("MaskFormat", file_format),
            preview=write_preview if preview else None,
            organs=names,
            settings=settings_digest(used),
            resume=not overwrite,
            overwrite=overwrite,
            on_query=report,
            on_error=fail if len(queries) > 1 else None,
        )
    if not results:
        raise errors[0]
    write_run(out, results, failures, used, names, shlex.join(["fedcowpro", *sys.argv[1:]]))
    echo.print(_table(results, names, out))
    echo.print(
        f"{len(results)} of {len(queries)} queries; table and record: {out / 'summary.csv'}, {out / 'segment.json'}"
    )
    if failures:
        raise typer.Exit(SOME_FAILED)


def _settings(
    loaded: Loaded,
    prepares: Mapping[Any, Any],
    pairs: Sequence[tuple[Path, Path]],
    names: Mapping[int, str],
    modality: str | None,
    file_format: str,
) -> dict[str, Any]:
    """All that a mask depends on besides its query."""
    from fedcowpro import __version__
    from fedcowpro.core.files import digest_of

    return {
        "fedcowpro": __version__,
        "model_digest": loaded.card["weights_digest"],
        "model_seed": loaded.seed,
        "head": loaded.predictor.model.config.head.kind,
        "inference": loaded.predictor.config.model_dump(mode="json"),
        "prepare": {name: config.model_dump(mode="json") for name, config in prepares.items()},
        "support_digests": [[digest_of(image), digest_of(mask)] for image, mask in pairs],
        "organs": {str(value): name for value, name in names.items()},
        "modality": modality,
        "format": file_format,
    }


def _table(results: Sequence[Segmented], names: Mapping[int, str], out: Path) -> Table:
    table = Table("query", "organ", "ml", "slices", "confidence")
    for result in results:
        query = str(result.mask.relative_to(out)).rpartition("_mask.")[0]  # its name, with folders where they are kept
        for organ, found in result.organs.items():
            sure = "-" if found.confidence != found.confidence else f"{found.confidence:.2f}"
            name = names.get(organ, str(organ))
            table.add_row(query, name, f"{found.millilitres:.0f}", str(found.slices), sure)
    return table
