"""Networks that are fine-tuned on the example, as methods that an evaluation compares with prototypes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import Episode
from fedcowpro.evaluation.protocol import Teaching
from fedcowpro.evaluation.run import Masks, annotated_volumes, numbered_volume
from fedcowpro.oneshot.fine_tuning import begins_with, fine_tune, settings
from fedcowpro.oneshot.loading import Loaded
from fedcowpro.oneshot.organ_model import OrganModel
from fedcowpro.volume.volume import Volume


@dataclass(frozen=True)
class FineTuned:
    """A method that trains a network for each example.

    Attributes:
        loaded: the model whose encoder is the start.
        teaching: what the network learns from: the example ("fine-tuned"); also, without labels, the query cases and
            the training cases of their site ("self-trained"); or these training cases with their labels in place of the
            example ("supervised"), the ceiling of what the others can reach.
        steps: of training; None = the recipe's own number.
        seed: of all random draws.
        folder: where networks are kept, so that an evaluation that was interrupted goes on; None = nowhere.
        on_step: called after each step of a training with its `Progress`.
    """

    loaded: Loaded
    teaching: Teaching
    steps: int | None = None
    seed: int = 0
    folder: Path | None = None
    on_step: Callable[..., None] | None = None

    def learn(self, sites: Mapping[str, Site], episode: Episode) -> _Network:
        """The network of an episode; from `folder`, where it was trained before.

        Raises:
            FedCoWProError: no labelled training case where the teaching needs some, or volumes that cannot be used.
        """
        site = sites[episode.site]
        kept = None if self.folder is None else self.folder / f"{self._key(sites, episode)}.safetensors"
        if kept is not None and kept.is_file():
            return _Network(OrganModel.load(kept, self.loaded.predictor.device), {}, self.teaching)
        training = site.with_role("train")
        if self.teaching == "supervised":
            training = tuple(case for case in training if case in site.labelled_cases)
            examples = [numbered_volume(site, case, episode.organs, episode.organs) for case in training]
            kinds = [site.record(case).modality for case in training]
        else:
            examples = annotated_volumes(sites, episode)
            kinds = [sites[one.site].record(one.case).modality for one in episode.supports]
        if not examples:
            raise FedCoWProError(
                f"site {site.path} has no training case with labels", "at least one, for 'supervised'",
                "prepare the site with more cases, or leave that method out",
            )  # fmt: skip
        others = [
            (site.image(case), site.spacing(case)[1], site.record(case).modality)
            for case in (*training, *episode.queries)
            if self.teaching == "self-trained"
        ]
        model = fine_tune(
            replace(self.loaded, prepare={"ct": site.settings("ct"), "mr": site.settings("mr")}),
            examples,
            prepared=others,
            modality=kinds,
            targets={site.record(case).modality for case in episode.queries},
            steps=self.steps,
            seed=self.seed,
            resume=None if kept is None else kept.with_suffix(".resume"),
            on_step=self.on_step,
        )
        if kept is not None:
            model.save(kept)
            kept.with_suffix(".resume").unlink(missing_ok=True)
        return _Network(model, {}, self.teaching)

    def _key(self, sites: Mapping[str, Site], episode: Episode) -> str:
        """Digest of all that the network depends on."""
        used = sorted({episode.site, *(example.site for example in episode.supports)})
        facts = [
            begins_with(self.loaded), self.loaded.predictor.device.type,
            self.teaching, self.steps, self.seed, episode.organs,
            [one.case for one in episode.supports],
            episode.queries,
            [(name, sites[name].digest, sites[name].labelled_digest) for name in used],
            settings(),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Trained:
    """A method that has learned its organs already: an episode's example is not looked at."""

    model: OrganModel

    def learn(self, sites: Mapping[str, Site], episode: Episode) -> _Network:
        """The network, for those organs of the episode that it names.

        Raises:
            FedCoWProError: it names none of them.
        """
        values = {organ: value for value, organ in self.model.names.items()}
        known = {number: values[organ] for number, organ in enumerate(episode.organs, 1) if organ in values}
        if not known:
            raise FedCoWProError(
                f"a model of {', '.join(values) or 'organs without names'}",
                f"one of the organs {', '.join(episode.organs)}",
                "prepare the site with the model's names (--organs), or name the organs when you fine-tune",
            )
        return _Network(self.model, known, "taught")


class _Network:
    """A network in an episode.

    Args:
        model: the network.
        values: its label value of each of the episode's organs; empty = the values are the organs' numbers.
        teaching: how it learned, for the table.
    """

    def __init__(self, model: OrganModel, values: Mapping[int, int], teaching: str) -> None:
        self._model, self._teaching = model, teaching
        self._values = dict(values) or {number: number for number in model.organs}

    @property
    def organs(self) -> Collection[int]:
        return self._values.keys()

    def query(self, site: Site, case: str, volume: Volume, truth: Mapping[int, np.ndarray]) -> Masks:
        labels = self._model.segment(volume, site.record(case).modality).labels
        return lambda organ, protocol: labels == self._values[organ]

    def options(self, protocol: str) -> Mapping[str, str]:
        card = self._model.card
        told = {"teaching": self._teaching}
        if "steps" in card:
            told["teaching_steps"] = "+".join(map(str, card["steps"]["of"]))
            told["unlabelled"] = str(sum(card["unlabelled"].values()))
        return told
