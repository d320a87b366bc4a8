"""The command line: thin commands that read options, call the library and print what was done.

Heavy imports happen inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer
from rich.console import Console
from rich.table import Table

from fedcowpro import __version__
from fedcowpro.errors import FedCoWProError

if TYPE_CHECKING:
    from fedcowpro.config import Modality
    from fedcowpro.evaluate.protocol import Row

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Sites learn together without labels; then one annotated example segments an organ in any volume.",
)
# Paths are printed as they are: brackets are no markup, long lines are not broken.
_out = Console(soft_wrap=True, markup=False, highlight=False)
_err = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends with a message on standard error and exit code 2."""
    warnings.showwarning = lambda message, *_: _err.print(f"note: {message}")
    try:
        app(args=list(arguments) if arguments is not None else None)
    except FedCoWProError as error:
        _fail(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        _fail(
            FedCoWProError(
                f"{where}{error.strerror or error}",
                "files and folders that can be read and written",
                "check the path, its rights and the space on the disk",
            )
        )
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error: FedCoWProError) -> NoReturn:
    _err.print(f"error: {error}")
    sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        _out.print(f"fedcowpro {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def prepare(
    source: Annotated[Path, typer.Argument(help="Folder with NIfTI volumes.")],
    modality: Annotated[str, typer.Option(help="ct or mr.")],
    out: Annotated[Path, typer.Option(help="Site folder to make or complete.")],
    more: Annotated[list[str] | None, typer.Argument(help="More ids for --cases.", metavar="[CASE]...")] = None,
    images: Annotated[str, typer.Option(help="File pattern; its * is the case id.")] = "image_*.nii.gz",
    labels: Annotated[str, typer.Option(help="File pattern of label maps.")] = "label_*.nii.gz",
    organs: Annotated[str | None, typer.Option(help="Names of label values, as 1=liver,2=spleen.")] = None,
    cases: Annotated[list[str] | None, typer.Option(help="Case ids, as 1,2,3 or 1 2 3; default all.")] = None,
    support: Annotated[str | None, typer.Option(help="Annotated case, held out of training.")] = None,
    query: Annotated[str | None, typer.Option(help="Case ids to evaluate on, held out of training.")] = None,
    window: Annotated[str | None, typer.Option(help="CT window in HU, as -125,275.")] = None,
    percentile: Annotated[float | None, typer.Option(help="Upper clip of MR intensities, in percent.")] = None,
    spacing: Annotated[float | None, typer.Option(help="In-plane mm per pixel; default the file's.")] = None,
    size: Annotated[int | None, typer.Option(help="Height and width of a slice in pixels.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; default one per core.")] = None,
) -> None:
    """Turn a folder of volumes into a site folder: axial slices and superpixel pseudo-labels."""
    from fedcowpro.config import PrepareConfig, parse
    from fedcowpro.data.prepare import prepare as run

    given = {
        "modality": modality.lower(),
        "window": _numbers(window, "--window"),
        "percentile": percentile,
        "spacing": spacing,
        "size": size,
    }
    config = parse(PrepareConfig, {k: v for k, v in given.items() if v is not None}, "options of prepare")
    site = run(
        source,
        out,
        config,
        images=images,
        labels=labels,
        organs=_organs(organs),
        cases=_cases(cases, more),
        support=support,
        query=_list(query) or (),
        workers=workers,
    )
    _out.print(
        f"{out}: {len(site.cases)} cases, {site.n_train_slices} slices to train on, "
        f"{len(site.labelled_cases)} cases with labels (kept apart)"
    )


@app.command()
def federate(
    config: Annotated[Path, typer.Argument(help="YAML of the experiment (see configs/).")],
    out: Annotated[Path, typer.Option(help="Run folder; an interrupted run in it goes on.")],
    site: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER or FOLDER, once per site; replaces the file's sites."),
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(help="More site folders.", metavar="[SITE]...")] = None,
    seed: Annotated[int | None, typer.Option(help="Replaces the file's seed.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Replaces the file's number of rounds.")] = None,
) -> None:
    """Train one model over several sites on this machine, without labels."""
    from fedcowpro.config import ExperimentConfig, load, parse

    experiment = load(ExperimentConfig, config)
    changes: dict[str, Any] = experiment.model_dump()
    if seed is not None:
        changes["seed"] = seed
    if rounds is not None:
        changes["federation"]["rounds"] = rounds
    experiment = parse(ExperimentConfig, changes, "options of federate")
    sites = _sites([*(site or []), *(more or [])], {entry.name: entry.path for entry in experiment.sites})
    from fedcowpro.federated.run import federate as run

    checkpoint = run(experiment, sites, out)
    _out.print(f"model: {checkpoint}")


