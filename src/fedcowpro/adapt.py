"""Adapt a model to unlabelled volumes at one place: self-supervised, a few minutes, interruptible."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from fedcowpro.config import AugmentConfig, LossConfig, TrainConfig
from fedcowpro.nn.segmenter import Segmenter
from fedcowpro.train import EpisodeSource, fit

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
