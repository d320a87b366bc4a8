"""Every setting of the program as frozen models: YAML in, digest out.

Unknown keys, wrong types and values out of range are refused with a message that names the field.
"""

from fedcowpro.config.base import Config, load, parse
from fedcowpro.config.data import Modality, PrepareConfig, SuperpixelConfig
from fedcowpro.config.experiment import ExperimentConfig, SiteConfig
from fedcowpro.config.federation import FederationConfig
from fedcowpro.config.inference import InferConfig
from fedcowpro.config.model import HeadConfig, ModelConfig
from fedcowpro.config.privacy import FEWEST_IN_A_SUM, PrivacyConfig
from fedcowpro.config.teaching import TeachingConfig
from fedcowpro.config.training import AugmentConfig, EpisodeConfig, LossConfig, TrainConfig

__all__ = [
    "FEWEST_IN_A_SUM",
    "AugmentConfig",
    "Config",
    "EpisodeConfig",
    "ExperimentConfig",
    "FederationConfig",
    "HeadConfig",
    "InferConfig",
    "LossConfig",
    "Modality",
    "ModelConfig",
    "PrepareConfig",
    "PrivacyConfig",
    "SiteConfig",
    "SuperpixelConfig",
    "TeachingConfig",
    "TrainConfig",
    "load",
    "parse",
]