@app.command()
def segment(
    model: Annotated[Path, typer.Option(help="Checkpoint file or run folder.")],
    support: Annotated[list[Path], typer.Option(help="Annotated image; repeat for several.")],
    support_mask: Annotated[list[Path], typer.Option(help="Its label map, in the same order.")],
    query: Annotated[list[Path], typer.Option(help="Image to segment; repeat, or list more at the end.")],
    out: Annotated[Path, typer.Option(help="Folder for the masks.")],
    more: Annotated[list[Path] | None, typer.Argument(help="More query images.", metavar="[IMAGE]...")] = None,
    modality: Annotated[str | None, typer.Option(help="ct or mr for all files; default: by their values.")] = None,
    spacing: Annotated[float | None, typer.Option(help="In-plane mm per pixel; default the support's.")] = None,
    probabilities: Annotated[bool, typer.Option(help="Write probabilities too.")] = False,
    support_slices: Annotated[str | None, typer.Option(help="Slices used per organ: a number or all.")] = None,
    keep_components: Annotated[
        bool | None, typer.Option(help="Keep as many parts of an organ as the support has.")
    ] = None,
    refine: Annotated[int | None, typer.Option(help="Radius in pixels of the edge-aware filter; 0 is off.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Probability above which a pixel is the organ.")] = None,
) -> None:
    """Segment volumes like one annotated example; masks lie on each query's own grid."""
    from fedcowpro.load import load_predictor
    from fedcowpro.segment import Segmented, load_support, segment_files

    if len(support) != len(support_mask):
        raise FedCoWProError(
            f"{len(support)} --support and {len(support_mask)} --support-mask",
            "one mask for each support image",
            "give both options once per annotated volume",
        )
    kind = _modality(modality)
    loaded = load_predictor(model, _overrides(support_slices, None, keep_components, refine, threshold))
    predictor, prepares = loaded.predictor, dict(loaded.prepare)
    if spacing is not None:
        prepares = {name: config.model_copy(update={"spacing": spacing}) for name, config in prepares.items()}
    example = load_support(predictor, list(zip(support, support_mask, strict=True)), prepares, kind)

    def report(result: Segmented) -> None:
        volumes = ", ".join(f"{organ}: {ml:.0f} ml" for organ, ml in result.millilitres.items())
        _out.print(f"{result.mask}  ({result.modality}; {volumes})")

    segment_files(
        predictor,
        example,
        [*query, *(more or [])],
        out,
        prepares,
        modality=kind,
        probabilities=probabilities,
        on_query=report,
    )


@app.command()
def evaluate(
    model: Annotated[Path, typer.Option(help="Checkpoint file or run folder.")],
    site: Annotated[list[str], typer.Option(help="Site folder with labels, NAME=FOLDER or FOLDER; repeat.")],
    out: Annotated[Path, typer.Option(help="CSV to write.")],
    more: Annotated[list[str] | None, typer.Argument(help="More site folders.", metavar="[SITE]...")] = None,
    support: Annotated[str | None, typer.Option(help="Annotated case; default by role, else the first.")] = None,
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
    method: Annotated[str, typer.Option(help="Name in the column 'method'.")] = "fedcowpro",
    untrained: Annotated[
        bool, typer.Option(help="Score the encoder before training too, with the same settings.")
    ] = False,
) -> None:
    """Score a model on labelled sites with one annotated case each; writes one tidy row per score."""
    from fedcowpro.data.site import Site
    from fedcowpro.evaluate.protocol import PROTOCOLS, write_results
    from fedcowpro.evaluate.run import choose_task, evaluate_site
    from fedcowpro.load import load_predictor

    wanted = tuple(protocol or PROTOCOLS)
    if unknown := set(wanted) - set(PROTOCOLS):
        raise FedCoWProError(f"protocol {sorted(unknown)}", f"among {PROTOCOLS}", "correct --protocol")
    opened = {name: Site.open(path) for name, path in _sites([*site, *(more or [])], {}).items()}
    tasks = {
        name: choose_task(folder, support, _list(queries) or (), _list(organs) or ()) for name, folder in opened.items()
    }
    loaded = load_predictor(model, _overrides(support_slices, pairing, keep_components, refine, threshold))
    methods = {"untrained": loaded.untrained()} if untrained else {}
    methods[method] = loaded
    rows = []
    for label, candidate in methods.items():
        for name, folder in opened.items():
            rows += evaluate_site(
                candidate.predictor,
                folder,
                tasks[name],
                name=name,
                method=label,
                seed=candidate.seed,
                protocols=wanted,
                on_case=partial(_tell, f"{label}, {name}"),
            )
    write_results(out, rows)
    _out.print(_summary(rows))
    _out.print(f"{out}: {len(rows)} rows")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the phantom patients and the training.")] = 0,
) -> None:
    """Show the whole of it on synthetic patients: four sites learn together, then one example segments."""
    from fedcowpro.demo import run_demo

    report = run_demo(out, seed)
    _out.print(f"report: {report}")


