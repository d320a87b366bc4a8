"""Grey value and texture of every tissue: Hounsfield units for CT, arbitrary scanner units for MR."""

from __future__ import annotations

import numpy as np

from fedcowpro.data.phantom.fields import Volume
from fedcowpro.data.phantom.tissues import Tissue as T

# HU of tissues that take up contrast: native, arterial, portal venous, delayed phase.
_PHASES: dict[T, tuple[float, float, float, float]] = {
    T.LIVER: (56, 68, 106, 92),
    T.SPLEEN: (48, 112, 118, 96),
    T.CORTEX: (33, 165, 182, 140),
    T.MEDULLA: (31, 70, 150, 138),
    T.URINE: (8, 8, 14, 240),
    T.ARTERY: (42, 270, 155, 110),
    T.VEIN: (42, 75, 128, 106),
    T.LIVER_VEIN: (42, 100, 158, 112),
    T.MYOCARDIUM: (45, 95, 105, 92),
    T.PANCREAS: (40, 95, 88, 74),
    T.ADRENAL: (30, 75, 70, 60),
    T.MUSCLE: (52, 56, 62, 60),
    T.STOMACH_WALL: (40, 66, 78, 70),
    T.BOWEL_WALL: (40, 74, 88, 74),
    T.LESION: (25, 45, 62, 62),
    T.BLADDER_WALL: (38, 50, 60, 58),
    T.UTERUS: (45, 85, 100, 90),
    T.ENDOMETRIUM: (35, 50, 60, 62),
    T.TUMOUR: (42, 75, 80, 74),
}
_CT_FIXED: dict[T, tuple[float, float]] = {
    T.AIR: (-1000, 2), T.SKIN: (-10, 15), T.FAT: (-104, 9), T.VISCERAL_FAT: (-100, 11), T.BONE: (480, 140),
    T.MARROW: (170, 55), T.DISC: (80, 12), T.CARTILAGE: (95, 35), T.CSF: (24, 5), T.CORD: (36, 5), T.LUNG: (-850, 35),
    T.BILE: (10, 4), T.STOMACH_CONTENT: (30, 26), T.GAS: (-960, 15), T.BOWEL_COLLAPSED: (52, 16),
    T.BOWEL_FLUID: (22, 9), T.BOWEL_BRIGHT: (95, 25), T.STOOL: (0, 105), T.TABLE: (60, 40), T.BLADDER: (8, 4),
    T.RECTUM_CONTENT: (-5, 90), T.APPLICATOR: (300, 30),
}  # fmt: skip
# Relative signal and texture in per cent of fat-suppressed T2, T1 in phase, and T2 without fat suppression.
_MR: dict[str, dict[T, tuple[float, float]]] = {
    "t2": {
        T.AIR: (0, 0), T.SKIN: (26, 12), T.FAT: (17, 8), T.VISCERAL_FAT: (15, 14), T.MUSCLE: (16, 12), T.BONE: (6, 20),
        T.MARROW: (23, 14), T.DISC: (30, 14), T.CARTILAGE: (24, 14), T.CSF: (112, 8), T.CORD: (55, 10), T.LUNG: (4, 40),
        T.MYOCARDIUM: (34, 22), T.ARTERY: (24, 30), T.VEIN: (52, 20), T.LIVER_VEIN: (76, 15), T.LIVER: (36, 8),
        T.SPLEEN: (70, 6), T.CORTEX: (68, 8), T.MEDULLA: (84, 8), T.URINE: (112, 8), T.BILE: (108, 5),
        T.PANCREAS: (42, 14), T.ADRENAL: (35, 10), T.STOMACH_WALL: (38, 18), T.STOMACH_CONTENT: (70, 17),
        T.GAS: (3, 50), T.BOWEL_WALL: (42, 18), T.BOWEL_COLLAPSED: (38, 13), T.BOWEL_FLUID: (76, 10),
        T.BOWEL_BRIGHT: (56, 14), T.STOOL: (26, 42), T.TABLE: (0, 0), T.LESION: (62, 12),
    },
    "t1": {
        T.AIR: (0, 0), T.SKIN: (50, 12), T.FAT: (92, 4), T.VISCERAL_FAT: (86, 7), T.MUSCLE: (37, 11), T.BONE: (12, 25),
        T.MARROW: (52, 10), T.DISC: (32, 10), T.CARTILAGE: (35, 12), T.CSF: (15, 10), T.CORD: (34, 8), T.LUNG: (5, 35),
        T.MYOCARDIUM: (34, 18), T.ARTERY: (26, 40), T.VEIN: (30, 30), T.LIVER_VEIN: (38, 12), T.LIVER: (54, 7),
        T.SPLEEN: (38, 7), T.CORTEX: (42, 8), T.MEDULLA: (32, 8), T.URINE: (18, 12), T.BILE: (28, 20),
        T.PANCREAS: (52, 10), T.ADRENAL: (42, 10), T.STOMACH_WALL: (36, 14), T.STOMACH_CONTENT: (28, 28),
        T.GAS: (4, 40), T.BOWEL_WALL: (38, 14), T.BOWEL_COLLAPSED: (42, 16), T.BOWEL_FLUID: (26, 18),
        T.BOWEL_BRIGHT: (58, 18), T.STOOL: (50, 30), T.TABLE: (0, 0), T.LESION: (30, 12),
    },
    "brachy": {
        T.AIR: (0, 0), T.SKIN: (40, 12), T.FAT: (72, 5), T.VISCERAL_FAT: (64, 8), T.MUSCLE: (17, 13), T.BONE: (7, 25),
        T.MARROW: (48, 10), T.DISC: (35, 14), T.CARTILAGE: (25, 14), T.CSF: (100, 8), T.CORD: (50, 10), T.LUNG: (4, 30),
        T.ARTERY: (9, 40), T.VEIN: (26, 50), T.URINE: (95, 6), T.GAS: (3, 50), T.BOWEL_WALL: (27, 14),
        T.BOWEL_COLLAPSED: (36, 22), T.BOWEL_FLUID: (80, 18), T.BOWEL_BRIGHT: (52, 25), T.STOOL: (34, 45),
        T.BLADDER: (98, 4), T.BLADDER_WALL: (24, 12), T.RECTUM_CONTENT: (30, 55), T.UTERUS: (40, 12),
        T.ENDOMETRIUM: (68, 10), T.TUMOUR: (48, 14), T.APPLICATOR: (2, 30), T.TABLE: (0, 0),
    },
}  # fmt: skip
# Contents and vessels differ between patients far more than parenchyma does.
_RESTLESS = (
    T.STOMACH_CONTENT, T.BOWEL_COLLAPSED, T.BOWEL_FLUID, T.BOWEL_BRIGHT, T.STOOL, T.ARTERY, T.VEIN, T.BILE,
    T.RECTUM_CONTENT, T.LESION, T.TUMOUR,
)  # fmt: skip


