"""Seconds that a user waits: encode a volume once, then for each new or corrected support.

    python benchmarks/interactive.py [--threads 2] [--profile]

Phantoms of 256x256x40 and 512x512x120 voxels, the shipped model, four organs painted on three slices of the volume
itself, the next support has one slice more. Seconds depend on the machine; their ratio to encoding less so.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import time

import numpy as np
import torch

from fedcowpro.data.phantom import make_phantom
from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.encoded import encode_volume
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.oneshot.segmentation import segment_encoded
from fedcowpro.oneshot.support import build_support
from fedcowpro.volume.accept import as_volume

SHAPES = ((256, 40), (512, 120))
REPEATS = 3
ORGANS = (1, 2, 3, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="what the seconds of a new support go into")
    parser.add_argument("--small", action="store_true", help="the first shape only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, medians of {REPEATS}")
    for size, depth in SHAPES[:1] if options.small else SHAPES:
        _measure(size, depth, options.profile)


def _measure(size: int, depth: int, profile: bool) -> None:
    # A phantom of 512 pixels takes minutes to draw: pixels are doubled, slices repeated.
    phantom = make_phantom("ct", 1, 256, 40)
    times = size // 256
    grown = (a.repeat(depth // 40, 0).repeat(times, 1).repeat(times, 2) for a in (phantom.image, phantom.labels))
    image, labels = grown
    labels = np.where(np.isin(labels, ORGANS), labels, 0).astype(np.uint8)
    spacing = (phantom.spacing[0] * 40 / depth, phantom.spacing[1] / times, phantom.spacing[2] / times)
    loaded = load_predictor(None)
    predictor, volume = loaded.predictor, as_volume(image, spacing)
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
    again, again_cpu = statistics.median(seconds), statistics.median(of_cpu)
    print(
        f"{size}x{size}x{depth}: encoding {encoding:.2f} s ({encoding_cpu:.2f} s of CPU), then per support "
        f"{again:.2f} s ({again_cpu:.2f} s of CPU), {again_cpu / encoding_cpu:.2f} of encoding",
        flush=True,
    )
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(14)


if __name__ == "__main__":
    main()
