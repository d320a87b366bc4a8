"""Versions of what computes."""

from __future__ import annotations

import platform
from importlib import metadata

from fedcowpro import __version__


def versions() -> dict[str, str]:
    """Versions of what computes: fedcowpro, python, torch, numpy, flwr."""
    libraries = {name: metadata.version(name) for name in ("torch", "numpy", "flwr")}
    return {"fedcowpro": __version__, "python": platform.python_version(), **libraries}
