"""Notes go to whoever asked for them in the same thread, and else are warnings."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from fedcowpro.core.notes import collecting, inform


def test_notes_are_collected_once_and_in_order() -> None:
    with collecting() as outer:
        inform("a")
        with collecting() as inner:
            inform("b")
        inform("c")
        inform("a")
    assert (outer, inner) == (["a", "c"], ["b"])
    with pytest.warns(UserWarning, match="alone"):
        inform("alone")


def test_threads_do_not_get_each_others_notes() -> None:
    together = Barrier(4)

    def work(name: str) -> list[str]:
        with collecting() as notes:
            for number in range(20):
                together.wait(10)
                inform(f"{name} {number}")
        return notes

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, "abcd"))
    assert found == [[f"{name} {number}" for number in range(20)] for name in "abcd"]
