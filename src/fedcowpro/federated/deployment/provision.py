"""`fedcowpro federation init`: everything that each role needs, as files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

import yaml

from fedcowpro.config import Config, parse
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.core.versions import versions
from fedcowpro.federated.deployment.keys import (
    LOOPBACK,
    certificate_hosts,
    fingerprint,
    make_authority,
    make_server_certificate,
    make_site_key,
    public_of,
    write_new,
)
from fedcowpro.federated.deployment.layout import PRIVATE_KEY, Bundle, Coordinator, FederationFile, SiteFile
from fedcowpro.federated.deployment.superlink_client import write_known_sites

_OWN_KEY = "Put `site.key`, the private key that you made, into it: whoever has that can take part in your name."
_MADE_KEY = (
    "`site.key` is its private key: whoever has it can take part in its name. The coordinator made it, and could too; "
    "`fedcowpro federation key site.key` makes one that only you have, whose public half the coordinator registers."
)


def init_federation(
    root: Path, settings: FederationFile, public_keys: Mapping[str, Path] | None = None, *, make_keys: bool = True
) -> tuple[list[Path], list[str]]:
    """Make a federation, or add what is new: sites, changed ports. Keys that exist stay.

    Args:
        root: its folder.
        settings: all its sites, those of earlier calls too.
        public_keys: public key of each site that made its key itself; such a site gets no private one.
        make_keys: whether a new site without a public key gets a key pair made here. Who makes a site's key can sign
            in its name, in secure aggregation too.

    Returns:
        The files that were written, and the sites that are new.

    Raises:
        FedCoWProError: the folder holds another federation, or a server certificate for other hosts; a new site without
            a public key where none are made.
    """
    given = dict(public_keys or {})
    coordinator = Coordinator(root)
    settings = _merged(coordinator, settings)
    if unknown := sorted(given.keys() - set(settings.sites)):
        raise FedCoWProError(f"a public key for {unknown}", "keys of the federation's sites", "name them with --site")
    keyless = [site for site in settings.sites if not (coordinator.public_key(site).exists() or site in given)]
    if keyless and not make_keys:
        raise FedCoWProError(
            f"no public key of {', '.join(keyless)}", "keys made at the hospitals, which nobody else has",
            f"there: fedcowpro federation key {PRIVATE_KEY}; here: --site {keyless[0]}={PRIVATE_KEY}.pub. To try "
            "things out, or where the coordinator may act in the sites' names: --make-keys",
        )  # fmt: skip
    if not coordinator.ca.exists():
        make_authority(coordinator.ca, coordinator.authority_key, f"{settings.name} authority")
    if not coordinator.certificate.exists():
        key, ca = coordinator.authority_key, coordinator.ca
        make_server_certificate(ca, key, settings.hosts, coordinator.certificate, coordinator.key)
    elif missing := set(settings.hosts) - set(certificate_hosts(coordinator.certificate)):
        raise FedCoWProError(
            f"{coordinator.certificate} is not for {sorted(missing)}", "a certificate for all hosts",
            f"move server.crt and server.key away, and see that {coordinator.authority_key} is there to sign new ones",
        )  # fmt: skip
    written, new = _coordinator_texts(coordinator, settings), []
    for site in settings.sites:
        if not coordinator.public_key(site).exists():
            written += _bundle(coordinator, settings, site, given.get(site))
            new.append(site)
    write_known_sites(coordinator, settings)
    _write_yaml(coordinator.federation_file, settings)
    return [*written, coordinator.federation_file], new


def _merged(coordinator: Coordinator, settings: FederationFile) -> FederationFile:
    """With the sites of earlier calls, and this program's versions."""
    before = coordinator.read() if coordinator.federation_file.exists() else None
    if before is not None and before.name != settings.name:
        raise FedCoWProError(
            f"{coordinator.root} holds the federation '{before.name}'", f"'{settings.name}', or an empty folder",
            "choose another folder",
        )  # fmt: skip
    sites = dict.fromkeys([*(before.sites if before else ()), *settings.sites])
    data = {**settings.model_dump(), "sites": tuple(sites), "versions": versions()}
    return parse(FederationFile, data, "the federation")


