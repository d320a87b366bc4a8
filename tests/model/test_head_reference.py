"""The heads `cowpro` and `alpnet` equal the published code: scores, losses and gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from head_cases import head, model_with
from torch import Tensor

from common import Arrays
from fedcowpro.config import LossConfig
from fedcowpro.model.prototypes import masks_to_features
from fedcowpro.model.segmenter import Segmenter
from fedcowpro.training.losses import feature_losses

CASES = ("regular", "hard", "small_fg_no_local_proto", "tiny_fg_vanishes_at_32")
# Where the prediction has no background, ALPNet's training raises and skips the batch: no arrays.
WHOLE = [*((kind, case) for kind in ("cowpro", "alpnet") for case in CASES), ("cowpro", "fg_everywhere_in_pred")]
OURS = [
    *(("cowpro", case) for case in ("hard", "tiny_fg_vanishes_at_32", "fg_everywhere_in_pred")),
    *(("alpnet", case) for case in ("hard", "tiny_fg_vanishes_at_32", "small_fg_no_local_proto")),
]
PUBLISHED = LossConfig(spatial_dice=0, edge_dice=0)


def tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.tensor(array, dtype=dtype)[None]


def off(found: Tensor, expected: np.ndarray) -> float:
    """Largest difference."""
    return float((found.detach()[0].double() - torch.tensor(expected, dtype=torch.float64)).abs().max())


def features(arrays: Arrays, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return tensor(arrays["feat_support"], dtype), tensor(arrays["feat_query"], dtype)


def label_masks(arrays: Arrays) -> tuple[Tensor, Tensor]:
    return tensor(arrays["support_fg_256"], torch.int64), tensor(arrays["query_label_256"], torch.int64)


def check_scores(model: Segmenter, arrays: Arrays, dtype: torch.dtype, tolerance: float) -> None:
    """Window 4 as in training, 2 as in its test; `alpnet` decides on its fallback by window 4 in both."""
    (support, query), mask = features(arrays, dtype), tensor(arrays["support_fg_256"], dtype)
    for window, name in ((4, "train"), (2, "val")):
        expected = arrays[f"{model.config.head.kind}_{name}_scores_32"]
        assert off(model.compare(query, support, mask, window), expected) < tolerance


def check_losses(model: Segmenter, arrays: Arrays, dtype: torch.dtype, tolerance: float) -> None:
    kind = model.config.head.kind
    support, query = (part.requires_grad_() for part in features(arrays, dtype))
    masks = label_masks(arrays)
    terms, _ = feature_losses(model, support, masks[0], query, masks[1], PUBLISHED)
    terms["total"].backward()
    assert terms["cross_entropy"].item() == pytest.approx(float(arrays[f"{kind}_loss_ce_weighted"]), abs=tolerance)
    # CoWPro swallows an exception where the prediction has no background, and goes on with 0.
    alignment = np.nan_to_num(arrays[f"{kind}_align_ce"])
    assert terms["alignment"].item() == pytest.approx(float(alignment), abs=tolerance)
    for part, name in ((support, "support"), (query, "query")):
        if f"{kind}_grad_feat_{name}" in arrays:
            stored = arrays[f"{kind}_grad_feat_{name}"]
            assert part.grad is not None
            # tests/oracles keeps gradients as float32.
            assert off(part.grad, stored) < (1e-8 if stored.dtype == np.float32 and tolerance < 1e-8 else tolerance)


@pytest.mark.parametrize(("kind", "case"), OURS)
def test_equals_the_reference(oracle: Callable[[str], Arrays], kind: str, case: str) -> None:
    arrays, model = oracle(f"proto_{case}"), model_with(head(kind))
    check_scores(model, arrays, torch.float32, 1e-5)
    check_scores(model, arrays, torch.float64, 1e-12)
    check_losses(model, arrays, torch.float32, 1e-6)
    check_losses(model, arrays, torch.float64, 1e-12)


@pytest.mark.parametrize(("kind", "case"), WHOLE)
def test_equals_the_whole_reference(golden: Callable[[str], Arrays], kind: str, case: str) -> None:
    arrays, model = golden(f"proto_{case}"), model_with(head(kind))
    assert arrays[f"{kind}_grad_feat_support"].dtype == np.float64
    check_scores(model, arrays, torch.float32, 1e-5)
    check_scores(model, arrays, torch.float64, 1e-12)
    check_losses(model, arrays, torch.float32, 1e-6)
    check_losses(model, arrays, torch.float64, 1e-12)


@pytest.mark.parametrize(("kind", "case"), WHOLE)
def test_masks_and_logits_of_the_whole_reference(golden: Callable[[str], Arrays], kind: str, case: str) -> None:
    arrays, model = golden(f"proto_{case}"), model_with(head(kind))
    support, query = features(arrays, torch.float64)
    foreground = tensor(arrays["support_fg_256"], torch.float64)
    assert off(masks_to_features(foreground, (32, 32)), arrays["support_fg_32"]) == 0
    masks = label_masks(arrays)
    _, logits = feature_losses(model, support, masks[0], query, masks[1], PUBLISHED)
    assert off(logits[:, :, ::4, ::4], arrays[f"{kind}_train_logits_256_stride4"]) < 1e-12
    np.testing.assert_array_equal(logits[0].argmax(0), arrays[f"{kind}_train_pred_256"])


@pytest.mark.parametrize(("kind", "case"), [pair for pair in WHOLE if pair[1] != "fg_everywhere_in_pred"])
def test_roles_swapped_as_in_the_whole_reference(golden: Callable[[str], Arrays], kind: str, case: str) -> None:
    """The prediction as support mask; `alpnet` takes its fallback by the prediction's size here."""
    arrays, model = golden(f"proto_{case}"), model_with(head(kind))
    support, query = features(arrays, torch.float64)
    predicted = tensor(arrays[f"{kind}_train_scores_32"].argmax(0), torch.float64)
    reverse = model.compare(support, query, predicted, 4)
    assert off(reverse, arrays[f"{kind}_align_support_scores_32"]) < 1e-12


def test_a_case_of_the_reference_tells_the_fallbacks_window(golden: Callable[[str], Arrays]) -> None:
    """A foreground that fills 2 x 2 cells but none of 4 x 4, so that a fallback decided by window 2 would be seen."""
    arrays = golden("proto_small_fg_no_local_proto")
    mask = tensor(arrays["support_fg_32"], torch.float64)[None]
    pooled = [float(torch.nn.functional.avg_pool2d(mask, window).max()) for window in (2, 4)]
    assert pooled[0] > 0.95 > pooled[1]
