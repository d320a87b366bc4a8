"""MOGaMB: pelvic T2-weighted MR of patients with cervical cancer, with the organs at risk of brachytherapy."""

from __future__ import annotations

from pathlib import Path

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import About, FoundScans, Options, match, refuse_options, unmatched
from fedcowpro.data.datasets.pairs import inward, left_out, listed, safe, without_image, without_labels
from fedcowpro.data.datasets.scan import ImageFile, LabelFile, Scan
from fedcowpro.volume.read import ending_of

# Images and label maps; the first whose ids agree is taken. The archive's own names may be others again.
DEFAULTS = (
    ("images/*.nii.gz", "labels/*.nii.gz"),
    ("images/*.nii.gz", "masks/*.nii.gz"),
    ("imagesTr/*_0000.nii.gz", "labelsTr/*.nii.gz"),
    ("imagesTr/*.nii.gz", "labelsTr/*.nii.gz"),
    ("image/*.nii.gz", "mask/*.nii.gz"),
    ("*/image.nii.gz", "*/mask.nii.gz"),
    ("*/image.nii.gz", "*/label.nii.gz"),
    ("*/T2.nii.gz", "*/mask.nii.gz"),
    ("*_image.nii.gz", "*_mask.nii.gz"),
    ("*_image.nii.gz", "*_label.nii.gz"),
    ("image_*.nii.gz", "mask_*.nii.gz"),
    ("image_*.nii.gz", "label_*.nii.gz"),
)
ABOUT = About(
    name="mogambo",
    title="MOGaMB: 94 pelvic T2-weighted 3-D MR, one label map a case",
    licence="CC BY 4.0",
    home="https://zenodo.org/records/15156638",
    patterns=True,
    layout=(
        "images and label maps as --images and --labels say: --images '*/T2.nii.gz' --labels '*/mask.nii.gz'",
        "without them the first of these that fits:",
        *(f"  {image} with {labels}" for image, labels in DEFAULTS),
        "the folder or a file in it is named after the dataset ('mogamb'), or give --dataset mogambo",
    ),
    organs={1: "bladder", 2: "rectum", 3: "sigmoid colon", 4: "femoral heads"},
)


class Mogambo:
    """The adapter. A case's id is what the `*` of the image pattern stands for."""

    about = ABOUT

    def recognises(self, source: Path) -> bool:
        """Whether the folder or something directly in it is named after the dataset, and it holds a volume."""
        names = [source.resolve().name, *(path.name for path in source.iterdir())]
        return any("mogamb" in name.lower() for name in names) and any(ending_of(path) for path in source.rglob("*"))

    def find(self, source: Path, options: Options) -> FoundScans:
        """List the cases; each has labels."""
        refuse_options(ABOUT, options, "images", "labels")
        images, labels = _paired(source, options)
        bare = [path for case, path in images.items() if case not in labels]
        if labels and bare:
            raise without_labels(bare, f"label maps as the pattern says, like {next(iter(labels.values()))}")
        lone = unmatched(images, labels)
        if lone:
            raise without_image(labels[lone[0]], f"images as the pattern says, like {next(iter(images.values()))}")
        known = frozenset(ABOUT.organs)
        scans = [
            Scan(safe(case), ImageFile(path), LabelFile(labels[case], known) if labels else None, "mr")
            for case, path in images.items()
        ]
        taken = {*images.values(), *labels.values()}
        folders = dict.fromkeys(path.parent for path in sorted(taken))
        return listed(scans, ABOUT.organs, left_out([*folders] if len(folders) < 3 else [], taken))


def _paired(source: Path, options: Options) -> tuple[dict[str, Path], dict[str, Path]]:
    """Case -> image and case -> label map by the user's patterns, or by the first of ours that fits.

    Raises:
        FedCoWProError: none fits; it says which were tried.
    """
    tried = dict.fromkeys(
        (options.images or image, label if options.labels is None else options.labels) for image, label in DEFAULTS
    )
    for base in inward(source):
        for image, label in tried:
            labels = match(base, label) if label else {}
            images = {case: path for case, path in match(base, image).items() if path not in labels.values()}
            if images and (not label or images.keys() & labels.keys()):
                return images, labels
    said = "; ".join(f"'{image}' with '{label}'" if label else f"'{image}'" for image, label in tried)
    seen = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if ending_of(path))
    raise FedCoWProError(
        f"{source}: no images and label maps named in the same way (volumes seen: {', '.join(seen[:5]) or 'none'})",
        f"tried: {said}",
        "name both with one '*' for the case, for example --images '*/T2.nii.gz' --labels '*/mask.nii.gz'",
    )


ADAPTER = Mogambo()
