"""What the demo shows: pictures, facts and commands of its report, and the table at the end."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from fedcowpro.config import ExperimentConfig
from fedcowpro.data.preparation.site import Site
from fedcowpro.demo.hospitals import HOSPITALS
from fedcowpro.evaluation.episodes import Episode
from fedcowpro.evaluation.protocol import PROTOCOLS
from fedcowpro.evaluation.summary import AFTER, BEFORE, by_group, with_groups
from fedcowpro.reports.toolkit.overlays import Overlay


@dataclass(frozen=True)
class EpisodeMasks:
    """What a method found in the first held-out case of a site.

    Attributes:
        method: as in the results.
        site: its name.
        episode: the example, the held-out cases and the organs.
        masks: per label value bool (depth, height, width) on the volume's own grid.
    """

    method: str
    site: str
    episode: Episode
    masks: dict[int, np.ndarray] = field(default_factory=dict)

    def add(self, case: str, organ: int, mask: np.ndarray) -> None:
        """Keep the mask of an organ, if the case is the one shown."""
        if case == self.episode.queries[0]:
            self.masks[organ] = mask

    def label_map(self, z: int) -> np.ndarray:
        """One slice as uint8 labels; where organs overlap, the one that is smaller in the slice stays visible."""
        slices = {organ: mask[z] for organ, mask in self.masks.items()}
        out = np.zeros(next(iter(slices.values())).shape, np.uint8)
        for organ in sorted(slices, key=lambda value: -int(slices[value].sum())):
            out[slices[organ]] = organ
        return out


def overlays(predictions: Sequence[EpisodeMasks], sites: Mapping[str, Path]) -> list[Overlay]:
    """One slice per site and method, those of a site together.

    The slice is chosen by the truth, not by the predictions: the one with most organs, then with the largest.
    """
    pictures = []
    for name, folder in sites.items():
        site = Site.open(folder)
        for prediction in (entry for entry in predictions if entry.site == name):
            case, example, names = prediction.episode.queries[0], prediction.episode.support_case, site.organs
            (query, truth), (support, annotated) = site.volume(case), site.volume(example)
            z, z_example = _fullest(truth, names), _fullest(annotated, names)
            when = "After training" if prediction.method == AFTER else "Before training"
            pictures.append(
                Overlay(
                    site=name,
                    organs=names,
                    support_image=support.voxels[z_example],
                    support_labels=annotated[z_example],
                    query_image=query.voxels[z],
                    prediction=prediction.label_map(z),
                    truth=truth[z],
                    caption=f"{when} ({prediction.method}). Held-out case {case}, slice {z + 1} of {len(truth)}; "
                    f"annotated case {example}, slice {z_example + 1} of {len(annotated)}.",
                )
            )
    return pictures


def _fullest(labels: np.ndarray, organs: Mapping[int, str]) -> int:
    areas = np.stack([(labels == organ).sum((1, 2)) for organ in organs])
    return int(np.lexsort((areas.sum(0), (areas > 0).sum(0)))[-1])


def facts(card: Mapping[str, Any], seconds: Mapping[str, float]) -> dict[str, str]:
    """Versions, seed, digests and seconds, from the checkpoint's card and the record of the stages."""
    timed = {f"Seconds: {stage}": f"{value:.1f}" for stage, value in seconds.items()}
    return {
        **{f"Version of {name}": str(version) for name, version in card["versions"].items()},
        "Seed": str(card["seed"]),
        "Digest of settings": str(card["config_digest"]),
        "Digest of weights": str(card["weights_digest"]),
        "Training volumes": str(card["data"]["cases"]),
        "Training slices": str(card["data"]["train_slices"]),
        "CPU cores": str(os.cpu_count()),
        **timed,
        "Seconds: all stages before this page": f"{sum(value for value in seconds.values()):.1f}",
    }


def commands(
    out: Path, seed: int, train: Sequence[int], example: int, queries: Sequence[int], size: int, depth: int
) -> dict[str, str]:
    """The stages by hand, in a folder beside `out`, as commands for a shell."""
    by_hand = out.with_name(f"{out.name}-by-hand")
    everyone = [*train, example, *queries]
    lines: dict[str, list[str]] = {"phantoms": [], "prepare": [], "federate": [], "segment": [], "evaluate": []}
    sites: list[str | Path] = []
    for hospital in HOSPITALS:
        raw, site = by_hand / "raw" / hospital.name, by_hand / "sites" / hospital.name
        sites += ["--site", f"{hospital.name}={site}"]
        # Double quotes inside, because the shell's are single.
        code = f'write_site({json.dumps(str(raw))}, "{hospital.kind}", {everyone}, {size}, {depth})'
        lines["phantoms"].append(_line("python", "-c", f"from fedcowpro.data.phantom import write_site; {code}"))
        names = ",".join(f"{value}={organ}" for value, organ in hospital.organs.items())
        roles = ["--support", example, "--query", ",".join(map(str, queries))]
        given = ["--modality", hospital.modality, "--size", size, "--organs", names, *roles]
        lines["prepare"].append(_line("fedcowpro", "prepare", raw, *given, "--out", site))
        files = ["--support", raw / f"image_{example}.nii.gz", "--support-mask", raw / f"label_{example}.nii.gz"]
        for number in queries:
            files += ["--query", raw / f"image_{number}.nii.gz"]
        kept = ["--modality", hospital.modality, "--out", by_hand / "masks" / hospital.name]
        lines["segment"].append(_line("fedcowpro", "segment", "--model", by_hand / "run", *files, *kept))
    lines["federate"].append(
        _line("fedcowpro", "federate", out / "run" / "config.yaml", *sites, "--out", by_hand / "run")
    )
    table = by_hand / "results.csv"
    lines["evaluate"].append(
        _line("fedcowpro", "evaluate", "--model", by_hand / "run", *sites, "--untrained", "--out", table)
    )
    whole = {"Command for all of this": _line("fedcowpro", "demo", "--out", out, "--seed", seed)}
    return whole | {f"Commands of the stage {stage}": "\n".join(block) for stage, block in lines.items()}


def _line(*words: object) -> str:
    return shlex.join(str(word) for word in words)


def story(experiment: ExperimentConfig, train: int, queries: int) -> list[str]:
    """What was done, in plain words."""
    federation, used = experiment.federation, experiment.inference.support_slices
    steps = f"{federation.rounds} rounds of {federation.local_steps} steps at each hospital"
    return [
        f"Four hospitals, each with another scanner (CT, T1 MR, T2 MR, brachytherapy MR of the pelvis), hold {train} "
        f"volumes each that nobody has annotated. They train one network together in {steps}: every image "
        "stays in its hospital, only weights travel, and superpixels take the place of labels.",
        f"Then each hospital annotates one volume ({'all' if used == 'all' else used} of its slices per organ are "
        f"used), and the network segments {queries} patients whom it has never seen. "
        "The same is done with the network as it was before, so that the change is the training's alone.",
    ]


def summary(results: pd.DataFrame) -> Table:
    """Mean Dice per site before and after training, for both protocols."""
    grouped = with_groups(results)
    table = Table()
    table.add_column("site", no_wrap=True)
    for protocol in reversed(PROTOCOLS):
        for method in (BEFORE, AFTER):
            table.add_column(f"{protocol}\n{method}", justify="right")
    whole, ranged = (by_group(grouped, protocol).set_index("group") for protocol in reversed(PROTOCOLS))
    for site in whole.index:
        means = [part.loc[site, when] for part in (whole, ranged) for when in ("before", "after")]
        table.add_row(str(site), *(f"{mean:.3f}" for mean in means))
    return table