def _coordinator_texts(coordinator: Coordinator, settings: FederationFile) -> list[Path]:
    version = settings.versions["fedcowpro"]
    values = {
        **settings.model_dump(), "version": version, "flwr": settings.versions["flwr"],
        "hosts": ", ".join(dict.fromkeys([*settings.hosts, *LOOPBACK])), "folder": str(coordinator.root),
        "program": str(Path(sys.executable).with_name("fedcowpro")),
    }  # fmt: skip
    texts = {
        "nginx.conf": coordinator.proxy,
        "app.toml": coordinator.app / "pyproject.toml",
        "LICENSE": coordinator.app / "LICENSE",
        "coordinator.service": coordinator.folder / "fedcowpro-coordinator.service",
        "coordinator.start.sh": coordinator.folder / "start.sh",
        "coordinator.README.md": coordinator.folder / "README.md",
    }
    return _fill(texts, values)


def _bundle(coordinator: Coordinator, settings: FederationFile, site: str, given: Path | None) -> list[Path]:
    """A site's folder, and its public key for the coordinator."""
    bundle = Bundle(coordinator.bundle(site))
    bundle.root.mkdir(parents=True, exist_ok=True)
    bundle.root.chmod(0o700)
    if given is not None:
        public = checked_public(given)
    else:  # the key may be there from a call that was interrupted
        public = public_of(bundle.key) if bundle.key.exists() else make_site_key(bundle.key)
    write_new(coordinator.public_key(site), public)
    write_atomic(bundle.ca, coordinator.ca.read_bytes())
    entry = SiteFile(
        site=site,
        federation=settings.name,
        coordinator=_address(settings.hosts[0], settings.port),
        key=fingerprint(public),
        fast=settings.fast,
        versions=settings.versions,
    )
    _write_yaml(bundle.site_file, entry)
    texts = {
        "site.start.sh": bundle.root / "start.sh",
        "site.service": bundle.root / "fedcowpro-site.service",
        "site.README.md": bundle.root / "README.md",
        "site.policy.yaml": bundle.policy,
    }
    values = {**entry.model_dump(), "name": settings.name, "version": settings.versions["fedcowpro"]}
    values["about_key"] = _OWN_KEY if given is not None else _MADE_KEY
    return [coordinator.public_key(site), bundle.root, *_fill(texts, values)]


def checked_public(path: Path) -> bytes:
    """The line of a public key's file.

    Raises:
        FedCoWProError: no readable public key of the kind that Flower takes.
    """
    try:
        line = path.read_bytes()
    except OSError as error:
        raise FedCoWProError(f"{path} cannot be read: {error}", "a public key", "check the path") from error
    if len(line.splitlines()) != 1 or not line.startswith(b"ecdsa-sha2-nistp"):
        raise FedCoWProError(
            f"{path} is no public key of the kind that Flower takes", "one line that begins with ecdsa-sha2-nistp",
            f"make a pair at the site with: fedcowpro federation key {PRIVATE_KEY}",
        )  # fmt: skip
    return line


def _fill(texts: Mapping[str, Path], values: Mapping[str, object]) -> list[Path]:
    """Write templates; scripts may be executed."""
    source = files("fedcowpro.federated.deployment") / "templates"
    for name, path in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (source / name).read_text(encoding="utf-8")
        write_atomic(path, Template(text).substitute(values).encode())
        if path.suffix == ".sh":
            path.chmod(0o755)
    return list(texts.values())


def _write_yaml(path: Path, settings: Config) -> None:
    data = settings.model_dump(mode="json")
    write_atomic(path, yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode())


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def names_of_sites(given: Sequence[str]) -> tuple[tuple[str, ...], dict[str, Path]]:
    """NAME or NAME=PUBLIC_KEY, as names and keys."""
    keys = {name: Path(path) for name, separator, path in (text.partition("=") for text in given) if separator}
    return tuple(dict.fromkeys(text.partition("=")[0] for text in given)), keys
