"""FedCoWPro: federated, self-supervised, one-shot segmentation of CT and MR volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["OneShotSegmenter"]

if TYPE_CHECKING:
    from fedcowpro.oneshot.segmenter import OneShotSegmenter


def __getattr__(name: str) -> object:
    """Loads the network's libraries only where they are asked for: `--help` stays quick."""
    if name == "OneShotSegmenter":
        from fedcowpro.oneshot.segmenter import OneShotSegmenter

        return OneShotSegmenter
    raise AttributeError(f"module 'fedcowpro' has no attribute '{name}'")
