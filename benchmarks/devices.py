"""What a device does with the main work: training, encoding, fine-tuning, segmenting, and how near to its own limit.

    python benchmarks/devices.py [--device auto] [--threads 2] [--steps 600] [--encoders lite0,resnet18] [--out JSON]

The work is counted in floating-point operations (torch.utils.flop_counter) and held against a matrix product on the
same device in the same run: float32 on a CPU, bfloat16 for training on CUDA. Phantoms only; run it once with
`--device cpu` and once with `--device cuda` for the ratio of both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
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
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.training.loop import fit

REPEATS = 3
# Encoder, episodes a step, steps that are timed on a CPU and on another device.
TRAININGS = (("lite0", 4, 3, 60), ("lite0", 16, 2, 60), ("resnet18", 4, 2, 40), ("resnet101", 1, 2, 40))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, help="of fine-tuning; default the recipe's own")
    parser.add_argument("--encoders", default="lite0,resnet18,resnet101")
    parser.add_argument("--size", type=int, default=512, help="pixels and, a quarter of it, slices of the CT")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device = choose_device(asked.device)
    about = list_devices()[str(device)]
    print(f"device {device}: {about}")
    found: dict[str, float] = {}

    def note(what: str, value: float, unit: str, more: str = "") -> None:
        found[f"{what}, {unit}"] = round(value, 4)
        print(f"{what}: {value:.4g} {unit}{more}", flush=True)

    with tempfile.TemporaryDirectory(prefix="devices-") as name:
        folder = Path(name)
        single, half = _ceiling(device, torch.float32), _ceiling(device, torch.bfloat16)
        note("matrix product, float32", single / 1e12, "TFLOP/s")
        note("matrix product, bfloat16", half / 1e12, "TFLOP/s")
        ceiling = half if device.type == "cuda" else single
        write_site(folder / "raw", "t2", [1, 2], depth=12)
        site = prepare(folder / "raw", folder / "site", PrepareConfig(modality="mr"), progress=False)
        for encoder, batch, few, many in TRAININGS:
            if encoder in asked.encoders.split(","):
                speed, flops = _training(site, encoder, batch, device, few if device.type == "cpu" else many)
                share = speed * flops / ceiling
                what = f"training, {encoder}, {batch} episodes a step"
                note(what, speed, "steps/s", f"; {flops / 1e9:.0f} GFLOP a step in the encoder")
                note(f"{what}, of the matrix product's rate", 100 * share, "%")
        speed, flops = _encoding(site, device)
        note("encoding, lite0", speed, "slices/s")
        note("encoding, lite0, of the matrix product's rate", 100 * speed * flops / single, "%")
        _use(folder, device, asked.size, asked.steps, note)
        note("memory", _memory(device) / 2**30, "GiB at most")
    if asked.out is not None:
        record = {"device": f"{device}: {about}", "threads": asked.threads, "versions": versions(), "found": found}
        write_atomic(asked.out, (json.dumps(record, indent=2) + "\n").encode())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(action: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Median of several runs, after one that does not count."""
    action()
    times = []
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        action()
        _wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _ceiling(device: torch.device, kind: torch.dtype) -> float:
    """Floating-point operations a second of a matrix product that fills the device."""
    side = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    return 2 * side**3 / _seconds(lambda: a @ b, device, 10)


def _training(site: Site, encoder: str, batch: int, device: torch.device, steps: int) -> tuple[float, float]:
    """Steps a second, and operations of the encoder in a step (backward counts twice the forward)."""
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
    return steps / seconds, 3 * counter.get_total_flops()


def _encoding(site: Site, device: torch.device) -> tuple[float, float]:
    """Slices a second, and operations a slice."""
    predictor = OneShotPredictor(build_model(ModelConfig(), 0).to(device))
    image = np.concatenate([site.image(case.id) for case in site.cases])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        predictor.model.encode(torch.zeros(1, 1, site.size, site.size, device=device))
    return len(image) / _seconds(lambda: predictor.encode(image), device), counter.get_total_flops()


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
        lambda: segmenter.finetune([query], minutes=None, steps=steps or _own_steps(), progress=False),
    )
    timed("query, read and segmented by the fine-tuned network", lambda: segmenter.predict(query, probabilities=False))


def _own_steps() -> int:
    from fedcowpro.training.finetuning import Recipe

    return sum(Recipe().steps)


def _memory(device: torch.device) -> int:
    """Bytes: the device's own, on a CPU the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
