"""The pixels of DICOM slices as physical values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.dicom.headers import examining, slices_of
from fedcowpro.volume.dicom.library import EXTRA, library, quiet

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def values_of(dataset: Dataset, frames: Sequence[int], path: Path) -> list[np.ndarray]:
    """Frames with their own slope and intercept applied, float32 (rows, columns) each.

    Raises:
        FedCoWProError: as `stored_values`; a look-up table in place of slope and intercept.
    """
    with examining(path):
        attributes = slices_of(dataset)
        slopes = [attributes[frame].get("RescaleSlope") for frame in frames]
        intercepts = [attributes[frame].get("RescaleIntercept") for frame in frames]
        if attributes[frames[0]].get("ModalityLUTSequence"):
            raise FedCoWProError(
                f"{path}: values that go through a look-up table (ModalityLUTSequence)",
                "rescale slope and intercept",
                "convert the series with another tool and give the NIfTI file",
            )
        factors = [(1.0 if slope is None else float(slope)) for slope in slopes]
        offsets = [float(intercept or 0) for intercept in intercepts]
    stored = stored_values(dataset, frames, path)
    return [
        (one * factor + offset).astype(np.float32) for one, factor, offset in zip(stored, factors, offsets, strict=True)
    ]


def is_rescaled(dataset: Dataset, frames: Sequence[int], path: Path) -> bool:
    """Whether one of the frames says what to add to its stored values."""
    with examining(path):
        attributes = slices_of(dataset)
        return any(attributes[frame].get("RescaleIntercept") is not None for frame in frames)


def stored_values(dataset: Dataset, frames: Sequence[int], path: Path) -> list[np.ndarray]:
    """Pixels of frames (numbered from 0) as they are stored, (rows, columns) each.

    Raises:
        FedCoWProError: no pixel data, a colour image, a transfer syntax without decoder, pixel data that are
            damaged or end early.
    """
    if is_colour(dataset):
        raise FedCoWProError(f"{path}: a colour image", "one grey value per pixel", "take the original CT or MR series")
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise FedCoWProError(
            f"{path}: no pixel data, or the file ends within them",
            "an image with all its pixels",
            "export or copy the series again",
        )
    _require_decoder(dataset, path)
    try:
        with quiet():
            if int(dataset.BitsAllocated) == 1 and not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
                return [_unpacked(dataset, frame) for frame in frames]
            return list(library("pydicom.pixels").iter_pixels(dataset, raw=True, indices=list(frames)))
    except Exception as error:  # every decoder has errors of its own
        raise FedCoWProError(
            f"{path}: pixel data that cannot be decoded ({dataset.file_meta.TransferSyntaxUID.name})",
            "a whole file in a common encoding",
            "export the series again, uncompressed (Explicit VR Little Endian)",
        ) from error


def is_colour(header: Dataset) -> bool:
    """Whether pixels have more than one component, or index a palette."""
    return int(header.get("SamplesPerPixel") or 1) != 1 or "PALETTE" in str(header.get("PhotometricInterpretation"))


def _unpacked(dataset: Dataset, frame: int) -> np.ndarray:
    """A frame of single bits, uint8; pydicom gives such frames only all together where they end within a byte."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    first = frame * rows * columns
    packed = np.frombuffer(dataset.PixelData, np.uint8)[first // 8 : (first + rows * columns + 7) // 8]
    bits = np.unpackbits(packed, bitorder="little")[first % 8 :][: rows * columns]
    return bits.reshape(rows, columns)


def _require_decoder(dataset: Dataset, path: Path) -> None:
    """Refuse a transfer syntax that cannot be decoded here; a file without one is taken as it was parsed."""
    uids = library("pydicom.uid")
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = uids.ImplicitVRLittleEndian if implicit else uids.ExplicitVRLittleEndian
        return
    try:
        decoder = library("pydicom.pixels").get_decoder(syntax)
    except NotImplementedError as error:
        raise FedCoWProError(
            f"{path}: transfer syntax {syntax} holds no image that can be decoded",
            "a still image's transfer syntax",
            "export the series again uncompressed (Explicit VR Little Endian)",
        ) from error
    if syntax.is_encapsulated and not decoder.is_available:
        raise FedCoWProError(
            f"{path}: no decoder for the transfer syntax {syntax.name}",
            "a decoder for it",
            f"{EXTRA}, or export the series again uncompressed (Explicit VR Little Endian)",
        )