def draw_contrast(kind: str, rng: np.random.Generator) -> tuple[Volume, Volume]:
    """One patient's grey values.

    Args:
        kind: "ct", "t1", "t2" or "brachy".
        rng: decides the contrast phase, the gain and the differences between patients.

    Returns:
        (mean, texture), float32 (256,) each, indexed by ``Tissue``; ``texture`` is a standard deviation.
        Both in HU for CT, else in scanner units.
    """
    return _ct(rng) if kind == "ct" else _mr(kind, rng)


def _ct(rng: np.random.Generator) -> tuple[Volume, Volume]:
    mean, texture = np.zeros(256, np.float32), np.zeros(256, np.float32)
    for tissue, (value, spread) in _CT_FIXED.items():
        mean[tissue], texture[tissue] = value, spread
    phase = rng.choice(4, p=(0.15, 0.1, 0.6, 0.15)) + rng.uniform(-0.35, 0.35)
    uptake = rng.uniform(0.75, 1.25)
    for tissue, values in _PHASES.items():
        value = float(np.interp(phase, range(4), values))
        mean[tissue] = values[0] + (value - values[0]) * uptake + rng.normal(0, 4)
        texture[tissue] = 0.05 * abs(mean[tissue]) + 3
    mean[T.LIVER] -= abs(rng.normal(0, 14))  # fatty liver
    mean[T.BOWEL_BRIGHT] = rng.choice([60, 110, 260])  # oral contrast medium is not always given
    mean[T.STOMACH_CONTENT] = rng.choice([20, 40, 75, 170])
    texture[T.STOMACH_CONTENT] = 8 + 0.35 * mean[T.STOMACH_CONTENT]
    mean[T.BOWEL_COLLAPSED] = mean[T.BOWEL_WALL] - rng.uniform(0, 25)
    return mean, texture


def _mr(kind: str, rng: np.random.Generator) -> tuple[Volume, Volume]:
    mean, texture = np.zeros(256, np.float32), np.zeros(256, np.float32)
    gain = 10 * np.exp(rng.normal(0, 0.35))
    for tissue, (value, percent) in _MR[kind].items():
        spread = 0.28 if tissue in _RESTLESS else 0.09
        mean[tissue] = value * gain * np.exp(rng.normal(0, spread))
        texture[tissue] = percent / 100 * mean[tissue]
    if kind == "t1":  # between in phase and opposed phase
        mean[[T.FAT, T.VISCERAL_FAT]] *= rng.uniform(0.6, 1.0)
    if kind == "t2":  # fat suppression of varying success
        mean[[T.FAT, T.VISCERAL_FAT]] *= rng.uniform(0.7, 1.6)
    return mean, texture
