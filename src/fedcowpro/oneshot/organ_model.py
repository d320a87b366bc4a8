"""A network for certain organs, fine-tuned on annotated examples: it segments volumes without any example."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from fedcowpro.config import Modality, PrepareConfig, parse
from fedcowpro.core.device import CPU
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.model.checkpoint import load_checkpoint, read_card, save_checkpoint
from fedcowpro.model.unet import OrganUNet
from fedcowpro.oneshot.doubts import doubts_of, facts_of
from fedcowpro.oneshot.extent import Extents, outside
from fedcowpro.oneshot.postprocess import keep_components
from fedcowpro.oneshot.segmentation import Segmentation, write_likeliest
from fedcowpro.oneshot.whole_volume import predict_probabilities
from fedcowpro.training.recipe import Recipe
from fedcowpro.volume.preprocess import modality_of, preprocess
from fedcowpro.volume.volume import Volume

FORMAT = "fedcowpro-organs/1"
MODALITIES: tuple[Modality, ...] = ("ct", "mr")


@dataclass(frozen=True, eq=False)
class OrganModel:
    """A fine-tuned network with what it needs to segment a volume.

    Attributes:
        net: background and organs from three neighbouring slices.
        organs: label values, ascending, as the network's outputs after the background.
        parts: of each organ, how many connected parts it may have.
        spacing: mm per pixel at which the network sees a slice.
        prepare: settings per modality.
        card: what the model was made from, in counts and settings; no name of a case or file.
    """

    net: OrganUNet
    organs: tuple[int, ...]
    parts: tuple[int, ...]
    spacing: float
    prepare: Mapping[Modality, PrepareConfig]
    card: Mapping[str, Any]

    @classmethod
    def of(cls, net: OrganUNet, organs: Sequence[str], prepare: Mapping[Modality, PrepareConfig]) -> OrganModel:
        """A network whose outputs are named organs of one part each, seen at the recipe's spacing."""
        card = organ_facts(organs)
        return cls(net, tuple(range(1, len(organs) + 1)), tuple(card["parts"]), Recipe().spacing, prepare, card)

    @property
    def names(self) -> dict[int, str]:
        """Organ names by label value, those that are known."""
        return {int(value): name for value, name in self.card["organs"].items() if name}

    @property
    def is_finished(self) -> bool:
        """Whether its training came to the end of its schedule."""
        return is_finished(self.card)

    @property
    def told_steps(self) -> str:
        """How far its training came, in words."""
        return f"{self.card['steps']['done']} of {sum(self.card['steps']['of'])} steps"

    def require_names(self, names: Mapping[int, str]) -> None:
        """Names may be given for its organs, for all of them.

        Raises:
            FedCoWProError: other label values are named.
        """
        if names and set(names) != set(self.organs):
            raise FedCoWProError(
                f"organs {sorted(names)}", f"names of all labels that the network finds: {list(self.organs)}",
                "name each of them, or none",
            )  # fmt: skip

    def segment(
        self,
        volume: Volume,
        modality: Modality | None = None,
        *,
        extents: Extents | None = None,
        probabilities: bool = False,
    ) -> Segmentation:
        """Segment a volume on its own grid.

        A voxel takes the likeliest of background and organs; of each organ the largest connected parts are kept.

        Args:
            modality: None = told from the values.
            extents: per organ first and last slice that it may be on, as far as they are known.
            probabilities: give probabilities on the volume's own grid, too.

        Raises:
            FedCoWProError: no contrast is left after clipping.
        """
        kind = modality_of(volume, modality)
        slices, placement = preprocess(volume, self.prepare[kind])
        soft, agreement = predict_probabilities(self.net, slices, placement.pixel, self.spacing)
        soft[1:][outside(self.organs, extents or {}, len(slices))] = 0
        ahead = (soft[1:] - soft[:1]).astype(np.float32)
        labels = np.zeros(volume.voxels.shape, np.uint8)
        write_likeliest(labels, ahead, self.organs, placement, 0.0)
        anywhere = np.ones(labels.shape[1:], np.float32)  # so that parts rank by their size
        for organ, parts in zip(self.organs, self.parts, strict=True):
            mask = labels == organ
            labels[mask & ~keep_components(mask, anywhere, parts)] = 0
        trust, areas = _trust(soft[1:], agreement, placement.to_prepared_labels(labels), self.organs)
        confidence = {
            organ: float(np.nansum(of * area) / area.sum()) if area.any() else float("nan")
            for organ, of, area in zip(self.organs, trust, areas, strict=True)
        }
        scores = placement.to_native_scores(soft[1:].astype(np.float32)) if probabilities else None
        doubts = doubts_of(facts_of(volume, kind, labels, self.organs))  # the example is not at hand
        return Segmentation(self.organs, labels, scores, confidence, trust, doubts)

    def save(self, path: Path) -> Path:
        """Write weights to `path` (.safetensors) and the card beside it.

        Raises:
            FedCoWProError: another file ending.
        """
        require_ending(path)
        save_checkpoint(path, self.net.state_dict(), self.card, FORMAT)
        return path

    @classmethod
    def load(cls, path: Path, device: torch.device = CPU) -> OrganModel:
        """Read what `save` wrote, to compute on `device`.

        Raises:
            FedCoWProError: unreadable, altered or other files.
        """
        state, card = load_checkpoint(path, FORMAT)
        try:
            organs = tuple(sorted(int(value) for value in card["organs"]))  # a card is sorted as text: 1, 10, 2
            net = OrganUNet(len(organs), tuple(card["network"]["widths"]))
            net.load_state_dict(state)
            spacing, parts = float(card["network"]["spacing"]), tuple(int(n) for n in card["parts"])
            stored = card["prepare"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise FedCoWProError(
                f"{path}: {error}", "a model that 'fedcowpro finetune' wrote", "use the version that wrote it"
            ) from error
        other: dict[str, Any] = next(
            iter(stored.values()), {}
        )  # a modality that no training site had is prepared like the other
        prepare: dict[Modality, PrepareConfig] = {
            kind: parse(PrepareConfig, stored.get(kind, {**other, "modality": kind}), f"card of {path}, 'prepare'")
            for kind in MODALITIES
        }
        return cls(net.to(device).eval(), organs, parts, spacing, prepare, card)


def organ_facts(organs: Sequence[str]) -> dict[str, Any]:
    """What the card of a model of named organs, of one part each, says of its network, which is the recipe's."""
    recipe = Recipe()
    return {
        "organs": {str(number): organ for number, organ in enumerate(organs, 1)},
        "parts": [1] * len(organs),
        "network": {"widths": list(recipe.widths), "spacing": recipe.spacing},
    }


def is_organ_model(path: Path) -> bool:
    """Whether a checkpoint is one of these, by its card."""
    return (read_card(path) or {}).get("format") == FORMAT


def is_finished(card: Mapping[str, Any]) -> bool:
    """Whether the training that a model's card tells of came to its end."""
    steps = card.get("steps", {})
    return bool(steps.get("done") == sum(steps.get("of", ())))


def require_ending(path: Path) -> None:
    """Raises FedCoWProError for a model file of another ending than .safetensors."""
    if path.suffix != ".safetensors":
        raise FedCoWProError(f"model file {path}", "a name ending with .safetensors", "choose such a name")


def require_free(path: Path) -> None:
    """Say before hours of work that a model could not be written; a folder that is not there is made.

    Raises:
        FedCoWProError: a folder has its name, or a file of something else lies where its card goes.
        OSError: its folder cannot be made or written.
    """
    if path.is_dir():
        raise FedCoWProError(f"{path} is a folder", "a file to write", "choose another name")
    card = path.with_suffix(".json")
    if card.exists() and not path.exists():
        raise FedCoWProError(
            f"{card} is there, without {path.name}", "a free place for the model's card", "choose another name"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def _trust(
    soft: Float[np.ndarray, "k d s s"],
    agreement: Float[np.ndarray, "k d"],
    labels: UInt8[np.ndarray, "d s s"],
    organs: tuple[int, ...],
) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, "k d"]]:
    """How far to trust each slice of each mask, 0..1, nan where there is none; and the mask's pixels there.

    The square of the mean probability in the mask, times the agreement of the network's views: chosen on the masks of
    two networks and checked on those of others (docs/results-studies.md). A mask's confidence is the mean over its
    voxels.
    """
    out, areas = np.full(agreement.shape, np.nan, np.float32), np.zeros(agreement.shape, np.float32)
    for row, area, maps, agreed, organ in zip(out, areas, soft, agreement, organs, strict=True):
        mask = labels == organ
        for z in np.flatnonzero(mask.any(axis=(1, 2))):
            area[z] = mask[z].sum()
            row[z] = maps[z][mask[z]].mean(dtype=np.float64) ** 2 * agreed[z]
    return out, areas
