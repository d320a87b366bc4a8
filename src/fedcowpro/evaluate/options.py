"""The settings of inference that a table of scores shows beside each score."""

from __future__ import annotations

from fedcowpro.infer import OneShotPredictor

_SETTINGS = (
    "flip", "refine", "axial_smoothing", "threshold", "keep_components", "background_slices", "exclusive",
    "axial_prior", "location_prior", "quadrant_mask",
)  # fmt: skip


def options_of(predictor: OneShotPredictor) -> dict[str, str]:
    """Head, scales and other settings as text, by the name of the column."""
    config = predictor.config
    return {
        "head": predictor.model.config.head.kind,
        **{name: "+".join(f"{value:g}" for value in getattr(config, name)) for name in ("scales", "gammas")},
        **{name: _text(getattr(config, name)) for name in _SETTINGS},
    }


def _text(value: bool | float) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"
