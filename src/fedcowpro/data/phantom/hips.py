"""Pelvic bones, femora, the muscles round them and the cavity that they enclose."""

from __future__ import annotations

import numpy as np

from fedcowpro.data.phantom.body import Body
from fedcowpro.data.phantom.canvas import KEEP, Box, Canvas
from fedcowpro.data.phantom.fields import Volume
from fedcowpro.data.phantom.geometry import curve, moved
from fedcowpro.data.phantom.skeleton import paint_bone
from fedcowpro.data.phantom.tissues import Tissue

_SOFT = (Tissue.MUSCLE, Tissue.FAT, Tissue.VISCERAL_FAT)


def paint_pelvic_cavity(canvas: Canvas, body: Body, rng: np.random.Generator) -> Volume:
    """Fill the trunk with muscles parted by fat planes and carve the pelvic cavity.

    Returns:
        float32 (depth, height, width): mm inside the cavity, negative outside it.
    """
    x, y, z = canvas.x, canvas.y, canvas.z
    everywhere = (slice(None), slice(None), slice(None))
    canvas.paint(everywhere, canvas.bumps < -0.4, Tissue.FAT, over=(Tissue.VISCERAL_FAT,))
    canvas.paint(everywhere, y > -45, Tissue.MUSCLE, over=(Tissue.VISCERAL_FAT,))
    canvas.paint(everywhere, y <= -45, Tissue.FAT, over=(Tissue.VISCERAL_FAT,))
    _paint_muscles(canvas, rng)
    wide, deep = rng.uniform(0.92, 1.1, 2)
    heights = [-75, -50, -25, 0, 40, 85]
    half_width = wide * np.interp(z, heights, [11, 17, 32, 53, 70, 100]).astype(np.float32)
    half_depth = deep * np.interp(z, heights, [30, 40, 54, 70, 76, 76]).astype(np.float32)
    middle = np.interp(z, heights, [16, 10, 0, -6, -10, -18]).astype(np.float32)
    belly = body.half_depth - 1.2 * body.wall + middle
    half_depth = (
        np.where(y < middle, np.interp(z, [-25, 15], [0, 1]).astype(np.float32) * (belly - half_depth), 0) + half_depth
    )
    rho = ((np.abs(x) / half_width) ** 2.4 + (np.abs(y - middle) / half_depth) ** 2.4) ** np.float32(1 / 2.4)
    within = (1 - rho) * np.minimum(half_width, half_depth) + 2.5 * canvas.bumps + 0.6 * canvas.ripples
    lining = np.interp(z, [-60, -30, 20, 45, 60], [6, 9, 12, 6, 0]).astype(np.float32) + 1.5 * canvas.bumps
    canvas.paint(everywhere, (within > -lining - 1.5) & (np.abs(x) > 8), Tissue.FAT, over=(Tissue.MUSCLE,))
    canvas.paint(everywhere, (within > -lining) & (y > -55), Tissue.MUSCLE, over=(Tissue.FAT,))
    canvas.paint(everywhere, within > 0, Tissue.VISCERAL_FAT, over=(Tissue.MUSCLE, Tissue.FAT))
    return within.astype(np.float32)


def _paint_muscles(canvas: Canvas, rng: np.random.Generator) -> None:
    """Muscles of hip, thigh and buttock, each in its own sheath of fat."""
    bulk = rng.uniform(0.88, 1.1)
    paths = (
        ([(62, -5, 90), (84, -36, 20), (100, -34, -20), (112, -10, -60)], (22, 20, 16, 13)),  # iliopsoas
        ([(118, -22, 75), (130, 0, 35), (138, 4, 0)], (17, 19, 12)),  # gluteus medius
        ([(104, 22, 80), (116, 34, 40), (126, 22, 5)], (17, 18, 10)),
        ([(40, 82, 60), (64, 80, 20), (84, 70, -20), (112, 52, -62)], (15, 21, 23, 20)),  # gluteus maximus
        ([(36, 92, 30), (44, 90, -10), (56, 78, -50)], (13, 19, 19)),
        ([(92, 72, 40), (108, 58, 0), (120, 44, -40)], (17, 18, 15)),
        ([(112, -46, 18), (110, -58, -20), (108, -60, -70)], (8, 13, 16)),  # rectus femoris
        ([(132, -40, 20), (146, -28, -15), (148, -22, -60)], (9, 12, 13)),  # tensor fasciae latae
        ([(84, -70, 0), (72, -74, -70)], (6, 7)),  # sartorius
        ([(38, -48, -34), (62, -40, -60), (74, -36, -90)], (10, 17, 20)),  # adductors and pectineus
        ([(66, -48, -6), (86, -36, -48)], (11, 12)),
        ([(40, -14, -40), (74, 0, -48), (98, 8, -44)], (10, 13, 8)),  # obturator externus
        ([(64, 36, -40), (82, 42, -80)], (10, 14)),  # hamstrings
        ([(118, 26, -40), (134, -4, -60), (126, -28, -90)], (8, 14, 17)),  # vastus lateralis
    )
    for path, radii in paths:
        jitter = rng.normal(0, 2.5, 3)
        for side in (-1.0, 1.0):
            points = [np.add((side * x, y, z), jitter * (side, 1, 1)) for x, y, z in path]
            box, distance = canvas.tube(points, np.array(radii) * (1.3 * bulk), margin=5)
            distance += 6 * canvas.bumps[box] + 1.5 * canvas.ripples[box]
            canvas.paint(box, distance < 1.2, Tissue.FAT, over=(Tissue.MUSCLE,))
            canvas.paint(box, distance < 0, Tissue.MUSCLE, over=(Tissue.FAT,))
            streaks = (distance < -2) & (np.abs(canvas.ripples[box]) < 0.07)
            canvas.paint(box, streaks & (canvas.bumps[box] > 0), Tissue.FAT, over=(Tissue.MUSCLE,))


