"""What a server can learn from a site's update: reconstruction of slices, and membership inference, on phantoms.

    python benchmarks/attacks.py [--out attacks] [--encoder tiny] [--seeds 3] [--steps 200] [--quick]

Runs rounds with the project's own apps in one process and takes what arrives at the server: decoded replies or, under
secure aggregation, the sum only. The attacker is an honest but curious server. It knows model, initial weights,
settings and seed, so also the views that a site draws; it has other patients' slices, and as help the slices'
pseudo-labels, which it would not have. A control shows that the attack works where it can: against a dense layer.
Writes OUT/attacks.md, OUT/attacks.json and OUT/attacks.png. A failed attack proves nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Message
from scipy.stats import mannwhitneyu
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from fedcowpro.config import AugmentConfig, ExperimentConfig, LossConfig, PrepareConfig, SuperpixelConfig, TrainConfig
from fedcowpro.core.device import reproducible
from fedcowpro.core.files import write_atomic
from fedcowpro.core.versions import versions
from fedcowpro.data.episodes.augmentation import Views, apply_views, sample_views
from fedcowpro.data.episodes.sampler import EpisodeSampler
from fedcowpro.data.phantom import write_site
from fedcowpro.data.preparation.prepare import prepare
from fedcowpro.data.preparation.site import Site
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.federated.server.server_app import serve
from fedcowpro.federated.site import client_app
from fedcowpro.federated.site.local_training import describe_site, site_generator
from fedcowpro.federated.transport import messages as records
from fedcowpro.federated.transport.encoding import decode
from fedcowpro.model.checkpoint import load_checkpoint
from fedcowpro.model.segmenter import Segmenter, build_model
from fedcowpro.training.loop import fit
from fedcowpro.training.losses import episode_losses

SIZE = 64
Arrays = dict[str, np.ndarray]
CONTROL = "control: a dense layer"
_PLAIN = {"batch": 1, "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "lr": 0.01}
_LOCAL = {"mechanism": "local", "clip": 0.01, "randomness": "seed"}  # an update is as long as lr times clip_norm: 0.01
# Name -> settings of training, of the federation, number of sites. The server knows single updates but for the last.
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "one step, SGD: the gradient itself": (_PLAIN, {}, 1),
    "the same, float16": (_PLAIN, {"precision": "float16"}, 1),
    "the same, clipped": (_PLAIN, {"privacy": {**_LOCAL, "noise_multiplier": 0.0}}, 1),
    "the same, local noise 0.01": (_PLAIN, {"privacy": {**_LOCAL, "noise_multiplier": 0.01}}, 1),
    "the same, local noise 1": (_PLAIN, {"privacy": {**_LOCAL, "noise_multiplier": 1.0}}, 1),
    "one step, AdamW": ({"batch": 1}, {}, 1),
    "one step, AdamW, batch of 4": ({"batch": 4}, {}, 1),
    "a round, AdamW, 30 steps of 4": ({"batch": 4}, {"local_steps": 30}, 1),
    "secure sum of 4 sites, one SGD step": (
        _PLAIN, {"privacy": {"secure_aggregation": True, "clip": 1.0}}, 4,
    ),
}  # fmt: skip


def experiment(encoder: str, seed: int, training: Mapping[str, Any], federation: Mapping[str, Any]) -> ExperimentConfig:
    """Settings of a run of one round."""
    common = {"rounds": 1, "local_steps": 1, "weighting": "uniform"}
    return ExperimentConfig.model_validate(
        {
            "seed": seed, "threads": 1, "model": {"encoder": encoder, "frozen_norm": True},
            "train": training, "federation": {**common, **federation},
        }
    )  # fmt: skip


def initial(config: ExperimentConfig) -> Segmenter:
    return build_model(config.model, config.seed)


def seen(config: ExperimentConfig, sites: Mapping[str, Path]) -> dict[str, Arrays]:
    """Changes of the trained tensors as the server has them after a round: per site, or their `sum` if it is secure."""
    replies: dict[str, Message] = {}
    nodes = {name: {"site-name": name, "site-path": str(path), "threads": 1} for name, path in sites.items()}
    entries = [{"name": name, "path": str(path)} for name, path in sorted(sites.items())]
    config = ExperimentConfig.model_validate({**config.model_dump(), "sites": entries})
    start = records.to_numpy(initial(config).state_dict())

    def keep(site: str, reply: Message) -> None:
        if not reply.has_error() and records.array_record(reply.content, records.ARRAYS) is not None:
            replies[site] = reply

    with tempfile.TemporaryDirectory(prefix="attacks-") as name, reproducible(1):
        folder = RunFolder(Path(name) / "run")
        folder.start(config, [describe_site(site, path) for site, path in sorted(sites.items())], True, "attacks")
        grid = InProcessGrid(client_app.app, nodes, keep)
        serve(grid, config, folder)
        state = records.to_numpy(load_checkpoint(folder.model_file)[0])
    if config.federation.privacy.secure_aggregation:
        learnt = dict(initial(config).named_parameters())
        return {"sum": {key: len(sites) * (state[key] - start[key]) for key in learnt}}
    return {
        site: {
            key: decode(array, start[key]) - start[key]
            for key, array in reply.content[records.ARRAYS].items()  # type: ignore[union-attr]
        }
        for site, reply in replies.items()
    }


def drawn(config: ExperimentConfig, name: str, site: Site) -> tuple[Tensor, Tensor, Views]:
    """The first batch of a site's first round before its views: slices and pseudo-labels (B, S, S), and the views.

    The server can repeat all draws: they depend on seed, name and round. Slices and labels it does not have.
    """
    generator = site_generator(config.seed, name, 1)
    sampler = EpisodeSampler(site, config.augment, config.episodes)
    shown = [sampler._pair(0, generator)[0] for _ in range(config.train.batch)]
    views = sample_views(2 * len(shown), site.size, config.augment, generator)
    image, mask = (torch.from_numpy(np.stack([getattr(one, key) for one in shown])) for key in ("image", "mask"))
    return image, mask.float(), views


def loss_of(model: Segmenter, loss: LossConfig, image: Tensor, mask: Tensor, views: Views) -> Tensor:
    """Training's loss of the batch that these views of the slices are, differentiable in `image`."""
    count = len(image)
    shown, labels = apply_views(torch.cat((image, image)), torch.cat((mask, mask)), views)
    (support, query), (support_mask, query_mask) = shown[:, None].split(count), labels.long().split(count)
    return episode_losses(model, support, support_mask, query, query_mask, loss)[0]["total"]


