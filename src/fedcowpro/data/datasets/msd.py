"""The Medical Segmentation Decathlon: one task's folder, described by its `dataset.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import About, FoundScans, Options, nothing_found
from fedcowpro.data.datasets.dataset_json import FILE, choose_channel, peek, read_description
from fedcowpro.data.datasets.pairs import inward, left_out, listed, safe, without_image, without_labels
from fedcowpro.data.datasets.scan import ImageFile, LabelFile, Scan
from fedcowpro.volume.checks import image_volume
from fedcowpro.volume.parse import grid_of, open_nifti, voxels_of
from fedcowpro.volume.volume import Volume

ABOUT = About(
    name="msd",
    title="Medical Segmentation Decathlon: one of its tasks, CT or MR",
    licence="CC BY-SA 4.0",
    home="http://medicaldecathlon.com",
    layout=(
        'dataset.json with "labels", "modality", "training": [{"image", "label"}], "test": [image]',
        "imagesTr/spleen_2.nii.gz with labelsTr/spleen_2.nii.gz, as dataset.json lists them",
        "imagesTs/spleen_1.nii.gz (unlabelled, may be absent as a whole)",
        "images of several channels: --part names one (as in dataset.json), default the first",
    ),
)


@dataclass(frozen=True)
class ChannelOfFile:
    """One channel of a NIfTI file whose fourth axis counts channels."""

    path: Path
    channel: int

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def read(self) -> Volume:
        """The image.

        Raises:
            FedCoWProError: as `nifti.read_image`; no such channel.
        """
        image = open_nifti(self.path)
        count = image.shape[3] if len(image.shape) > 3 else 1
        if self.channel >= count:
            raise FedCoWProError(
                f"{self.path}: {count} channel(s)",
                f"channel {self.channel}, as {FILE} says",
                "copy the file again, or take another --part",
            )
        if len(image.shape) == 4:
            try:
                one = np.asanyarray(image.dataobj[..., self.channel])
            except (OSError, EOFError, ValueError) as error:
                raise FedCoWProError(
                    f"{self.path}: fewer voxels than the header says ({error})",
                    "a whole file",
                    "copy the file again",
                ) from error
            image = image.__class__(one, image.affine, image.header)
        voxels = voxels_of(image, self.path).astype(np.float32)
        return image_volume(voxels, grid_of(image, self.path), str(self.path))


class Msd:
    """The adapter. A case's id is its file name without ending."""

    about = ABOUT

    def recognises(self, source: Path) -> bool:
        """Whether a `dataset.json` lists images that are there under the names that it gives."""
        return _home(source) is not None

    def find(self, source: Path, options: Options) -> FoundScans:
        """List the cases of `training`, which have labels, and of `test`, which have none."""
        home = _home(source)
        if home is None:
            raise nothing_found(ABOUT, source, f"{FILE} with the images that it lists")
        said = read_description(home / FILE)
        channel, notes = choose_channel(ABOUT, options, said.channels)
        scans, taken = [], set()
        for image, labels in _cases(home, said.content, labelled=options.labels != ""):
            taken |= {image, *([labels] if labels is not None else [])}
            given = LabelFile(labels, said.known) if labels is not None and options.labels != "" else None
            source_of = ChannelOfFile(image, channel.number) if len(said.channels) > 1 else ImageFile(image)
            scans.append(Scan(safe(_stem(image)), source_of, given, channel.modality, unknown=said.unknown))
        folders = dict.fromkeys(path.parent for path in sorted(taken))
        return listed(scans, said.organs, [*notes, *left_out([*folders], taken)])


def _home(source: Path) -> Path | None:
    """The folder of a `dataset.json` that lists an image which is there; nnU-Net stores its own under other names."""
    for base in inward(source):
        content = peek(base / FILE)
        if content == {}:
            return base if (base / "imagesTr").is_dir() else None
        entries = [*content.get("training", ()), *content.get("test", ())] if content is not None else []
        images = (entry.get("image") if isinstance(entry, dict) else entry for entry in entries)
        if any(isinstance(image, str) and (base / image).is_file() for image in images):
            return base
    return None


def _cases(home: Path, content: Mapping[str, Any], *, labelled: bool) -> Iterator[tuple[Path, Path | None]]:
    """Image and label map of every case, checked to be there; a test set may be absent as a whole.

    Without `labelled` label maps may be missing.
    """
    every = [(home / image, home / label if label else None) for image, label in _listed(home / FILE, content)]
    bare = [image for image, label in every if label is not None and not label.is_file() and image.is_file()]
    if bare and labelled:
        raise without_labels(bare, next(label for image, label in every if image == bare[0] and label))
    tests = any(image.is_file() for image, label in every if label is None)
    for image, label in every:
        if label is None and not tests:
            continue
        if not image.is_file():
            if label is not None and label.is_file():
                raise without_image(label, image)
            raise FedCoWProError(f"no file {image}", f"every image that {home / FILE} lists", "complete the download")
        yield image, label


def _listed(file: Path, content: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Image and label map of every case as the file names them."""
    try:
        training = [(str(entry["image"]), str(entry["label"])) for entry in content.get("training", [])]
        tests = [(str(entry["image"] if isinstance(entry, dict) else entry), None) for entry in content.get("test", [])]
    except (KeyError, TypeError) as error:
        raise FedCoWProError(
            f"{file}: 'training' or 'test' ({error})",
            '"training": [{"image", "label"}] and "test": [image]',
            "copy the file again",
        ) from error
    every = [*training, *tests]
    outside = [name for pair in every for name in pair if name and ".." in PurePosixPath(name).parts]
    if outside:
        raise FedCoWProError(f"{file}: '{outside[0]}'", "names of files below its folder", "correct the file")
    return every


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


ADAPTER = Msd()
