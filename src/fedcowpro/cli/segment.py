"""The command that segments files like an annotated example."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table

from fedcowpro.cli.console import app, err
from fedcowpro.cli.console import out as echo
from fedcowpro.cli.finetune import MINUTES, teach
from fedcowpro.cli.options import (
    AsJson,
    Device,
    Quiet,
    a_device,
    a_modality,
    example_pairs,
    inference_overrides,
    known_part,
    one_of,
    organ_extents,
    organ_names,
    print_json,
)
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.progress import ProgressBar

if TYPE_CHECKING:
    import torch

    from fedcowpro.config import Modality
    from fedcowpro.oneshot.batch import MaskFormat, Segmented
    from fedcowpro.oneshot.loading import Loaded
    from fedcowpro.oneshot.organ_model import OrganModel
    from fedcowpro.volume.accept import Painted

SOME_FAILED = 3
_FINER = "Finer settings"  # a panel of the help


@app.command()
def segment(
    query: Annotated[
        list[Path],
        typer.Option(
            help="Image, DICOM series, folder of either, or pattern in quotes; repeat, or list more at the end."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the masks.")],
    more: Annotated[list[Path] | None, typer.Argument(help="More query images.", metavar="[IMAGE]...")] = None,
    support: Annotated[list[Path] | None, typer.Option(help="Annotated image; repeat for several.")] = None,
    support_mask: Annotated[list[Path] | None, typer.Option(help="Its label map, in the same order.")] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Checkpoint or run folder, or what 'finetune' wrote; default the package's."),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(autocompletion=one_of("ct", "mr"), help="ct or mr for all files; default: by their values."),
    ] = None,
    spacing: Annotated[
        float | None, typer.Option(rich_help_panel=_FINER, help="In-plane mm per pixel; default the support's.")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", rich_help_panel=_FINER, help="Write probabilities too.")
    ] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Write a picture of three slices per query.")] = False,
    file_format: Annotated[
        str,
        typer.Option(
            "--format",
            autocompletion=one_of("nifti", "dicom-seg", "rtstruct"),
            help="nifti, or dicom-seg or rtstruct for DICOM series.",
        ),
    ] = "nifti",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Segment again what is finished, also with other options; masks that you changed stay."
        ),
    ] = False,
    again: Annotated[bool, typer.Option("--again", hidden=True)] = False,
    painted: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_FINER,
            autocompletion=one_of("all", "labelled"),
            help="all: empty slices of the masks have no organ; labelled: nothing is known of them.",
        ),
    ] = None,
    extent: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_FINER,
            help="First and last slice of organs in the example, liver=12:40,2=-30mm:55mm; far better masks.",
        ),
    ] = None,
    query_extent: Annotated[
        str | None,
        typer.Option(rich_help_panel=_FINER, help="The same of the query, where it is known; no mask lies beyond."),
    ] = None,
    fine_tune: Annotated[
        bool, typer.Option("--finetune", help="Teach a network on the example and the queries first, see 'finetune'.")
    ] = False,
    minutes: Annotated[float | None, typer.Option(help=f"Longest time for --finetune; default {MINUTES:g}.")] = None,
    organs: Annotated[
        str | None, typer.Option(help="Label values to segment and their names, as 1=liver,2=spleen; default all.")
    ] = None,
    support_slices: Annotated[
        str | None, typer.Option(rich_help_panel=_FINER, help="Slices used per organ: a number or all.")
    ] = None,
    keep_components: Annotated[
        bool | None, typer.Option(rich_help_panel=_FINER, help="Keep as many parts of an organ as the support has.")
    ] = None,
    refine: Annotated[
        int | None, typer.Option(rich_help_panel=_FINER, help="Radius in pixels of the edge-aware filter; 0 is off.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(rich_help_panel=_FINER, help="Probability above which a pixel is the organ.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", rich_help_panel=_FINER, help="Any inference setting, FIELD=VALUE; repeat."),
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Segment volumes like one annotated example; masks lie on each query's own grid.

    A model that 'finetune' wrote takes no example.

    Ends with code 0 where all queries have a mask, 3 where some have not, 2 where none has or an option is wrong.
    """
    from fedcowpro.oneshot.batch import ByExample, Segmenter, load_support, segment_files
    from fedcowpro.oneshot.batch_record import Segmented, settings_digest, write_run
    from fedcowpro.oneshot.loading import load_predictor
    from fedcowpro.oneshot.organ_model import is_organ_model
    from fedcowpro.reports.preview import write_preview
    from fedcowpro.volume.find import find_volumes

    pairs = example_pairs(support or [], support_mask or [])
    if file_format not in ("nifti", "dicom-seg", "rtstruct"):
        raise FedCoWProError(f"--format {file_format}", "nifti, dicom-seg or rtstruct", "correct --format")
    if again:
        raise FedCoWProError("--again", "its new name", "use --overwrite")
    known = known_part(painted)
    ends, query_ends = organ_extents(extent, "--extent"), organ_extents(query_extent, "--query-extent")
    masks = {mask.resolve() for _, mask in pairs}
    queries = [path for path in find_volumes([*query, *(more or [])]) if path.resolve() not in masks]
    if not queries:
        raise FedCoWProError("no query but the support's masks", "an image to segment", "correct --query")
    kind, names = a_modality(modality), organ_names(organs) or {}
    overrides = inference_overrides(support_slices, None, keep_components, refine, threshold, others=settings or ())
    if minutes is not None and not fine_tune:
        raise FedCoWProError(f"--minutes {minutes:g}", "--finetune beside it", "give both, or leave it out")
    segmenter: Segmenter
    place = a_device(device, quiet)
    if fine_tune or (model is not None and is_organ_model(model)):
        others = {"spacing": spacing is not None, "extent": bool(ends), "painted": bool(painted) and not fine_tune}
        if given := [*overrides, *(name for name, is_given in others.items() if is_given)]:
            raise FedCoWProError(
                f"{', '.join(given)} with a fine-tuned network", "settings of the comparison with an example",
                "leave them out, or segment without --finetune",
            )  # fmt: skip
        if fine_tune:
            time = MINUTES if minutes is None else minutes
            network = _taught(model, pairs, queries, out, time, names, known, kind, place, quiet, overwrite)
        else:
            network = _trained(cast("Path", model), pairs, names, place)
        segmenter, names = network, names or network.names
        used = _settings_of_network(network, names, kind, file_format)
    elif not pairs:
        raise FedCoWProError(
            "no --support", "an annotated image and its mask",
            "give --support and --support-mask, or a model that 'fedcowpro finetune' wrote",
        )  # fmt: skip
    else:
        loaded = load_predictor(model, overrides, device=place)
        prepares = dict(loaded.prepare)
        if spacing is not None:
            prepares = {name: config.model_copy(update={"spacing": spacing}) for name, config in prepares.items()}
        example = load_support(loaded.predictor, pairs, prepares, kind, names, known, ends)
        segmenter = ByExample(loaded.predictor, example, prepares)
        used = _settings(loaded, prepares, pairs, names, kind, file_format) | ({"painted": painted} if painted else {})
        used |= {"extent": ends} if ends else {}
    if place.type != "cpu":
        used["device"] = place.type  # sums on a GPU round in another way
    used |= {"query_extent": query_ends} if query_ends else {}
    failures: dict[Path, str] = {}
    errors: list[FedCoWProError] = []
    with ProgressBar(not quiet, err, keep=False) as bar:
        task = bar.add_task("segmenting", total=len(queries))

        def report(result: Segmented) -> None:
            volumes = ", ".join(f"{names.get(organ, organ)}: {ml:.0f} ml" for organ, ml in result.millilitres.items())
            state = "changed since, kept; " if result.changed else "kept; " if result.kept else ""
            echo.print(f"{result.mask}  ({state}{result.modality}; {volumes})")
            for line in _doubts(result, names):
                echo.print(f"  look at {line}")
            bar.advance(task)

        def fail(path: Path, error: FedCoWProError) -> None:
            failures[path] = error.got
            errors.append(error)
            err.print(f"failed: {error}")
            bar.advance(task)

        results = segment_files(
            segmenter,
            queries,
            out,
            modality=kind,
            probabilities=probabilities,
            file_format=cast("MaskFormat", file_format),
            preview=write_preview if preview else None,
            organs=names,
            extent=query_ends,
            settings=settings_digest(used),
            resume=not overwrite,
            overwrite=overwrite,
            on_query=report,
            on_error=fail if len(queries) > 1 else None,
        )
    if not results:
        raise errors[0]
    write_run(out, results, failures, used, names, shlex.join(["fedcowpro", *sys.argv[1:]]))
    echo.print(_table(sorted(results, key=Segmented.by_doubt), names, out))
    echo.print(
        f"{len(results)} of {len(queries)} queries; table and record: {out / 'summary.csv'}, {out / 'segment.json'}"
    )
    if as_json:
        print_json(_as_json(results, failures, names))
    if failures:
        raise typer.Exit(SOME_FAILED)


