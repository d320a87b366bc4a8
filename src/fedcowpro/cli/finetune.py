"""The command that teaches a network certain organs from annotated examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedcowpro.cli.console import app, err
from fedcowpro.cli.console import out as echo
from fedcowpro.cli.options import Device, Quiet, a_device, a_modality, example_pairs, known_part, organ_names
from fedcowpro.core.errors import FedCoWProError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from fedcowpro.config import Modality
    from fedcowpro.oneshot.organ_model import OrganModel
    from fedcowpro.volume.accept import Painted

MINUTES = 10.0


@app.command()
def finetune(
    support: Annotated[list[Path], typer.Option(help="Annotated image; repeat.")],
    support_mask: Annotated[list[Path], typer.Option(help="Its label map, in the same order.")],
    out: Annotated[Path, typer.Option(help="Model to write, NAME.safetensors.")],
    unlabelled: Annotated[
        list[Path] | None,
        typer.Option(help="Images without annotation to learn from, too: file, folder or pattern; repeat."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Checkpoint file or run folder to start from; default the package's.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Longest time for everything.")] = MINUTES,
    steps: Annotated[
        int | None, typer.Option(help="Steps in all instead of minutes: the same result on any machine.")
    ] = None,
    organs: Annotated[
        str | None, typer.Option(help="Label values to learn and their names, as 1=liver,2=spleen; default all.")
    ] = None,
    painted: Annotated[
        str | None,
        typer.Option(help="all: empty slices of the masks have no organ; labelled: nothing is known of them."),
    ] = None,
    modality: Annotated[str | None, typer.Option(help="ct or mr for all files; default: by their values.")] = None,
    seed: Annotated[int, typer.Option(help="Of all random draws.")] = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Learn the organs of annotated volumes; 'segment --model' then needs no example.

    Ctrl-C keeps the model as it is; the same command goes on from there. A finished one is not made again.
    """
    made = teach(
        example_pairs(support, support_mask), out, unlabelled or [], model=model, minutes=minutes,
        steps=steps, names=organ_names(organs) or {}, painted=known_part(painted), kind=a_modality(modality), seed=seed,
        device=a_device(device, quiet), shown=not quiet,
    )  # fmt: skip
    state = "" if made.is_finished else f"interrupted after {made.told_steps}, the same command goes on; "
    echo.print(f"{out}  ({state}labels {', '.join(map(str, made.organs))})")


def teach(
    pairs: Sequence[tuple[Path, Path]],
    out: Path,
    unlabelled: Sequence[Path],
    *,
    model: Path | None,
    minutes: float | None,
    steps: int | None,
    names: Mapping[int, str],
    painted: Painted | None,
    kind: Modality | None,
    seed: int,
    device: torch.device,
    shown: bool = True,
    overwrite: bool = False,
    lenient: bool = False,
) -> OrganModel:
    """Read the files, fine-tune with a bar of progress where it is shown, and write the model and its card.

    Args:
        pairs: annotated images and their label maps.
        out: model to write; where it is there and of the same inputs, it is read.
        unlabelled: images, folders and patterns.
        overwrite: write over a model of other inputs.
        lenient: go on without an unlabelled volume that cannot be used.
        (the others): as the command's.
    """
    from fedcowpro.core.progress import ProgressBar
    from fedcowpro.oneshot.annotation import read_example
    from fedcowpro.oneshot.fine_tuning import fine_tune, require_budget
    from fedcowpro.oneshot.loading import load_predictor
    from fedcowpro.oneshot.organ_model import require_ending, require_free
    from fedcowpro.training.adapt import interrupt_sets
    from fedcowpro.training.finetuning import Progress
    from fedcowpro.volume.find import find_volumes
    from fedcowpro.volume.read import read_volume

    require_budget(minutes, steps)
    require_ending(out)
    require_free(out)
    loaded = load_predictor(model, device=device)
    examples = [read_example(image, mask, painted=painted) for image, mask in pairs]
    for _, annotation in examples:
        annotation.require_organs(names)
    own = {path.resolve() for pair in pairs for path in pair}
    paths = [path for path in find_volumes(unlabelled) if path.resolve() not in own] if unlabelled else []
    others = []
    for path in paths:
        try:
            others.append(read_volume(path))
        except FedCoWProError:
            if not lenient:
                raise
    resume = out.with_suffix(".resume")
    with interrupt_sets() as stop, ProgressBar(shown, err) as bar:
        task = bar.add_task("learning", total=None)

        def report(step: Progress) -> None:
            what = "learning the example" if step.round == 0 else f"learning from all volumes, round {step.round}"
            bar.update(task, description=f"{what}, loss {step.loss:.2f}", completed=step.step, total=step.steps)

        def compare(done: int, of: int) -> None:
            bar.update(task, description=f"comparing volume {done + 1} of {of} with the example")

        made = fine_tune(
            loaded, examples, others, organs=names, modality=kind, minutes=minutes, steps=steps, seed=seed,
            resume=resume, finished=out, overwrite=overwrite, lenient=lenient,
            on_volume=compare, on_step=report, stop=stop.is_set,
        )  # fmt: skip
    if "weights_digest" not in made.card:  # else it was there and has been read
        made.save(out)
    if made.is_finished:
        resume.unlink(missing_ok=True)
    return made
