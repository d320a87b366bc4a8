"""Options that several commands share: from their text to what the library takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
import yaml

from fedcowpro.cli.console import err
from fedcowpro.cli.console import out as echo
from fedcowpro.core.errors import FedCoWProError

if TYPE_CHECKING:
    import torch

    from fedcowpro.config import Modality
    from fedcowpro.oneshot.extent import End, Extent
    from fedcowpro.volume.accept import Painted


Device = Annotated[
    str, typer.Option(help="What computes: cpu, cuda, cuda:1 or mps; auto: the first CUDA device that works, else cpu.")
]


def _hush(wanted: bool) -> bool:
    echo.quiet |= wanted
    return wanted


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_hush, help="Print nothing but errors and notes on files.")
]
AsJson = Annotated[
    bool, typer.Option("--json", callback=_hush, help="Print the result as JSON, and nothing else, on standard output.")
]


def one_of(*values: str) -> Callable[[], list[str]]:
    """What the shell proposes for an option of few values."""
    return lambda: list(values)


def print_json(value: object) -> None:
    """A result for programs, on standard output; NaN is null."""
    typer.echo(json.dumps(_without_nan(value), indent=2))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and value != value else value


def a_device(text: str, quiet: bool = False) -> torch.device:
    """The device that is meant; where `auto` found a GPU, a line on standard error says which."""
    from fedcowpro.core.device import choose_device, list_devices

    device = choose_device(text)
    if text == "auto" and device.type != "cpu" and not quiet:
        err.print(f"device: {device} ({list_devices().get(str(device))}); --device cpu does without")
    return device


def split_list(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


def case_ids(option: list[str] | None, more: list[str] | None) -> list[str] | None:
    if more and not option:
        raise FedCoWProError(f"'{' '.join(more)}' after the source", "one source folder", "name cases with --cases")
    given = [case for text in [*(option or []), *(more or [])] for case in split_list(text) or []]
    return given or None


def numbers(text: str | None, option: str) -> list[float] | None:
    try:
        return [float(part) for part in split_list(text) or []] or None
    except ValueError as error:
        raise FedCoWProError(f"{option} {text}", "numbers separated by a comma", f"correct {option}") from error


def organ_names(text: str | None) -> dict[int, str] | None:
    """'1=liver,2=spleen' to {1: 'liver', 2: 'spleen'}."""
    if text is None:
        return None
    names: dict[int, str] = {}
    for part in split_list(text) or []:
        value, _, name = part.partition("=")
        if not value.strip().isdigit() or not name.strip() or int(value) in names:
            raise FedCoWProError(f"--organs: '{part}'", "VALUE=NAME, each value once", "as in 1=liver,2=spleen")
        names[int(value)] = name.strip()
    return names


def organ_extents(text: str | None, option: str) -> dict[int | str, Extent] | None:
    """'liver=12:40,2=-30mm:55mm' to {'liver': (12, 40), '2': ('-30mm', '55mm')}; an end that is left out is None."""
    if text is None:
        return None
    extents: dict[int | str, Extent] = {}
    for part in split_list(text) or []:
        name, _, ends = part.partition("=")
        first, colon, last = (end.strip() for end in ends.partition(":"))
        if not name.strip() or not colon or name.strip() in extents or not (first or last):
            raise FedCoWProError(
                f"{option}: '{part}'", "ORGAN=FIRST:LAST, each organ once",
                "give slices as in liver=12:40, or mm as in liver=-30mm:55mm",
            )  # fmt: skip
        extents[name.strip()] = _end(first), _end(last)
    return extents


def _end(text: str) -> End:
    return int(text) if text.isdigit() else text or None


def site_folders(given: Sequence[str], configured: Mapping[str, Path | None]) -> dict[str, Path]:
    """Site folders by name: those given (NAME=FOLDER, or FOLDER named by its last part), else the configuration's."""
    if not given:
        missing = [name for name, path in configured.items() if path is None]
        if missing or not configured:
            raise FedCoWProError(
                f"no folder for site(s) {', '.join(missing)}" if missing else "no site",
                "a prepared folder for each site",
                f"give --site {(missing or ['NAME'])[0]}=FOLDER for every site, or write the paths into the file",
            )
        return {name: path for name, path in configured.items() if path is not None}
    sites: dict[str, Path] = {}
    for text in given:
        name, separator, folder = text.partition("=")
        path = Path(folder if separator else text)
        name = name if separator else path.resolve().name
        if name in sites or not name:
            raise FedCoWProError(
                f"--site {text}: the name '{name}' twice or empty", "different names", "give NAME=FOLDER for each site"
            )
        sites[name] = path
    return sites


def named_files(given: Sequence[str], option: str, names: Collection[str]) -> dict[str, Path]:
    """'NAME=FILE' to files by name; each name is among `names` and comes once."""
    files: dict[str, Path] = {}
    for text in given:
        name, separator, file = text.partition("=")
        if not separator or name not in names or name in files:
            raise FedCoWProError(
                f"{option} {text}", f"NAME=FILE, each once, names among {', '.join(names)}", f"correct {option}"
            )
        files[name] = Path(file)
    return files


def a_modality(text: str | None) -> Modality | None:
    if text is not None and text not in ("ct", "mr"):
        raise FedCoWProError(f"--modality {text}", "ct or mr", "leave it out to go by the values of each file")
    return cast("Modality | None", text)


def example_pairs(support: Sequence[Path], support_mask: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Annotated images with their masks, given by two options in the same order."""
    if len(support) != len(support_mask):
        raise FedCoWProError(
            f"{len(support)} --support and {len(support_mask)} --support-mask",
            "one mask for each support image",
            "give both options once per annotated volume",
        )
    return list(zip(support, support_mask, strict=True))


def known_part(text: str | None) -> Painted | None:
    """Which slices of the masks are known, of --painted."""
    if text not in (None, "all", "labelled"):
        raise FedCoWProError(f"--painted {text}", "all or labelled", "correct --painted")
    return cast("Painted | None", text)


def inference_overrides(
    support_slices: str | None,
    pairing: str | None,
    keep_components: bool | None,
    refine: int | None,
    threshold: float | None,
    scales: str | None = None,
    others: Sequence[str] = (),
) -> dict[str, Any]:
    """The inference settings that were given; they replace those of the model's card.

    Args:
        others: FIELD=VALUE for any field of `InferConfig`.

    Raises:
        FedCoWProError: one of `others` without '=', or a field that is given twice.
    """
    given = {
        "support_slices": int(support_slices) if support_slices and support_slices.isdigit() else support_slices,
        "pairing": pairing,
        "keep_components": keep_components,
        "refine": refine,
        "threshold": threshold,
        "scales": numbers(scales, "--scales"),
    }
    found = {name: value for name, value in given.items() if value is not None}
    for text in others:
        name, separator, value = text.partition("=")
        if not separator or name in found:
            raise FedCoWProError(
                f"--set {text}" + (": given already" if separator else ""), "FIELD=VALUE, each field once",
                "see 'Inference' in docs/configuration.md, as in --set axial_prior=4",
            )  # fmt: skip
        found[name] = yaml.safe_load(value)
    return found
