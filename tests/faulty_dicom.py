"""DICOM files with faults in their headers, written byte by byte, for fuzz tests."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

ROWS, COLUMNS, SLICES = 6, 5, 4
Element = tuple[bytes, bytes]  # type and value
LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")
CT = b"1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = b"1.2.840.10008.1.2.1"
TAGS = {
    "SOPClassUID": 0x00080016, "SOPInstanceUID": 0x00080018, "ImageType": 0x00080008, "Modality": 0x00080060,
    "PatientName": 0x00100010, "PatientID": 0x00100020, "EchoTime": 0x00180081, "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E, "InstanceNumber": 0x00200013, "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037, "FrameOfReferenceUID": 0x00200052, "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004, "NumberOfFrames": 0x00280008, "Rows": 0x00280010, "Columns": 0x00280011,
    "PixelSpacing": 0x00280030, "BitsAllocated": 0x00280100, "BitsStored": 0x00280101, "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103, "RescaleIntercept": 0x00281052, "RescaleSlope": 0x00281053,
    "ModalityLUTSequence": 0x00283000, "PerFrameFunctionalGroupsSequence": 0x52009230, "PixelData": 0x7FE00010,
}  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        [b"", b"0", b"-1", b"1", b"NaN", b"inf", b"1e400", b"1e-9", b"1.5", b"abc", b"\0\0", b"\xff\xff", b"\1\0",
         b"1\\2", b"0\\0", b"NaN\\3", b"1e-9\\1e-9", b"-3\\3", b"1\\2\\3", b"1\\0\\0\\0\\1\\0", b"0\\0\\0\\0\\0\\0",
         b"1\\0\\0\\1\\0\\0", b"99999999", b"MONOCHROME1", b"RGB", b"PALETTE COLOR", b"MR", b"OT", b"SEG",
         b"LOCALIZER", b"MOSAIC", b"\xe6\x82\xa3^\x80"],
    ),
    st.binary(max_size=12),
)  # fmt: skip
TYPES = st.sampled_from([b"US", b"SS", b"DS", b"IS", b"CS", b"LO", b"PN", b"UI", b"FD", b"UN", b"OW", b"SQ", b"ZZ"])
SYNTAXES = st.sampled_from(
    [EXPLICIT, b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.4.50",
     b"1.2.840.10008.1.2.5", b"1.2.3", b""]
)  # fmt: skip
FAULTS = st.one_of(
    st.tuples(st.just("missing"), st.sampled_from(list(TAGS)), st.none()),
    st.tuples(st.just("value"), st.sampled_from(list(TAGS)), VALUES),
    st.tuples(st.just("type"), st.sampled_from(list(TAGS)), TYPES),
    st.tuples(st.just("length"), st.sampled_from(list(TAGS)), st.integers(-8, 70000)),
)


def us(number: int) -> Element:
    return b"US", struct.pack("<H", number)


def slice_of(number: int) -> dict[str, Element]:
    pixels = np.arange(ROWS * COLUMNS, dtype="<i2") * 9 - 100 + number
    return {
        "SOPClassUID": (b"UI", CT), "SOPInstanceUID": (b"UI", b"2.25.1%d" % number), "Modality": (b"CS", b"CT"),
        "ImageType": (b"CS", b"ORIGINAL\\PRIMARY\\AXIAL"), "PatientName": (b"PN", b"Quux^Zebedee"),
        "PatientID": (b"LO", b"PID-74656"), "StudyInstanceUID": (b"UI", b"2.25.2"),
        "SeriesInstanceUID": (b"UI", b"2.25.3"), "FrameOfReferenceUID": (b"UI", b"2.25.4"),
        "InstanceNumber": (b"IS", b"%d" % number), "ImagePositionPatient": (b"DS", b"-10\\-20\\%d" % (5 * number)),
        "ImageOrientationPatient": (b"DS", b"1\\0\\0\\0\\1\\0"), "PixelSpacing": (b"DS", b"3\\3"),
        "SamplesPerPixel": us(1), "PhotometricInterpretation": (b"CS", b"MONOCHROME2"), "Rows": us(ROWS),
        "Columns": us(COLUMNS), "BitsAllocated": us(16), "BitsStored": us(16), "HighBit": us(15),
        "PixelRepresentation": us(1), "RescaleIntercept": (b"DS", b"0"), "RescaleSlope": (b"DS", b"1"),
        "PixelData": (b"OW", pixels.tobytes()),
    }  # fmt: skip


def element(tag: int, kind: bytes, value: bytes, off: int = 0) -> bytes:
    value += (b"\0" if kind == b"UI" else b" ") * (len(value) % 2)
    length, head = max(0, len(value) + off), struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind
    return head + (struct.pack("<HI", 0, length) if kind in LONG else struct.pack("<H", length & 0xFFFF)) + value


def dicom(elements: Mapping[str, Element], off: Mapping[str, int], syntax: bytes = EXPLICIT) -> bytes:
    meta = element(0x00020010, b"UI", syntax) if syntax else b""
    head = bytes(128) + b"DICM" + element(0x00020000, b"UL", struct.pack("<I", len(meta))) + meta
    return head + b"".join(
        element(TAGS[name], *elements[name], off.get(name, 0)) for name in sorted(elements, key=TAGS.__getitem__)
    )


def spoil(elements: dict[str, Element], off: dict[str, int], fault: tuple[str, str, Any]) -> None:
    kind, name, what = fault
    before = elements.get(name, (b"LO", b""))
    if kind == "missing":
        elements.pop(name, None)
    elif kind == "value":
        elements[name] = before[0], what
    elif kind == "type":
        elements[name] = what, before[1]
    else:
        elements[name], off[name] = before, what


def write_faulty(faults: list[tuple[int | None, tuple[str, str, Any]]], syntax: bytes = EXPLICIT) -> list[bytes]:
    """The files of a series; each fault is in one slice or, with None, in all."""
    files = []
    for number in range(SLICES):
        elements, off = slice_of(number), dict[str, int]()
        for where, fault in faults:
            if where in (None, number):
                spoil(elements, off, fault)
        files.append(dicom(elements, off, syntax))
    return files
