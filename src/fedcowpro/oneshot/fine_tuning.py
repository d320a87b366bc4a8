"""From annotated volumes and unlabelled ones to an `OrganModel`: what the command, Python and the page call."""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from fedcowpro.config import Modality, PrepareConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.model.checkpoint import read_card, state_digest
from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.loading import Loaded
from fedcowpro.oneshot.organ_model import MODALITIES, OrganModel, is_finished
from fedcowpro.oneshot.postprocess import count_parts
from fedcowpro.oneshot.support import encode_example, join_examples
from fedcowpro.training.finetuning import FineTuning, Progress
from fedcowpro.training.pool import IGNORE, Example, Unlabelled
from fedcowpro.training.recipe import Recipe, recipe_for, scaled
from fedcowpro.volume.checks import UNKNOWN
from fedcowpro.volume.preprocess import modality_of, preprocess
from fedcowpro.volume.volume import Volume

_EVERY = 50  # steps between two files to go on from
# Modalities in which training begins with the prototypes' labels of unlabelled volumes. Measured, whole-volume Dice
# over 15 queries: CT example 4 0.82 with them (0.58 without, on four of the queries); MR example 1 0.76, 0.81 without.
_GUESSES: tuple[Modality, ...] = ("ct",)
_GUESSED = 8  # volumes; more cost a minute each on a CPU and teach little
_AT_ONCE = 4  # slices


