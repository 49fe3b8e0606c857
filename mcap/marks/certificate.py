"""The certificate that manifests are signed with: the user's, or one of this machine's own.

What C2PA asks of it: C2PA Technical Specification 2.4, section 14.5 (X.509 certificates). A
certificate that nobody vouches for is as good against changes, and says so: its name is that it is
local. The key of the root that signed it is not kept.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.errors import UsageError
from mcap.runtime import files
from mcap.runtime.lock import locked_folder

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

CERTIFICATE, KEY = "certificate.pem", "key.pem"
"""Names of the local certificate's files."""
LOCAL_NAME = "mcap (local certificate, made on this machine)"
LOCAL_ORGANIZATION = "nobody vouches for this certificate"
YEARS = 30
"""A signature carries no time of anybody else's, and so is void when its certificate ends."""
WAIT = 30.0  # seconds for another run that is making it


@dataclass(frozen=True)
class Credential:
    """A certificate and what signs with its key."""

    chain: str
    """PEM, the signer's own certificate first."""
    algorithm: str
    """As COSE calls it: "ES256", "ES384", "ES512", "PS256" or "Ed25519"."""
    sign: Callable[[bytes], bytes]
    """Return the signature of data, as COSE has it; for elliptic curves the same each time (RFC
    6979)."""


def local_credential(folder: Path) -> Credential:
    """Return this machine's certificate from ``folder``, where it is made on first use.

    Its name holds neither the user's nor the machine's. Raises OSError where it cannot be kept.
    """
    try:
        return read_credential(folder / CERTIFICATE, folder / KEY)
    except FileNotFoundError:
        pass
    files.make_folder(folder)
    with locked_folder(folder, "mcap", "[marks]", wait=WAIT):
        if not (folder / CERTIFICATE).is_file():
            chain, key = make_certificate()
            # The key first, and readable by its owner alone before there is anything in it.
            handle = os.open(folder / KEY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(handle, "wb") as file:
                file.write(key)
                files.flush_to_disk(file)
            (folder / KEY).chmod(0o600)
            files.write_bytes(folder / CERTIFICATE, chain)
    return read_credential(folder / CERTIFICATE, folder / KEY)


def make_certificate() -> tuple[bytes, bytes]:
    """Return a new certificate with its root, and its key without a password, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name = subject("mcap (local root, made on this machine)")
    root = issued(root_name, root_name, root_key.public_key(), root_key, authority=True)
    leaf = issued(
        subject(LOCAL_NAME),
        root_name,
        key.public_key(),
        root_key,
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]),
    )
    pem = serialization.Encoding.PEM
    return leaf.public_bytes(pem) + root.public_bytes(pem), key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def subject(name: str) -> x509.Name:
    """Return the name of a local certificate's owner."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, LOCAL_ORGANIZATION),
        ]
    )


def issued(
    owner: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    *usages: x509.ExtensionType,
    authority: bool = False,
) -> x509.Certificate:
    """Return a certificate of ``owner``'s key, signed by ``issuer``.

    ``authority``: it may sign others.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    # The day alone: nobody needs to know the minute at which mcap was first used.
    today = datetime.datetime.combine(datetime.date.today(), datetime.time())
    issuers = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(owner)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(authority, 0 if authority else None), True)
        .add_extension(key_usage(authority), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
        .add_extension(issuers, False)
    )
    for usage in usages:
        builder = builder.add_extension(usage, False)
    return builder.sign(issuer_key, hashes.SHA256())


def key_usage(authority: bool) -> x509.KeyUsage:
    """Return the one use of a key: to sign certificates, or what is no certificate."""
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def user_credential(certificate: Path, key: Path) -> Credential:
    """Return the user's own certificate; `UsageError` says what is wrong with one of the files."""
    try:
        return read_credential(certificate, key)
    except OSError as error:
        raise UsageError(f"[marks]: {error.filename} cannot be read: {files.why(error)}.") from None


def read_credential(certificate: Path, key: Path) -> Credential:
    """Read a certificate and its key from PEM files.

    Raises OSError where one is not there, `UsageError` where one is not what it should be.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    with files.open_to_read(certificate) as file:
        chain = file.read()
    try:
        given = x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise UsageError(f"[marks] certificate = {certificate}: no PEM file ({error}).") from None
    with files.open_to_read(key) as file:
        secret = file.read()
    try:
        private = serialization.load_pem_private_key(secret, password=None)
    except TypeError:
        raise UsageError(
            f"[marks] key = {key}: has a password; give a copy without one, which only you can "
            "read."
        ) from None
    except Exception as error:  # ValueError, UnsupportedAlgorithm, and what OpenSSL comes up with
        raise UsageError(f"[marks] key = {key}: no private key in PEM ({error}).") from None
    own = [one for one in given if one.public_key() == private.public_key()]
    if not own:
        raise UsageError(f"[marks] key = {key}: is not the key of {certificate}.")
    algorithm, sign = signing(private, key)
    pem = serialization.Encoding.PEM
    chain = b"".join(one.public_bytes(pem) for one in in_order(own[0], given))
    return Credential(chain.decode("ascii"), algorithm, sign)


def in_order(first: x509.Certificate, given: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Return the chain from ``first`` on: behind each certificate the one that issued it.

    Readers follow it in this order alone, and files hold it in any. What does not belong to the
    chain is left out.
    """
    from cryptography.exceptions import InvalidSignature

    chain = [first]
    rest = [one for one in dict.fromkeys(given) if one != first]
    while rest:
        for one in rest:
            try:
                chain[-1].verify_directly_issued_by(one)
            except (ValueError, TypeError, InvalidSignature):
                continue
            chain.append(one)
            rest.remove(one)
            break
        else:
            break
    return chain


def signing(private: Any, path: Path) -> tuple[str, Callable[[bytes], bytes]]:
    """Return COSE's name of what a key signs by (RFC 9053), and the function that signs."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "Ed25519", private.sign
    if isinstance(private, rsa.RSAPrivateKey):
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
        return "PS256", lambda data: private.sign(data, pss, hashes.SHA256())
    curves: dict[str, tuple[str, hashes.HashAlgorithm]] = {
        "secp256r1": ("ES256", hashes.SHA256()),
        "secp384r1": ("ES384", hashes.SHA384()),
        "secp521r1": ("ES512", hashes.SHA512()),
    }
    curve = private.curve if isinstance(private, ec.EllipticCurvePrivateKey) else None
    if curve is None or curve.name not in curves:
        raise UsageError(
            f"[marks] key = {path}: C2PA knows elliptic curves (P-256, P-384, P-521), RSA and "
            "Ed25519."
        )
    name, digest = curves[curve.name]
    length = (curve.key_size + 7) // 8

    def sign(data: bytes) -> bytes:
        der = private.sign(data, ec.ECDSA(digest, deterministic_signing=True))
        return b"".join(part.to_bytes(length, "big") for part in utils.decode_dss_signature(der))

    return name, sign
