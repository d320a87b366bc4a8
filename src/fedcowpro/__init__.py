"""FedCoWPro: federated, self-supervised, one-shot segmentation of CT and MR volumes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"
__all__ = ["FedCoWProError", "OneShotSegmenter", "evaluate", "federate", "prepare"]

if TYPE_CHECKING:
    from fedcowpro.core.errors import FedCoWProError
    from fedcowpro.data.preparation.prepare import prepare
    from fedcowpro.evaluation.evaluate import evaluate
    from fedcowpro.federated.run import federate
    from fedcowpro.oneshot.segmenter import OneShotSegmenter

_PLACES = {
    "FedCoWProError": "fedcowpro.core.errors",
    "OneShotSegmenter": "fedcowpro.oneshot.segmenter",
    "evaluate": "fedcowpro.evaluation.evaluate",
    "federate": "fedcowpro.federated.run",
    "prepare": "fedcowpro.data.preparation.prepare",
}


def __getattr__(name: str) -> object:
    """Loads libraries only where they are asked for: `import fedcowpro` stays quick.

    Raises:
        FedCoWProError: `federate` without the extra `federated`.
    """
    if name not in _PLACES:
        raise AttributeError(f"module 'fedcowpro' has no attribute '{name}'")
    from fedcowpro.core.extras import explained

    with explained():
        return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
