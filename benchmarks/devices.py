"""What a device does with the main work: training, encoding, fine-tuning, segmenting, and how near to its own limit.

    python benchmarks/devices.py [--device auto] [--threads 2] [--steps 600] [--encoders lite0,resnet18] [--out JSON]

The work is counted in floating-point operations (torch.utils.flop_counter) and held against a matrix product of as
many on the same device in the same run: float32 on a CPU, bfloat16 for training on CUDA. Limits are those of a CPU; its
ratios are those of the seconds of its cores together. Phantoms only; run it once with `--device cpu` and once with
`--device cuda` for the ratio of both.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ratios import Seconds, median_seconds, ratio
from torch.utils.flop_counter import FlopCounterMode

from fedcowpro import OneShotSegmenter
from fedcowpro.config import AugmentConfig, LossConfig, ModelConfig, PrepareConfig, TrainConfig
from fedcowpro.core.device import choose_device, list_devices
from fedcowpro.core.files import write_atomic
from fedcowpro.core.versions import versions
from fedcowpro.data.episodes.sampler import EpisodeSampler
from fedcowpro.data.phantom import write_site
from fedcowpro.data.preparation.prepare import prepare
from fedcowpro.data.preparation.site import Site
from fedcowpro.model.lite0 import Lite0Encoder
from fedcowpro.model.segmenter import build_model
from fedcowpro.model.unet import OrganUNet
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.training.finetuning import FineTuning
from fedcowpro.training.loop import fit
from fedcowpro.training.pool import Example
from fedcowpro.training.recipe import Recipe, scaled

REPEATS = 3
# Encoder, episodes a step, steps that are timed on a CPU and on another device, limit of the ratio.
TRAININGS = (
    ("tiny", 4, 5, 60, 60.0),
    ("lite0", 4, 3, 60, 10.0),
    ("lite0", 16, 1, 60, 10.0),
    ("resnet18", 4, 2, 40, 3.0),
    ("resnet101", 1, 2, 40, 2.5),
)
ENCODING, FINE_TUNING, SAVED = 8.0, 5.0, 0.2  # limits
PRODUCT = "a matrix product of as many operations"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, help="of fine-tuning; default the recipe's own")
    parser.add_argument("--encoders", default="tiny,lite0,resnet18,resnet101")
    parser.add_argument("--size", type=int, default=512, help="pixels and, a quarter of it, slices of the CT")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device = choose_device(asked.device)
    about = list_devices()[str(device)]
    print(f"device {device}: {about}")
    found: dict[str, float] = {}

    def note(what: str, value: float, unit: str) -> None:
        found[f"{what}, {unit}"] = round(value, 4)
        print(f"{what}: {value:.4g} {unit}", flush=True)

    cpu = device.type == "cpu"
    half = torch.float32 if cpu else torch.bfloat16

    def hold(what: str, unit: str, seconds: Seconds, flops: float, kind: torch.dtype, limit: float) -> None:
        rate = _ceiling(device, kind)  # anew each time: other programs take more of the machine, or less
        note(what, 1 / seconds.clock, f"{unit}s/s")
        note(what, 100 * flops / rate / seconds.cpu, "% of the matrix product's rate")
        most, kind_of = (limit, "CPU s") if cpu else (float("inf"), "s")
        ratio(f"{what}, a {unit}", seconds.cpu, PRODUCT, flops / rate, most, kind_of)

    with tempfile.TemporaryDirectory(prefix="devices-") as name:
        folder = Path(name)
        for kind in (torch.float32, torch.bfloat16):
            note(f"matrix product, {kind}", _ceiling(device, kind) / 1e12, "TFLOP/s")
        write_site(folder / "raw", "t2", [1, 2], depth=12)
        site = prepare(folder / "raw", folder / "site", PrepareConfig(modality="mr"), progress=False)
        for encoder, batch, few, many, limit in TRAININGS:
            if encoder in asked.encoders.split(","):
                spent = _training(site, encoder, batch, device, few if cpu else many)
                hold(f"training, {encoder}, batch {batch}", "step", *spent, half, limit)
        hold("fine-tuning, batch 8", "step", *_fine_tuning(site, device, 5 if cpu else 60), half, FINE_TUNING)
        hold("encoding, lite0", "slice", *_encoding(site, device), torch.float32, ENCODING)
        ratio("one volume, encoded once", *_encodings_saved(site, device), SAVED)
        _use(folder, device, asked.size, asked.steps, note)
        note("memory", _memory(device) / 2**30, "GiB at most")
    if asked.out is not None:
        record = {"device": f"{device}: {about}", "threads": asked.threads, "versions": versions(), "found": found}
        write_atomic(asked.out, (json.dumps(record, indent=2) + "\n").encode())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(action: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> Seconds:
    """Medians of several runs, after one that does not count; `cpu` is the clock's on another device."""

    def waited() -> None:
        action()
        _wait(device)

    found = median_seconds(waited, repeats)
    return found if device.type == "cpu" else Seconds(found.clock, found.clock)


