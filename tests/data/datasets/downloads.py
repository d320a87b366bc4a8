"""Download folders of datasets, written from phantoms as the originals lie on disk.

The numbering of organs is written down here a second time, from the datasets' own descriptions, so that a wrong table
of an adapter shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from fedcowpro.data.phantom import Kind, Phantom

Patient = Callable[[Kind, int], Phantom]
BTCV = {"spleen": 1, "right kidney": 2, "left kidney": 3, "gallbladder": 4, "liver": 6, "stomach": 7, "aorta": 8,
        "inferior vena cava": 9, "pancreas": 11}  # fmt: skip
FLARE = {"liver": 1, "right kidney": 2, "spleen": 3, "pancreas": 4, "aorta": 5, "inferior vena cava": 6,
         "gallbladder": 9, "stomach": 11, "left kidney": 13}  # fmt: skip
AMOS = {"spleen": 1, "right kidney": 2, "left kidney": 3, "gallbladder": 4, "liver": 6, "stomach": 7, "aorta": 8,
        "inferior vena cava": 9, "pancreas": 10}  # fmt: skip
CHAOS = {"liver": 1, "right kidney": 2, "left kidney": 3, "spleen": 4}
MOGAMBO = {"bladder": 1, "rectum": 2, "sigmoid colon": 3, "femoral heads": 4}
OWN = {"spleen": 1, "liver": 2}  # of the datasets that say their organs themselves


@dataclass(frozen=True)
class Expected:
    """What a case must give: (depth, height, width) arrays, labels None where it has none."""

    modality: str | None
    image: np.ndarray
    labels: np.ndarray | None


Download = dict[str, Expected]


def numbered(phantom: Phantom, numbers: Mapping[str, int]) -> np.ndarray:
    """The phantom's labels in a dataset's numbering; organs that it does not number become background."""
    table = np.zeros(256, np.uint8)
    for value, name in phantom.organs.items():
        table[value] = numbers.get(name, 0)
    return table[phantom.labels]


def save(path: Path, array: np.ndarray, spacing: tuple[float, float, float], *, dtype: type = np.int16) -> Path:
    """Write (depth, height, width), or (depth, height, width, channel), with file axes Left, Anterior, Superior."""
    affine = np.diag([-spacing[2], spacing[1], spacing[0], 1.0])
    native = np.moveaxis(array, (0, 1, 2), (2, 1, 0))[:, ::-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(np.rint(native).astype(dtype)), affine), path)
    return path


def pair(image: Path, labels: Path | None, phantom: Phantom, numbers: Mapping[str, int]) -> Expected:
    """Write an image and its label map."""
    drawn = numbered(phantom, numbers)
    save(image, phantom.image, phantom.spacing)
    if labels is not None:
        save(labels, drawn, phantom.spacing, dtype=np.uint8)
    return Expected(phantom.modality, np.rint(phantom.image), drawn if labels is not None else None)


def btcv(root: Path, patient: Patient) -> Download:
    raw = root / "RawData"
    train, test = raw / "Training", raw / "Testing"
    return {
        f"{number:04d}": pair(
            train / "img" / f"img{number:04d}.nii.gz",
            train / "label" / f"label{number:04d}.nii.gz",
            patient("ct", seed),
            BTCV,
        )
        for number, seed in ((2, 1), (10, 2))
    } | {"0061": pair(test / "img" / "img0061.nii.gz", None, patient("ct", 1), BTCV)}


def flare22(root: Path, patient: Patient) -> Download:
    train, rest = root / "FLARE22Train", root / "FLARE22_UnlabeledCase1-1000"
    name = "FLARE22_Tr_0001"
    return {
        "Case_00007": pair(rest / "Case_00007_0000.nii.gz", None, patient("ct", 2), FLARE),
        name: pair(train / f"images/{name}_0000.nii.gz", train / f"labels/{name}.nii.gz", patient("ct", 1), FLARE),
    }


def amos22(root: Path, patient: Patient) -> Download:
    cases: tuple[tuple[str, str, Kind], ...] = (("Tr", "0004", "ct"), ("Va", "0507", "t2"), ("Ts", "0510", "t1"))
    done = {}
    for part, number, kind in cases:
        labels = root / f"labels{part}" / f"amos_{number}.nii.gz" if part != "Ts" else None
        done[number] = pair(root / f"images{part}" / f"amos_{number}.nii.gz", labels, patient(kind, 1), AMOS)
    (root / "dataset.json").write_text(json.dumps({"name": "AMOS", "labels": {"0": "background", "1": "spleen"}}))
    return done


def mogambo(root: Path, patient: Patient) -> Download:
    root = root / "MOGaMB"
    image, labels = root / "images" / "P01.nii.gz", root / "masks" / "P01.nii.gz"
    return {"P01": pair(image, labels, patient("brachy", 1), MOGAMBO)}


def description(root: Path, **content: Any) -> None:
    (root / "dataset.json").write_text(json.dumps(content))


def msd(root: Path, patient: Patient) -> Download:
    root = root / "Task09_Spleen"
    names = ("spleen_2", "spleen_10")
    done = {
        name: pair(root / f"imagesTr/{name}.nii.gz", root / f"labelsTr/{name}.nii.gz", patient("ct", seed), OWN)
        for name, seed in zip(names, (1, 2), strict=True)
    }
    done["spleen_1"] = pair(root / "imagesTs/spleen_1.nii.gz", None, patient("ct", 1), OWN)
    (root / "imagesTr" / "._spleen_2.nii.gz").write_bytes(b"resource fork")  # the archives hold such files
    description(
        root,
        name="Spleen",
        modality={"0": "CT"},
        labels={"0": "background", "1": "spleen", "2": "liver"},
        training=[{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
        test=["./imagesTs/spleen_1.nii.gz"],
    )
    return {name: done[name] for name in ("spleen_1", *names)}


def msd_channels(root: Path, patient: Patient) -> Download:
    """A task with two channels in one file; the second is the phantom's image turned negative."""
    root, phantom = root / "Task05_Prostate", patient("brachy", 1)
    numbers = {"bladder": 1, "rectum": 2}
    both = np.stack([phantom.image, 4000 - phantom.image], axis=-1)
    save(root / "imagesTr/prostate_00.nii.gz", both, phantom.spacing)
    save(root / "labelsTr/prostate_00.nii.gz", numbered(phantom, numbers), phantom.spacing, dtype=np.uint8)
    description(
        root,
        modality={"0": "T2", "1": "ADC"},
        labels={"0": "background", "1": "bladder", "2": "rectum"},
        training=[{"image": "./imagesTr/prostate_00.nii.gz", "label": "./labelsTr/prostate_00.nii.gz"}],
        test=[],
    )
    return {"prostate_00": Expected("mr", np.rint(phantom.image), numbered(phantom, numbers))}


