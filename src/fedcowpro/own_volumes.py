"""From a user's own unlabelled volumes to an adapted model: a site folder for the time of the training, no more."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fedcowpro.adapt import AUGMENT, adapt
from fedcowpro.config import PrepareConfig
from fedcowpro.data.datasets.base import Options
from fedcowpro.data.episodes import EpisodeSampler
from fedcowpro.data.prepare import prepare
from fedcowpro.errors import FedCoWProError
from fedcowpro.nn.segmenter import Segmenter
from fedcowpro.volume.accept import Given, as_volume
from fedcowpro.volume.find import find_volumes
from fedcowpro.volume.nifti import write_probabilities


def adapt_to(
    model: Segmenter,
    volumes: str | PathLike[str] | Sequence[Given],
    config: PrepareConfig,
    *,
    steps: int,
    seed: int,
    spacing: Sequence[float] | None = None,
    bars: bool = True,
) -> int:
    """Train `model` in place on unlabelled volumes (see `OneShotSegmenter.fit`).

    Args:
        volumes: a folder or pattern, or a list of images.
        config: how slices are made.
        spacing: mm (depth, height, width) of the arrays among them.
        bars: progress on standard error.

    Returns:
        Number of finished steps, fewer than `steps` after Ctrl-C.
    """
    given = _listed(volumes)
    with tempfile.TemporaryDirectory(prefix="fedcowpro-") as folder:
        raw = Path(folder) / "raw"
        for number, one in enumerate(given):
            volume = as_volume(one, spacing if hasattr(one, "__array_interface__") else None, f"volume {number}")
            write_probabilities(raw / f"{number}.nii.gz", volume.voxels, volume.grid)
        # One process: a script without a main guard could not start more.
        options = Options(images="*.nii.gz")
        site = prepare(raw, Path(folder) / "site", config, options=options, workers=1, progress=bars)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, *times, console=Console(stderr=True), disable=not bars) as bar:
            task = bar.add_task("adapting", total=steps)

            def step(number: int, losses: dict[str, float]) -> None:
                bar.update(task, completed=number + 1, description=f"adapting, loss {losses['total']:.3f}")

            done = adapt(model, EpisodeSampler(site, AUGMENT), steps=steps, seed=seed, on_step=step)
        if done < steps and bars:
            Console(stderr=True).print(f"Interrupted after {done} of {steps} steps; the model is usable.")
    return done


def _listed(volumes: str | PathLike[str] | Sequence[Given]) -> list[Given]:
    if isinstance(volumes, str | PathLike):
        return list(find_volumes([Path(volumes)]))
    if hasattr(volumes, "__array_interface__") or not isinstance(volumes, Sequence) or len(volumes) == 0:
        raise FedCoWProError(
            f"{type(volumes).__name__} of volumes", "a folder, or a list with at least one image", "give a list"
        )
    return list(volumes)