def _tell(where: str, case: str) -> None:
    _err.print(f"{where}: case {case}")


def _list(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


def _cases(option: list[str] | None, more: list[str] | None) -> list[str] | None:
    if more and not option:
        raise FedCoWProError(f"'{' '.join(more)}' after the source", "one source folder", "name cases with --cases")
    given = [case for text in [*(option or []), *(more or [])] for case in _list(text) or []]
    return given or None


def _numbers(text: str | None, option: str) -> list[float] | None:
    try:
        return [float(part) for part in _list(text) or []] or None
    except ValueError as error:
        raise FedCoWProError(f"{option} {text}", "numbers separated by a comma", f"correct {option}") from error


def _organs(text: str | None) -> dict[int, str] | None:
    """'1=liver,2=spleen' to {1: 'liver', 2: 'spleen'}."""
    if text is None:
        return None
    names: dict[int, str] = {}
    for part in _list(text) or []:
        value, _, name = part.partition("=")
        if not value.strip().isdigit() or not name.strip() or int(value) in names:
            raise FedCoWProError(f"--organs: '{part}'", "VALUE=NAME, each value once", "as in 1=liver,2=spleen")
        names[int(value)] = name.strip()
    return names


def _sites(given: Sequence[str], configured: Mapping[str, Path | None]) -> dict[str, Path]:
    """Site folders by name: those given (NAME=FOLDER, or FOLDER named by its last part), else the configuration's."""
    if not given:
        missing = [name for name, path in configured.items() if path is None]
        if missing or not configured:
            raise FedCoWProError(
                f"no folder for site(s) {', '.join(missing)}" if missing else "no site",
                "a prepared folder for each site",
                f"give --site {(missing or ['NAME'])[0]}=FOLDER for every site, or write the paths into the file",
            )
        return {name: path for name, path in configured.items() if path is not None}
    sites: dict[str, Path] = {}
    for text in given:
        name, separator, folder = text.partition("=")
        path = Path(folder if separator else text)
        name = name if separator else path.resolve().name
        if name in sites or not name:
            raise FedCoWProError(
                f"--site {text}: the name '{name}' twice or empty", "different names", "give NAME=FOLDER for each site"
            )
        sites[name] = path
    return sites


def _modality(text: str | None) -> Modality | None:
    if text is not None and text not in ("ct", "mr"):
        raise FedCoWProError(f"--modality {text}", "ct or mr", "leave it out to go by the values of each file")
    return cast("Modality | None", text)


def _overrides(
    support_slices: str | None,
    pairing: str | None,
    keep_components: bool | None,
    refine: int | None,
    threshold: float | None,
) -> dict[str, Any]:
    """The inference settings that were given; they replace those of the model's card."""
    given = {
        "support_slices": int(support_slices) if support_slices and support_slices.isdigit() else support_slices,
        "pairing": pairing,
        "keep_components": keep_components,
        "refine": refine,
        "threshold": threshold,
    }
    return {name: value for name, value in given.items() if value is not None}


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


if __name__ == "__main__":
    main()
