"""Files of a federation, at the coordinator and at a site, and what is written in their two YAML files.

FEDERATION/federation.yaml             sites, hosts, ports, versions
FEDERATION/authority/ca.key            signs server certificates; may be kept elsewhere
FEDERATION/coordinator/                what the coordinator runs: certificates, the sites' public keys, the app, texts
FEDERATION/bundles/SITE/               what goes to a site: its own key, the CA's certificate, site.yaml, texts, and
                                       site-policy.yaml, which the site makes its own; its audit.jsonl is written here
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from fedcowpro.config import Config, load
from fedcowpro.core.errors import FedCoWProError

FEDERATION_FILE, SITE_FILE, PRIVATE_KEY, CA_FILE = "federation.yaml", "site.yaml", "site.key", "ca.crt"
POLICY_FILE = "site-policy.yaml"
_NAME = r"^[A-Za-z0-9._-]+$"
_FAST = "messages in one piece, to processes that have the program loaded; false: as Flower does by itself"


class FederationFile(Config):
    """What a federation is made of."""

    name: str = Field("fedcowpro", pattern=_NAME)
    hosts: tuple[str, ...] = Field(min_length=1, description="names and addresses by which sites call the coordinator")
    listen: str = Field("0.0.0.0", description="address of this machine at which the public door listens")
    port: int = Field(9443, ge=1, le=65535, description="of the public door, the proxy")
    superlink_port: int = Field(9092, ge=1, le=65535, description="of the SuperLink, on loopback")
    sites: tuple[str, ...] = ()
    fast: bool = Field(True, description=_FAST)
    versions: dict[str, str] = Field({}, description="the coordinator's, when the bundles were made")


class SiteFile(Config):
    """What a site knows of its federation."""

    site: str = Field(pattern=_NAME)
    federation: str = Field(pattern=_NAME)
    coordinator: str = Field(description="HOST:PORT of the public door")
    key: str = Field(description="fingerprint of the public key that the coordinator has for this site")
    versions: dict[str, str] = Field({}, description="the coordinator's")
    fast: bool = Field(True, description=_FAST)
    node: dict[str, str | int | float | bool] = Field({}, description="more of the node's configuration")


class Coordinator:
    """The coordinator's files."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.federation_file = self.root / FEDERATION_FILE
        self.authority_key = self.root / "authority" / "ca.key"
        self.folder = self.root / "coordinator"
        self.ca = self.folder / CA_FILE
        self.certificate, self.key = self.folder / "server.crt", self.folder / "server.key"
        self.public_keys = self.folder / "keys"
        self.app = self.folder / "app"
        self.proxy, self.known_sites = self.folder / "nginx.conf", self.folder / "sites.conf"
        self.home = self.folder / "flwr"
        self.experiments = self.folder / "experiments"
        self.state = self.folder / "state.db"

    def bundle(self, site: str) -> Path:
        return self.root / "bundles" / site

    def public_key(self, site: str) -> Path:
        return self.public_keys / f"{site}.pub"

    def read(self) -> FederationFile:
        """Raises FedCoWProError where there is no federation."""
        if not self.federation_file.is_file():
            raise FedCoWProError(
                f"no {FEDERATION_FILE} in {self.root}",
                "the folder of a federation",
                "make one: fedcowpro federation init",
            )
        return load(FederationFile, self.federation_file)


class Bundle:
    """A site's files."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.site_file, self.key, self.ca = self.root / SITE_FILE, self.root / PRIVATE_KEY, self.root / CA_FILE
        self.policy, self.audit = self.root / POLICY_FILE, self.root / "audit.jsonl"
        self.home = self.root / "flwr"

    def read(self) -> SiteFile:
        """Raises FedCoWProError where there is no bundle."""
        if not self.site_file.is_file():
            raise FedCoWProError(
                f"no {SITE_FILE} in {self.root}", "the folder that the coordinator made for this site",
                "copy the whole folder FEDERATION/bundles/SITE",
            )  # fmt: skip
        return load(SiteFile, self.site_file)


def flower_environment(home: Path) -> dict[str, str]:
    """Environment of every process of Flower: its files below `home`, and no word to anybody else."""
    return {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
