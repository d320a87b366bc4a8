"""Where tensors are computed: which devices there are, which one is meant, and what is done where memory ends."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.threads import each

CPU = torch.device("cpu")
_ON_DEVICE = 16  # slices at once on a GPU
_TESTED: dict[str, str] = {}  # device -> why it does not work; "" where it does

Result = TypeVar("Result")


def list_devices() -> dict[str, str]:
    """Devices that are there, by the names that `choose_device` takes, with what they are."""
    found = {"cpu": f"{torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def choose_device(name: str = "auto") -> torch.device:
    """The device that is meant.

    Args:
        name: cpu, cuda, cuda:N or mps; auto = the first CUDA device that works, else the CPU. What is meant by auto is
            the same in the whole process.

    Raises:
        FedCoWProError: no device of this name is here, or it does not work.
    """
    # Before the first use of CUDA: without it matrix products on a GPU differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    there = list_devices()
    wanted = "cuda:0" if name == "cuda" or (name == "auto" and "cuda:0" in there) else name
    wanted = "cpu" if wanted == "auto" else wanted
    if wanted not in there:
        listed = ", ".join(f"{one} ({about})" for one, about in there.items())
        build = "" if torch.version.cuda or wanted == "mps" else "; this build of torch is for CPUs alone"
        raise FedCoWProError(
            f"device '{name}', which is not here{build}", f"auto, or one of: {listed}",
            "correct the device, or install another build of torch (README, Install)",
        )  # fmt: skip
    if wanted not in _TESTED:
        _TESTED[wanted] = "" if wanted == "cpu" else _fault(wanted)
        if _TESTED[wanted] and name == "auto":
            warnings.warn(f"{wanted} does not work ({_TESTED[wanted]}): the CPU computes instead", stacklevel=2)
    if _TESTED[wanted] and name == "auto":
        return CPU
    if _TESTED[wanted]:
        raise FedCoWProError(
            f"device '{name}' does not work: {_TESTED[wanted]}", "a GPU whose driver fits this build of torch",
            "use --device cpu, or correct driver or torch",
        )  # fmt: skip
    return torch.device(wanted)


def device_of(module: nn.Module) -> torch.device:
    """Where a network's parameters lie; the CPU for one without any."""
    return next((parameter.device for parameter in module.parameters()), CPU)


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """The generator itself where the device is its own; else one on the device, seeded with a draw of it."""
    if device.type == generator.device.type:
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (1,), generator=generator)))


def in_parts(work: Callable[[slice], Result], count: int, device: torch.device, at_once: int = 1) -> list[Result]:
    """`work` of consecutive parts of `count` slices without gradients, in order.

    On a CPU parts of `at_once` lie side by side in threads (see `each`). On another device a part follows the other;
    where memory does not suffice they become smaller.

    Raises:
        FedCoWProError: the device's memory does not suffice for one slice.
    """
    if device.type == "cpu":
        return each(work, [slice(start, min(start + at_once, count)) for start in range(0, count, at_once)])
    found: list[Result] = []
    start, size = 0, max(_ON_DEVICE, at_once)
    with torch.inference_mode():
        while start < count:
            part = slice(start, min(start + size, count))
            try:
                with enough_memory(device):
                    found.append(work(part))
            except OutOfMemory:
                if size == 1:
                    raise
                size = size // 2
                continue
            start = part.stop
    return found


class OutOfMemory(FedCoWProError):
    """A device's memory does not suffice."""


@contextmanager
def enough_memory(
    device: torch.device, remedy: str = "use --device cpu, or end what else uses the GPU"
) -> Iterator[None]:
    """Say in our words that a device's memory does not suffice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemory(f"{device} has not enough memory", "more of it", remedy) from error


@contextmanager
def training_on(device: torch.device, remedy: str) -> Iterator[None]:
    """For a training: too little memory is said in our words, and kernels of a GPU are those that repeat themselves."""
    with enough_memory(device, remedy), nullcontext() if device.type == "cpu" else reproducible():
        yield


class LateValues:
    """Values of a step, read when the next one is under way, so that a GPU need not wait for the host.

    On a CPU they are read at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._waiting: tuple[int, list[str], Tensor, torch.cuda.Event | None] | None = None

    def put(self, step: int, values: Mapping[str, Tensor]) -> dict[int, dict[str, float]]:
        """Give a step's scalars; returns those that can be read now, by their step."""
        together = torch.stack([value.detach() for value in values.values()])
        if self._device.type == "cpu":
            return {step: dict(zip(values, together.tolist(), strict=True))}
        before = self.rest()
        event = None
        if self._device.type == "cuda":
            kept = torch.empty(together.shape, dtype=together.dtype, pin_memory=True)
            together = kept.copy_(together, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._waiting = step, list(values), together, event
        return before

    def rest(self) -> dict[int, dict[str, float]]:
        """Those of the last step, if they have not been given yet."""
        if self._waiting is None:
            return {}
        step, names, values, event = self._waiting
        self._waiting = None
        if event is not None:
            event.synchronize()
        return {step: dict(zip(names, values.tolist(), strict=True))}


def fused(network: nn.Module) -> bool | None:
    """Whether its optimiser is the fused one: on CUDA, where `take_step` needs it; else torch's choice."""
    return True if device_of(network).type == "cuda" else None


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """A step of the optimiser; on CUDA it is left out where the loss is not finite, which is known there alone.

    This is how `torch.amp.GradScaler` tells a fused optimiser to leave out a step.
    """
    if loss.is_cuda:
        optimizer.found_inf = (~loss.detach().isfinite()).float()  # type: ignore[attr-defined]
    optimizer.step()


def half_precision(network: nn.Module, images: Tensor) -> AbstractContextManager[None]:
    """bfloat16 where a network trains on CUDA; what is inferred stays comparable with a CPU's."""
    if network.training and images.is_cuda:
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


@contextmanager
def reproducible(threads: int | None = None) -> Iterator[None]:
    """Deterministic kernels and, where given, a fixed number of CPU threads, set back afterwards.

    Operators without a deterministic form warn and run.
    """
    threads_before, mode_before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        torch.set_deterministic_debug_mode(mode_before)


def _fault(device: str) -> str:
    """Why a device does not work; empty where it does."""
    try:
        images = torch.ones(1, 1, 8, 8, device=device)
        torch.nn.functional.conv2d(images, images).sum().item()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ""
