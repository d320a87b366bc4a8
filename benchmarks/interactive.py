"""Seconds that a user waits: encode a volume once, then for each new or corrected support; and for `segment`.

    python benchmarks/interactive.py [--threads 2] [--profile] [--small]

Phantoms of 256x256x40 and 512x512x120 voxels, the shipped model, four organs painted on three slices of the volume
itself, the next support has one slice more. Seconds depend on the machine; the ratio of CPU seconds to those of
encoding less so. `segment` is the whole command, with its start, the volume being its own example.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ratios import ratio

from fedcowpro.data.phantom import Phantom, make_phantom, write_phantom
from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.encoded import encode_volume
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.oneshot.segmentation import segment_encoded
from fedcowpro.oneshot.support import build_support
from fedcowpro.volume.accept import as_volume

SHAPES = ((256, 40), (512, 120))
REPEATS = 3
ORGANS = (1, 2, 3, 4)
# Of new masks, and of `segment`, to encoding; of encoding a slice of the last shape to one of the first.
AGAIN, COMMAND, GROWTH = 1.5, 15.0, 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="what the seconds of a new support go into")
    parser.add_argument("--small", action="store_true", help="the first shape only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, medians of {REPEATS}")
    shapes = SHAPES[:1] if options.small else SHAPES
    slices = [_measure(size, depth, options.profile) / depth for size, depth in shapes]
    if len(slices) > 1:
        what, other = (f"one of {size}x{size}" for size, _ in reversed(shapes))
        ratio(f"encoding a slice, {what}", slices[1], other, slices[0], GROWTH)


def _measure(size: int, depth: int, profile: bool) -> float:
    """CPU seconds of encoding."""
    # A phantom of 512 pixels takes minutes to draw: pixels are doubled, slices repeated.
    phantom = make_phantom("ct", 1, 256, 40)
    times = size // 256
    grown = (a.repeat(depth // 40, 0).repeat(times, 1).repeat(times, 2) for a in (phantom.image, phantom.labels))
    image, labels = grown
    labels = np.where(np.isin(labels, ORGANS), labels, 0).astype(np.uint8)
    spacing = (phantom.spacing[0] * 40 / depth, phantom.spacing[1] / times, phantom.spacing[2] / times)
    loaded = load_predictor(None)
    predictor, volume = loaded.predictor, as_volume(image, spacing)
    encode_volume(predictor, volume, loaded.prepare["ct"])  # the first use of a network takes longer
    started, cpu = time.perf_counter(), time.process_time()
    encoded = encode_volume(predictor, volume, loaded.prepare["ct"])
    encoding, encoding_cpu = time.perf_counter() - started, time.process_time() - cpu
    shown = np.flatnonzero(labels.any(axis=(1, 2)))
    seconds, of_cpu = [], []
    profiler = cProfile.Profile()
    for repeat in range(REPEATS):
        painted = np.zeros(depth, bool)
        painted[shown[np.linspace(0, len(shown) - 1, 5 + repeat).astype(int)[1:-1]]] = True
        started, cpu = time.perf_counter(), time.process_time()
        if profile:
            profiler.enable()
        support = build_support(predictor, [(encoded, Annotation(labels, painted))])
        segment_encoded(predictor, support, encoded)
        profiler.disable()
        seconds.append(time.perf_counter() - started)
        of_cpu.append(time.process_time() - cpu)
    name, other = f"{size}x{size}x{depth}", "encoding the volume once"
    print(f"{name}: encoding {encoding:.2f} s, then per support {statistics.median(seconds):.2f} s", flush=True)
    ratio(f"page, new masks, {name}", statistics.median(of_cpu), other, encoding_cpu, AGAIN)
    whole = replace(phantom, image=image.astype(np.float32), labels=labels, spacing=spacing)
    ratio(f"the command segment, {name}", _command(whole), other, encoding_cpu, COMMAND)
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(14)
    return encoding_cpu


def _command(phantom: Phantom) -> float:
    """CPU seconds of `fedcowpro segment`."""
    with tempfile.TemporaryDirectory() as folder:
        image, mask = map(str, write_phantom(phantom, folder, "1"))
        words = ["--support", image, "--support-mask", mask, "--query", image, "--out", str(Path(folder) / "masks")]
        before = os.times()
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        command = [sys.executable, "-m", "fedcowpro.cli", "segment", *words, "--quiet"]
        subprocess.run(command, check=True, env=os.environ | threads)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    main()
