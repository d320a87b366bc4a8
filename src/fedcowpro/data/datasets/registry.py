"""Which datasets there are: those of this package and those that other packages add.

A package adds one by an entry point of the group `fedcowpro.datasets` that names an `Adapter` object.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import Adapter

GROUP = "fedcowpro.datasets"
# In the order in which a folder is tried; `folder` takes what no other knows.
BUILT_IN = ("chaos", "btcv", "flare22", "amos22", "mogambo", "msd", "nnunet", "alpnet", "folder")


def adapters() -> dict[str, Adapter]:
    """Name -> adapter, in the order in which layouts are tried: other packages' first.

    Raises:
        FedCoWProError: an added adapter cannot be imported, or takes a name that is in use.
    """
    found = {}
    for name, adapter in [*_added(), *_built_in()]:
        if name in found:
            raise FedCoWProError(
                f"two dataset adapters are named '{name}'", "different names", "remove one of the packages"
            )
        found[name] = adapter
    return found


def adapter_for(source: Path, name: str | None, *, patterns: bool = False) -> Adapter:
    """The adapter of that name, or the first that recognises the folder.

    Args:
        source: the folder.
        name: of a dataset, or None.
        patterns: whether file patterns are given; without a name then only adapters that use them are asked.

    Raises:
        FedCoWProError: no such folder, unknown name, or a folder that none recognises.
    """
    if not source.is_dir():
        raise FedCoWProError(f"no folder {source}", "a folder of volumes", "check the path; unpack archives first")
    known = adapters()
    if name is not None:
        if name not in known:
            raise FedCoWProError(f"--dataset {name}", f"one of: {', '.join(known)}", "see 'fedcowpro datasets'")
        return known[name]
    for adapter in known.values():
        if adapter.recognises(source) and (adapter.about.patterns or not patterns):
            return adapter
    if patterns:
        return known["folder"]
    looked_for = "; ".join(f"{name}: {adapter.about.layout[0]}" for name, adapter in known.items())
    seen = sorted(path.name for path in source.iterdir())[:5]
    raise FedCoWProError(
        f"{source} looks like no known dataset (seen: {', '.join(seen) or 'nothing'})",
        f"one of these layouts: {looked_for}",
        "point at the folder that holds it, or name the files: --dataset folder --images PATTERN --labels PATTERN",
    )


def _built_in() -> Iterator[tuple[str, Adapter]]:
    for name in BUILT_IN:
        yield name, import_module(f"fedcowpro.data.datasets.{name}").ADAPTER


def _added() -> Iterator[tuple[str, Adapter]]:
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            adapter = entry.load()
        except Exception as error:  # whatever the other package does on import
            raise FedCoWProError(
                f"dataset adapter '{entry.name}' ({entry.value}) cannot be loaded: {error}",
                "an importable adapter",
                "repair or remove the package that brings it",
            ) from error
        yield adapter.about.name, adapter
