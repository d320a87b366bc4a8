"""What is measured is what is used: four faces, one pipeline, the same masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from common import ORGANS, SMALL, script
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.phantom import write_site
from fedcowpro.evaluation import run
from fedcowpro.oneshot.batch import load_support
from fedcowpro.oneshot.loading import load_predictor

FILE = Path(__file__).parents[2] / "benchmarks" / "faces.py"
QUERIES = ("2", "3", "4", "5")


@pytest.fixture(scope="module")
def faces() -> ModuleType:
    return script(FILE)


@pytest.mark.parametrize("kind", ["ct", "t2"])
@pytest.mark.parametrize(
    "settings",
    [{}, pytest.param({"support_slices": "all", "quadrant_mask": True, "refine": 0}, marks=pytest.mark.slow)],
)
def test_all_faces_give_the_same_masks(
    faces: ModuleType, tiny_checkpoint: Path, tmp_path: Path, kind: str, settings: dict[str, object]
) -> None:
    """Eight phantom cases, four organs, every voxel."""
    write_site(tmp_path, kind, (1, 2, 3, 4, 5), size=64, depth=8)
    loaded = load_predictor(tiny_checkpoint, settings)
    given = tmp_path, "1", QUERIES, ORGANS
    first = faces.by_command(loaded, *given)
    others = [
        faces.by_class(tiny_checkpoint, *given, **settings),
        faces.by_page(loaded, *given),
        faces.by_evaluation(load_predictor(tiny_checkpoint, settings, evaluation=True), *given, SMALL),
    ]
    assert first.keys() == {(case, organ) for case in QUERIES for organ in ORGANS}
    assert sum(mask.any() for mask in first.values()) > len(first) / 2
    for masks in others:
        for key, mask in first.items():
            np.testing.assert_array_equal(masks[key], mask, err_msg=str(key))


def test_an_evaluation_sums_in_the_order_of_the_labels(
    faces: ModuleType, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another order of prototypes sums round otherwise: two voxels of a real liver went to another organ."""
    write_site(tmp_path, "ct", (1, 2), size=64, depth=8)
    loaded, used = load_predictor(tiny_checkpoint), []
    real = run.segment_encoded
    monkeypatch.setattr(run, "segment_encoded", lambda *given, **more: used.append(given[1]) or real(*given, **more))
    faces.by_evaluation(loaded, tmp_path, "1", ["2"], dict(reversed(ORGANS.items())), SMALL)
    pair = tmp_path / "image_1.nii.gz", tmp_path / "label_1.nii.gz"
    own = load_support(loaded.predictor, [pair], loaded.prepare, organs=ORGANS).prototypes
    for support in used:
        assert all(map(torch.equal, support.prototypes.vectors, own.vectors))
        assert all(map(torch.equal, support.prototypes.member, own.member))


def test_cards_of_earlier_versions_name_the_pairing_otherwise(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for old, new in (("bag", "all-slices"), ("chunk", "same-part")):
        copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / old))
        card = json.loads((copy / "model.json").read_text(encoding="utf-8"))
        card.setdefault("inference", {})["pairing"] = old
        (copy / "model.json").write_text(json.dumps(card), encoding="utf-8")
        assert load_predictor(copy, evaluation=True).predictor.config.pairing == new
        assert load_predictor(copy).predictor.config.pairing == "all-slices"


@pytest.mark.parametrize("settings", [{"pairing": "same-part"}, {"exclusive": False}])
def test_what_only_an_evaluation_can_honour_is_refused_elsewhere(
    tiny_checkpoint: Path, settings: dict[str, object]
) -> None:
    with pytest.raises(FedCoWProError, match="inference setting"):
        load_predictor(tiny_checkpoint, settings)
    config = load_predictor(tiny_checkpoint, settings, evaluation=True).predictor.config
    assert {name: getattr(config, name) for name in settings} == settings
