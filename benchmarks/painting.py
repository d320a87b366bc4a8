"""How many painted slices a volume takes: a scripted user of the page, on volumes with a truth.

    python benchmarks/painting.py IMAGE LABELS VALUE [--model RUN] [--goal 0.9] [--guide seen]

The user paints the organ on the slice where it is largest, as the truth has it, and segments. Then, until the volume's
Dice reaches the goal, the user puts one slice right and segments again: the slice with the most wrong pixels, as
somebody finds it who looks at all of them (`--guide seen`), or the one that the page proposes next (`--guide page`).
With `--ends` the user says first where the organ begins and ends. Prints the Dice after each step, with the seconds of
the encoder and of each later answer.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.encoded import encode_volume
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.oneshot.next_slice import doubt_of_slices, gain_of_slices
from fedcowpro.oneshot.segmentation import Segmentation, segment_encoded
from fedcowpro.oneshot.support import build_support
from fedcowpro.volume.preprocess import guess_modality
from fedcowpro.volume.read import read_labels, read_volume


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("value", type=int)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--goal", type=float, default=0.9)
    parser.add_argument("--ends", action="store_true")
    parser.add_argument("--guide", choices=("seen", "page"), default="seen")
    options = parser.parse_args()
    volume = read_volume(options.image)
    truth = read_labels(options.labels, volume).voxels == options.value
    loaded = load_predictor(options.model)
    started = time.perf_counter()
    encoded = encode_volume(loaded.predictor, volume, loaded.prepare[guess_modality(volume)])
    print(f"shape {truth.shape}, organ on {truth.any((1, 2)).sum()} slices; encoded in {_since(started)}")

    shown = np.flatnonzero(truth.any((1, 2)))
    extents = {1: (int(shown[0]), int(shown[-1]))} if options.ends else {}
    painted = np.zeros(len(truth), bool)
    painted[truth.sum((1, 2)).argmax()] = True
    while True:
        started = time.perf_counter()
        annotation = Annotation(truth.astype(np.uint8), painted, extents=extents)
        result = segment_encoded(loaded.predictor, build_support(loaded.predictor, [(encoded, annotation)]), encoded)
        dice = _dice(result.labels == 1, truth)
        print(f"{painted.sum():3d} painted: Dice {dice:.3f}, estimated {result.confidence[1]:.3f}, {_since(started)}")
        if dice >= options.goal or painted.all():
            return
        painted[_next(options.guide, result, truth, annotation, volume.spacing)] = True


def _next(
    guide: str, result: Segmentation, truth: np.ndarray, known: Annotation, spacing: tuple[float, float, float]
) -> int:
    """The slice to put right; the page's guide falls back on the eye where it has no slice left."""
    doubt = doubt_of_slices(result, known.painted, known.extents, spacing)
    gains = np.where(known.painted, 0, gain_of_slices(doubt, spacing[0]))
    if guide == "page" and gains.any():
        return int(gains.argmax())
    wrong = ((result.labels == 1) != truth).sum((1, 2))
    return int(np.where(known.painted, -1, wrong).argmax())


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def _since(started: float) -> str:
    return f"{time.perf_counter() - started:.1f} s"


if __name__ == "__main__":
    main()
