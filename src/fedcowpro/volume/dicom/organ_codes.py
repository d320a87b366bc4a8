"""SNOMED CT codes of organs for DICOM segmentations, found by the organ's name."""

from __future__ import annotations

import re

# Name -> (code, meaning), as in the context groups that DICOM names for segment types (CID 7151 and below).
_CODES = {
    "adrenal gland": ("23451007", "Adrenal gland"),
    "aorta": ("15825003", "Aorta"),
    "bladder": ("89837001", "Bladder"),
    "colon": ("71854001", "Colon"),
    "duodenum": ("38848004", "Duodenum"),
    "esophagus": ("32849002", "Esophagus"),
    "femoral head": ("2812003", "Head of Femur"),
    "gallbladder": ("28231008", "Gallbladder"),
    "inferior vena cava": ("64131007", "Inferior vena cava"),
    "kidney": ("64033007", "Kidney"),
    "large intestine": ("14742008", "Large intestine"),
    "liver": ("10200004", "Liver"),
    "lung": ("39607008", "Lung"),
    "pancreas": ("15776009", "Pancreas"),
    "portal vein": ("32764006", "Portal vein"),
    "prostate": ("41216001", "Prostate"),
    "rectum": ("34402009", "Rectum"),
    "seminal vesicle": ("64739004", "Seminal Vesicle"),
    "small intestine": ("30315005", "Small intestine"),
    "spleen": ("78961009", "Spleen"),
    "stomach": ("69695003", "Stomach"),
    "uterus": ("35039007", "Uterus"),
}
_SAME = {
    "adrenal": "adrenal gland",
    "bowel": "small intestine",
    "femur head": "femoral head",
    "gall bladder": "gallbladder",
    "ivc": "inferior vena cava",
    "oesophagus": "esophagus",
    "postcava": "inferior vena cava",
    "small bowel": "small intestine",
    "urinary bladder": "bladder",
}
ORGAN = ("91772007", "Organ")
CATEGORY = ("91723000", "Anatomical Structure")
SIDES = {"right": ("24028007", "Right"), "left": ("7771000", "Left")}


def code_of(organ: str) -> tuple[tuple[str, str], tuple[str, str] | None]:
    """Code and meaning of an organ, and of the side where its name gives one; the generic 'Organ' if unknown.

    Case, plural, underscores and the place of the side in the name do not matter.
    """
    words = re.sub(r"[^a-z]+", " ", organ.lower()).split()
    side = next((word for word in words if word in SIDES), None)
    name = " ".join(word for word in words if word not in SIDES)
    for candidate in (name, name.removesuffix("s")):
        found = _CODES.get(_SAME.get(candidate, candidate))
        if found:
            return found, SIDES.get(side or "")
    return ORGAN, None
