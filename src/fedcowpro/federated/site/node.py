"""What a site's node is configured to be: `site-name`, `site-path` and, if wanted, `threads`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from flwr.app import Context

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.site.local_training import reproducible


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


def working(context: Context) -> AbstractContextManager[None]:
    """`reproducible` with the node's number of threads."""
    threads = context.node_config.get("threads")
    return reproducible(int(threads) if threads is not None else None)