def _taught(
    model: Path | None,
    pairs: Sequence[tuple[Path, Path]],
    queries: Sequence[Path],
    out: Path,
    minutes: float,
    names: Mapping[int, str],
    painted: Painted | None,
    kind: Modality | None,
    device: torch.device,
    quiet: bool,
    overwrite: bool,
) -> OrganModel:
    """A network for the organs of the example, which stays in the folder of the masks.

    A query that cannot be used is told of where masks are made.

    Raises:
        KeyboardInterrupt: passed on; masks of a network that is not finished would stand in the way of later ones.
    """
    if not pairs:
        raise FedCoWProError("--finetune without --support", "an annotated image and its mask", "give both")
    file = out / "organs.safetensors"
    network = teach(
        pairs, file, queries, model=model, minutes=minutes, steps=None, names=names, painted=painted, kind=kind,
        seed=0, device=device, shown=not quiet, overwrite=overwrite, lenient=True,
    )  # fmt: skip
    if not network.is_finished:
        err.print(
            f"interrupted after {network.told_steps}: no mask is written. The same command goes on; "
            f"'fedcowpro segment --model {file}' segments with the network as it is, into another folder"
        )
        raise KeyboardInterrupt
    return network


def _trained(
    model: Path, pairs: Sequence[tuple[Path, Path]], names: Mapping[int, str], device: torch.device
) -> OrganModel:
    """The network that 'finetune' wrote."""
    from fedcowpro.oneshot.organ_model import OrganModel

    network = OrganModel.load(model, device)
    if pairs:
        raise FedCoWProError(
            f"--support with {model}, which has learnt its organs", "queries alone",
            "leave --support and --support-mask out, or use another model",
        )  # fmt: skip
    network.require_names(names)
    return network