def _nnunet(root: Path, patient: Patient) -> Download:
    done = {"case_7": pair(root / "imagesTs/case_7_0000.nii.gz", None, patient("t2", 1), OWN)}
    for name in ("case_9", "case_11"):
        done[name] = pair(
            root / f"imagesTr/{name}_0000.nii.gz", root / f"labelsTr/{name}.nii.gz", patient("t2", 1), OWN
        )
        other = patient("t1", 1)
        save(root / f"imagesTr/{name}_0001.nii.gz", other.image, patient("t2", 1).spacing)
    return done


def nnunet(root: Path, patient: Patient) -> Download:
    """Version 2, two channels, overlapping regions."""
    root = root / "Dataset001_Abdomen"
    done = _nnunet(root, patient)
    save(root / "imagesTs/case_7_0001.nii.gz", patient("t1", 1).image, patient("t2", 1).spacing)
    description(
        root,
        channel_names={"0": "T2", "1": "T1"},
        labels={"background": 0, "organ": [1, 2], "liver": 2, "spleen": 1},
        file_ending=".nii.gz",
        numTraining=2,
    )
    return done


def nnunet_1(root: Path, patient: Patient) -> Download:
    """Version 1; its `training` lists names that are not on disk."""
    root = root / "Task501_Abdomen"
    done = _nnunet(root, patient)
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("case_9", "case_11")]
    description(
        root,
        modality={"0": "T2", "1": "T1"},
        labels={"0": "background", "1": "spleen", "2": "liver"},
        training=training,
        test=["./imagesTs/case_7.nii.gz"],
    )
    return done


