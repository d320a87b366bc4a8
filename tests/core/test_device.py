"""Devices: which one is meant, that nothing waits for or strays from it, and that a GPU gives what a CPU gives.

Torch's `meta` device stands for a GPU that is not there: tensors without values, which cannot be mixed with others or
read by the host.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common import PLAIN, TINY
from fedcowpro import OneShotSegmenter
from fedcowpro.config import AugmentConfig, LossConfig, ModelConfig, PrepareConfig, TrainConfig
from fedcowpro.core import device as devices
from fedcowpro.core.device import CPU, LateValues, OutOfMemory, choose_device, fused, in_parts, list_devices, take_step
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.episodes import augmentation
from fedcowpro.data.episodes.sampler import EpisodeSampler
from fedcowpro.data.preparation.prepare import prepare
from fedcowpro.data.preparation.site import Site
from fedcowpro.model.checkpoint import state_digest
from fedcowpro.model.segmenter import build_model
from fedcowpro.model.unet import build_unet
from fedcowpro.oneshot.postprocess import _filter_at_once, guided_filter
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.training import distortion, finetuning, loop
from fedcowpro.training.finetuning import FineTuning, Learner
from fedcowpro.training.organ_loss import class_balance
from fedcowpro.training.pool import Example, Unlabelled, pool_of_examples
from fedcowpro.training.recipe import Recipe

META = torch.device("meta")
SMALL = Recipe(window=(64, 64), widths=(16, 8, 8), batch=4, steps=(3, 2), spacing=4.0)
LITE = ModelConfig(encoder="lite0", channels=32)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture(scope="module")
def site(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return prepare(phantoms / "ct", tmp_path_factory.mktemp("site") / "ct", PrepareConfig(), workers=1, progress=False)


def stray(module: nn.Module) -> nn.Module:
    """The network on the device that is not there."""
    return module.to(META)


def example() -> Example:
    slices = np.random.default_rng(0).normal(size=(5, 64, 64)).astype(np.float32)
    labels = np.zeros((5, 64, 64), np.uint8)
    labels[:, 10:30, 10:30], labels[:3, 35:50, 35:50] = 1, 2
    return Example(slices, labels, 4.0, frozenset({1}))


def test_what_is_meant_by_a_name() -> None:
    assert choose_device("cpu") == CPU
    assert str(choose_device("auto")) == next(reversed([name for name in list_devices() if name in ("cpu", "cuda:0")]))


@pytest.mark.parametrize("name", ["cuda:63", "mps:1", "gpu"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(FedCoWProError, match=f"'{name}'.*not here") as error:
        choose_device(name)
    assert "cpu" in error.value.expected


def test_a_gpu_that_does_not_work_is_left_alone_by_auto_and_named_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "list_devices", lambda: {"cpu": "1 thread", "cuda:0": "one of them"})
    monkeypatch.setattr(devices, "_fault", lambda name: "no kernel image is available")
    monkeypatch.setattr(devices, "_TESTED", {})
    with pytest.warns(UserWarning, match="cuda:0 does not work"):
        assert choose_device("auto") == CPU
    with pytest.raises(FedCoWProError, match="no kernel image"):
        choose_device("cuda")


def test_parts_become_smaller_until_they_fit() -> None:
    sizes = []

    def work(part: slice) -> range:
        sizes.append(part.stop - part.start)
        if part.stop - part.start > 3:
            raise torch.OutOfMemoryError("4 GiB")
        return range(part.start, part.stop)

    found = in_parts(work, 10, META)
    assert [index for part in found for index in part] == list(range(10))
    assert sizes == [10, 8, 4, 2, 2, 2, 2, 2]
    sizes.clear()
    with pytest.raises(OutOfMemory, match="not enough memory"):
        in_parts(_fail, 10, META)


def _fail(part: slice) -> None:
    raise torch.OutOfMemoryError("no more")


def test_values_of_a_step_are_read_at_once_on_a_cpu() -> None:
    late = LateValues(CPU)
    assert late.put(3, {"a": torch.tensor(1.5), "b": torch.tensor(2.0)}) == {3: {"a": 1.5, "b": 2.0}}
    assert late.rest() == {}


class _Queue:
    """Stands for values on a GPU: nothing can be read but that a step came."""

    def __init__(self, device: torch.device) -> None:
        self.seen: list[int] = []

    def put(self, step: int, values: dict[str, torch.Tensor]) -> dict[int, dict[str, float]]:
        assert all(value.device == META for value in values.values())
        before, self.seen = self.seen, [step]
        return {one: dict.fromkeys(values, 1.0) for one in before}

    def rest(self) -> dict[int, dict[str, float]]:
        return {one: {"total": 1.0, "loss": 1.0} for one in self.seen}


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be done on the device that is not there: draw with a generator of its own, and be read."""
    for module in (augmentation, distortion):
        monkeypatch.setattr(module, "generator_on", lambda device, generator: generator)
    monkeypatch.setattr(loop, "LateValues", _Queue)
    monkeypatch.setattr(finetuning, "LateValues", _Queue)


