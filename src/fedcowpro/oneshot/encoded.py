"""A volume whose slices went through the encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedcowpro.config import Modality, PrepareConfig
from fedcowpro.oneshot.location_priors import LocationPrior, is_wanted
from fedcowpro.oneshot.predictor import Features, OneShotPredictor, join
from fedcowpro.volume.preprocess import BORDER, Placement, fitted, guess_modality, preprocess
from fedcowpro.volume.volume import Volume

_SLICES_AT_ONCE = 8  # between two words on progress


class Cancelled(Exception):
    """Encoding was stopped because the caller asked for it; nothing is left behind."""


@dataclass(frozen=True, eq=False)
class EncodedVolume:
    """A volume and the features of its slices. It never changes, so several threads may use it.

    Attributes:
        volume: on its own grid.
        placement: where the prepared slices lie in it.
        numbers: slices that are encoded, ascending: all of them, or those that an annotation needs.
        features: of those slices, with the slices themselves for the refinement of borders.
        location: of the whole volume in the body, where location priors are switched on.
    """

    volume: Volume
    modality: Modality
    placement: Placement
    numbers: tuple[int, ...]
    features: Features
    location: LocationPrior | None = None

    @property
    def depth(self) -> int:
        """Slices of the volume."""
        return len(self.volume.voxels)

    @property
    def is_whole(self) -> bool:
        """Whether every slice is encoded."""
        return len(self.numbers) == self.depth


def following(
    volume: Volume, config: PrepareConfig, *, pixel: float | None = None, size: int | None = None
) -> PrepareConfig:
    """Settings with which a volume's slices follow those of an annotated one, so that organs look as large.

    Scans whose fields of view were fitted to the patient (see `fitted`) keep their own pixels: a large patient's organs
    are large in mm, not in pixels.

    Args:
        config: how slices are made; where it names a spacing, that one counts.
        pixel: mm per pixel to follow; a coarser one is taken where that would cut off more than a border.
        size: height and width of a slice instead of `config.size`.
    """
    modality = config.modality or volume.modality or guess_modality(volume)
    size = size or config.size
    spacing = config.spacing
    if spacing is None and pixel is not None:
        own = Placement.choose(volume, config.model_copy(update={"size": size})).pixel
        _, height, width = volume.voxels.shape
        extent = max(height * volume.spacing[1], width * volume.spacing[2])
        spacing = own if fitted(own, pixel) else max(pixel, extent * (1 - 2 * BORDER) / size)
    return config.model_copy(update={"modality": modality, "spacing": spacing, "size": size})


def encode_volume(
    predictor: OneShotPredictor,
    volume: Volume,
    config: PrepareConfig,
    *,
    pixel: float | None = None,
    size: int | None = None,
    numbers: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> EncodedVolume:
    """Prepare and encode the slices of a volume; all that follows needs no more of the encoder.

    Args:
        config, pixel, size: see `following`.
        numbers: ascending numbers of the slices to encode; None = all.
        progress: called with (slices done, slices in all), first with 0.
        cancelled: asked before each few slices; True ends with `Cancelled`.

    Raises:
        FedCoWProError: no contrast is left after clipping.
        Cancelled: `cancelled` said so.
    """
    config = following(volume, config, pixel=pixel, size=size)
    assert config.modality is not None
    slices, placement = preprocess(volume, config)
    chosen = range(len(slices)) if numbers is None else numbers
    parts: list[Features] = []
    for start in range(0, len(chosen), _SLICES_AT_ONCE):
        if cancelled is not None and cancelled():
            raise Cancelled
        if progress is not None:
            progress(start, len(chosen))
        parts.append(predictor.encode(slices[list(chosen[start : start + _SLICES_AT_ONCE])]))
    features = join(parts)
    location = None
    if is_wanted(predictor.config):
        location = predictor.locate(slices, volume.spacing[0], features if numbers is None else None)
    if progress is not None:
        progress(len(chosen), len(chosen))
    return EncodedVolume(volume, config.modality, placement, tuple(chosen), features, location)