def _settings_of_network(
    network: OrganModel, names: Mapping[int, str], modality: str | None, file_format: str
) -> dict[str, Any]:
    """All that a mask of a fine-tuned network depends on besides its query."""
    from fedcowpro import __version__
    from fedcowpro.model.checkpoint import state_digest

    return {
        "fedcowpro": __version__,
        "model_digest": state_digest(network.net.state_dict()),
        "network": dict(network.card["network"]),
        "organs": {str(value): name for value, name in names.items()},
        "modality": modality,
        "format": file_format,
    }


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


def _as_json(results: Sequence[Segmented], failures: Mapping[Path, str], names: Mapping[int, str]) -> dict[str, Any]:
    """What programs are told of a run."""
    queries = [
        {
            "query": str(result.query),
            "mask": str(result.mask),
            "status": "kept" if result.kept else "made",
            "modality": result.modality,
            "organs": [
                {"label": organ, "name": names.get(organ, ""), **vars(found)} for organ, found in result.organs.items()
            ],
            "notes": list(result.notes),
        }
        for result in results
    ]
    return {"queries": queries, "failed": [{"query": str(path), "why": why} for path, why in failures.items()]}


def _doubts(result: Segmented, names: Mapping[int, str]) -> list[str]:
    """A line for each organ with doubts; what is said of every organ is of the volume."""
    all_of_them = [found.doubts for found in result.organs.values()]
    of_all = [said for said in all_of_them[0] if len(all_of_them) > 1 and all(said in one for one in all_of_them)]
    lines = [f"the volume: {'; '.join(of_all)}"] if of_all else []
    for organ, found in result.organs.items():
        if own := [said for said in found.doubts if said not in of_all]:
            lines.append(f"{names.get(organ, f'label {organ}')}: {'; '.join(own)}")
    return lines


def _table(results: Sequence[Segmented], names: Mapping[int, str], out: Path) -> Table:
    table = Table("query", "organ", "ml", "slices", "confidence", "doubts")
    for result in results:
        query = str(result.mask.relative_to(out)).rpartition("_mask.")[0]  # its name, with folders where they are kept
        for organ, found in result.organs.items():
            sure = "-" if found.confidence != found.confidence else f"{found.confidence:.2f}"
            name = names.get(organ, str(organ))
            doubts = str(len(found.doubts) or "")
            table.add_row(query, name, f"{found.millilitres:.0f}", str(found.slices), sure, doubts)
    return table
