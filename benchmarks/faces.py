"""One pipeline: the masks of `segment`, of `OneShotSegmenter`, of the page and of `evaluate`, voxel by voxel.

    python benchmarks/faces.py FOLDER --support 1 --query 13,15,19 --organs "1=liver,2=right kidney" [--model RUN]

FOLDER holds image_<id>.nii.gz and label_<id>.nii.gz. Prints a line for each query and organ: voxels, and in how many
the four differ; ends with code 1 where one does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedcowpro.config import SuperpixelConfig
from fedcowpro.data.preparation.prepare import prepare
from fedcowpro.evaluation.episodes import plan_episodes
from fedcowpro.evaluation.run import evaluate_episode
from fedcowpro.oneshot.batch import ByExample, load_support, segment_files
from fedcowpro.oneshot.loading import Loaded, load_predictor
from fedcowpro.oneshot.segmenter import OneShotSegmenter
from fedcowpro.serve.engine import Engine
from fedcowpro.serve.jobs import Job
from fedcowpro.serve.opened import OpenVolume
from fedcowpro.volume.read import read_labels, read_volume

Masks = dict[tuple[str, int], np.ndarray]


def by_command(loaded: Loaded, folder: Path, support: str, queries: Sequence[str], organs: Mapping[int, str]) -> Masks:
    """`fedcowpro segment`: files to files."""
    example = load_support(loaded.predictor, [_pair(folder, support)], loaded.prepare, organs=organs)
    with tempfile.TemporaryDirectory() as out:
        found: Masks = {}
        for case in queries:
            image = _pair(folder, case)[0]
            (result,) = segment_files(ByExample(loaded.predictor, example, loaded.prepare), [image], Path(out))
            labels = read_labels(result.mask, read_volume(image)).voxels
            found |= {(case, organ): labels == organ for organ in organs}
        return found


def by_class(
    model: Path | None,
    folder: Path,
    support: str,
    queries: Sequence[str],
    organs: Mapping[int, str],
    **settings: object,
) -> Masks:
    """`OneShotSegmenter`."""
    segmenter = OneShotSegmenter(model, organs=list(organs), inference=settings).set_support(*_pair(folder, support))
    found: Masks = {}
    for case in queries:
        image = read_volume(_pair(folder, case)[0])
        labels = image.grid.to_internal(segmenter.predict(_pair(folder, case)[0], probabilities=False).labels)
        found |= {(case, organ): labels == organ for organ in organs}
    return found


def by_page(loaded: Loaded, folder: Path, support: str, queries: Sequence[str], organs: Mapping[int, str]) -> Masks:
    """The engine behind the page's button; every slice of the example is painted."""
    volumes = []
    for key in (support, *queries):
        image = read_volume(_pair(folder, key)[0])
        opened = OpenVolume(image, id=key)
        if key == support:
            labels = read_labels(_pair(folder, key)[1], image).voxels
            kept = np.where(np.isin(labels, list(organs)), labels, 0).astype(np.uint8)
            opened.drawn = dict(enumerate(kept))
        volumes.append(opened)
    Engine(loaded.predictor, loaded.prepare, "model").segment(volumes, Job())
    return {(one.id, organ): one.labels() == organ for one in volumes[1:] for organ in organs}


def by_evaluation(
    loaded: Loaded,
    folder: Path,
    support: str,
    queries: Sequence[str],
    organs: Mapping[int, str],
    superpixels: SuperpixelConfig | None = None,
) -> Masks:
    """`fedcowpro prepare`, then `fedcowpro evaluate`; superpixels play no part in it."""
    changes = {"modality": None, "superpixels": superpixels or SuperpixelConfig()}
    config = loaded.prepare["ct"].model_copy(update=changes)
    found: Masks = {}

    def keep(case: str, organ: int, mask: np.ndarray) -> None:
        found[case, organ] = mask

    with tempfile.TemporaryDirectory() as work:
        site = prepare(
            folder, Path(work) / "site", config, organs=dict(organs), support=support,
            query=list(queries), cases=[support, *queries], workers=1, progress=False,
        )  # fmt: skip
        (episode,) = plan_episodes({"site": site}, slices=loaded.predictor.config.support_slices).episodes
        evaluate_episode(
            loaded.predictor, {"site": site}, episode, method="m", seed=0, protocols=["whole-volume"],
            on_prediction=keep,
        )  # fmt: skip
    return found


def _pair(folder: Path, case: str) -> tuple[Path, Path]:
    return folder / f"image_{case}.nii.gz", folder / f"label_{case}.nii.gz"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--support", required=True)
    options.add_argument("--query", required=True)
    options.add_argument("--organs", required=True)
    options.add_argument("--model", type=Path)
    given = options.parse_args()
    organs = {int(part.split("=")[0]): part.split("=")[1] for part in given.organs.split(",")}
    queries = given.query.split(",")
    loaded = load_predictor(given.model)
    faces = {
        "segment": by_command(loaded, given.folder, given.support, queries, organs),
        "OneShotSegmenter": by_class(given.model, given.folder, given.support, queries, organs),
        "page": by_page(loaded, given.folder, given.support, queries, organs),
        "evaluate": by_evaluation(loaded, given.folder, given.support, queries, organs),
    }
    first, worst = faces.pop("segment"), 0
    for key, mask in first.items():
        differ = {name: int((masks[key] != mask).sum()) for name, masks in faces.items()}
        worst = max(worst, *differ.values())
        print(f"case {key[0]}, {organs[key[1]]}: {int(mask.sum())} voxels; differ: {differ}")
    print("all alike" if not worst else "NOT alike")
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(main())