def fine_tune(
    loaded: Loaded,
    examples: Sequence[tuple[Volume, Annotation]],
    unlabelled: Sequence[Volume] = (),
    *,
    prepared: Sequence[tuple[Float[np.ndarray, "d s s"], float, Modality]] = (),
    organs: Mapping[int, str] | None = None,
    modality: Modality | Sequence[Modality] | None = None,
    targets: Collection[Modality] = (),
    minutes: float | None = None,
    steps: int | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    resume: Path | None = None,
    finished: Path | None = None,
    overwrite: bool = False,
    lenient: bool = False,
    on_volume: Callable[[int, int], None] | None = None,
    on_step: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> OrganModel:
    """Fine-tune a network on annotated volumes, then train it on its own confident labels of others.

    Slices that are not painted are unknown, and so is an organ in an example that does not show it, where another
    example does. The schedule is fixed: there is nothing to validate on.

    Args:
        loaded: the federated model, whose encoder is the start; on its device the network is trained, too.
        examples: volumes and their annotations; values are organs, the same in all.
        unlabelled: volumes without annotation, the queries themselves among them if wanted.
        prepared: more of them as a site folder holds them: slices, mm per pixel, modality.
        organs: label values to learn, with their names; None = all that the annotations show.
        modality: of all volumes, or of each example; None = told from the values of each.
        targets: modalities of the volumes to be segmented, where they are not among `unlabelled`.
        minutes: longest time for everything; a slow machine makes fewer steps for it.
        steps: of training in all, whatever the minutes; None = the recipe's own number.
        recipe: settings; None = those of `recipe_for`.
        seed: of all random draws: same volumes, steps, seed and threads, same model.
        resume: file from which an interrupted fine-tuning of the same volumes and settings goes on, written every 50
            steps and at the end; who has saved the finished model deletes it.
        finished: model file of an earlier call; where it is there and of the same inputs, nothing is done again.
        overwrite: begin anew where `finished` is of other inputs.
        lenient: go on without an unlabelled volume that cannot be used.
        on_volume: called with (volumes done, all) while prototypes label volumes for the first round.
        on_step: called after each step.
        stop: asked after each step; True ends with the model as it is then. Also asked before each volume that
            prototypes label.

    Raises:
        FedCoWProError: no example, an annotation without an organ, another encoder than lite0, volumes that cannot be
            used, minutes or steps that are no positive number, or a file `finished` of other inputs.
        KeyboardInterrupt: `stop` says so while prototypes label volumes, when nothing is learned that could be kept.
    """
    started = time.perf_counter()
    require_budget(minutes, steps)
    if steps is not None:
        minutes = None
    if not examples:
        raise FedCoWProError("no annotated volume", "one at least", "give an example with its mask")
    encoder = _encoder(loaded)
    values = _values(examples, organs)
    told = [modality] * len(examples) if modality is None or isinstance(modality, str) else modality
    kinds = [modality_of(volume, said) for (volume, _), said in zip(examples, told, strict=True)]
    annotated = [_example(loaded, *pair, of, values) for pair, of in zip(examples, kinds, strict=True)]
    others, other_kinds = [], []
    for volume in unlabelled:
        try:
            of = modality_of(volume, modality if isinstance(modality, str) else None)
            others.append(_unlabelled(volume, loaded.prepare[of]))
        except FedCoWProError:
            if not lenient:
                raise
        else:
            other_kinds.append(of)
    others += [Unlabelled(slices, spacing) for slices, spacing, _ in prepared]
    other_kinds += [of for *_, of in prepared]
    if recipe is None:
        recipe = recipe_for(set(kinds), {*other_kinds, *targets})
    if steps is not None:
        recipe = scaled(recipe, steps, len(others) > 0)
    names = {value: (organs or {}).get(value, "") for value in values}
    inputs = _digest([begins_with(loaded), asdict(recipe), list(names.items()), minutes, seed], annotated, others)
    if finished is not None and (made := _made(finished, inputs, loaded.predictor.device, overwrite)) is not None:
        return made
    kept = None if resume is None else _kept(resume, inputs)
    chosen = [index for index, of in enumerate(other_kinds) if of in kinds and of in _GUESSES][:_GUESSED]
    if chosen and (kept is None or kept["round"] == 0):  # later rounds have the network's own labels
        typed = [(*pair, of) for pair, of in zip(examples, kinds, strict=True)]
        others = _guessed(loaded, typed, values, others, chosen, on_volume, stop)
    tuning = FineTuning(encoder, annotated, len(values), others, recipe, seed, loaded.predictor.device)
    if kept is not None:
        tuning.load_state_dict(kept)

    def after(progress: Progress) -> None:
        if resume is not None and progress.step % _EVERY == 0:
            _keep(tuning, resume, inputs)
        if on_step is not None:
            on_step(progress)

    left = None if minutes is None else max(0.1, minutes - (time.perf_counter() - started) / 60)
    net = tuning.run(minutes=left, on_step=after, stop=stop)
    if resume is not None:
        _keep(tuning, resume, inputs)
    parts = [
        max(count_parts(one.labels == number) for one in annotated if (one.labels == number).any())
        for number in range(1, len(values) + 1)
    ]
    card = {
        "organs": {str(value): name for value, name in names.items()},
        "parts": parts,
        "network": {"widths": list(net.widths), "spacing": recipe.spacing},
        "prepare": {name: config.model_dump(mode="json") for name, config in loaded.prepare.items()},
        "examples": [
            {
                "modality": of,
                "slices": len(annotation.labels),
                "painted": "all" if annotation.is_whole else int(annotation.painted.sum()),
            }
            for (_, annotation), of in zip(examples, kinds, strict=True)
        ],
        "unlabelled": {name: other_kinds.count(name) for name in ("ct", "mr")},
        "inputs": inputs,
        "encoder_digest": state_digest(encoder),
        "recipe": asdict(recipe),
        "steps": {"done": sum(tuning.steps[: tuning.round]) + tuning.step, "of": list(tuning.steps)},
        "minutes": minutes,
        "device": str(loaded.predictor.device),
        "seed": seed,
        "use": "Research only; not a medical device.",
    }
    return OrganModel(net, values, tuple(parts), recipe.spacing, dict(loaded.prepare), card)


def require_budget(minutes: float | None, steps: int | None) -> None:
    """Raises FedCoWProError for steps, or where there are none minutes, that are no positive number."""
    if steps is not None and steps < 1:
        raise FedCoWProError(f"{steps} steps", "at least 1", "give the number of steps, or the time")
    if steps is None and minutes is not None and not 0 < minutes < math.inf:
        raise FedCoWProError(f"{minutes} minutes", "a positive number", "give the time that it may take")


def settings() -> dict[str, Any]:
    """The settings of fine-tuning by modality: what a network that somebody keeps depends on, too."""
    return {kind: asdict(recipe_for({kind})) for kind in MODALITIES}


def begins_with(loaded: Loaded) -> list[Any]:
    """What of a model a fine-tuning depends on: the weights, and the settings by which it guesses."""
    model = loaded.predictor.model
    configs = (model.config, loaded.predictor.config, *loaded.prepare.values())
    return [state_digest(model.state_dict()), *(config.model_dump(mode="json") for config in configs)]


def _made(path: Path, inputs: str, device: torch.device, overwrite: bool) -> OrganModel | None:
    """The model of an earlier call that is finished; None where there is none, or one that was interrupted."""
    if not path.exists():
        return None
    card = read_card(path) or {}
    if card.get("inputs") != inputs:
        if overwrite:
            return None
        raise FedCoWProError(
            f"{path} is there, made of another example, other volumes or settings", "a model of these, or no file",
            "choose another name, delete it, or segment with it as it is (--model)",
        )  # fmt: skip
    return OrganModel.load(path, device) if is_finished(card) else None


def _guessed(
    loaded: Loaded,
    examples: Sequence[tuple[Volume, Annotation, Modality]],
    values: tuple[int, ...],
    others: Sequence[Unlabelled],
    chosen: Sequence[int],
    on_volume: Callable[[int, int], None] | None,
    stop: Callable[[], bool],
) -> list[Unlabelled]:
    """Unlabelled volumes, those that are chosen with the prototypes' labels, for the first round.

    A network that sees one patient alone learns where that patient's organs lie; the prototypes look at other patients
    from the start.

    Raises:
        KeyboardInterrupt: `stop` says so.
    """
    predictor = loaded.predictor
    support = join_examples(
        predictor,
        [
            encode_example(predictor, volume, annotation.only(values), loaded.prepare[of])
            for volume, annotation, of in examples
        ],
    )
    organs = [values.index(organ) + 1 for organ in support.organs]
    found = list(others)
    for done, index in enumerate(chosen):
        if stop():
            raise KeyboardInterrupt
        if on_volume is not None:
            on_volume(done, len(chosen))
        slices = others[index].slices
        labels, sure = np.zeros(slices.shape, np.uint8), np.zeros(slices.shape, np.uint8)
        for start in range(0, len(slices), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            count = len(slices[part])
            choice = np.repeat(np.arange(len(organs))[:, None], count, axis=1)
            soft = predictor.probabilities(predictor.encode(slices[part]), support.prototypes, choice)
            best = soft.max(0)
            found_here = best > predictor.config.threshold
            labels[part] = np.where(found_here, np.array(organs, np.uint8)[soft.argmax(0)], 0)
            sure[part] = (np.where(found_here, best, 1 - best) * 255).round().astype(np.uint8)
        found[index] = replace(others[index], guess=(labels, sure))
    return found


def _encoder(loaded: Loaded) -> dict[str, torch.Tensor]:
    config = loaded.predictor.model.config
    if config.encoder != "lite0":
        raise FedCoWProError(
            f"a model with the encoder '{config.encoder}'", "lite0, whose depths fine-tuning takes",
            "give a model that was trained with 'encoder: lite0', or leave --model out",
        )  # fmt: skip
    return dict(loaded.predictor.model.encoder.state_dict())


def _values(examples: Sequence[tuple[Volume, Annotation]], organs: Mapping[int, str] | None) -> tuple[int, ...]:
    shown = sorted(
        {
            int(value)
            for _, one in examples
            for value in np.unique(one.labels[one.painted])
            if value and not (one.unknown and value == UNKNOWN)
        }
    )
    values = tuple(value for value in shown if not organs or value in organs)
    if not values:
        raise FedCoWProError(
            f"annotations with the labels {shown}",
            f"an organ among {sorted(organs)}" if organs else "an organ on one slice at least",
            "paint one, or correct --organs",
        )
    return values


def _unlabelled(volume: Volume, config: PrepareConfig) -> Unlabelled:
    slices, placement = preprocess(volume, config)
    return Unlabelled(slices, placement.pixel)


def _example(
    loaded: Loaded, volume: Volume, annotation: Annotation, kind: Modality, values: tuple[int, ...]
) -> Example:
    annotation.require_fits(volume)
    slices, placement = preprocess(volume, loaded.prepare[kind])
    bare = annotation.bare(values) & ~annotation.painted
    labels = placement.to_prepared_labels(annotation.only(values).labels * ~bare[:, None, None])
    table = np.zeros(256, np.uint8)
    table[list(values)] = np.arange(1, len(values) + 1)
    if annotation.unknown:
        table[UNKNOWN] = IGNORE
    numbered = table[labels]
    shown = frozenset(int(n) for n in np.unique(numbered[annotation.painted]) if n and n != IGNORE)
    return Example(slices, numbered, placement.pixel, shown, annotation.painted | bare)


def _digest(facts: Sequence[Any], examples: Sequence[Example], others: Sequence[Unlabelled]) -> str:
    """Of everything that the network depends on."""
    volumes: list[Example | Unlabelled] = [*examples, *others]
    sizes = [(one.slices.shape, one.spacing) for one in volumes]
    total = hashlib.sha256(json.dumps([facts, sizes]).encode())
    for one in examples:
        for array in (one.slices, one.labels, one.painted):
            total.update(np.ascontiguousarray(array).tobytes())
    for other in others:
        total.update(np.ascontiguousarray(other.slices).tobytes())
    return total.hexdigest()[:16]


def _keep(tuning: FineTuning, path: Path, inputs: str) -> None:
    buffer = io.BytesIO()
    torch.save({"inputs": inputs, "state": tuning.state_dict()}, buffer)
    write_atomic(path, buffer.getvalue())


def _kept(path: Path, inputs: str) -> dict[str, Any] | None:
    """State of an interrupted fine-tuning, if the file is there, can be read and is of the same inputs."""
    try:
        kept: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch says in many ways that a file is not there or damaged; then all is done anew
        return None
    return kept["state"] if kept.get("inputs") == inputs else None
