"""Versions of what computes."""

from __future__ import annotations

import platform
from importlib import metadata

from fedcowpro import __version__


def versions() -> dict[str, str]:
    """Versions of what computes: fedcowpro, python, torch, numpy, and flwr where it is installed."""
    found = {"fedcowpro": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "flwr"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
