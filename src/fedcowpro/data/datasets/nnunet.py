"""A raw folder of nnU-Net, version 1 or 2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import About, FoundScans, Options, match, nothing_found
from fedcowpro.data.datasets.dataset_json import FILE, Channel, choose_channel, peek, read_description
from fedcowpro.data.datasets.pairs import Pairs, inward, left_out, listed
from fedcowpro.data.datasets.scan import Scan
from fedcowpro.volume.read import ENDINGS

ABOUT = About(
    name="nnunet",
    title="nnU-Net raw data, version 1 or 2: one dataset's folder, CT or MR",
    licence="that of the dataset",
    home="https://github.com/MIC-DKFZ/nnUNet",
    layout=(
        'dataset.json with "labels" and "modality" (version 1) or "channel_names" (version 2)',
        "imagesTr/case_0000.nii.gz with labelsTr/case.nii.gz; _0000 is the number of the channel",
        "imagesTs/case_0000.nii.gz, with labelsTs/case.nii.gz where there are labels (may be absent)",
        "several channels: --part names one (as in dataset.json), default the first",
    ),
)


class Nnunet:
    """The adapter. A case's id is its file name without channel and ending."""

    about = ABOUT

    def recognises(self, source: Path) -> bool:
        """Whether a `dataset.json` lies beside images whose names end with a channel's number."""
        return _home(source) is not None

    def find(self, source: Path, options: Options) -> FoundScans:
        """List the cases of `imagesTr`, which have labels, and of `imagesTs`."""
        home = _home(source)
        if home is None:
            raise nothing_found(ABOUT, source, f"{FILE} with imagesTr/*_0000.nii.gz beside it")
        said = read_description(home / FILE)
        ending = said.content.get("file_ending", ".nii.gz")
        if ending not in ENDINGS:
            raise FedCoWProError(
                f"{home / FILE}: files that end with '{ending}'",
                f"volumes: {', '.join(ENDINGS)}",
                "2-D images are no volumes; convert other formats to NIfTI",
            )
        channel, notes = choose_channel(ABOUT, options, said.channels)
        scans: list[Scan] = []
        extra: list[str] = []
        for name in ("Tr", "Ts"):
            pairs = _pairs(home, name, channel, ending)
            labelled = options.labels != "" and (name == "Tr" or pairs.labels.is_dir())
            listed_scans = pairs.scans(said.known, channel.modality, labelled=labelled)
            scans += [replace(scan, unknown=said.unknown) for scan in listed_scans]
            of_channels = [path for other in said.channels for path in _pairs(home, name, other, ending).all_files]
            extra += left_out([pairs.images, pairs.labels], of_channels)
        if not scans:
            raise nothing_found(ABOUT, home, f"imagesTr/*_{channel.number:04d}{ending}")
        return listed(scans, said.organs, [*notes, *extra])


def _pairs(home: Path, name: str, channel: Channel, ending: str) -> Pairs:
    return Pairs(home / f"images{name}", f"*_{channel.number:04d}", home / f"labels{name}", "*", endings=(ending,))


def _home(source: Path) -> Path | None:
    """The folder of a `dataset.json` and of images of channel 0."""
    for base in inward(source):
        if peek(base / FILE) and any(
            match(base / folder, f"*_0000{ending}") for folder in ("imagesTr", "imagesTs") for ending in ENDINGS
        ):
            return base
    return None


ADAPTER = Nnunet()