def _ceiling(device: torch.device, kind: torch.dtype) -> float:
    """Floating-point operations a second of a matrix product that fills the device."""
    side = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    return 2 * side**3 / _seconds(lambda: a @ b, device, 10).cpu


def _training(site: Site, encoder: str, batch: int, device: torch.device, steps: int) -> tuple[Seconds, float]:
    """Seconds of a step, and operations of the encoder in it (backward counts twice the forward)."""
    config = ModelConfig(encoder=encoder, channels=128 if encoder == "lite0" else 256)  # type: ignore[arg-type]
    model = build_model(config, 0, pretrained=encoder == "lite0").to(device)
    source, generator = EpisodeSampler(site, AugmentConfig(), device=device), torch.Generator().manual_seed(0)
    train = TrainConfig(batch=batch)
    seconds = _seconds(
        lambda: fit(model, source, train, LossConfig(), steps=steps, generator=generator),
        device,
        1 if device.type == "cpu" else REPEATS,
    )
    slices = torch.zeros(2 * batch, 1, site.size, site.size, device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.encode(slices)
    return _each(seconds, steps), 3 * counter.get_total_flops()


def _each(seconds: Seconds, count: int) -> Seconds:
    return Seconds(seconds.clock / count, seconds.cpu / count)


def _encoding(site: Site, device: torch.device) -> tuple[Seconds, float]:
    """Seconds and operations of a slice."""
    predictor = OneShotPredictor(build_model(ModelConfig(), 0).to(device))
    image = np.concatenate([site.image(case.id) for case in site.cases])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        predictor.model.encode(torch.zeros(1, 1, site.size, site.size, device=device))
    return _each(_seconds(lambda: predictor.encode(image), device), len(image)), counter.get_total_flops()


def _fine_tuning(site: Site, device: torch.device, steps: int) -> tuple[Seconds, float]:
    """Seconds of a step on one annotated volume, and operations of the U-Net in it."""
    case, recipe = site.cases[0].id, Recipe()
    labels = site.labels(case)
    example = Example(site.image(case), np.where(labels <= 4, labels, 0).astype(np.uint8), site.spacing(case)[1])
    encoder, short = Lite0Encoder().state_dict(), scaled(recipe, steps, unlabelled=False)
    seconds = _seconds(lambda: FineTuning(encoder, [example], 4, recipe=short, device=device).run(), device, 1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        OrganUNet(4).to(device)(torch.zeros(recipe.batch, 3, *recipe.window, device=device))
    return _each(seconds, steps), 3 * counter.get_total_flops()


def _encodings_saved(site: Site, device: torch.device) -> tuple[float, str, float]:
    """Seconds of all organs of a volume, each slice encoded once; and for each query slice and organ anew."""
    case = site.cases[0].id
    image, labels = site.image(case), site.labels(case)
    predictor = OneShotPredictor(build_model(ModelConfig(), 0).to(device))
    middle = len(image) // 2
    groups = [(int(organ), (0,)) for organ in np.unique(labels[middle]) if organ]

    def segment(slices: np.ndarray, groups: list[tuple[int, tuple[int, ...]]]) -> None:
        encoded = predictor.encode(image[middle : middle + 1])
        prototypes = predictor.prototypes(encoded, labels[middle : middle + 1], groups)
        choice = np.repeat(np.arange(len(groups))[:, None], len(slices), axis=1)
        predictor.probabilities(predictor.encode(slices), prototypes, choice)

    def anew() -> None:
        for z in range(len(image)):
            for group in groups:
                segment(image[z : z + 1], [group])

    once = _seconds(lambda: segment(image, groups), device).cpu
    return once, f"encoded for each of {len(groups)} organs and {len(image)} slices", _seconds(anew, device, 1).cpu


def _use(
    folder: Path, device: torch.device, size: int, steps: int | None, note: Callable[[str, float, str], object]
) -> None:
    """Seconds of a user's path: one example, one large CT, and a network that learns both."""
    depth = size // 4
    write_site(folder / "ct", "ct", [1, 2], size=size, depth=depth)
    image, mask, query = (folder / "ct" / f"{name}.nii.gz" for name in ("image_1", "label_1", "image_2"))
    segmenter = OneShotSegmenter.load(device=str(device))

    def timed(what: str, action: Callable[[], object]) -> None:
        _wait(device)
        started = time.perf_counter()
        action()
        _wait(device)
        note(f"{what} ({size} x {size} x {depth})", time.perf_counter() - started, "s")

    timed("example, read and encoded", lambda: segmenter.set_support(image, mask))
    segmenter.predict(query, probabilities=False)
    timed("query, read, encoded and segmented", lambda: segmenter.predict(query, probabilities=False))
    timed(
        "fine-tuning on the example and one unlabelled volume",
        lambda: segmenter.finetune([query], minutes=None, steps=steps or sum(Recipe().steps), progress=False),
    )
    timed("query, read and segmented by the fine-tuned network", lambda: segmenter.predict(query, probabilities=False))


def _memory(device: torch.device) -> int:
    """Bytes: the device's own, on a CPU the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
