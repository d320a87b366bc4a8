"""Outlines of a mask along the edges of its pixels: which pixels have their centre within is the mask again."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

Corner = tuple[int, int]
# Right, down, left, up: steps from corner to corner, with the mask's pixel on the right-hand side.
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """A closed outline for each part of a mask; parts that touch at a corner alone are two.

    A hole is joined to the outline around it by a line that is walked forth and back ("keyhole"), as DICOM has it for
    closed planar contours; the line runs between pixels.

    Args:
        mask: bool (height, width).

    Returns:
        Per part the corners, float (points, 2): row and column, where the centre of pixel (0, 0) is (0, 0) and its
        corners are half a pixel away; the last point is not the first one again.
    """
    parts, _ = ndimage.label(mask)
    found = []
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        outer, *holes = _loops(parts[box] == number)
        for hole in sorted(holes, key=_leftmost):
            outer = _joined(outer, hole)
        start = (box[0].start, box[1].start)
        found.append(np.array(_turns(outer), float) + start - 0.5)
    return found


def _loops(part: np.ndarray) -> list[list[Corner]]:
    """The closed walks along the edges of one part, corner by corner; the outer one first."""
    inside = np.pad(part, 1)
    beyond = (inside[:-2, 1:-1], inside[1:-1, 2:], inside[2:, 1:-1], inside[1:-1, :-2])  # above, right, below, left
    leaving: dict[Corner, list[int]] = {}
    for way, (there, (row, column)) in enumerate(zip(beyond, ((0, 0), (0, 1), (1, 1), (1, 0)), strict=True)):
        for y, x in np.argwhere(part & ~there).tolist():
            leaving.setdefault((y + row, x + column), []).append(way)
    loops = []
    for start in sorted(leaving):  # the topmost corner of all is the outer walk's
        if start not in leaving:
            continue
        loop, at, way = [], start, leaving[start][0]
        while True:
            leaving[at].remove(way)
            if not leaving[at]:
                del leaving[at]
            loop.append(at)
            at = (at[0] + _STEPS[way][0], at[1] + _STEPS[way][1])
            if at == start:
                break
            # Where two pixels touch at a corner alone, the walk stays with its own.
            way = next(turn for turn in ((way + 1) % 4, way, (way + 3) % 4) if turn in leaving[at])
        loops.append(loop)
    return loops


def _leftmost(loop: list[Corner]) -> Corner:
    """Column and row of a walk's leftmost, there topmost corner."""
    return min((column, row) for row, column in loop)


def _joined(outer: list[Corner], hole: list[Corner]) -> list[Corner]:
    """One walk of both. To the left of the hole's leftmost, topmost corner is the mask, and then the outer walk."""
    column, row = _leftmost(hole)
    first = hole.index((row, column))
    places = {corner: place for place, corner in enumerate(outer)}
    meets = next(places[row, left] for left in range(column - 1, -1, -1) if (row, left) in places)
    return [*outer[: meets + 1], *hole[first:], *hole[:first], hole[first], *outer[meets:]]


def _turns(loop: list[Corner]) -> list[Corner]:
    """The corners at which a walk turns."""
    points = np.array(loop)
    step = np.sign(np.roll(points, -1, axis=0) - points)
    turns = (step != np.roll(step, 1, axis=0)).any(axis=1)
    return [loop[place] for place in np.flatnonzero(turns)]
