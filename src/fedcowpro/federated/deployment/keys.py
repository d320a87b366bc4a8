"""Keys and certificates: the federation's own authority, the server's certificate, a key pair for each site.

Private keys are written once, with mode 0600, and never overwritten.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.privacy.signing import read_private_key

DAYS = 825  # of validity; the longest that common TLS clients take
LOOPBACK = ("localhost", "127.0.0.1")  # how the coordinator's own programs call the server


def write_new(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file that is not there yet, with its rights from the first byte on.

    Raises:
        FedCoWProError: it is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise FedCoWProError(
            f"{path} exists", "a new file; keys are never overwritten", "move it away if it is to be made anew"
        ) from error
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def make_authority(certificate: Path, key: Path, name: str) -> None:
    """A certificate authority of one federation: its certificate and its private key."""
    private = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        _builder(subject, subject, private.public_key(), 2 * DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
    )
    signed = builder.sign(private, hashes.SHA384())
    write_new(key, _private_pem(private), 0o600)
    write_new(certificate, signed.public_bytes(serialization.Encoding.PEM))


def make_server_certificate(authority: Path, authority_key: Path, hosts: Sequence[str], out: Path, key: Path) -> None:
    """A server's certificate for these names and addresses, and for loopback; signed by the authority.

    Args:
        hosts: DNS names and IP addresses by which sites call the server.
    """
    issuer = x509.load_pem_x509_certificate(authority.read_bytes())
    signer = serialization.load_pem_private_key(authority_key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    private = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    names = [_general_name(host) for host in dict.fromkeys([*hosts, *LOOPBACK])]
    builder = (
        _builder(subject, issuer.subject, private.public_key(), DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
    )
    signed = builder.sign(signer, hashes.SHA384())
    write_new(key, _private_pem(private), 0o600)
    write_new(out, signed.public_bytes(serialization.Encoding.PEM))


def certificate_hosts(path: Path) -> list[str]:
    """The names and addresses that a certificate is for."""
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def days_left(path: Path) -> float:
    """Days until a certificate ends; below 0 where it has.

    Raises:
        FedCoWProError: no readable certificate.
    """
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FedCoWProError(
            f"{path} is no readable certificate: {error}", "a certificate in PEM form", "copy it again"
        ) from error
    if (early := certificate.not_valid_before_utc - datetime.now(UTC)) > timedelta(0):
        raise FedCoWProError(
            f"{path} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on, {early} from now",
            "a certificate that is valid already",
            "set this machine's clock (timedatectl set-ntp true), or wait; if the clock is right, make a new one",
        )  # fmt: skip
    return (certificate.not_valid_after_utc - datetime.now(UTC)) / timedelta(days=1)


def make_site_key(private: Path) -> bytes:
    """A site's private key in OpenSSH's form; returns the public one as one line of text."""
    key = ec.generate_private_key(ec.SECP384R1())
    form = serialization.PrivateFormat.OpenSSH
    content = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    write_new(private, content, 0o600)
    return _public_line(key.public_key())


def make_key_pair(private: Path) -> Path:
    """A site's key pair, made where it is used: the private key, and beside it PRIVATE.pub, whose path is returned.

    Raises:
        FedCoWProError: one of the files is there.
    """
    public = private.with_name(f"{private.name}.pub")
    if public.exists():
        raise FedCoWProError(f"{public} exists", "a new file; keys are never overwritten", "choose another name")
    write_new(public, make_site_key(private))
    return public


def public_of(private: Path) -> bytes:
    """The public key of a private one, as one line of text.

    Raises:
        FedCoWProError: no readable private key of the kind that Flower takes.
    """
    return _public_line(read_private_key(private).public_key())


def fingerprint(public: bytes) -> str:
    """SHA-256 of a public key's line, 16 hex digits, whatever its comment."""
    return sha256(b" ".join(public.split()[:2])).hexdigest()[:16]


def _public_line(key: ec.EllipticCurvePublicKey) -> bytes:
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_bytes(encoding, form) + b"\n"


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    # A minute and more for clocks that go after the server's.
    start = datetime.now(UTC) - timedelta(minutes=10)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
