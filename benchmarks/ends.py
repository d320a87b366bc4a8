"""What it is worth to say where organs begin and end: Dice of a volume from few painted slices, with and without.

    python benchmarks/ends.py IMAGE LABELS VALUES [IMAGE LABELS VALUES ...] [--model RUN]

VALUES are label values, as 1,2,3,4. Slices are painted as the truth has them, in the volume itself. For one organ at a
time: on its largest slice, and on three that are evenly spaced. For all at once: each on its largest slice, and all on
the one slice that shows most of the least organ. Prints the whole volume's Dice, by the network and by interpolating
shapes, as means over organs and volumes.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.encoded import EncodedVolume, encode_volume
from fedcowpro.oneshot.interpolation import interpolate_shapes
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.oneshot.segmentation import segment_encoded
from fedcowpro.oneshot.slices import support_slices
from fedcowpro.oneshot.support import build_support
from fedcowpro.volume.preprocess import guess_modality
from fedcowpro.volume.read import read_labels, read_volume

Table = dict[tuple[str, str, str], list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", nargs="+", metavar="IMAGE LABELS VALUES")
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    loaded = load_predictor(options.model)
    table: Table = defaultdict(list)
    for image, labels, values in zip(*(options.volumes[start::3] for start in range(3)), strict=True):
        volume = read_volume(Path(image))
        organs = [int(value) for value in values.split(",")]
        truth = read_labels(Path(labels), volume).voxels
        truth = np.where(np.isin(truth, organs), truth, np.uint8(0))
        encoded = encode_volume(loaded.predictor, volume, loaded.prepare[guess_modality(volume)])
        _measure(loaded.predictor, encoded, truth, organs, table)
        print(f"{volume.name}: done", flush=True)
    for (what, ends, how), found in table.items():
        print(f"{what:32s} {ends:10s} {how:8s} {np.mean(found):.3f} ({len(found)})")


def _measure(
    predictor: OneShotPredictor, encoded: EncodedVolume, truth: np.ndarray, organs: Sequence[int], table: Table
) -> None:
    areas = np.stack([(truth == organ).sum((1, 2)) for organ in organs])
    largest = areas.argmax(1)
    plans = [("one organ, one slice", [organ], [z]) for organ, z in zip(organs, largest, strict=True)]
    thirds = [support_slices(np.flatnonzero(area).tolist(), 3) for area in areas]
    plans += [("one organ, three slices", [organ], zs) for organ, zs in zip(organs, thirds, strict=True)]
    plans += [("all organs, each largest slice", list(organs), largest.tolist())]
    plans += [("all organs, one slice", list(organs), [int((areas / areas.max(1, keepdims=True)).min(0).argmax())])]
    for what, chosen, slices in plans:
        painted = np.isin(np.arange(len(truth)), slices)
        labels = np.where(np.isin(truth, chosen), truth, np.uint8(0))
        known = {organ: (int(zs[0]), int(zs[-1])) for organ in chosen if len(zs := _slices(truth, organ))}
        for ends, extents in (("without", {}), ("with ends", known)):
            annotation = Annotation(labels, painted, extents=extents)
            support = build_support(predictor, [(encoded, annotation)])
            network = segment_encoded(predictor, support, encoded, trust=False).labels
            shapes = interpolate_shapes(annotation, encoded.volume.spacing)
            for how, found in (("network", network), ("shapes", shapes)):
                table[what, ends, how] += [_dice(found == organ, truth == organ) for organ in chosen]


def _slices(truth: np.ndarray, organ: int) -> np.ndarray:
    return np.flatnonzero((truth == organ).any((1, 2)))


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


if __name__ == "__main__":
    main()
