"""Adapt a model to unlabelled volumes at one place: self-supervised, a few minutes, interruptible."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console

from fedcowpro.config import AugmentConfig, LossConfig, PrepareConfig, TrainConfig
from fedcowpro.core.device import device_of
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.progress import ProgressBar
from fedcowpro.data.datasets.base import Options
from fedcowpro.data.episodes.sampler import EpisodeSampler
from fedcowpro.data.preparation.prepare import prepare
from fedcowpro.model.segmenter import Segmenter
from fedcowpro.training.loop import EpisodeSource, fit
from fedcowpro.volume.accept import Given, Order, as_volumes
from fedcowpro.volume.find import find_volumes
from fedcowpro.volume.nifti import write_probabilities

# Appearance is drawn anew for support and query, so that few volumes do not teach their own grey values by heart.
AUGMENT = AugmentConfig(random_convolution=0.5)
TRAIN = TrainConfig(lr=3e-4)


class _Stopped(Exception):
    """The user asked for the end after the current step."""


def adapt(
    model: Segmenter,
    source: EpisodeSource,
    *,
    steps: int,
    seed: int,
    train: TrainConfig = TRAIN,
    loss: LossConfig | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> int:
    """Train `model` in place for `steps` steps, or until Ctrl-C, which ends after the step that is under way.

    Same model, source, steps, seed, threads and versions: same weights.

    Args:
        source: of episodes.
        seed: of all random draws.
        on_step: called after each step with its number from 0 and its losses.

    Returns:
        Number of finished steps; the model is in evaluation mode and usable whatever it is.

    Raises:
        FedCoWProError: the loss became NaN or infinite.
    """
    done = 0

    def count(step: int, losses: dict[str, float]) -> None:
        nonlocal done
        done = step + 1
        if on_step is not None:
            on_step(step, losses)
        if stop.is_set():
            raise _Stopped

    with interrupt_sets() as stop:
        try:
            fit(
                model,
                source,
                train,
                loss or LossConfig(),
                steps=steps,
                generator=torch.Generator().manual_seed(seed),
                on_step=count,
            )
        except _Stopped:
            pass
        finally:
            model.eval()
    return done


@contextmanager
def interrupt_sets() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets instead of raising; a second one raises as usual.

    Only the main thread can change what a signal does; in another one the event is never set.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def adapt_to(
    model: Segmenter,
    volumes: str | PathLike[str] | Sequence[Given],
    config: PrepareConfig,
    *,
    steps: int,
    seed: int,
    spacing: Sequence[float] | None = None,
    order: Order | None = None,
    bars: bool = True,
) -> int:
    """Train `model` in place on unlabelled volumes (see `OneShotSegmenter.fit`).

    Args:
        volumes: a folder or pattern, or a list of images.
        config: how slices are made.
        spacing, order: of the arrays among them (see `as_volume`).
        bars: progress on standard error.

    Returns:
        Number of finished steps, fewer than `steps` after Ctrl-C.
    """
    given = listed(volumes)
    with tempfile.TemporaryDirectory(prefix="fedcowpro-") as folder:
        raw = Path(folder) / "raw"
        for number, volume in enumerate(as_volumes(given, spacing, order)):
            write_probabilities(raw / f"{number}.nii.gz", volume.voxels, volume.grid)
        # One process: a script without a main guard could not start more.
        options = Options(images="*.nii.gz")
        site = prepare(raw, Path(folder) / "site", config, options=options, workers=1, progress=bars)
        with ProgressBar(bars) as bar:
            task = bar.add_task("adapting", total=steps)

            def step(number: int, losses: dict[str, float]) -> None:
                bar.update(task, completed=number + 1, description=f"adapting, loss {losses['total']:.3f}")

            done = adapt(
                model, EpisodeSampler(site, AUGMENT, device=device_of(model)), steps=steps, seed=seed, on_step=step
            )
        if done < steps and bars:
            Console(stderr=True).print(f"Interrupted after {done} of {steps} steps; the model is usable.")
    return done


def listed(volumes: str | PathLike[str] | Sequence[Given]) -> list[Given]:
    """Volumes of a folder or pattern, or the images of a list that is not empty."""
    if isinstance(volumes, str | PathLike):
        return list(find_volumes([Path(volumes)]))
    if hasattr(volumes, "__array_interface__") or not isinstance(volumes, Sequence) or len(volumes) == 0:
        raise FedCoWProError(
            f"{type(volumes).__name__} of volumes", "a folder, or a list with at least one image", "give a list"
        )
    return list(volumes)
