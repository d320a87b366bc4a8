"""The file `dataset.json` of the Medical Segmentation Decathlon and of nnU-Net: labels and channels."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedcowpro.config import Modality
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import About, Options, natural, refuse_options

FILE = "dataset.json"
_MR = {"mr", "mri", "t1", "t2", "t1w", "t2w", "t1gd", "t1c", "t1ce", "t2f", "pd", "flair", "adc", "dwi"}


@dataclass(frozen=True)
class Channel:
    """One kind of image of a dataset.

    Attributes:
        number: as in `case_0000.nii.gz`, or along the fourth axis.
        name: as the file says, for example 'CT' or 'T2'.
        modality: None where the name does not tell.
    """

    number: int
    name: str
    modality: Modality | None


@dataclass(frozen=True)
class Description:
    """What a `dataset.json` says.

    Attributes:
        channels: in the order of their numbers.
        organs: label value -> name; background and 'ignore' are left aside.
        known: all label values, 'ignore' included.
        content: the whole file.
        unknown: the value called 'ignore', of voxels that nobody has looked at; None = there is none.
    """

    channels: tuple[Channel, ...]
    organs: Mapping[int, str]
    known: frozenset[int]
    content: Mapping[str, Any]
    unknown: int | None = None


def read_description(file: Path) -> Description:
    """Read a `dataset.json` of either kind, `labels` as {"1": "liver"} or as {"liver": 1}.

    Raises:
        FedCoWProError: not JSON, or without labels or channels in one of these forms.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        named = {key: content[key] for key in ("channel_names", "modality") if content.get(key)}
        channels = next(iter(named.values()), {"0": ""})
        organs, known = _labels(content["labels"])
        unknown = _unknown(content["labels"])
        described = tuple(Channel(int(key), str(channels[key]), modality_of(str(channels[key]))) for key in channels)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FedCoWProError(
            f"{file} cannot be used ({type(error).__name__}: {error})",
            "JSON with 'labels' and with 'modality' or 'channel_names'",
            "copy the file again, or use --dataset folder with your own patterns",
        ) from error
    return Description(tuple(sorted(described, key=lambda channel: channel.number)), organs, known, content, unknown)


def unknown_value(labels: Path) -> int | None:
    """The 'ignore' value that the `dataset.json` beside or above a label map's folder declares; None = none does."""
    folder = Path(os.path.abspath(labels)).parent
    said = peek(folder / FILE) or peek(folder.parent / FILE)
    try:
        return _unknown(said["labels"]) if said else None
    except (ValueError, TypeError):
        return None


def peek(file: Path) -> Mapping[str, Any] | None:
    """The content of a `dataset.json`, for recognising a folder; {} where it is broken, None where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError:
        return {}
    except OSError:
        return None
    return content if isinstance(content, dict) and isinstance(content.get("labels"), dict) else None


def modality_of(name: str) -> Modality | None:
    """'ct' or 'mr' where a channel's name says so."""
    words = set(re.findall(r"[a-z0-9]+", name.lower()))
    return "ct" if "ct" in words else "mr" if words & _MR else None


def choose_channel(about: About, options: Options, channels: tuple[Channel, ...]) -> tuple[Channel, tuple[str, ...]]:
    """The channel that `options.part` names, else the first, with a note where there are others.

    Raises:
        FedCoWProError: no such channel, or an option that does not apply.
    """
    names = tuple(channel.name or str(channel.number) for channel in channels)
    refuse_options(replace(about, parts=names), options, "part")
    if options.part is not None:
        return channels[names.index(options.part)], ()
    if len(channels) == 1:
        return channels[0], ()
    note = f"images have {len(channels)} channels ({', '.join(names)}): '{names[0]}' is taken; --part takes another"
    return channels[0], (note,)


def _unknown(labels: Mapping[str, Any]) -> int | None:
    """Value of 'ignore', in either form."""
    for key, value in labels.items():
        if str(key).lower() == "ignore":
            return int(value[0] if isinstance(value, list) else value)
        if str(value).lower() == "ignore":
            return int(key)
    return None


def _labels(labels: Mapping[str, Any]) -> tuple[dict[int, str], frozenset[int]]:
    """Value -> name, and all values; of nnU-Net's overlapping regions the smallest names a value."""
    if all(str(key).isdigit() for key in labels):
        regions = {str(name): [int(value)] for value, name in labels.items()}
        if len(regions) != len(labels):
            raise ValueError("two labels of one name")
    else:
        regions = {
            str(name): [int(v) for v in (value if isinstance(value, list) else [value])]
            for name, value in labels.items()
        }
    known = {value for values in regions.values() for value in values}
    organs: dict[int, str] = {}
    for name, values in sorted(regions.items(), key=lambda item: -len(item[1])):
        if name.lower() not in ("background", "ignore"):
            organs |= {value: name if len(values) == 1 else f"{name}-{value}" for value in values}
    organs.pop(0, None)
    return {value: organs[value] for value in sorted(organs, key=lambda value: natural(str(value)))}, frozenset(known)
