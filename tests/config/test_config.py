"""Settings: shipped files parse, mistakes are named, digests follow the content, every field is documented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from fedcowpro import config as config_module
from fedcowpro.config import (
    AugmentConfig,
    Config,
    EpisodeConfig,
    ExperimentConfig,
    FederationConfig,
    HeadConfig,
    InferConfig,
    LossConfig,
    ModelConfig,
    PrepareConfig,
    PrivacyConfig,
    SiteConfig,
    SuperpixelConfig,
    TeachingConfig,
    TrainConfig,
    load,
    parse,
)
from fedcowpro.config.base import parse_card
from fedcowpro.config.policy import SitePolicy
from fedcowpro.core.errors import FedCoWProError

ROOT = Path(__file__).parents[2]
SHIPPED = sorted([*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("src/fedcowpro/demo/*.yaml")])
PARTS: tuple[type[Config], ...] = (
    AugmentConfig, EpisodeConfig, ExperimentConfig, FederationConfig, HeadConfig, InferConfig, LossConfig, ModelConfig,
    PrepareConfig, PrivacyConfig, SiteConfig, SuperpixelConfig, TeachingConfig, TrainConfig,
)  # fmt: skip
REQUIRED: dict[type[Config], dict[str, Any]] = {SiteConfig: {"name": "a"}, TeachingConfig: {"organs": ["liver"]}}


def test_there_are_shipped_files() -> None:
    assert {"paper.yaml", "real4.yaml", "demo.yaml"} <= {path.name for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_file_parses(path: Path) -> None:
    experiment = load(ExperimentConfig, path)
    assert all(site.path is None for site in experiment.sites)  # no one's folders
    again = parse(ExperimentConfig, yaml.safe_load(yaml.safe_dump(experiment.model_dump(mode="json"))), "again")
    assert again == experiment
    assert again.digest() == experiment.digest()


def test_the_papers_settings_are_the_papers() -> None:
    paper = load(ExperimentConfig, ROOT / "configs" / "paper.yaml")
    train = paper.train
    assert (train.optimizer, train.lr, train.momentum, train.weight_decay) == ("sgd", 1e-3, 0.9, 5e-4)
    assert (train.schedule, train.decay, train.decay_every, train.batch) == ("step", 0.95, 1000, 1)
    assert paper.federation.rounds * paper.federation.local_steps == 100_000
    assert (paper.model.encoder, paper.model.channels) == ("resnet101", 256)
    assert paper.model.head == HeadConfig(temperature=20, threshold=0.95, train_window=4, test_window=2)
    loss = paper.loss
    assert (loss.cross_entropy, loss.alignment, loss.spatial_dice, loss.edge_dice) == (1, 1, 1, 1)
    assert loss.background_weight == 0.05
    assert (paper.inference.pairing, paper.inference.support_slices) == ("same-part", 3)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_unknown_fields_are_refused_everywhere(part: type[Config]) -> None:
    given = {**REQUIRED.get(part, {}), "colour": "red"}
    with pytest.raises(FedCoWProError, match="here: field 'colour'"):
        parse(part, given, "here")


@pytest.mark.parametrize(
    ("part", "values", "field"),
    [
        (ModelConfig, {"encoder": "vgg"}, "encoder"),
        (ModelConfig, {"channels": 4}, "channels"),
        (ModelConfig, {"head": {"threshold": 1.0}}, "head.threshold"),
        (ModelConfig, {"bands": [0, 0, 0]}, "(whole)"),
        (ModelConfig, {"bands": [1, -1, 1]}, "(whole)"),
        (TrainConfig, {"lr": 0}, "lr"),
        (TrainConfig, {"batch": 1.5}, "batch"),
        (TrainConfig, {"clip_norm": 0}, "clip_norm"),
        (LossConfig, {"edge_operator": "canny"}, "edge_operator"),
        (LossConfig, {"alignment": -1}, "alignment"),
        (LossConfig, {"tversky_beta": 0}, "tversky_beta"),
        (AugmentConfig, {"random_convolution": 1.1}, "random_convolution"),
        (EpisodeConfig, {"neighbour_overlap": 0}, "neighbour_overlap"),
        (EpisodeConfig, {"support_views": 0}, "support_views"),
        (FederationConfig, {"weighting": "vote"}, "weighting"),
        (InferConfig, {"support_slices": 0}, "(whole)"),
        (InferConfig, {"support_slices": "some"}, "support_slices"),
        (InferConfig, {"scales": []}, "scales"),
        (InferConfig, {"scales": [9.0]}, "(whole)"),
        (PrepareConfig, {"modality": "ct", "size": 250}, "size"),
        (PrepareConfig, {"modality": "ct", "window": [10, 10]}, "(whole)"),
        (PrepareConfig, {"modality": "pet"}, "modality"),
        (SiteConfig, {"name": "a/b"}, "name"),
        (ExperimentConfig, {"sites": [{"name": "a"}, {"name": "a"}]}, "(whole)"),
        (ExperimentConfig, {"train": {"batch": 0}}, "train.batch"),
    ],
)
def test_values_out_of_range_are_named(part: type[Config], values: dict[str, Any], field: str) -> None:
    with pytest.raises(FedCoWProError, match=re.escape(f"here: field '{field}")) as caught:
        parse(part, values, "here")
    assert caught.value.expected == f"a valid {part.__name__}"


NO_ENCODINGS = "was removed with the encodings in 8 bits and of the largest entries"


@pytest.mark.parametrize(
    ("values", "fate"),
    [
        ({"augment": {"curve": 0.0}}, "'curve' was removed"),
        ({"augment": {"invert": 0.5}}, "'invert' was removed"),
        ({"augment": {"pseudo_correlation": True}}, "'pseudo_correlation' was removed"),
        ({"episodes": {"merge": 0.5}}, "'merge' was removed"),
        ({"episodes": {"shots": 3}}, "'shots' is called 'support_views' now"),
        ({"federation": {"unseen": "initial"}}, "'unseen' is called 'new_site_layers' now"),
        ({"federation": {"uplink": "none"}}, f"'uplink' {NO_ENCODINGS}; set 'precision' to float32 or float16"),
        ({"federation": {"downlink": "int8"}}, f"'downlink' {NO_ENCODINGS}; set 'precision' to float32 or float16"),
        ({"federation": {"topk_share": 0.1}}, f"'topk_share' {NO_ENCODINGS}; leave it out"),
        (
            {"federation": {"privacy": {"adaptive": True}}},
            "'adaptive' was removed with adaptive clipping: leave it out, and set 'clip' itself",
        ),
        ({"inference": {"pairing": "bag"}}, "pairing: 'bag' is called 'all-slices' now"),
        ({"inference": {"pairing": "chunk"}}, "pairing: 'chunk' is called 'same-part' now"),
        ({"model": {"stride": 4}}, "'stride' was removed"),
        ({"train": {"ema": 0.9}}, "'ema' was removed"),
        ({"train": {"schedule": "one-cycle"}}, "'one-cycle' is called 'warmup-cosine' now"),
    ],
)
def test_names_of_earlier_versions_say_what_became_of_them(values: dict[str, Any], fate: str) -> None:
    with pytest.raises(FedCoWProError, match=re.escape(fate)):
        parse(ExperimentConfig, values, "here")


def test_a_policy_of_an_earlier_version_says_what_became_of_its_field() -> None:
    with pytest.raises(FedCoWProError, match=f"'compression' {NO_ENCODINGS}; leave it out"):
        parse(SitePolicy, {"privacy": {"compression": None}}, "here")


def test_the_card_of_an_earlier_checkpoint_passes_where_the_forward_pass_is_the_same() -> None:
    card = {"encoder": "lite0", "stride": 8}
    assert parse_card(ModelConfig, card, "card") == ModelConfig()
    with pytest.raises(FedCoWProError, match="'stride' was removed"):
        parse_card(ModelConfig, {**card, "stride": 4}, "card")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    with pytest.raises(FedCoWProError, match="no file"):
        load(ExperimentConfig, path)
    for content in (b"a: [1", b"\xff\xfe\xfa"):
        path.write_bytes(content)
        with pytest.raises(FedCoWProError, match="not YAML"):
            load(ExperimentConfig, path)
    path.write_text("")
    assert load(ExperimentConfig, path) == ExperimentConfig()  # all defaults


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ExperimentConfig().seed = 3  # type: ignore[misc]


def test_digest_is_stable_and_follows_the_content() -> None:
    base = ExperimentConfig()
    assert base.digest() == ExperimentConfig().digest()
    assert re.fullmatch("[0-9a-f]{16}", base.digest())
    # Order and spelling of the file do not matter.
    text = "train: {lr: 5.0e-4, batch: 4}\nseed: 0\n"
    assert parse(ExperimentConfig, yaml.safe_load(text), "text").digest() == base.digest()
    changed = [
        {"seed": 1},
        {"threads": 2},
        {"model": {"head": {"temperature": 19.0}}},
        {"augment": {"zoom": [0.9, 1.21]}},
        {"loss": {"dice_on_alignment": True}},
        {"episodes": {"neighbour": 1}},
        {"train": {"lr": 4e-4}},
        {"federation": {"local_steps": 21}},
        {"inference": {"flip": True}},
        {"sites": [{"name": "a"}]},
    ]
    digests = {parse(ExperimentConfig, values, "values").digest() for values in changed}
    assert len(digests | {base.digest()}) == len(changed) + 1


def test_a_known_digest() -> None:
    """Checkpoints and runs carry digests: another recipe would tell old runs from their own settings."""
    assert SiteConfig(name="a").digest() == "24ffb8e77bb06c9f"


# ---------------------------------------------------------------- docs/configuration.md


def sections() -> dict[str, str]:
    """Class name in a heading -> text below it."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    parts = re.split(r"^## .*?\(`(\w+)`\)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_all_settings_have_a_section() -> None:
    known = {name for name, part in vars(config_module).items()
             if isinstance(part, type) and issubclass(part, Config) and part is not Config}  # fmt: skip
    assert known == {part.__name__ for part in PARTS}
    assert set(sections()) == known


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_field_is_documented_with_its_default(part: type[Config]) -> None:
    section = sections()[part.__name__]
    for name, field in part.model_fields.items():
        row = re.search(rf"^\| `{name}` \| (.*?) \|", section, flags=re.MULTILINE)
        assert row, f"docs/configuration.md, {part.__name__}: no row for '{name}'"
        if field.is_required():
            expected = "required"
        elif isinstance(field.default, Config):
            expected = "below"
        else:
            expected = f"`{shown(field.default)}`"
        assert row[1] == expected, f"docs/configuration.md, {part.__name__}.{name}: default {expected}"
    documented = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    assert documented == list(part.model_fields)
