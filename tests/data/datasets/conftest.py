"""Phantoms for written download folders, made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from fedcowpro.data.phantom import Kind, Phantom, make_phantom


@pytest.fixture(scope="session")
def patient() -> Callable[[Kind, int], Phantom]:
    """A phantom by kind and seed; 48 x 48 pixels, 8 slices."""
    return cache(lambda kind, seed: make_phantom(kind, seed, 48, 8))
