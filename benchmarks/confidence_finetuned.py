"""How well a fine-tuned network's confidence estimates the Dice, and whether a logistic function of it would do better.

    python benchmarks/confidence_finetuned.py [--patients 8] [--steps 300] [--kinds ct,t2,t1]
    python benchmarks/confidence_finetuned.py --check organs.safetensors --folder SCANS --organs 1=1,2=2 [--without ID]

The first form takes phantoms: of each kind a network learns one patient, with the others unlabelled, and segments
them. The second one takes a model and a folder with image_<id>.nii.gz and label_<id>.nii.gz; --organs says
which value of the label maps is which of the network's. Of each mask and slice: mean |confidence - Dice| and Spearman
correlation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import spearmanr

from fedcowpro.core import overlap
from fedcowpro.data.phantom import Kind, make_phantom
from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.fine_tuning import fine_tune
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.oneshot.organ_model import OrganModel
from fedcowpro.volume.accept import as_volume
from fedcowpro.volume.read import read_labels, read_volume
from fedcowpro.volume.volume import Volume

SIZE, DEPTH, FIRST, ORGANS = 160, 20, 201, 6
Row = tuple[str, str, float, float]  # level, group, Dice, confidence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--kinds", default="ct,t2,t1")
    parser.add_argument("--check", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--organs")
    parser.add_argument("--without", action="append", default=[])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.check is None:
        rows = [row for kind in get_args(Kind) if kind in asked.kinds.split(",") for row in _phantoms(kind, asked)]
    else:
        rows = list(_real(asked))
    for level in ("mask", "slice"):
        _report(level, [row for row in rows if row[0] == level], asked.check is None)


def _phantoms(kind: Any, asked: argparse.Namespace) -> Iterable[Row]:
    loaded, patients = load_predictor(None), []
    for number in range(FIRST, FIRST + asked.patients):
        phantom = make_phantom(kind, number, SIZE, DEPTH)
        organs = [organ for organ in np.unique(phantom.labels) if organ][:ORGANS]
        labels = np.where(np.isin(phantom.labels, organs), phantom.labels, 0).astype(np.uint8)
        patients.append((as_volume(phantom.image, phantom.spacing), labels))
    volumes = [volume for volume, _ in patients]
    model = fine_tune(loaded, [(volumes[0], Annotation.whole(patients[0][1]))], volumes[1:], steps=asked.steps)
    for volume, labels in patients[1:]:
        yield from _rows(model, kind, volume, {organ: labels == organ for organ in model.organs})


def _real(asked: argparse.Namespace) -> Iterable[Row]:
    model = OrganModel.load(asked.check)
    pairs = [part.split("=") for part in asked.organs.split(",")]
    for image in sorted(asked.folder.glob("image_*.nii.gz")):
        case = image.name.removeprefix("image_").removesuffix(".nii.gz")
        if case in asked.without:
            continue
        volume = read_volume(image)
        labels = read_labels(asked.folder / f"label_{case}.nii.gz", volume).voxels
        yield from _rows(model, case, volume, {int(own): labels == int(theirs) for theirs, own in pairs})


def _rows(model: OrganModel, group: str, volume: Volume, truth: dict[int, np.ndarray]) -> Iterable[Row]:
    found = model.segment(volume)
    for k, organ in enumerate(model.organs):
        mask, of_slices = found.labels == organ, found.slice_confidence[k]
        if organ not in truth or not mask.any():
            continue
        yield "mask", group, overlap.dice(mask, truth[organ]), found.confidence[organ]
        for z in np.flatnonzero(~np.isnan(of_slices)):
            yield "slice", group, overlap.dice(mask[z], truth[organ][z]), float(of_slices[z])


def _report(level: str, rows: list[Row], fit: bool) -> None:
    _, group, dice, used = (np.array(column) for column in zip(*rows, strict=True))
    print(f"{level}, in use: {_quality(used, dice)}")
    if not fit:
        return
    bounded = np.clip(used, 0.005, 0.995)
    cues = np.column_stack([np.ones(len(used)), np.log(bounded / (1 - bounded))])
    left_out = np.zeros(len(dice))
    for one in np.unique(group):
        inside = group == one
        left_out[inside] = _logistic(cues[inside], _weights(cues[~inside], dice[~inside]))
    print(f"{level}, fitted without the kind: {_quality(left_out, dice)}")
    print(f"{level}: weights of 1 and of its logit {_weights(cues, dice).round(2)}", flush=True)


def _quality(guess: np.ndarray, dice: np.ndarray) -> str:
    sure = guess >= 0.8
    wrong = f"{(dice[sure] < 0.7).mean():.0%} of {sure.sum()} with 0.8 or more are below 0.7" if sure.any() else ""
    error, rank = np.abs(guess - dice).mean(), spearmanr(guess, dice)[0]
    return f"{len(dice)}, off by {error:.3f}, correlation {rank:.2f}; {wrong}"


def _weights(cues: np.ndarray, dice: np.ndarray) -> np.ndarray:
    def loss(weights: np.ndarray) -> float:
        return float(np.mean((_logistic(cues, weights) - dice) ** 2) + 1e-4 * np.sum(weights[1:] ** 2))

    return np.asarray(minimize(loss, np.zeros(cues.shape[1])).x)


def _logistic(cues: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-cues @ weights)))


if __name__ == "__main__":
    main()
