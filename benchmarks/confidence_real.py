"""How well confidence and doubts tell good masks from bad ones on real volumes; prints the weights fitted anew.

    python benchmarks/confidence_real.py --folder SCANS --organs 1=1,2=2,3=3,4=4 --examples 1,20 [--folder ...]

Each folder has image_<id>.nii.gz and label_<id>.nii.gz; --organs says which value of its label maps is which organ (so
that folders can be joined), --examples whose annotation segments all its other cases. Give the three options once per
folder. Of each mask: mean |confidence - Dice|, Spearman correlation, and how many with a confidence of 0.8 or more have
a Dice below 0.7: with the weights in use, and with weights fitted without the case, the example, or the folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import spearmanr

from fedcowpro.core import overlap
from fedcowpro.oneshot import segmentation
from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.encoded import encode_volume
from fedcowpro.oneshot.loading import Loaded, load_predictor
from fedcowpro.oneshot.segmentation import segment_encoded
from fedcowpro.oneshot.support import build_support
from fedcowpro.volume.preprocess import modality_of
from fedcowpro.volume.read import read_labels, read_volume
from fedcowpro.volume.volume import Volume

_SHRINK = 3e-4  # of the weights of standardised cues


@dataclass(frozen=True)
class Mask:
    """A mask whose truth is known."""

    folder: str
    example: str
    case: str
    dice: float
    confidence: float
    cues: list[float]
    doubts: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("folder", "organs", "examples"):
        parser.add_argument(f"--{name}", action="append", required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    loaded, masks = load_predictor(None), list[Mask]()
    for folder, organs, examples in zip(asked.folder, asked.organs, asked.examples, strict=True):
        pairs = [part.split("=") for part in organs.split(",")]
        masks += _masks(loaded, Path(folder), {int(a): int(b) for a, b in pairs}, examples.split(","))
    report(masks)


def _masks(loaded: Loaded, folder: Path, organs: dict[int, int], examples: list[str]) -> Iterable[Mask]:
    cues: list[list[float] | None] = []
    original = segmentation.compared_cues

    def listen(*given):  # type: ignore[no-untyped-def]
        cues.append(original(*given))
        return cues[-1]

    segmentation.compared_cues = listen
    cases = sorted(path.name.removeprefix("image_").removesuffix(".nii.gz") for path in folder.glob("image_*.nii.gz"))
    for example in examples:
        volume, labels = _case(folder, example, organs)
        config = loaded.prepare[modality_of(volume, None)]
        encoded = encode_volume(loaded.predictor, volume, config)
        support = build_support(loaded.predictor, [(encoded, Annotation.whole(labels))])
        for case in cases:
            if case == example:
                continue
            query, truth = _case(folder, case, organs)
            cues.clear()
            found = segment_encoded(
                loaded.predictor,
                support,
                encode_volume(loaded.predictor, query, config, pixel=support.pixel, size=support.size),
            )
            for organ, of in zip(found.organs, cues, strict=True):
                if of is not None and (truth == organ).any():
                    score = overlap.dice(found.labels == organ, truth == organ)
                    sure, said = found.confidence[organ], found.doubts[organ]
                    yield Mask(folder.name, example, f"{folder.name} {case}", score, sure, of, said)
    segmentation.compared_cues = original


def _case(folder: Path, case: str, organs: dict[int, int]) -> tuple[Volume, np.ndarray]:
    volume = read_volume(folder / f"image_{case}.nii.gz")
    given = read_labels(folder / f"label_{case}.nii.gz", volume).voxels
    labels = np.zeros_like(given)
    for theirs, ours in organs.items():
        labels[given == theirs] = ours
    return volume, labels


def report(masks: list[Mask]) -> None:
    """Print how far confidence is off, by the weights in use and by others that never saw the group, and the doubts."""
    dice, cues = np.array([one.dice for one in masks]), np.array([one.cues for one in masks])
    print(f"in use: {_quality(np.array([one.confidence for one in masks]), dice)}")
    for what in ("case", "example", "folder"):
        groups = np.array([f"{one.folder} {getattr(one, what)}" for one in masks])
        if len(set(groups)) < 2:
            continue
        guess = np.zeros(len(dice))
        for group in np.unique(groups):
            inside = groups == group
            guess[inside] = _logistic(cues[inside], weights(cues[~inside], dice[~inside]))
        print(f"fitted without the {what}: {_quality(guess, dice)}")
    print(f"weights of 1 and the cues: {weights(cues, dice).round(2)}")
    doubted = np.array([bool(one.doubts) for one in masks])
    for name, chosen in (("without a doubt", ~doubted), ("with a doubt", doubted)):
        if chosen.any():
            bad = (dice[chosen] < 0.7).mean()
            print(f"{name}: {chosen.sum()} masks, mean Dice {dice[chosen].mean():.3f}, {bad:.0%} below 0.7")


def weights(cues: np.ndarray, dice: np.ndarray) -> np.ndarray:
    """Of a logistic function of the cues (the first of them 1) that estimates the Dice."""
    mean, spread = cues[:, 1:].mean(axis=0), cues[:, 1:].std(axis=0) + 1e-9
    standard = np.column_stack([np.ones(len(cues)), (cues[:, 1:] - mean) / spread])

    def loss(of: np.ndarray) -> float:
        return float(np.mean((_logistic(standard, of) - dice) ** 2) + _SHRINK * np.sum(of[1:] ** 2))

    found = np.asarray(minimize(loss, np.zeros(cues.shape[1])).x)
    scaled = found[1:] / spread
    return np.concatenate([[found[0] - scaled @ mean], scaled])


def _logistic(cues: np.ndarray, of: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-cues @ of)))


def _quality(guess: np.ndarray, dice: np.ndarray) -> str:
    sure = guess >= 0.8
    wrong = f"{int((dice[sure] < 0.7).sum())} of {sure.sum()} with 0.8 or more are below 0.7"
    error, rank = np.abs(guess - dice).mean(), spearmanr(guess, dice)[0]
    return f"{len(dice)} masks, off by {error:.3f} ({(guess - dice).mean():+.3f}), correlation {rank:.2f}; {wrong}"


if __name__ == "__main__":
    main()
