"""The volumes in one series: by orientation, then by what the scanner varied."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedcowpro.volume.checks import MIN_SLICES
from fedcowpro.volume.dicom.headers import B_VALUES, Attributes, slices_of
from fedcowpro.volume.dicom.stack import Plane, places, plane_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Two stacks are in different directions if their slices are not parallel within about 8 degrees.
_PARALLEL = 0.99


@dataclass(frozen=True)
class Slice:
    """One slice of a series.

    Attributes:
        file: where it is.
        frame: which frame of the file, from 0.
        plane: where it lies.
        traits: the value of each of `TRAITS`.
    """

    file: Path
    frame: int
    plane: Plane
    traits: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """The slices of one volume in order of height, and what tells it from others of its series."""

    slices: tuple[Slice, ...]
    kind: str


@dataclass(frozen=True)
class Trait:
    """Something that tells volumes of one series apart.

    Attributes:
        name: for people; '' where the value says nothing to them, or says when a patient was scanned.
        value: of a slice, as text.
        always: it parts slices also where none lie at one position.
    """

    name: str
    value: Callable[[Attributes], str]
    always: bool = False


def _text(*names: str | int) -> Callable[[Attributes], str]:
    return lambda attributes: _joined(attributes.get(*names))


def _number(*names: str | int) -> Callable[[Attributes], str]:
    """As `_text`, without digits that are rounding."""
    return lambda attributes: re.sub(r"\d+\.\d+", lambda found: f"{float(found[0]):.2f}", _text(*names)(attributes))


def _b_value(attributes: Attributes) -> str:
    first = _text(*B_VALUES)(attributes).split("\\")[0]
    return str(int(first) % 100_000) if first.isdigit() else first  # GE adds a multiple of 100000


TRAITS = (
    Trait("image type", _text("FrameType", "ImageType"), always=True),
    Trait("echo time", _number("EffectiveEchoTime", "EchoTime"), always=True),
    Trait("b value", _b_value),
    Trait("direction", _number("DiffusionGradientOrientation")),
    Trait("inversion time", _number("InversionTimes", "InversionTime")),
    Trait("phase", _text("TemporalPositionIndex", "TemporalPositionIdentifier")),
    Trait("stack", _text("StackID")),
    Trait("trigger time", _number("NominalCardiacTriggerDelayTime", "TriggerTime")),
    Trait("acquisition", _text("FrameAcquisitionNumber", "AcquisitionNumber")),
    Trait("", _text("FrameAcquisitionDateTime", "AcquisitionTime")),
    Trait("", _text("ContentTime")),
)


def slices_in(header: Dataset, file: Path) -> list[Slice] | None:
    """The slices of a file; None where one has no position, orientation or pixel spacing."""
    slices = []
    for frame, attributes in enumerate(slices_of(header)):
        plane = plane_of(attributes)
        if plane is None:
            return None
        slices.append(Slice(file, frame, plane, tuple(trait.value(attributes) for trait in TRAITS)))
    return slices


def parts_of(slices: Sequence[Slice]) -> tuple[list[Part], list[tuple[str, list[Slice]]]]:
    """The volumes among the slices of one series, and the slices that are left out with the reason.

    Slices of different orientation, spacing or size are parted. Then each trait is tried in turn. It parts slices if
    the parts share positions, for image type and echo time also if they alternate, and only if every part keeps
    slices at 3 positions or more: a trait that differs from slice to slice, or from the upper to the lower half, tells
    no volumes apart. Slices that still share positions stay together: they may be copies.
    """
    stacks: list[list[Slice]] = []
    for one in slices:
        home = next((stack for stack in stacks if stack[0].plane.fits(one.plane)), None)
        if home is None:
            stacks.append([one])
        else:
            home.append(one)
    whole = [stack for stack in stacks if _positions(stack) >= MIN_SLICES]
    short = [one for stack in stacks if _positions(stack) < MIN_SLICES for one in stack]
    left_out = [(f"fewer than {MIN_SLICES} parallel slices", short)] if short else []
    if any(abs(stack[0].plane.normal @ whole[0][0].plane.normal) < _PARALLEL for stack in whole):
        localiser = ("localiser (one series with stacks in different directions)", [one for s in whole for one in s])
        return [], [*left_out, localiser]
    sizes = {stack[0].plane.size for stack in whole}
    parts = []
    for stack in whole:
        rows, columns = stack[0].plane.size
        kind = (f"{columns} x {rows}",) if len(sizes) > 1 else ()
        parts += [Part(tuple(part), ", ".join((*kind, *found))) for part, found in _by_traits(stack, 0)]
    return sorted(parts, key=lambda part: _natural(part.kind)), left_out


def _by_traits(slices: list[Slice], start: int) -> Iterator[tuple[list[Slice], tuple[str, ...]]]:
    """Slices in order of height and what tells them apart, by the traits from number `start`."""
    slices = _sorted(slices)
    for number, trait in enumerate(TRAITS[start:], start):
        by_value: dict[str, list[Slice]] = {}
        for one in slices:
            by_value.setdefault(one.traits[number], []).append(one)
        counts = [_positions(part) for part in by_value.values()]
        shared = sum(counts) > _positions(slices)
        if min(counts) >= MIN_SLICES and (shared or (trait.always and _alternate(list(by_value.values())))):
            for value, part in by_value.items():
                for inner, found in _by_traits(part, number + 1):
                    yield inner, (*((f"{trait.name} {value or 'none'}",) if trait.name else ()), *found)
            return
    yield slices, ()


def _alternate(parts: Sequence[list[Slice]]) -> bool:
    """Whether slices of one part lie between those of another; each part is in order of height."""
    ranges = sorted((part[0].plane.height, part[-1].plane.height) for part in parts)
    return any(upper[0] < lower[1] for lower, upper in pairwise(ranges))


def _sorted(slices: Sequence[Slice]) -> list[Slice]:
    return sorted(slices, key=lambda one: (one.plane.height, str(one.file), one.frame))


def _positions(slices: Sequence[Slice]) -> int:
    return len(places([one.plane for one in _sorted(slices)]))


def _joined(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):  # a private attribute of no known type: numbers as text, or Philips' floats
        text = value.decode("latin-1").strip("\0 ")
        is_number = re.fullmatch(r"[-+.\d\\ ]+", text) is not None
        return text if is_number or len(value) != 4 else f"{struct.unpack('<f', value)[0]:g}"
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return str(value)
    return "\\".join(map(str, value))


def _natural(text: str) -> list[tuple[float, str]]:
    """Sort key in which numbers count as numbers."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(float(part), "") if index % 2 else (0.0, part) for index, part in enumerate(parts)]
