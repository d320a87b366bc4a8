"""What the page's button does: painted slices become the support, everything else that is open the queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import collecting
from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.encoded import EncodedVolume, encode_volume
from fedcowpro.oneshot.segmentation import segment_encoded
from fedcowpro.oneshot.support import build_support
from fedcowpro.serve.jobs import Job
from fedcowpro.serve.opened import OWN, Like, OpenVolume

if TYPE_CHECKING:
    from fedcowpro.config import Modality, PrepareConfig
    from fedcowpro.oneshot.predictor import OneShotPredictor


@dataclass(frozen=True)
class Engine:
    """A model, ready to segment what a session has open.

    Args:
        predictor: shared by all sessions; the worker's thread alone uses it.
        prepare: settings per modality.
        name: how the page calls the model.
    """

    predictor: OneShotPredictor
    prepare: Mapping[Modality, PrepareConfig]
    name: str

    def segment(self, volumes: Sequence[OpenVolume], job: Job) -> None:
        """Encode what is not encoded yet, build the support, and give every volume a result.

        Args:
            volumes: of one session; those with drawn slices are the examples, the first of them sets the size of
                pixels.
            job: reports progress and says when to stop.

        Raises:
            FedCoWProError: nothing was drawn.
            Cancelled: the job was stopped; volumes that were encoded stay encoded.
        """
        examples = [volume for volume in volumes if any(one.any() for one in volume.drawn.values())]
        if not examples:
            raise FedCoWProError("no painted slice", "an organ on one slice at least", "paint an organ, then segment")
        # An example that set the size of pixels before goes on doing so, or all would have to be encoded anew.
        first = next((volume for volume in examples if volume.encoded_like == OWN), examples[0])
        features = {first.id: self._encode(first, OWN, job)}
        placement = features[first.id].placement
        for volume in volumes:
            if volume is not first:
                features[volume.id] = self._encode(volume, (placement.pixel, placement.size), job)
        job.report("building the example", 0, 1)
        drawn = sorted((volume for volume in volumes if volume.drawn), key=lambda volume: volume is not first)
        support = build_support(self.predictor, [(features[one.id], Annotation(*one.annotation())) for one in drawn])
        for number, volume in enumerate(volumes):
            job.report(f"segmenting {volume.volume.name}", number, len(volumes))
            with collecting() as notes:
                result = segment_encoded(self.predictor, support, features[volume.id])
            with volume.lock:
                volume.result = result
                volume.notes = tuple(dict.fromkeys((*volume.notes, *notes)))
        job.report("finished", len(volumes), len(volumes))

    def _encode(self, volume: OpenVolume, like: Like, job: Job) -> EncodedVolume:
        """Features of a volume, those that it has where they were made alike."""
        if volume.encoded is None or volume.encoded_like != like:
            stage = f"reading the slices of {volume.volume.name}"
            volume.encoded = encode_volume(
                self.predictor,
                volume.volume,
                self.prepare[volume.modality],
                pixel=like[0],
                size=like[1],
                progress=lambda done, total: job.report(stage, done, total),
            )
            volume.encoded_like = like
        return volume.encoded
