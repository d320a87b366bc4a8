"""The command line: thin commands that read options, call the library and print what was done.

Heavy imports happen inside the commands, so that `--help` is quick.
"""

from fedcowpro.cli import data, federate, federation, finetune, models, oversight, page, segment, studies
from fedcowpro.cli.console import app, main

__all__ = [
    "app", "data", "federate", "federation", "finetune", "main", "models", "oversight", "page", "segment", "studies",
]  # fmt: skip
