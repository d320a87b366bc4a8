"""The tissues that the anatomy is made of; ``contrast`` gives each one its grey value."""

from __future__ import annotations

from enum import IntEnum, auto


class Tissue(IntEnum):
    """Index stored in a tissue map (uint8)."""

    AIR = 0
    SKIN = auto()
    FAT = auto()
    VISCERAL_FAT = auto()
    MUSCLE = auto()
    BONE = auto()
    MARROW = auto()
    DISC = auto()
    CARTILAGE = auto()
    CSF = auto()
    CORD = auto()
    LUNG = auto()
    MYOCARDIUM = auto()
    ARTERY = auto()
    VEIN = auto()
    LIVER_VEIN = auto()
    LIVER = auto()
    SPLEEN = auto()
    CORTEX = auto()
    MEDULLA = auto()
    URINE = auto()
    BILE = auto()
    PANCREAS = auto()
    ADRENAL = auto()
    STOMACH_WALL = auto()
    STOMACH_CONTENT = auto()
    GAS = auto()
    BOWEL_WALL = auto()
    BOWEL_COLLAPSED = auto()
    BOWEL_FLUID = auto()
    BOWEL_BRIGHT = auto()
    STOOL = auto()
    TABLE = auto()
    BLADDER = auto()
    BLADDER_WALL = auto()
    RECTUM_CONTENT = auto()
    UTERUS = auto()
    ENDOMETRIUM = auto()
    TUMOUR = auto()
    APPLICATOR = auto()
    LESION = auto()


SOFT_FILL = (Tissue.VISCERAL_FAT,)
BOWEL_CONTENTS = (Tissue.BOWEL_COLLAPSED, Tissue.BOWEL_FLUID, Tissue.BOWEL_BRIGHT)
