"""AMOS22: abdominal CT and MR with 15 organs."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from fedcowpro.config import Modality
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import About, FoundScans, Options, nothing_found, refuse_options
from fedcowpro.data.datasets.pairs import Pairs, inward, left_out, listed
from fedcowpro.data.datasets.scan import Scan

ABOUT = About(
    name="amos22",
    title="AMOS22: 500 CT and 100 MR of the abdomen, 360 of them with labels",
    licence="CC BY 4.0",
    home="https://zenodo.org/records/7262581",
    layout=(
        "imagesTr/amos_0001.nii.gz with labelsTr/amos_0001.nii.gz",
        "imagesVa with labelsVa in the same way (may be absent)",
        "imagesTs/amos_0002.nii.gz (unlabelled, may be absent)",
        "labeled_data_meta_0000_0599.csv (may be absent; without it, numbers from 0507 on are MR)",
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
        10: "pancreas",
        11: "right adrenal gland",
        12: "left adrenal gland",
        13: "duodenum",
        14: "bladder",
        15: "prostate or uterus",
    },
    parts=("ct", "mr"),
)
_SETS = ("Tr", "Va", "Ts")
_FIRST_MR = 507
_MR_MODELS = r"prisma|skyra|aera|avanto|magnetom|signa|achieva|ingenia|\bmr"
_CT_MODELS = r"aquilion|somatom|brilliance|lightspeed|revolution|\bct"


class Amos22:
    """The adapter. A case's id is the four digits of its file name."""

    about = ABOUT

    def recognises(self, source: Path) -> bool:
        """Whether a folder of images holds a file named amos_0001.nii.gz or alike."""
        return _home(source) is not None

    def find(self, source: Path, options: Options) -> FoundScans:
        """List the cases of the part; those in `imagesTr` and `imagesVa` have labels."""
        refuse_options(ABOUT, options, "part")
        home = _home(source)
        if home is None:
            raise nothing_found(ABOUT, source, "imagesTr/amos_*.nii.gz")
        scans: list[Scan] = []
        notes: list[str] = []
        for pairs in (_pairs(home, name) for name in _SETS):
            labelled = options.labels != "" and (pairs.images.name != "imagesTs" or pairs.labels.is_dir())
            scans += pairs.scans(frozenset(ABOUT.organs), None, labelled=labelled)
            notes += left_out([pairs.images, pairs.labels], pairs.all_files)
        table, said = _table(home)
        told = [
            Scan(scan.id, scan.image, scan.labels, table.get(int(scan.id), _by_number(int(scan.id)))) for scan in scans
        ]
        chosen = [scan for scan in told if options.part in (None, scan.modality)]
        if not chosen:
            raise FedCoWProError(f"{home}: no {options.part} case", f"cases of part '{options.part}'", "take all parts")
        return listed(chosen, ABOUT.organs, [*notes, *said])


def _pairs(home: Path, name: str) -> Pairs:
    return Pairs(home / f"images{name}", "amos_*", home / f"labels{name}", "amos_*", r"\d{4}")


def _home(source: Path) -> Path | None:
    """The folder of imagesTr and the others."""
    for base in inward(source):
        if any(_pairs(base, name).all_files for name in _SETS):
            return base
    return None


def _by_number(number: int) -> Modality:
    """What the dataset's numbering says; the unlabelled sets count 5000 to 6899 (CT) and from 7000 (MR)."""
    return "mr" if _FIRST_MR <= number < 5000 or number >= 7000 else "ct"


def _table(home: Path) -> tuple[dict[int, Modality], list[str]]:
    """Modality by number as the tables there, or else beside, say it, and notes on tables that cannot be read."""
    found: dict[int, Modality] = {}
    notes = []
    for file in [*sorted(home.parent.glob("labeled_data_meta*.csv")), *sorted(home.glob("*.csv"))]:
        try:
            with file.open(encoding="utf-8-sig", newline="") as stream:
                rows = list(csv.DictReader(stream))
        except (UnicodeDecodeError, csv.Error) as error:
            notes.append(f"{file}: not used, because it is no table ({error}); modality goes by number")
            continue
        for row in rows:
            number, modality = _row({re.sub("[^a-z]", "", (key or "").lower()): str(row[key]) for key in row})
            if number is not None and modality is not None:
                found[number] = modality
    return found, notes


def _row(row: dict[str, str]) -> tuple[int | None, Modality | None]:
    """Number and modality of a table's row; column names vary, so only their letters count."""
    number = re.search(r"([0-9]+)(\.0)?$", row.get("amosid", row.get("id", "")).strip())
    said = " ".join(row[key] for key in row if "modality" in key) or " ".join(
        row[key] for key in row if "model" in key or "scanner" in key
    )
    mr, ct = (bool(re.search(words, said.lower())) for words in (_MR_MODELS, _CT_MODELS))
    modality: Modality | None = None if mr == ct else "mr" if mr else "ct"
    return int(number[1]) if number else None, modality


ADAPTER = Amos22()