def alpnet(root: Path, patient: Patient) -> Download:
    done = {}
    for number, labelled in (("2", True), ("10", False)):
        labels = root / f"label_{number}.nii.gz" if labelled else None
        expected = pair(root / f"image_{number}.nii.gz", labels, patient("t2", 1), CHAOS)
        segments = segments_of(patient("t2", 1))
        save(root / f"superpix-MIDDLE_{number}.nii.gz", segments, patient("t2", 1).spacing, dtype=np.int32)
        save(root / f"fgmask_{number}.nii.gz", segments > 0, patient("t2", 1).spacing, dtype=np.uint8)
        done[number] = Expected(None, expected.image, expected.labels)
    (root / "classmap_1.json").write_text("{}")
    return done


def segments_of(phantom: Phantom) -> np.ndarray:
    """Something like superpixels, with numbers beyond 255."""
    return np.where(phantom.labels > 0, phantom.labels.astype(int) * 100, 0)


def chaos(root: Path, patient: Patient) -> Download:
    train, test = root / "CHAOS_Train_Sets" / "Train_Sets", root / "CHAOS_Test_Sets" / "Test_Sets"
    ct, t2, t1 = patient("ct", 1), patient("t2", 1), patient("t1", 1)
    out_phase = Phantom(t1.image * 0.8, t1.labels, t1.spacing, t1.organs, t1.kind, t1.modality)
    done = {"ct-1": chaos_case(train / "CT/1/DICOM_anon", train / "CT/1/Ground", ct, {"liver": 1})}
    done["ct-3"] = chaos_case(test / "CT/3/DICOM_anon", None, ct, {"liver": 1})
    dual = train / "MR/2/T1DUAL"
    done["t1-in-2"] = chaos_case(dual / "DICOM_anon/InPhase", dual / "Ground", t1, CHAOS, prefix="IMG-0004-0000")
    done["t1-out-2"] = chaos_case(dual / "DICOM_anon/OutPhase", None, out_phase, CHAOS, prefix="IMG-0004-0001")
    done["t1-out-2"] = Expected("mr", done["t1-out-2"].image, done["t1-in-2"].labels)
    done["t2-2"] = chaos_case(train / "MR/2/T2SPIR/DICOM_anon", train / "MR/2/T2SPIR/Ground", t2, CHAOS)
    return done


def chaos_case(
    images: Path,
    masks: Path | None,
    phantom: Phantom,
    numbers: Mapping[str, int],
    prefix: str = "i",
    ordered: bool = False,
) -> Expected:
    """DICOM files named in random order (or in that of slices), and PNG files whose names are in the same order."""
    from PIL import Image

    from dicom_files import grid_for, write_series

    modality = phantom.modality
    files = write_series(images, phantom.image, phantom.spacing, modality=modality, series=str(images), prefix=prefix)
    # Names of CHAOS are not padded alike in every folder: take the padding away.
    named = {i if ordered else int(file.name.removeprefix(prefix)): i for i, file in enumerate(files)}
    for number, index in named.items():
        files[index].rename(images / f"{prefix}{number},0b.dcm")
    labels = numbered(phantom, numbers)
    if masks is None:
        return Expected(modality, np.rint(phantom.image), None)
    masks.mkdir(parents=True)
    greys = np.array([0, 255] if modality == "ct" else [0, 63, 126, 189, 252], np.uint8)
    slices = grid_for(phantom.image.shape, phantom.spacing).to_native(labels).transpose(2, 1, 0)
    for number, index in named.items():
        Image.fromarray(greys[slices[index]]).save(masks / f"liver_GT_{number:03d}.png")
    return Expected(modality, np.rint(phantom.image), labels)
