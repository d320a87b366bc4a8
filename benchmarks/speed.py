"""Times of the main steps on this machine, as ratios within one run.

    python benchmarks/speed.py [--threads 2]

Prints seconds and ratios: a training step of each encoder, encoding once against encoding per query (as the
reference does), and the federation's round against the bare local training inside it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fedcowpro.config import (
    AugmentConfig,
    ExperimentConfig,
    FederationConfig,
    LossConfig,
    ModelConfig,
    PrepareConfig,
    TrainConfig,
)
from fedcowpro.data.episodes.sampler import EpisodeSampler
from fedcowpro.data.phantom import write_site
from fedcowpro.data.preparation.prepare import prepare
from fedcowpro.data.preparation.site import Site
from fedcowpro.federated.run import federate
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.training.loop import fit

REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    with tempfile.TemporaryDirectory() as folder:
        site = _site(Path(folder))
        _training(site)
        _inference(site)
        _federation(site, Path(folder))


def _site(folder: Path) -> Site:
    write_site(folder / "raw", "t2", [1, 2], depth=12)
    return prepare(folder / "raw", folder / "site", PrepareConfig(modality="mr"), progress=False)


def _median(action: Callable[[], object]) -> float:
    action()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _training(site: Site) -> None:
    source = EpisodeSampler(site, AugmentConfig())
    seconds: dict[str, float] = {}
    for name, config in {
        "lite0": ModelConfig(),
        "lite0, frozen statistics": ModelConfig(frozen_norm=True),
        "resnet18": ModelConfig(encoder="resnet18"),
    }.items():
        model, generator = build_model(config, 0), torch.Generator().manual_seed(0)
        seconds[name] = _median(
            lambda model=model, generator=generator: fit(  # type: ignore[misc]
                model, source, TrainConfig(), LossConfig(), steps=2, generator=generator
            )
        )
    for name, value in seconds.items():
        print(f"training step of 4 episodes, {name}: {value / 2:.2f} s ({value / seconds['lite0']:.2f} x lite0)")


def _inference(site: Site) -> None:
    case = site.cases[0].id
    image, labels = site.image(case), site.labels(case)
    predictor = OneShotPredictor(build_model(ModelConfig(), 0))
    middle = len(image) // 2
    groups = [(int(organ), (0,)) for organ in np.unique(labels[middle]) if organ]
    choice = np.repeat(np.arange(len(groups))[:, None], len(image), axis=1)

    def once() -> None:
        prototypes = predictor.prototypes(
            predictor.encode(image[middle : middle + 1]), labels[middle : middle + 1], groups
        )
        predictor.probabilities(predictor.encode(image), prototypes, choice)

    def per_query_and_organ() -> None:
        for z in range(len(image)):
            for group in groups:
                support = predictor.encode(image[middle : middle + 1])
                prototypes = predictor.prototypes(support, labels[middle : middle + 1], [group])
                predictor.probabilities(predictor.encode(image[z : z + 1]), prototypes, np.zeros((1, 1), np.int64))

    ours, reference = _median(once), _median(per_query_and_organ)
    print(
        f"{len(image)} slices, {len(groups)} organs: encoded once {ours:.2f} s, per query and organ {reference:.2f} s "
        f"({reference / ours:.1f} x)"
    )


def _federation(site: Site, folder: Path) -> None:
    steps = 10
    config = ExperimentConfig(federation=FederationConfig(rounds=2, local_steps=steps))
    model, generator = build_model(config.model, 0), torch.Generator().manual_seed(0)
    source = EpisodeSampler(site, AugmentConfig())
    fit(model, source, config.train, config.loss, steps=2, generator=generator)
    started = time.perf_counter()
    fit(model, source, config.train, config.loss, steps=4 * steps, generator=generator)
    bare = time.perf_counter() - started
    started = time.perf_counter()
    federate(config, {"a": site.path, "b": site.path}, folder / "run", progress=False)
    whole = time.perf_counter() - started
    print(f"2 rounds, 2 sites, {steps} steps each: {whole:.1f} s; alone {bare:.1f} s ({whole / bare:.2f} x)")


if __name__ == "__main__":
    main()
