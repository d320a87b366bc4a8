"""Federated training on Flower; the only package that imports it."""

import os

# Before any import of Flower, which reads both once: no usage report or update check leaves a hospital.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
