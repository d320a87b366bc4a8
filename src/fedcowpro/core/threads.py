"""Independent pieces of work side by side, each in one thread.

Torch divides each small operation between the threads and waits for all of them each time. Where a core is busy with
something else, that waiting takes many times the work; whole slices side by side do not wait for each other, and a
result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def each(work: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result]:
    """`work` of each piece without gradients, in order, in as many threads as torch has here; one within a piece."""

    def run(piece: Piece) -> Result:
        with torch.inference_mode():  # of one thread alone
            return work(piece)

    threads = torch.get_num_threads()
    try:
        if min(threads, len(pieces)) > 1:
            with ThreadPoolExecutor(min(threads, len(pieces)), "slices", torch.set_num_threads, (1,)) as pool:
                return list(pool.map(run, pieces))
        torch.set_num_threads(1)
        return [run(piece) for piece in pieces]
    finally:
        torch.set_num_threads(threads)  # what one thread sets counts for those that begin later, too
