"""Names that several test modules use."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from fedcowpro.config import InferConfig, ModelConfig, SuperpixelConfig

TESTS = Path(__file__).parent
SHARED = TESTS.parents[1] / "shared"
TINY = ModelConfig(encoder="tiny", channels=8)
PLAIN = InferConfig(refine=0, threshold=0.5, keep_components=False)  # nothing after the comparison of features
SMALL = SuperpixelConfig(min_size=40, min_area=20)  # of slices of 64 x 64 pixels
ORGANS = {1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}
Arrays = Mapping[str, np.ndarray]


def script(path: Path) -> ModuleType:
    """A file outside the package, as a module of its name."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
