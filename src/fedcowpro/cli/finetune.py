"""The command that teaches a network certain organs from annotated examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedcowpro.cli.console import app, err
from fedcowpro.cli.console import out as echo
from fedcowpro.cli.options import a_modality, organ_names
from fedcowpro.core.errors import FedCoWProError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedcowpro.config import Modality
    from fedcowpro.oneshot.organ_model import OrganModel

MINUTES = 10.0


@app.command()
def finetune(
    support: Annotated[list[Path], typer.Option(help="Annotated image; repeat for up to five.")],
    support_mask: Annotated[list[Path], typer.Option(help="Its label map, in the same order.")],
    out: Annotated[Path, typer.Option(help="Model to write, NAME.safetensors.")],
    unlabelled: Annotated[
        list[Path] | None,
        typer.Option(help="Images without annotation to learn from, too: file, folder or pattern; repeat."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Checkpoint file or run folder to start from; default the package's.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Time for everything.")] = MINUTES,
    steps: Annotated[
        int | None, typer.Option(help="Steps in all instead of minutes: the same result on any machine.")
    ] = None,
    organs: Annotated[
        str | None, typer.Option(help="Label values to learn and their names, as 1=liver,2=spleen; default all.")
    ] = None,
    painted: Annotated[
        str, typer.Option(help="Which slices are annotated: all, or labelled, those with a label.")
    ] = "all",
    modality: Annotated[str | None, typer.Option(help="ct or mr for all files; default: by their values.")] = None,
    seed: Annotated[int, typer.Option(help="Of all random draws.")] = 0,
) -> None:
    """Learn the organs of one to five annotated volumes; 'segment --model' then needs no example.

    Ctrl-C keeps the model as it is; the same command goes on from there.
    """
    if painted not in ("all", "labelled"):
        raise FedCoWProError(f"--painted {painted}", "all or labelled", "correct --painted")
    made = teach(
        support, support_mask, out, unlabelled or [], model=model, minutes=None if steps else minutes, steps=steps,
        names=organ_names(organs) or {}, labelled_only=painted == "labelled", kind=a_modality(modality), seed=seed,
    )  # fmt: skip
    done, of = made.card["steps"]["done"], sum(made.card["steps"]["of"])
    state = "" if done == of else f"interrupted after {done} of {of} steps, the same command goes on; "
    echo.print(f"{out}  ({state}labels {', '.join(map(str, made.organs))})")


def teach(
    support: Sequence[Path],
    support_mask: Sequence[Path],
    out: Path,
    unlabelled: Sequence[Path],
    *,
    model: Path | None,
    minutes: float | None,
    steps: int | None,
    names: Mapping[int, str],
    labelled_only: bool,
    kind: Modality | None,
    seed: int,
) -> OrganModel:
    """Read the files, fine-tune with a bar of progress, and write the model and its card."""
    import numpy as np

    from fedcowpro.oneshot.annotation import Annotation
    from fedcowpro.oneshot.fine_tuning import fine_tune
    from fedcowpro.oneshot.loading import load_predictor
    from fedcowpro.oneshot.organ_model import require_ending
    from fedcowpro.training.adapt import interrupt_sets
    from fedcowpro.training.finetuning import Progress as Step
    from fedcowpro.volume.find import find_volumes
    from fedcowpro.volume.read import read_labels, read_volume

    require_ending(out)
    if len(support) != len(support_mask):
        raise FedCoWProError(
            f"{len(support)} --support and {len(support_mask)} --support-mask",
            "one mask for each support image",
            "give both options once per annotated volume",
        )
    if (minutes is not None and not minutes > 0) or (steps is not None and steps < 1):
        raise FedCoWProError(f"--minutes {minutes}, --steps {steps}", "above 0", "give the time or the steps")
    loaded = load_predictor(model)
    examples = []
    for image, mask in zip(support, support_mask, strict=True):
        volume = read_volume(image)
        labels = read_labels(mask, volume)
        whole = Annotation.whole(labels.voxels, str(mask))
        known = np.any(labels.voxels, axis=(1, 2)) if labelled_only else whole.painted
        examples.append((volume, Annotation(labels.voxels, known, str(mask))))
    own = {path.resolve() for path in [*support, *support_mask]}
    paths = [path for path in find_volumes(unlabelled) if path.resolve() not in own] if unlabelled else []
    others = [read_volume(path) for path in paths]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with interrupt_sets() as stop, Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("learning", total=None)

        def report(step: Step) -> None:
            what = "learning the example" if step.round == 0 else f"learning from all volumes, round {step.round}"
            bar.update(task, description=f"{what}, loss {step.loss:.2f}", completed=step.step, total=step.steps)

        made = fine_tune(
            loaded, examples, others, organs=names, modality=kind, minutes=minutes, steps=steps, seed=seed,
            resume=out.with_suffix(".resume"), on_step=report, stop=stop.is_set,
        )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    made.save(out)
    return made
