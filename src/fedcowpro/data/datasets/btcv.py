"""BTCV: abdominal CT of the challenge "Beyond the Cranial Vault"; few-shot papers call it SABS or Synapse."""

from __future__ import annotations

from pathlib import Path

from fedcowpro.data.datasets.base import About, FoundScans, Options, nothing_found, refuse_options
from fedcowpro.data.datasets.pairs import Pairs, inward, left_out, listed
from fedcowpro.data.datasets.scan import Scan

ABOUT = About(
    name="btcv",
    title="BTCV (SABS, Synapse): 30 labelled and 20 unlabelled abdominal CT",
    licence="terms of use of Synapse; registration needed, no redistribution",
    home="https://www.synapse.org/Synapse:syn3193805",
    layout=(
        "RawData/Training/img/img0001.nii.gz with RawData/Training/label/label0001.nii.gz",
        "RawData/Testing/img/img0061.nii.gz (unlabelled, may be absent)",
    ),
    organs={
        1: "spleen",
        2: "right kidney",
        3: "left kidney",
        4: "gallbladder",
        5: "oesophagus",
        6: "liver",
        7: "stomach",
        8: "aorta",
        9: "inferior vena cava",
        10: "portal and splenic vein",
        11: "pancreas",
        12: "right adrenal gland",
        13: "left adrenal gland",
    },
)


class Btcv:
    """The adapter. A case's id is the four digits of its file name."""

    about = ABOUT

    def recognises(self, source: Path) -> bool:
        """Whether `img/img0001.nii.gz` lies where it should."""
        return bool(_sets(source))

    def find(self, source: Path, options: Options) -> FoundScans:
        """List training and testing cases; every training case has labels."""
        refuse_options(ABOUT, options)
        sets = _sets(source)
        if not sets:
            raise nothing_found(ABOUT, source, "RawData/Training/img/img*.nii.gz")
        scans: list[Scan] = []
        notes: list[str] = []
        for pairs in sets:
            labelled = pairs.images.parent.name != "Testing"
            scans += pairs.scans(frozenset(ABOUT.organs), "ct", labelled=labelled and options.labels != "")
            notes += left_out([pairs.images, pairs.labels], pairs.all_files)
        return listed(scans, ABOUT.organs, notes)


def _sets(source: Path) -> list[Pairs]:
    """Training and testing, where they are; `source` may also be the folder above or the one of the training set."""
    for base in inward(source):
        for home in (base / "RawData", base):
            found = [pairs for name in ("Training", "Testing") if (pairs := _pairs(home / name)).all_files]
            if found:
                return found
    return [pairs] if (pairs := _pairs(source)).image_files else []


def _pairs(folder: Path) -> Pairs:
    return Pairs(folder / "img", "img*", folder / "label", "label*", r"\d{4}")


ADAPTER = Btcv()
