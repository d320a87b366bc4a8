"""The Flower ClientApp of a site; the same in one process, in simulation and in a deployment.

It needs from the node's own configuration: `site-name`, `site-path` and, if wanted, `threads` and `device`. All else
comes with the message. What stays at the site lives in the context's state: its normalisation layers, where they are
local.
`enforce_policy` stands before all of it: it needs `site-policy` and `audit-log`, both with a default.
"""

from __future__ import annotations

from dataclasses import asdict

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedcowpro.config import ExperimentConfig, parse
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.text import from_json
from fedcowpro.core.versions import versions
from fedcowpro.data.preparation.site import Site
from fedcowpro.federated.governance.enforcement import approve_weights, enforce_policy
from fedcowpro.federated.site.local_training import LocalUpdate, describe_site, local_update
from fedcowpro.federated.site.node import site_of, working
from fedcowpro.federated.site.private_update import private_content
from fedcowpro.federated.site.scoring import score
from fedcowpro.federated.site.secure_aggregation import add_queries
from fedcowpro.federated.site.teaching import teaching_update
from fedcowpro.federated.transport import messages as records
from fedcowpro.federated.transport.encoding import encode, receive
from fedcowpro.federated.transport.site_errors import sanitised

app = ClientApp(mods=[enforce_policy])
app.evaluate()(sanitised(score))
add_queries(app)


@app.query()
@sanitised
def describe(message: Message, context: Context) -> Message:
    """Reply with the site's facts (name, modality, counts, slice size, digest) and the versions that compute there."""
    name, path = site_of(context)
    facts = asdict(describe_site(name, path))
    content = RecordDict({records.FACTS: ConfigRecord(facts), records.VERSIONS: ConfigRecord({**versions()})})
    return Message(content, reply_to=message)


@app.train()
@sanitised
def train(message: Message, context: Context) -> Message:
    """One round: weights and settings in, weights and metrics out."""
    name, path = site_of(context)
    settings = records.config_record(message.content, records.CONFIG)
    lacking = records.array_record(message.content, records.ARRAYS) is None
    if lacking or records.EXPERIMENT not in settings or records.ROUND not in settings:
        raise FedCoWProError(
            f"site '{name}': the message lacks weights or settings", "a training message of this program",
            "use the same version of fedcowpro at the server and at all sites",
        )  # fmt: skip
    config = parse(ExperimentConfig, from_json(str(settings[records.EXPERIMENT])), "the server's settings")
    local = records.array_record(context.state, records.LOCAL)
    received = receive(message.content, config)
    approve_weights(message, context, config, received)
    number = int(str(settings[records.ROUND]))
    with working(context) as device:
        if config.teaching is not None:
            update = teaching_update(config, name, Site.open(path), received, number, device)
        else:
            own = records.to_tensors(local) if local is not None else {}
            update = local_update(config, name, Site.open(path), received, own, number, device)
    if update.local:
        context.state[records.LOCAL] = records.to_record(update.local)
    metrics = _metrics(update)
    if config.federation.privacy.site_clips:
        content = private_content(config, name, update.shared, received, metrics, message.content, context)
    else:
        shared, start = records.to_numpy(update.shared), records.to_numpy(received)
        arrays = encode(shared, start, config.federation.precision)
        content = RecordDict({records.ARRAYS: arrays, records.METRICS: metrics})
    return Message(content, reply_to=message)


@app.query(records.LAYERS)
@sanitised
def layers(message: Message, context: Context) -> Message:
    """Reply with the site's own normalisation layers; asked once, after the last round, where the settings say so."""
    name, path = site_of(context)
    local = records.array_record(context.state, records.LOCAL)
    if local is None:
        raise FedCoWProError(
            f"site '{name}' has no normalisation layers of its own", "a site that trained", "leave the site out"
        )
    floating = {key: value for key, value in records.to_tensors(local).items() if value.is_floating_point()}
    metrics = MetricRecord({records.WEIGHT: describe_site(name, path).train_slices})
    content = RecordDict({records.ARRAYS: records.to_record(floating), records.METRICS: metrics})
    return Message(content, reply_to=message)


def _metrics(update: LocalUpdate) -> MetricRecord:
    report = update.report
    losses = {f"{records.LOSS_PREFIX}{name}": value for name, value in report.losses.items()}
    return MetricRecord(
        {
            records.WEIGHT: update.train_slices,
            "steps": report.steps,
            "seconds": report.seconds,
            "pseudo-dice": report.pseudo_dice,
            **({records.ABSTAINS: 1} if update.abstains else {}),
            **losses,
        }
    )