def _paint_bones(canvas: Canvas, pieces: list[tuple[Box, Volume]], rim: float) -> None:
    """Fuse pieces of bone: every cortex first, then every marrow."""
    for tissue, inset in ((Tissue.BONE, 0.0), (Tissue.MARROW, rim)):
        for box, distance in pieces:
            canvas.paint(box, distance + 1.3 * canvas.bumps[box] < -inset, tissue)


def paint_sacrum(canvas: Canvas, rng: np.random.Generator) -> None:
    """Sacrum and coccyx with the wings that join the hip bones, and the piriformis muscles."""
    shift = rng.normal(0, 3)
    line = curve(
        [[0.0, 34, 100], [0.0, 46, 70], [0.0, 60 + shift, 42], [0.0, 66 + shift, 15], [0.0, 60, -8], [0.0, 50, -22]], 16
    )
    bones = [canvas.tube(line, curve([20, 18, 15, 11, 7, 4], 16))]
    for side in (-1.0, 1.0):
        path = [[side * 10, 66, 20], [side * 50, 58, 10], [side * 105, 36, 8]]
        box, distance = canvas.tube(path, [9, 12, 5])
        canvas.paint(box, distance < 0, Tissue.MUSCLE, over=_SOFT)
        for wing in ([[side * 10, 48, 95], [side * 46, 50, 78]], [[side * 8, 60, 60], [side * 30, 60, 48]]):
            bones.append(canvas.tube(wing, [19, 13]))
    _paint_bones(canvas, bones, 1.8)
    box, distance = canvas.tube(moved(line[:9], 0, 9, 0), 5.0)
    canvas.paint(box, distance < 0, Tissue.CSF, over=(Tissue.MARROW, Tissue.BONE, *_SOFT))


def paint_hips(canvas: Canvas, head_label: int, rng: np.random.Generator) -> None:
    """Both femora (the heads get ``head_label``), hip sockets, ischia, pubic bones and iliac wings."""
    apart, head = rng.uniform(82, 94), rng.uniform(21.5, 26)
    for side in (-1.0, 1.0):
        centre = np.array([side * apart, rng.normal(0, 2), rng.normal(0, 2)])

        def at(x: float, y: float, z: float, side: float = side) -> list[float]:
            return [side * x, y, z]

        box = canvas.box((-1e3, -70, 5), (1e3, 110, 1e3))
        x, y, z = side * canvas.x[box], canvas.y[box], canvas.z[box]
        sheet = x - 84 - 0.42 * z + 0.012 * (y - 10) ** 2 * np.sign(y - 10) * 0.6 + 4 * canvas.bumps[box]
        wing = np.maximum(np.abs(sheet) - 5 - 0.06 * np.abs(y), np.abs(y - 8 - 0.2 * z) - 26 - 0.42 * z)
        paint_bone(canvas, box, (np.maximum(wing, 14 - z) + 1e3 * (x < 20)).astype(np.float32), 1.8)
        pieces = (
            ([at(apart - 12, 26, 4), at(70, 34, -22), at(58, 36, -58)], [15, 12, 14]),
            ([at(apart - 16, -20, 2), at(48, -52, -10), at(13, -62, -22)], [13, 8, 10]),
            ([at(13, -60, -30), at(30, -30, -52), at(54, 28, -62)], [9, 6, 9]),
        )
        bones = [canvas.tube(path, radii) for path, radii in pieces]
        box, socket = canvas.ellipsoid(moved(centre, -side * 5, 3, 5), np.full(3, head + 8.5))
        open_to_side = side * (canvas.x[box] - centre[0]) - 10 + 0.5 * (centre[2] - canvas.z[box])
        bones.append((box, np.maximum(socket, open_to_side)))
        _paint_bones(canvas, bones, 1.9)
        neck = [
            centre,
            moved(centre, side * 34, 8, -18),
            moved(centre, side * 38, 8, -36),
            moved(centre, side * 40, 8, -90),
        ]
        box, distance = canvas.tube(neck, [15, 19, 17, 14])
        paint_bone(canvas, box, distance + canvas.bumps[box], 2.2)
        box, distance = canvas.ellipsoid(centre, np.full(3, head) * rng.uniform(0.96, 1.04, 3), margin=4)
        distance += 0.6 * canvas.bumps[box]
        canvas.paint(box, distance < 1.8, Tissue.CARTILAGE)
        canvas.paint(box, distance < 0, Tissue.BONE, label=head_label)
        canvas.paint(box, distance < -1.4, Tissue.MARROW, label=KEEP)
        neck_box, inside = canvas.tube([centre, moved(centre, side * 34, 8, -18)], [12, 14])
        canvas.paint(neck_box, inside < 0, Tissue.MARROW, label=KEEP, over=(Tissue.BONE, Tissue.CARTILAGE))
    box = canvas.box((-5, -75, -45), (5, -48, -10))
    joint = (np.abs(canvas.x[box]) < 3) & (np.abs(canvas.y[box] + 62) < 10) & (np.abs(canvas.z[box] + 26) < 16)
    canvas.paint(box, joint, Tissue.CARTILAGE)