@pytest.mark.usefixtures("nowhere")
def test_a_training_stays_on_its_device_and_never_waits_for_it(site: Site) -> None:
    """Everything that the host reads, and every tensor that is left behind, would end this with an error."""
    model = stray(build_model(LITE, 0, pretrained=False))
    source = EpisodeSampler(site, AugmentConfig(random_convolution=0.5), device=META)
    steps: list[int] = []
    loop.fit(
        model, source, TrainConfig(batch=2, clip_norm=1.0), LossConfig(tversky=1.0), steps=3,
        generator=torch.Generator().manual_seed(0), on_step=lambda step, _: steps.append(step),
    )  # fmt: skip
    assert steps == [0, 1, 2]
    assert all(parameter.device == META for parameter in model.parameters())


@pytest.mark.usefixtures("nowhere")
def test_fine_tuning_stays_on_its_device_and_never_waits_for_it() -> None:
    pool = pool_of_examples([example()], 2, SMALL.spacing, SMALL.window)
    encoder = build_model(LITE, 0, pretrained=False).encoder.state_dict()
    net = stray(build_unet(2, encoder, 0, SMALL.widths))
    strong = Recipe(**{**SMALL.__dict__, "distortion": distortion.Distortion(convolution=0.5)})
    learner = Learner(net, strong, class_balance(pool), torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    for _ in range(3):
        learner.step(pool.to(META), pool.to(META), 1.0, 0.9)
    learner.finish()
    assert len(learner.losses) == 3
    assert all(tensor.device == META for tensor in learner.mean.values())


def test_encoding_stays_on_its_device() -> None:
    predictor = OneShotPredictor(stray(build_model(TINY, 0)), PLAIN)  # type: ignore[arg-type]
    features = predictor.encode(np.zeros((20, 64, 64), np.float32))
    assert predictor.device == META
    assert len(features) == 20
    assert {view.device for view in features.views} == {META}
    assert features.select([1, 4]).guide.device == META


def test_a_step_whose_loss_is_not_finite_is_left_out_by_the_fused_optimiser() -> None:
    """What `take_step` asks of it on CUDA, tried where the same optimiser runs on a CPU."""
    assert fused(nn.Linear(1, 1)) is None
    for kind in (torch.optim.AdamW, torch.optim.SGD):
        parameter = nn.Parameter(torch.ones(3))
        optimizer = kind([parameter], lr=0.1, fused=True)
        parameter.grad = torch.full((3,), float("nan"))
        optimizer.found_inf = torch.tensor(1.0)
        optimizer.step()
        assert torch.equal(parameter, torch.ones(3))
        parameter.grad = torch.ones(3)
        optimizer.found_inf = torch.tensor(0.0)
        optimizer.step()
        assert not torch.equal(parameter, torch.ones(3))
    plain = torch.optim.SGD([parameter], lr=0.1)
    take_step(plain, torch.tensor(float("nan")))  # a CPU's loss has been looked at before
    assert not hasattr(plain, "found_inf")


def test_the_filter_for_a_gpu_is_the_one_for_a_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    soft, guide = torch.rand(3, 2, 40, 50, generator=generator), torch.rand(3, 40, 50, generator=generator)
    assert torch.allclose(_filter_at_once(soft, guide, 6, 1e-3), guided_filter(soft, guide, 6), atol=1e-5)


@needs_gpu
def test_training_on_a_gpu_repeats_itself_and_is_near_that_of_a_cpu(site: Site) -> None:
    def train(name: str) -> tuple[str, float]:
        device = choose_device(name)
        model = build_model(LITE, 0).to(device)
        source = EpisodeSampler(site, AugmentConfig(), device=device)
        generator = torch.Generator().manual_seed(0)
        with devices.reproducible():
            report = loop.fit(model, source, TrainConfig(batch=4), LossConfig(), steps=20, generator=generator)
        return state_digest(model.state_dict()), report.losses["total"]

    assert train("cuda") == train("cuda")
    # The elastic fields are drawn on the device: other views of the same slices.
    assert train("cuda")[1] == pytest.approx(train("cpu")[1], rel=0.1)


@needs_gpu
def test_fine_tuning_on_a_gpu_repeats_itself() -> None:
    encoder = build_model(LITE, 0).encoder.state_dict()
    others = [Unlabelled(example().slices + 0.1, 4.0)]

    def tune() -> str:
        net = FineTuning(encoder, [example()], 2, others, SMALL, device=choose_device("cuda")).run()
        return state_digest(net.state_dict())

    assert tune() == tune()


@needs_gpu
def test_a_gpu_segments_like_a_cpu(phantoms: Path) -> None:
    """Probabilities within 0.02: convolutions on CUDA round to 10 bits (TF32)."""
    found = []
    for device in ("cpu", "cuda"):
        segmenter = OneShotSegmenter(device=device)
        segmenter.set_support(phantoms / "ct" / "image_1.nii.gz", phantoms / "ct" / "label_1.nii.gz")
        found.append(segmenter.predict(phantoms / "ct" / "image_2.nii.gz"))
    assert np.abs(found[0].probabilities - found[1].probabilities).max() < 0.02
    assert (found[0].labels != found[1].labels).mean() < 0.001


def test_a_training_on_a_cpu_is_left_as_it_is() -> None:
    assert isinstance(devices.half_precision(nn.Linear(1, 1).train(), torch.zeros(1, 1)), nullcontext)
