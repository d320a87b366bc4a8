"""`fedcowpro federation check`: whether a site can take part, one line for each thing that can be wrong."""

from __future__ import annotations

import shutil
import ssl
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from fedcowpro.config import ExperimentConfig, load
from fedcowpro.config.policy import SitePolicy
from fedcowpro.core.device import choose_device, reproducible
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.versions import versions
from fedcowpro.data.preparation.site import Site
from fedcowpro.federated.deployment.keys import days_left, fingerprint, public_of
from fedcowpro.federated.deployment.layout import Bundle, SiteFile
from fedcowpro.federated.deployment.reach import reach
from fedcowpro.federated.deployment.supernode_client import sign_in
from fedcowpro.federated.governance.audit_log import read_audit
from fedcowpro.federated.governance.enforcement import AUDIT, NO_POLICY, POLICY
from fedcowpro.federated.governance.policy_file import objections
from fedcowpro.federated.site.local_training import describe_site, exchanged_names, local_update
from fedcowpro.model.segmenter import build_model

SKEW = 60.0  # seconds that clocks may differ; Flower takes signatures up to five minutes old
FREE = 2.0  # GB
SOON = 30.0  # days
_SAME = ("fedcowpro", "flwr")


@dataclass(frozen=True)
class CheckResult:
    """One thing that was looked at."""

    what: str
    ok: bool
    text: str
    remedy: str = ""

    def line(self) -> str:
        mark = "ok    " if self.ok else "FAILED"
        return f"{mark} {self.what}: {self.text}" + ("" if self.ok else f"\n       remedy: {self.remedy}")


def check_site(
    root: Path, site_folder: Path, experiment: ExperimentConfig | None = None, online: bool = True
) -> Iterator[CheckResult]:
    """Look at everything that a site needs, in the order in which it is needed.

    Args:
        root: the site's bundle.
        site_folder: its prepared data.
        experiment: settings of the dry round; the default is the default experiment.
        online: False leaves out what calls the coordinator.

    Raises:
        FedCoWProError: the bundle has no readable site.yaml.
    """
    bundle = Bundle(root)
    site = bundle.read()
    checks: dict[str, Callable[[], str]] = {
        "versions": lambda: _versions(site.versions),
        "key": lambda: _key(bundle, site),
        "authority": lambda: _authority(bundle),
        "policy": lambda: _policy(bundle, site, experiment),
    }
    if online:
        checks |= {
            "server": lambda: _server(bundle, site),
            "clock": lambda: _clock(bundle, site),
            "registration": lambda: sign_in(site.coordinator, bundle.ca, bundle.key),
        }
    checks |= {
        "disk": lambda: _disk(bundle.root),
        "site folder": lambda: _folder(site.site, site_folder),
        "dry round": lambda: _dry_round(site, site_folder, experiment or ExperimentConfig()),
    }
    for what, look in checks.items():
        try:
            yield CheckResult(what, True, look())
        except FedCoWProError as error:
            yield CheckResult(what, False, error.got, error.remedy)
        except (OSError, ValueError, RuntimeError) as error:
            yield CheckResult(what, False, f"{type(error).__name__}: {error}", "see the lines above")


def _versions(theirs: Mapping[str, str]) -> str:
    ours = versions()
    if odd := [f"{name} {ours[name]}, at the coordinator {theirs.get(name)}" for name in _SAME if
               ours[name] != theirs.get(name)]:  # fmt: skip
        wanted = " ".join(f"{name}=={theirs.get(name)}" for name in _SAME)
        remedy = f"with the coordinator's wheel of fedcowpro here: pip install --find-links . {wanted}"
        raise FedCoWProError("; ".join(odd), "the coordinator's versions", remedy)
    others = [name for name in ("torch", "numpy") if ours[name] != theirs.get(name)]
    note = "".join(f"; {name} {ours[name]} here, {theirs.get(name)} there: last bits may differ" for name in others)
    return ", ".join(f"{name} {ours[name]}" for name in _SAME) + note


def _key(bundle: Bundle, site: SiteFile) -> str:
    found = fingerprint(public_of(bundle.key))
    if found != site.key:
        raise FedCoWProError(
            f"{bundle.key} has the public key {found}; the coordinator has {site.key}", "this site's own key",
            "copy the bundle again; after a change of keys the coordinator has to register the new one",
        )  # fmt: skip
    if stat.S_IMODE(bundle.key.stat().st_mode) & 0o077:
        raise FedCoWProError(f"others on this machine can read {bundle.key}", "mode 600", f"chmod 600 {bundle.key}")
    return f"this site's own, {found}"


