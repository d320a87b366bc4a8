"""The same apps in Flower's simulation: each site a client of Ray, several at a time in processes of their own."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec

from flwr.app import Context, Message, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedcowpro.config import ExperimentConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.federated.server.server_app import serve
from fedcowpro.federated.server.tracking import Track
from fedcowpro.federated.transport import messages as records


def require_ray() -> None:
    """Raises FedCoWProError where Ray is not installed."""
    if find_spec("ray") is None:
        raise FedCoWProError(
            "no package 'ray'", "it is needed for the engine 'ray'",
            "pip install 'fedcowpro[simulation]', or leave out --engine: in one process the result is the same",
        )  # fmt: skip


def run_on_ray(
    config: ExperimentConfig,
    folder: RunFolder,
    nodes: Sequence[UserConfig],
    *,
    cpus: float = 1,
    track: Sequence[Track] = (),
    evaluate: bool = False,
) -> None:
    """All rounds, each site in one of Ray's processes.

    Args:
        nodes: configuration of each site.
        cpus: cores that a site takes; their number over this one is how many sites train at a time.
        evaluate: see `serve`.

    Raises:
        FedCoWProError: no Ray; what `serve` raises.
    """
    require_ray()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no report of use leaves a hospital
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    from flwr.simulation import run_simulation

    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        serve(grid, config, folder, track=track, evaluate=evaluate)

    init = {"num_cpus": max(os.cpu_count() or 1, 1), "include_dashboard": False, "logging_level": logging.ERROR}
    backend = {"init_args": init, "client_resources": {"num_cpus": cpus, "num_gpus": 0.0}}
    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_simulation(server, site_app(nodes), len(nodes), backend_name="ray", backend_config=backend)  # type: ignore[arg-type]


def site_app(nodes: Sequence[UserConfig]) -> ClientApp:
    """The sites' app for an engine that numbers its clients and tells them nothing else."""
    configs = [dict(node) for node in nodes]
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        from fedcowpro.federated.site.client_app import app as sites

        number = int(context.node_config["partition-id"])
        own = {**context.node_config, **configs[number]}
        inner = Context(context.run_id, context.node_id, own, context.state, context.run_config)
        reply = sites(message, inner)
        context.state = inner.state
        return reply

    app.train()(answer)
    app.evaluate()(answer)
    app.query()(answer)
    for name in (records.LAYERS, records.SECURE_KEYS, records.SECURE_SHARES, records.SECURE_UNMASK):
        app.query(name)(answer)
    return app
