"""Pieces of work side by side: in order, one thread each, and the numbers do not depend on how many there are."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from common import PLAIN, TINY
from fedcowpro.core.threads import each
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.predictor import OneShotPredictor


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 3])
def test_results_keep_their_order_and_each_piece_has_one_thread(threads: int) -> None:
    torch.set_num_threads(threads)
    together = threading.Barrier(threads, timeout=20)

    def work(number: int) -> tuple[int, int, bool]:
        together.wait()  # passes only where as many pieces are under way at once
        return number, torch.get_num_threads(), torch.is_inference_mode_enabled()

    assert each(work, range(2 * threads)) == [(number, 1, True) for number in range(2 * threads)]
    assert each(lambda number: (number, torch.get_num_threads()), [7]) == [(7, 1)]
    assert each(work, []) == []
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()


def test_an_error_of_a_piece_comes_through() -> None:
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError):
        each(lambda number: 1 // number, [1, 0, 2])
    assert torch.get_num_threads() == 2


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    predictor = OneShotPredictor(build_model(TINY, 0), PLAIN.model_copy(update={"refine": 6, "flip": True}))
    rng = np.random.default_rng(0)
    slices = rng.normal(size=(7, 64, 64)).astype(np.float32)
    labels = np.zeros((2, 64, 64), np.uint8)
    labels[:, 8:40, 8:40], labels[1, 45:60, 45:60] = 1, 2
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        encoded = predictor.encode(slices)
        prototypes = predictor.prototypes(encoded.select([0, 1]), labels, [(1, (0, 1)), (2, (1,))])
        found.append(predictor.probabilities(encoded, prototypes, np.array([[0] * 7, [1] * 7])))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