def invert(
    gradients: Callable[[Tensor], Sequence[Tensor]], target: Sequence[Tensor], start: Tensor, steps: int,
    signs: bool = False, smoothness: float = 1e-2, rate: float = 0.02,
) -> Tensor:  # fmt: skip
    """Slices whose gradients point where `target` does (Geiping et al. 2020, arXiv 2003.14053).

    Args:
        gradients: of the loss with regard to each tensor, differentiable in the slices.
        target: the observed ones, up to a factor per tensor.
        start: slices (n, S, S) to begin with.
        signs: the target holds hardly more than signs (Adam's first step); gradients are squashed before comparing.
        smoothness: weight of the total variation.
    """
    image = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], rate)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for _ in range(steps):
        cosines = []
        for own, other in zip(gradients(image), target, strict=True):
            value = own / (own.abs() + own.abs().mean().detach() + 1e-12) if signs else own
            cosines.append((value * other).sum() / (value.norm() * other.norm() + 1e-12))
        rough = (image[:, 1:] - image[:, :-1]).abs().mean() + (image[..., 1:] - image[..., :-1]).abs().mean()
        optimizer.zero_grad()
        (1 - torch.stack(cosines).mean() + smoothness * rough).backward()
        optimizer.step()
        scheduler.step()
    return image.detach()


def quality(truth: np.ndarray, guess: np.ndarray) -> tuple[float, float]:
    """SSIM and PSNR (dB) after the best linear change of grey values, which favours the attacker."""
    slope = np.stack((guess.ravel(), np.ones(guess.size)), axis=1)
    fitted = (slope @ np.linalg.lstsq(slope, truth.ravel(), rcond=None)[0]).reshape(truth.shape)
    reach = float(np.ptp(truth))
    ssim = structural_similarity(truth, fitted, data_range=reach)
    return float(ssim), float(peak_signal_noise_ratio(truth, fitted, data_range=reach))


def compared(truth: np.ndarray, guess: np.ndarray, others: np.ndarray) -> list[np.ndarray]:
    """SSIM and PSNR of each guess, of the mean of the other slices, of the best other slice."""
    rows = []
    for one, found in zip(truth, guess, strict=True):
        near = max(quality(one, other) for other in others)
        rows.append(np.array([*quality(one, found), *quality(one, others.mean(0)), *near]))
    return rows


