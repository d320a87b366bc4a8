"""FLARE22: abdominal CT, 50 cases with 13 organs and 2000 without labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fedcowpro.data.datasets.base import About, FoundScans, Options, match, nothing_found, refuse_options
from fedcowpro.data.datasets.pairs import Pairs, left_out, listed
from fedcowpro.data.datasets.scan import Scan

ABOUT = About(
    name="flare22",
    title="FLARE22: 50 labelled and 2000 unlabelled abdominal CT",
    licence="for research, see the challenge's pages; the images come from several datasets with terms of their own",
    home="https://flare22.grand-challenge.org",
    layout=(
        "FLARE22Train/images/FLARE22_Tr_0001_0000.nii.gz with FLARE22Train/labels/FLARE22_Tr_0001.nii.gz",
        "or imagesTr/FLARE22_Tr_0001_0000.nii.gz with labelsTr/FLARE22_Tr_0001.nii.gz",
        "FLARE22_UnlabeledCase1-1000/Case_00001_0000.nii.gz (unlabelled, may be absent)",
    ),
    organs={
        1: "liver",
        2: "right kidney",
        3: "spleen",
        4: "pancreas",
        5: "aorta",
        6: "inferior vena cava",
        7: "right adrenal gland",
        8: "left adrenal gland",
        9: "gallbladder",
        10: "oesophagus",
        11: "stomach",
        12: "duodenum",
        13: "left kidney",
    },
    parts=("labelled", "unlabelled"),
)
_UNLABELLED = "Case_*_0000.nii.gz"


class Flare22:
    """The adapter. A case's id is its file name without channel and ending: `FLARE22_Tr_0001`, `Case_00001`."""

    about = ABOUT

    def recognises(self, source: Path) -> bool:
        """Whether files named FLARE22_Tr are there, or its folder of unlabelled cases."""
        return any(_labelled(folder) for folder in _folders(source)) or bool(_unlabelled(source))

    def find(self, source: Path, options: Options) -> FoundScans:
        """List the cases of the part; every `FLARE22_Tr` case has labels."""
        refuse_options(ABOUT, options, "part")
        labelled = [pairs for folder in _folders(source) if (pairs := _labelled(folder)) is not None]
        unlabelled = _unlabelled(source)
        if options.part != "unlabelled" and not labelled and (options.part or not unlabelled):
            raise nothing_found(ABOUT, source, "images/FLARE22_Tr_*_0000.nii.gz")
        if options.part == "unlabelled" and not unlabelled:
            raise nothing_found(ABOUT, source, f"folder of unlabelled cases with {_UNLABELLED}")
        scans: list[Scan] = []
        notes: list[str] = []
        if options.part != "unlabelled":
            for pairs in labelled:
                known = frozenset(ABOUT.organs)
                scans += pairs.scans(known, "ct", labelled=options.labels != "", prefix="FLARE22_Tr_")
                notes += left_out([pairs.images, pairs.labels], pairs.all_files)
        if options.part != "labelled":
            for folder in unlabelled:
                pairs = Pairs(folder, "Case_*_0000", folder / "labels", "Case_*", r"\d+")
                scans += pairs.scans(None, "ct", labelled=False, prefix="Case_")
                notes += left_out([folder], pairs.all_files)
        return listed(scans, ABOUT.organs, notes)


def _folders(source: Path) -> Iterator[Path]:
    """The folder and two levels below: the release has been packed as FLARE22Train and as Training/FLARE22_...50."""
    yield source
    for pattern in ("*", "*/*"):
        yield from sorted(path for path in source.glob(pattern) if path.is_dir() and not path.name.startswith("."))


def _labelled(folder: Path) -> Pairs | None:
    for images, labels in (("images", "labels"), ("imagesTr", "labelsTr")):
        pairs = Pairs(folder / images, "FLARE22_Tr_*_0000", folder / labels, "FLARE22_Tr_*", r"\d+")
        if pairs.all_files:
            return pairs
    return None


def _unlabelled(source: Path) -> list[Path]:
    """Folders of unlabelled cases; their file names alone say too little to be told by."""
    named = [folder for folder in _folders(source) if "nlabel" in folder.resolve().name and _is_flare(folder)]
    return [folder for folder in named if match(folder, _UNLABELLED)]


def _is_flare(folder: Path) -> bool:
    return any("FLARE" in path.name.upper() for path in (folder.resolve(), folder.resolve().parent))


ADAPTER = Flare22()
