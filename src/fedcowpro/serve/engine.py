"""What the page's button does: painted slices become the support, everything else that is open the queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import collecting
from fedcowpro.oneshot.encoded import EncodedVolume, encode_volume
from fedcowpro.oneshot.next_slice import doubt_of_slices, gain_of_slices
from fedcowpro.oneshot.segmentation import Segmentation, segment_encoded
from fedcowpro.oneshot.support import Support, build_support
from fedcowpro.serve.jobs import Job
from fedcowpro.serve.opened import OWN, Like, OpenVolume

if TYPE_CHECKING:
    from fedcowpro.config import Modality, PrepareConfig
    from fedcowpro.oneshot.organ_model import OrganModel
    from fedcowpro.oneshot.predictor import OneShotPredictor


MINUTES = 10.0  # of refining


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
        support, features = self._support(volumes, volumes, job)
        for number, volume in enumerate(volumes):
            job.report(f"segmenting {volume.volume.name}", number, len(volumes))
            with collecting() as notes:
                ends = volume.annotation().extents
                result = segment_encoded(self.predictor, support, features[volume.id], extents=ends)
            volume.take(result)
            with volume.lock:
                volume.notes = tuple(dict.fromkeys((*volume.notes, *notes)))
        job.report("finished", len(volumes), len(volumes))

    def segment_one(self, volumes: Sequence[OpenVolume], volume: OpenVolume, job: Job) -> Segmentation:
        """As `segment`, but for one of the volumes, which keeps the masks that it has.

        Raises:
            FedCoWProError, Cancelled: as `segment`.
        """
        support, features = self._support(volumes, [volume], job)
        return segment_encoded(self.predictor, support, features[volume.id], extents=volume.annotation().extents)

    def _support(
        self, volumes: Sequence[OpenVolume], queries: Sequence[OpenVolume], job: Job
    ) -> tuple[Support, dict[str, EncodedVolume]]:
        """The example that the volumes' drawn slices make, and features of the examples and queries among them."""
        examples = [volume for volume in volumes if any(one.any() for one in volume.drawn.values())]
        if not examples:
            raise FedCoWProError("no painted slice", "an organ on one slice at least", "paint an organ, then segment")
        # An example that set the size of pixels before goes on doing so, or all would have to be encoded anew.
        first = next((volume for volume in examples if volume.encoded_like == OWN), examples[0])
        drawn = sorted((volume for volume in volumes if volume.drawn), key=lambda volume: volume is not first)
        needed = {volume.id for volume in (*queries, *drawn)}
        features = {first.id: self._encode(first, OWN, job)}
        placement = features[first.id].placement
        for volume in volumes:
            if volume is not first and volume.id in needed:
                features[volume.id] = self._encode(volume, (placement.pixel, placement.size), job)
        job.report("building the example", 0, 1)
        return build_support(self.predictor, [(features[one.id], one.annotation()) for one in drawn]), features

    def refine(self, volumes: Sequence[OpenVolume], job: Job, steps: int | None = None) -> OrganModel:
        """Fine-tune a network on the drawn slices and on all volumes, and give each its masks; the old ones are kept.

        Args:
            volumes: of one session; those with drawn slices are the examples.
            job: reports progress and says when to stop.
            steps: of training; None = `MINUTES` of time.

        Returns:
            The network.

        Raises:
            FedCoWProError: nothing was drawn, or a model that cannot be fine-tuned.
            Cancelled: the job was stopped; the masks are as they were.
        """
        from fedcowpro.oneshot.fine_tuning import fine_tune
        from fedcowpro.oneshot.loading import Loaded

        examples = []
        for volume in volumes:
            annotation = volume.annotation()
            if annotation.painted.any():
                examples.append((volume.volume, annotation))
        if not any(one.labels[one.painted].any() for _, one in examples):
            raise FedCoWProError("no painted slice", "an organ on one slice at least", "paint an organ, then refine")
        kinds = {volume.modality for volume in volumes}

        def report(step: Any) -> None:
            minutes = f", {step.seconds_left / 60:.0f} min left" if step.seconds_left > 90 else ""
            job.report(f"learning from all open volumes{minutes}", step.step, step.steps)

        made = fine_tune(
            Loaded(self.predictor, 0, self.prepare),
            examples,
            [volume.volume for volume in volumes],
            modality=kinds.pop() if len(kinds) == 1 else None,
            minutes=MINUTES,
            steps=steps,
            on_volume=lambda done, of: job.report("comparing volumes with the painted slices", done, of),
            on_step=report,
        )
        results = []
        for number, volume in enumerate(volumes):
            job.report(f"segmenting {volume.volume.name}", number, len(volumes))
            results.append(made.segment(volume.volume, volume.modality, extents=volume.annotation().extents))
        for volume, result in zip(volumes, results, strict=True):
            volume.take(result, volume.result)
        job.report("finished", len(volumes), len(volumes))
        return made

    def suggest(self, volumes: Sequence[OpenVolume]) -> dict[str, Any]:
        """The slice of all segmented volumes that is most worth painting (see `next_slice`); nothing where none is."""
        best: dict[str, Any] = {}
        for volume in volumes:
            with volume.lock:
                result = volume.result
            if result is None:
                continue
            annotation = volume.annotation()
            current = replace(result, labels=annotation.labels)
            doubt = doubt_of_slices(current, annotation.painted, annotation.extents, volume.volume.spacing)
            gains = np.where(annotation.painted, 0, gain_of_slices(doubt, volume.volume.spacing[0]))
            z = int(gains.argmax())
            if gains[z] > best.get("millilitres", 0):
                label = result.organs[int(doubt[:, z].argmax())]
                best = {"volume": volume.id, "slice": z, "label": label, "millilitres": round(float(gains[z]), 2)}
        return best

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
