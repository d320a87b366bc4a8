"""How well confidence estimates the Dice, on phantoms; prints the weights of `oneshot.confidence` fitted anew.

    python benchmarks/confidence.py [--patients 8] [--kinds ct,t2,t1]

Each patient is segmented by another one that is wholly annotated, and by 1, 2 and 4 painted slices of its own, organ by
organ. Of each mask and slice outside the paint: mean |confidence - Dice| and Spearman correlation, by the weights in
use and by weights fitted without the patient.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Any, get_args

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import spearmanr

from fedcowpro.core import overlap
from fedcowpro.data.phantom import Kind, make_phantom
from fedcowpro.oneshot import segmentation
from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.encoded import EncodedVolume, encode_volume
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.oneshot.segmentation import segment_encoded
from fedcowpro.oneshot.support import build_support
from fedcowpro.volume.accept import as_volume

SIZE, DEPTH, FIRST, ORGANS = 192, 24, 101, 6
Rows = dict[tuple[str, str], list[tuple[str, float, float, list[float]]]]  # patient, Dice, confidence, cues


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--kinds", default="ct,t2,t1")
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded, rows = load_predictor(None), defaultdict(list)
    asked: list[tuple[Any, ...]] = []
    original = segmentation.slice_confidence

    def listen(reverse: float, margins: np.ndarray, distance: np.ndarray | None = None) -> np.ndarray:
        asked.append((reverse, margins.copy(), distance))  # in the order of the organs
        return original(reverse, margins, distance)

    segmentation.slice_confidence = listen
    for kind in (kind for kind in get_args(Kind) if kind in options.kinds.split(",")):
        encoded: list[tuple[str, EncodedVolume, np.ndarray]] = []
        for number in range(FIRST, FIRST + options.patients):
            phantom = make_phantom(kind, number, SIZE, DEPTH)
            organs = [organ for organ in np.unique(phantom.labels) if organ][:ORGANS]
            labels = np.where(np.isin(phantom.labels, organs), phantom.labels, 0).astype(np.uint8)
            pixel = encoded[0][1].placement.pixel if encoded else None
            volume, config = as_volume(phantom.image, phantom.spacing), loaded.prepare[phantom.modality]
            encoded.append((f"{kind}{number}", encode_volume(loaded.predictor, volume, config, pixel=pixel), labels))
        for (name, query, truth), (_, other, annotated) in zip(encoded, encoded[1:] + encoded[:1], strict=True):
            cases = [("full", other, Annotation.whole(annotated), truth)]
            for organ in np.unique(truth[truth > 0]):
                alone = np.where(truth == organ, truth, 0).astype(np.uint8)
                shown = np.flatnonzero(alone.any(axis=(1, 2)))
                for count in (1, 2, 4):
                    if len(shown) > count:
                        chosen = [alone.sum(axis=(1, 2)).argmax()]
                        if count > 1:
                            chosen = shown[np.linspace(0, len(shown) - 1, count + 2).astype(int)[1:-1]]
                        painted = np.isin(np.arange(DEPTH), chosen)
                        cases.append((f"{count} painted", query, Annotation(alone, painted), alone))
            for how, volume, annotation, right in cases:
                asked.clear()
                support = build_support(loaded.predictor, [(volume, annotation)])
                found = segment_encoded(loaded.predictor, support, query)
                unknown = np.ones(DEPTH, bool) if how == "full" else ~annotation.painted
                for k, organ in enumerate(found.organs):
                    _note(rows, name, how, asked[k], found, k, right == organ, unknown)
    for level in ("mask", "slice"):
        for own in (False, True):
            _fit(level, own, rows)


def _note(rows, name, how, cues, found, k, truth, unknown) -> None:  # type: ignore[no-untyped-def]
    reverse, margins, distance = cues
    mask, seen = found.labels == found.organs[k], ~np.isnan(margins) & unknown
    if not seen.any() or np.isnan(reverse):
        return
    given = [float(margins[seen].mean()), reverse]
    if distance is not None:
        painted = int((distance == 0).sum())
        given.append(float(np.log((seen.sum() + painted) / painted)))
    rows["mask", how].append(
        (name, overlap.dice(mask[unknown], truth[unknown]), found.confidence[found.organs[k]], given)
    )
    for z in np.flatnonzero(seen):
        given = [float(margins[z]), reverse] + ([] if distance is None else [float(np.log1p(distance[z] / 10))])
        rows["slice", how].append((name, overlap.dice(mask[z], truth[z]), float(found.slice_confidence[k, z]), given))


def _fit(level: str, own: bool, rows: Rows) -> None:
    hows = [how for where, how in rows if where == level and (how != "full") == own]
    data = [(how, *row) for how in hows for row in rows[level, how]]
    if not data:
        return
    how, name, dice, used, given = (np.array(column) for column in zip(*data, strict=True))
    cues = np.column_stack([np.ones(len(given)), given])
    left_out = np.zeros(len(dice))
    for patient in np.unique(name):
        inside = name == patient
        left_out[inside] = _logistic(cues[inside], _weights(cues[~inside], dice[~inside]))
    for kind in hows:
        of = how == kind
        for label, guess in (("in use", used), ("fitted without the patient", left_out)):
            error, rank = np.abs(guess - dice)[of].mean(), spearmanr(guess[of], dice[of])[0]
            print(f"{level}, {kind}, {label}: {of.sum()}, off by {error:.3f}, correlation {rank:.2f}")
    print(f"{level}, {'own paint' if own else 'other volume'}: weights {_weights(cues, dice).round(2)}", flush=True)


def _weights(cues: np.ndarray, dice: np.ndarray) -> np.ndarray:
    def loss(weights: np.ndarray) -> float:
        return float(np.mean((_logistic(cues, weights) - dice) ** 2) + 1e-4 * np.sum(weights[1:] ** 2))

    return np.asarray(minimize(loss, np.zeros(cues.shape[1])).x)


def _logistic(cues: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-cues @ weights)))


if __name__ == "__main__":
    main()
