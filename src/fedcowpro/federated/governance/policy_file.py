"""A site's policy as a file: one that allows an experiment and no more, and what one has against an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import get_args

import yaml

from fedcowpro.config import ExperimentConfig, parse
from fedcowpro.config.policy import Kind, SitePolicy
from fedcowpro.core.files import write_atomic
from fedcowpro.core.package import package_digest
from fedcowpro.federated.governance.policy import Announcement, RefusedError, check_message
from fedcowpro.federated.governance.tally import Tally

_PARTICIPANTS = 3  # fewest in an average, where there are as many
_SPARE = 2  # a run that is interrupted repeats rounds
_TEXT = """\
# What this site permits to be done with its data. Whatever is asked beyond it is refused, and the server is told why.
# Keep the file where only the site can write. docs/federation-safety.md explains each field.

# fedcowpro at the server: the digest that `fedcowpro digest` prints there.
packages: [{package}]
# The model, and the weights that a run begins with ('package': as this site's own package builds them).
architectures: [{architecture}]
initial_weights: [{weights}]
# The experiment has {rounds} rounds; an interrupted run repeats some.
max_rounds: {max_rounds}
max_total_rounds: {max_total}
max_local_steps: {steps}
# Fewest sites in an average.
min_participants: {participants}
privacy:
  mechanism: [none, central, local]
  secure_aggregation: {secure}
{peers}# Kinds of messages: train, evaluate (means of scores leave), layers (normalisation layers leave).
messages: [train, evaluate]
# Fewest held-out cases behind a score.
min_cases: 3
"""


def write_policy(
    file: Path,
    config: ExperimentConfig,
    architecture: str,
    weights: str,
    sites: int = _PARTICIPANTS,
    peers: Mapping[str, str] | None = None,
) -> None:
    """Write a policy with comments that allows this experiment, on this version of the program, once.

    Args:
        sites: how many take part; with fewer than three the policy asks for no more.
        peers: public key of each other site; with them the policy demands secure aggregation, if the experiment has it.

    Raises:
        FedCoWProError: peers that a policy cannot have.
    """
    rounds = config.federation.rounds
    text = _TEXT.format(
        package=package_digest(),
        architecture=architecture,
        weights=weights,
        rounds=rounds,
        max_rounds=rounds + _SPARE,
        max_total=rounds + _SPARE,
        steps=config.federation.local_steps,
        participants=min(_PARTICIPANTS, sites),
        secure="true" if peers and config.federation.privacy.secure_aggregation else "false",
        peers=_peers_text(peers or {}),
    )
    parse(SitePolicy, yaml.safe_load(text), "the policy")
    write_atomic(file, text.encode())


def _peers_text(peers: Mapping[str, str]) -> str:
    if not peers:
        return "# No peers are pinned: in secure aggregation a server could invent sites (docs/federation-safety.md).\n"
    lines = "".join(f"  {name}: {' '.join(key.split()[:2])}\n" for name, key in peers.items())
    return f"# The other sites' public keys; compare them with those sites yourself.\npeers:\n{lines}"


def objections(policy: SitePolicy, config: ExperimentConfig, sites: int) -> dict[str, str]:
    """Why a policy refuses each kind of message of an experiment, at the start of its run; '' = it does not.

    What cannot be known before the run (received weights, rounds counted so far) is left out.
    """
    found = {}
    for kind in get_args(Kind):
        said = Announcement(kind, "", 1, package_digest(), sites, config.model_dump(mode="json"))
        try:
            check_message(policy, said, Tally, datetime.now().astimezone())
            found[kind] = ""
        except RefusedError as error:
            found[kind] = str(error)
    return found
