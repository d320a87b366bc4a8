"""What a site's node is configured to be: `site-name`, `site-path` and, if wanted, `threads` and `device`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from flwr.app import Context

from fedcowpro.core.device import choose_device, reproducible
from fedcowpro.core.errors import FedCoWProError


def site_of(context: Context) -> tuple[str, Path]:
    """Name and folder of the site.

    Raises:
        FedCoWProError: the node's configuration lacks one.
    """
    node = context.node_config
    if "site-name" not in node or "site-path" not in node:
        raise FedCoWProError(
            f"the node's configuration has {sorted(node)}",
            "'site-name' and 'site-path'",
            'start the node with --node-config \'site-name="A" site-path="/data/a"\'',
        )
    return str(node["site-name"]), Path(str(node["site-path"]))


@contextmanager
def working(context: Context) -> Iterator[torch.device]:
    """`reproducible` with the node's number of threads; gives the node's device.

    Raises:
        FedCoWProError: a device that is not there.
    """
    threads = context.node_config.get("threads")
    device = choose_device(str(context.node_config.get("device", "auto")))
    with reproducible(int(threads) if threads is not None else None):
        yield device