def _policy(bundle: Bundle, site: SiteFile, experiment: ExperimentConfig | None) -> str:
    """The policy and the log can be used; what the policy has against the experiment, if one is given."""
    given = site.node.get(POLICY, str(bundle.policy))
    log = Path(str(site.node.get(AUDIT, bundle.audit)))
    if log.exists() and (problems := read_audit(log)[1]):
        raise FedCoWProError(f"the audit log {log}: {problems[0]}", "a whole one", f"fedcowpro audit {log}")
    if given == NO_POLICY or not Path(str(given)).exists():
        return "none: " + ("nothing but odd weights is refused" if given == NO_POLICY else "the defaults hold")
    policy = load(SitePolicy, Path(str(given)))
    if experiment is None:
        return f"{given} can be read; --config EXPERIMENT tells what it refuses"
    refused = objections(policy, experiment, len(experiment.sites) or max(policy.min_participants, 1))
    if refused["train"]:
        raise FedCoWProError(
            f"{given} refuses: {refused['train']}", "a policy that lets the experiment happen",
            "edit it, or ask the coordinator for another experiment",
        )  # fmt: skip
    unpinned = experiment.federation.privacy.secure_aggregation and not policy.peers
    note = "; it pins no peers: the server could invent sites and see this site's update" if unpinned else ""
    return f"{given} allows {', '.join(kind for kind, reason in refused.items() if not reason)}{note}"


def _authority(bundle: Bundle) -> str:
    left = days_left(bundle.ca)
    if left <= 0:
        raise FedCoWProError(
            f"{bundle.ca} expired {-left:.0f} days ago", "a valid certificate", "ask the coordinator for a new bundle"
        )
    return f"certificate valid for {left:.0f} days"


def _server(bundle: Bundle, site: SiteFile) -> str:
    door = reach(site.coordinator, bundle.ca)
    try:
        assert isinstance(door.sock, ssl.SSLSocket)
        shown = door.sock.getpeercert() or {}
        version = door.sock.version()
    finally:
        door.close()
    left = (ssl.cert_time_to_seconds(str(shown["notAfter"])) - datetime.now(UTC).timestamp()) / 86400
    soon = ": ask the coordinator to renew it" if left < SOON else ""
    return f"{site.coordinator}, {version}, certificate and its chain verified, valid for {left:.0f} days{soon}"


def _clock(bundle: Bundle, site: SiteFile) -> str:
    door = reach(site.coordinator, bundle.ca)
    try:
        door.request("GET", "/")
        shown = door.getresponse().getheader("Date")
        here = datetime.now(UTC)
    finally:
        door.close()
    if shown is None:
        raise FedCoWProError("the server tells no time", "a Date in its answer", "compare the clocks by hand")
    skew = (here - parsedate_to_datetime(shown)).total_seconds()
    if abs(skew) > SKEW:
        raise FedCoWProError(
            f"{skew:+.0f} s against the coordinator's",
            f"at most {SKEW:.0f} s",
            "set the clock: timedatectl set-ntp true",
        )
    return f"{skew:+.0f} s against the coordinator's"


def _disk(folder: Path) -> str:
    free = {place: shutil.disk_usage(place).free / 1e9 for place in (folder, Path(tempfile.gettempdir()))}
    if short := [place for place, size in free.items() if size < FREE]:
        raise FedCoWProError(
            f"{free[short[0]]:.1f} GB free at {short[0]}", f"{FREE:.0f} GB", "make room, or move the bundle"
        )
    return ", ".join(f"{size:.0f} GB free at {place}" for place, size in free.items())


def _folder(name: str, folder: Path) -> str:
    facts = describe_site(name, folder)
    slices = f"{facts.train_slices} slices of {facts.size} x {facts.size} pixels"
    return f"{facts.cases} cases ({facts.modality}) with {slices} to train on"


def _dry_round(site: SiteFile, folder: Path, experiment: ExperimentConfig) -> str:
    """One step from random weights on the site's device, as a round would do it; nothing is sent."""
    device = choose_device(str(site.node.get("device", "auto")))
    federation = experiment.federation.model_copy(update={"rounds": 1, "local_steps": 1})
    config = experiment.model_copy(update={"federation": federation})
    model = build_model(config.model, config.seed, pretrained=False)
    state = model.state_dict()
    start = {tensor: state[tensor] for tensor in exchanged_names(model)}
    with reproducible(config.threads):
        update = local_update(config, site.site, Site.open(folder), start, {}, 1, device)
    size = sum(tensor.numel() * tensor.element_size() for tensor in update.shared.values()) / 1e6
    return f"one step in {update.report.seconds:.1f} s on {device}; an update has {size:.1f} MB"
