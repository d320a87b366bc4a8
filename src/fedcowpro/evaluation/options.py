"""The settings of inference that a table of scores shows beside each score."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a page of scores is made without torch
    from fedcowpro.oneshot.predictor import OneShotPredictor

_SEVERAL = ("scales",)
_SETTINGS = (
    "flip", "refine", "threshold", "keep_components", "background_slices", "exclusive", "axial_prior", "quadrant_mask",
)  # fmt: skip


def options_of(predictor: OneShotPredictor) -> dict[str, str]:
    """Head, scales and other settings as text, by the name of the column."""
    config = predictor.config
    return {
        "head": predictor.model.config.head.kind,
        **{name: "+".join(f"{value:g}" for value in getattr(config, name)) for name in _SEVERAL},
        **{name: _text(getattr(config, name)) for name in _SETTINGS},
    }


def settings_of(options: Mapping[str, str]) -> dict[str, Any]:
    """Settings of inference from a table's columns: what `options_of` wrote, and `pairing`.

    The head, which is the model's, is left out, and so are other columns and those without text.
    """
    given = {name: text for name, text in options.items() if text}
    pairing = {"pairing": given["pairing"]} if "pairing" in given else {}
    several = {name: tuple(map(float, given[name].split("+"))) for name in _SEVERAL if name in given}
    return pairing | several | {name: json.loads(given[name]) for name in _SETTINGS if name in given}


def _text(value: bool | float) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"