def reconstruct(
    name: str, encoder: str, seed: int, sites: Mapping[str, Path], mean: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """True and reconstructed slices (n, S, S) of one setting."""
    training, federation, count = SETTINGS[name]
    config = experiment(encoder, seed, training, federation)
    chosen = dict(list(sites.items())[:count])
    update = seen(config, chosen)
    total: Arrays = next(iter(update.values()))
    model = initial(config).train()
    parts = [drawn(config, site, Site.open(path)) for site, path in chosen.items()]
    truth = torch.cat([part[0] for part in parts])
    sizes = [len(part[0]) for part in parts]
    rate = config.train.lr if config.train.optimizer == "adamw" else 0.0
    names = [key for key, _ in model.named_parameters()]
    decay = {key: rate * config.train.weight_decay * value.detach() for key, value in model.named_parameters()}
    target = [-(torch.from_numpy(total[key]).float() + decay[key]) for key in names]

    def gradients(image: Tensor) -> Sequence[Tensor]:
        pieces = zip(image.split(sizes), parts, strict=True)
        loss = torch.stack([loss_of(model, config.loss, own, *part[1:]) for own, part in pieces]).sum()
        return torch.autograd.grad(loss, list(model.parameters()), create_graph=True, materialize_grads=True)

    start = torch.from_numpy(mean).repeat(len(truth), 1, 1)
    signs = config.train.optimizer == "adamw" and config.federation.local_steps == 1
    return truth.numpy(), invert(gradients, target, start, steps, signs).numpy()


def control(truth: Tensor, start: Tensor, steps: int) -> Tensor:
    """The same attack on a dense layer of 8 classes, whose gradient is known to hold its input."""
    layer = torch.nn.Linear(truth.numel(), 8)
    torch.nn.init.zeros_(layer.weight)

    def gradients(image: Tensor) -> Sequence[Tensor]:
        loss = torch.nn.functional.cross_entropy(layer(image.reshape(1, -1)), torch.tensor([0]))
        return torch.autograd.grad(loss, [layer.weight], create_graph=True)

    return invert(gradients, [one.detach() for one in gradients(truth)], start, steps, smoothness=0.0)


def slice_losses(model: Segmenter, site: Site, config: ExperimentConfig) -> list[tuple[str, Tensor]]:
    """Loss of each training slice, by case: its largest segment in one fixed pair of views."""
    found = []
    for number, (case, z, ids) in enumerate(site.train_slices()):
        segments = site.superpixel_slice(case, z)
        chosen = max(ids, key=lambda one: int((segments == one).sum()))
        views = sample_views(2, site.size, config.augment, torch.Generator().manual_seed(number))
        image, mask = (torch.from_numpy(one)[None] for one in (site.image_slice(case, z), (segments == chosen) * 1.0))
        found.append((case, loss_of(model, config.loss, image, mask.float(), views)))
    return found


def member_scores(
    model: Segmenter, site: Site, config: ExperimentConfig, update: Arrays | None
) -> dict[str, list[float]]:
    """By case, of each slice: minus its loss; or, given an update, how far the update is a step down its loss."""
    found: dict[str, list[float]] = {}
    for case, loss in slice_losses(model, site, config):
        score = -float(loss.detach())
        if update is not None:
            slopes = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
            down = [-torch.from_numpy(update[name]).float().flatten() for name, _ in model.named_parameters()]
            uphill = torch.cat([slope.flatten() for slope in slopes])
            score = float(torch.cosine_similarity(uphill, torch.cat(down), dim=0))
        found.setdefault(case, []).append(score)
    return found


def auc(
    members: Mapping[str, list[float]], others: Mapping[str, list[float]], seed: int = 0
) -> tuple[float, float, float]:
    """Area under the ROC curve and its 95 % interval, a bootstrap over patients."""

    def area(own: Sequence[list[float]], foreign: Sequence[list[float]]) -> float:
        ours, theirs = np.concatenate(own), np.concatenate(foreign)
        return float(mannwhitneyu(ours, theirs).statistic / (len(ours) * len(theirs)))

    groups = list(members.values()), list(others.values())
    rng = np.random.default_rng(seed)
    draws = [
        area(*([group[i] for i in rng.integers(len(group), size=len(group))] for group in groups)) for _ in range(500)
    ]
    return area(*groups), *(float(value) for value in np.percentile(draws, (2.5, 97.5)))


def membership(encoder: str, own: Path, foreign: Path, steps: int) -> dict[str, tuple[float, float, float]]:
    """AUC of both attacks for models and messages."""
    site, other, found = Site.open(own), Site.open(foreign), {}
    training = {"batch": 4, "lr": 1e-3}
    config = experiment(encoder, 0, training, {})
    model = initial(config).train()

    def of(update: Arrays | None = None) -> tuple[float, float, float]:
        return auc(*(member_scores(model, one, config, update) for one in (site, other)))

    found["loss, untrained model"] = of()
    noise = {"mechanism": "local", "clip": 1.0, "noise_multiplier": 0.01, "randomness": "seed"}
    updates = {}
    for name, more in {"": {}, ", local noise 0.01": {"privacy": noise}}.items():
        arm = experiment(encoder, 0, training, {"local_steps": 30, **more})
        updates[name] = seen(arm, {"victim": own})["victim"]
        found[f"update of a round of 30 steps{name}"] = of(updates[name])
    after = dict(model.state_dict())
    for name, change in updates[""].items():
        after[name] = after[name] + torch.from_numpy(change)
    model.load_state_dict(after)
    found["loss, after a round of 30 steps"] = of()
    still = AugmentConfig(rotation=0, translation=0, shear=0, zoom=(1, 1), elastic_alpha=0, gamma=(1, 1))
    train = TrainConfig(batch=4, lr=3e-3, schedule="constant")
    fit(
        model,
        EpisodeSampler(site, still),
        train,
        config.loss,
        steps=5 * steps,
        generator=torch.Generator().manual_seed(0),
    )
    found[f"loss, overtrained: {5 * steps} steps more, no augmentation"] = of()
    return found


def phantom_site(root: Path, name: str, seeds: Sequence[int]) -> Path:
    """A prepared site of small phantoms."""
    write_site(root / f"raw-{name}", "ct", seeds, size=SIZE, depth=10)
    settings = PrepareConfig(modality="ct", size=SIZE, superpixels=SuperpixelConfig(min_size=40, min_area=20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels without names, which nobody reads here
        prepare(root / f"raw-{name}", root / name, settings, workers=1, progress=False)
    return root / name


def draw(pictures: Sequence[tuple[str, np.ndarray]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = -(-len(pictures) // 5)
    figure, grid = pyplot.subplots(rows, 5, figsize=(9, 2.1 * rows), layout="constrained")
    for axes in grid.flat:
        axes.axis("off")
    for axes, (title, picture) in zip(grid.flat, pictures, strict=False):
        axes.imshow(picture, cmap="gray")
        axes.set_title(title, fontsize=7)
    figure.savefig(file.with_suffix(".tmp.png"), dpi=100)
    pyplot.close(figure)
    file.with_suffix(".tmp.png").replace(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("attacks"))
    parser.add_argument("--encoder", choices=("tiny", "lite0"), default="tiny")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=200, help="of the reconstruction; overtraining has 5 times as many"
    )
    parser.add_argument("--quick", action="store_true", help="one seed, 20 steps: a try-out")
    options = parser.parse_args()
    seeds, steps = (1, 20) if options.quick else (options.seeds, options.steps)
    if seeds < 1 or steps < 1:
        parser.error(f"{seeds} seeds and {steps} steps; expected 1 or more of both")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="attacks-") as folder:
        root = Path(folder)
        sites = {f"site{n}": phantom_site(root, f"site{n}", range(4 * n, 4 * n + 4)) for n in range(4)}
        public = Site.open(phantom_site(root, "public", range(100, 104)))
        others = np.concatenate([public.image(case.id) for case in public.cases])
        mean, rows, pictures = others.mean(0), {}, []
        for name in (CONTROL, *SETTINGS):
            results = []
            for seed in range(seeds):
                if name == CONTROL:
                    truth = drawn(experiment("tiny", seed, {"batch": 1}, {}), "site0", Site.open(sites["site0"]))[0]
                    guess = control(truth, torch.from_numpy(mean)[None], 200).numpy()
                    truth = truth.numpy()
                else:
                    truth, guess = reconstruct(name, options.encoder, seed, sites, mean, steps)
                scores = compared(truth, guess, others)
                results.append(np.mean(scores, axis=0))
                if seed == 0:
                    first = [("original", truth[0]), ("mean of other patients", mean)] if not pictures else []
                    pictures += [*first, (f"{name}\nSSIM {scores[0][0]:.2f}", guess[0])]
            rows[name] = np.array(results)
            print(name, np.round(rows[name].mean(0), 3).tolist(), flush=True)
        areas = membership(options.encoder, sites["site0"], public.path, steps)
    text = report(rows, areas)
    print(text)
    record = {"encoder": options.encoder, "seeds": seeds, "steps": steps, "versions": versions(), "membership": areas}
    record["reconstruction"] = {name: values.tolist() for name, values in rows.items()}
    write_atomic(options.out / "attacks.json", (json.dumps(record, indent=2) + "\n").encode())
    write_atomic(options.out / "attacks.md", text.encode())
    draw(pictures, options.out / "attacks.png")


def report(rows: Mapping[str, np.ndarray], areas: Mapping[str, tuple[float, float, float]]) -> str:
    """Both tables in Markdown."""
    head = "| what the server sees | SSIM (least to most) | PSNR (dB) |"
    lines = [head + " SSIM of the mean image | SSIM of the best other slice |", "|---|---|---|---|---|"]
    for name, values in rows.items():
        mean, low, high = values.mean(0), values[:, 0].min(), values[:, 0].max()
        lines.append(
            f"| {name} | {mean[0]:.3f} ({low:.3f} to {high:.3f}) | {mean[1]:.1f} | {mean[2]:.3f} | {mean[4]:.3f} |"
        )
    lines += ["", "| membership inference by | AUC (95 % interval) |", "|---|---|"]
    lines += [f"| {name} | {area:.2f} ({low:.2f} to {high:.2f}) |" for name, (area, low, high) in areas.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
