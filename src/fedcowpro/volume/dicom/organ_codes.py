"""SNOMED CT codes of organs for DICOM segmentations, found by the organ's name."""

from __future__ import annotations

import re

# Name -> (code, meaning), as in the context groups that DICOM names for segment types (CID 7151 and below).
_CODES = {
    "adrenal gland": ("23451007", "Adrenal gland"),
    "aorta": ("15825003", "Aorta"),
    "bladder": ("89837001", "Bladder"),
    "brain": ("12738006", "Brain"),
    "brain stem": ("119238007", "Brain Stem"),
    "breast": ("76752008", "Breast"),
    "cerebellum": ("113305005", "Cerebellum"),
    "clavicle": ("51299004", "Clavicle"),
    "colon": ("71854001", "Colon"),
    "common iliac artery": ("73634005", "Common iliac artery"),
    "common iliac vein": ("46027005", "Common iliac vein"),
    "duodenum": ("38848004", "Duodenum"),
    "esophagus": ("32849002", "Esophagus"),
    "eye": ("81745001", "Eye"),
    "femoral head": ("2812003", "Head of Femur"),
    "femur": ("71341001", "Femur"),
    "gallbladder": ("28231008", "Gallbladder"),
    "heart": ("80891009", "Heart"),
    "hepatic vein": ("8993003", "Hepatic vein"),
    "hippocampus": ("5366008", "Hippocampus"),
    "humerus": ("85050009", "Humerus"),
    "inferior vena cava": ("64131007", "Inferior vena cava"),
    "kidney": ("64033007", "Kidney"),
    "large intestine": ("14742008", "Large intestine"),
    "larynx": ("4596009", "Larynx"),
    "left atrium": ("82471001", "Left atrium"),
    "left ventricle": ("87878005", "Left ventricle"),
    "liver": ("10200004", "Liver"),
    "lung": ("39607008", "Lung"),
    "lymph node": ("59441001", "Lymph Node"),
    "mandible": ("91609006", "Mandible"),
    "optic nerve": ("18234004", "optic nerve"),
    "ovary": ("15497006", "Ovary"),
    "pancreas": ("15776009", "Pancreas"),
    "parotid gland": ("45289007", "Parotid gland"),
    "portal vein": ("32764006", "Portal vein"),
    "prostate": ("41216001", "Prostate"),
    "pulmonary artery": ("81040000", "Pulmonary artery"),
    "rectum": ("34402009", "Rectum"),
    "right atrium": ("73829009", "Right atrium"),
    "right ventricle": ("53085002", "Right ventricle"),
    "sacrum": ("54735007", "Sacrum"),
    "scapula": ("79601000", "Scapula"),
    "seminal vesicle": ("64739004", "Seminal Vesicle"),
    "skull": ("89546000", "Skull"),
    "small intestine": ("30315005", "Small intestine"),
    "spinal cord": ("2748008", "Spinal cord"),
    "spleen": ("78961009", "Spleen"),
    "sternum": ("56873002", "Sternum"),
    "stomach": ("69695003", "Stomach"),
    "submandibular gland": ("54019009", "Submandibular gland"),
    "superior vena cava": ("48345005", "Superior vena cava"),
    "testis": ("40689003", "Testis"),
    "thalamus": ("42695009", "Thalamus"),
    "thymus": ("9875009", "Thymus"),
    "tongue": ("21974007", "Tongue"),
    "trachea": ("44567001", "Trachea"),
    "ureter": ("87953007", "Ureter"),
    "uterus": ("35039007", "Uterus"),
    "vertebra": ("51282000", "Vertebra"),
}
_PAIRED = (
    "adrenal gland", "breast", "clavicle", "common iliac artery", "common iliac vein", "eye", "femoral head", "femur",
    "hippocampus", "humerus", "kidney", "lung", "optic nerve", "ovary", "parotid gland", "scapula", "seminal vesicle",
    "submandibular gland", "testis", "thalamus", "ureter",
)  # fmt: skip
_SAME = {
    "adrenal": "adrenal gland",
    "bowel": "small intestine",
    "brainstem": "brain stem",
    "femur head": "femoral head",
    "gall bladder": "gallbladder",
    "iliac artery": "common iliac artery",
    "iliac vena": "common iliac vein",
    "ivc": "inferior vena cava",
    "oesophagus": "esophagus",
    "postcava": "inferior vena cava",
    "small bowel": "small intestine",
    "urinary bladder": "bladder",
    "vertebrae": "vertebra",
}
# Names that have a code of their own, for people to choose from.
TERMS = tuple(
    sorted([*(_CODES.keys() - set(_PAIRED)), *(f"{side} {name}" for name in _PAIRED for side in ("left", "right"))])
)
ORGAN = ("91772007", "Organ")
CATEGORY = ("91723000", "Anatomical Structure")
SIDES = {"right": ("24028007", "Right"), "left": ("7771000", "Left")}


def code_of(organ: str) -> tuple[tuple[str, str], tuple[str, str] | None]:
    """Code and meaning of an organ, and of the side where its name gives one; the generic 'Organ' if unknown.

    Case, plural, underscores and the place of the side in the name do not matter.
    """
    words = re.sub(r"[^a-z]+", " ", organ.lower()).split()
    if own := _CODES.get(" ".join(words)):  # the left atrium is no atrium on the left
        return own, None
    side = next((word for word in words if word in SIDES), None)
    name = " ".join(word for word in words if word not in SIDES)
    for candidate in (name, name.removesuffix("s")):
        found = _CODES.get(_SAME.get(candidate, candidate))
        if found:
            return found, SIDES.get(side or "")
    return ORGAN, None
