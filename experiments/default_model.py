"""Make the model that the package ships: the ImageNet encoder, adapted to phantom patients. About 10 minutes of CPU.

    OMP_NUM_THREADS=1 python experiments/default_model.py --work DIR \
        [--out src/fedcowpro/model/pretrained/default.safetensors]

Everything is drawn from one seed and runs on one thread: the same machine and versions give the same file. DIR keeps
phantoms, site folders and snapshots of the weights (float32); what is there already is not made again. Without
--out only the snapshots are written, for `fedcowpro evaluate --model DIR/step_0240.safetensors ...`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import torch

from fedcowpro.config import InferConfig, ModelConfig, PrepareConfig
from fedcowpro.data.episodes.sampler import EpisodeSampler
from fedcowpro.data.phantom import Kind
from fedcowpro.data.phantom.patients import Patient, make_patients
from fedcowpro.data.preparation.compose import Part, compose_site
from fedcowpro.data.preparation.prepare import prepare
from fedcowpro.data.preparation.site import Site
from fedcowpro.model.checkpoint import save_checkpoint
from fedcowpro.model.segmenter import Segmenter, build_model
from fedcowpro.training.adapt import AUGMENT, TRAIN, adapt

SEED, STEPS, PATIENTS, DEPTH = 0, 240, 3, 24
MODEL = ModelConfig(encoder="lite0", channels=128, frozen_norm=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    site = _site(options.work)
    model = build_model(MODEL, SEED)
    _save(options.work / "step_0000.safetensors", model, site, 0)

    def step(number: int, losses: dict[str, float]) -> None:
        done = number + 1
        if done % 10 == 0:
            print(f"step {done}/{STEPS}: loss {losses['total']:.3f}, Dice {losses['pseudo_dice']:.3f}", flush=True)
        if done % 80 == 0:
            _save(options.work / f"step_{done:04d}.safetensors", model, site, done)

    done = adapt(model, EpisodeSampler(site, AUGMENT), steps=STEPS, seed=SEED, train=TRAIN, on_step=step)
    if done == STEPS and options.out is not None:
        _save(options.out, model, site, done, half=True)


def _site(work: Path) -> Site:
    """Training cases of every kind of phantom, in one folder."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    numbers = range(1, PATIENTS + 1)
    patients = [Patient(work / "raw" / kind, kind, number, 256, DEPTH) for kind in kinds for number in numbers]
    make_patients(patients)
    parts = []
    for kind in kinds:
        config = PrepareConfig(modality="ct" if kind == "ct" else "mr")
        site = prepare(work / "raw" / kind, work / "sites" / kind, config)
        parts += [Part(site, str(number), f"{kind}-{number}", "train") for number in numbers]
    return compose_site(work / "sites" / "all", parts)


def _save(path: Path, model: Segmenter, site: Site, steps: int, half: bool = False) -> None:
    state = {
        name: tensor.detach().clone().to(torch.float16 if half and tensor.is_floating_point() else tensor.dtype)
        for name, tensor in model.state_dict().items()
    }
    card = {
        "model": MODEL.model_dump(mode="json"),
        "seed": SEED,
        "inference": InferConfig().model_dump(mode="json"),
        "data": {"size": site.size, "cases": len(site.cases), "train_slices": site.n_train_slices},
        "training": {
            "steps": steps,
            "train": TRAIN.model_dump(mode="json"),
            "augment": AUGMENT.model_dump(mode="json"),
            "on": "procedural phantoms (CT, T1, T2, brachytherapy-like T2), no patient data",
        },
        "licence": "Apache-2.0; adapted from the ImageNet weights of EfficientNet-Lite0, see NOTICE",
    }
    save_checkpoint(path, state, card)


if __name__ == "__main__":
    main()
