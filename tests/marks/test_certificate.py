"""The certificate of a machine, made once, and a user's own."""

from __future__ import annotations

import getpass
import itertools
import os
import platform
import stat

import pytest

pytest.importorskip("c2pa", reason="the extra c2pa is not installed")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from mcap.errors import UsageError
from mcap.marks.certificate import (
    CERTIFICATE,
    KEY,
    LOCAL_NAME,
    issued,
    local_credential,
    make_certificate,
    read_credential,
    signing,
    subject,
    user_credential,
)


def test_it_is_made_once_and_its_key_is_the_users_alone(tmp_path):
    folder = tmp_path / "marks"
    old = os.umask(0)
    try:
        first = local_credential(folder)
    finally:
        os.umask(old)
    assert first.chain == local_credential(folder).chain
    assert sorted(path.name for path in folder.iterdir()) == [CERTIFICATE, KEY]
    if os.name == "posix":
        assert stat.S_IMODE((folder / KEY).stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_it_says_that_it_is_local_and_names_nobody():
    chain, _ = make_certificate()
    leaf, root = x509.load_pem_x509_certificates(chain)
    values = [part.value for name in (leaf, root) for part in name.subject]
    assert values[0] == LOCAL_NAME and "local root" in values[2]
    for name in (f"/{getpass.getuser()}", f"{getpass.getuser()}@", platform.node() or "no name"):
        assert not any(name in value for value in values)
    assert leaf.issuer == root.subject
    root.public_key().verify(leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))


def test_an_elliptic_signature_is_the_same_each_time(tmp_path):
    credential = local_credential(tmp_path)
    signature = credential.sign(b"data")
    assert credential.algorithm == "ES256" and len(signature) == 64
    assert signature == credential.sign(b"data") != credential.sign(b"other")
    key = x509.load_pem_x509_certificate(credential.chain.encode()).public_key()
    numbers = (int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
    key.verify(utils.encode_dss_signature(*numbers), b"data", ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize(
    ("private", "name"),
    [
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ec.generate_private_key(ec.SECP521R1()), "ES512"),
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
        (rsa.generate_private_key(65537, 2048), "PS256"),
    ],
)
def test_keys_that_c2pa_knows(private, name, tmp_path):
    algorithm, sign = signing(private, tmp_path)
    signature = sign(b"data")
    assert algorithm == name
    public = private.public_key()
    if name == "PS256":
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        public.verify(signature, b"data", pss, hashes.SHA256())
    elif name == "Ed25519":
        public.verify(signature, b"data")
    else:
        assert len(signature) == {"ES384": 96, "ES512": 132}[name]


def pem(key, password: bytes | None = None) -> bytes:
    how = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


def test_a_chain_is_put_in_order(tmp_path):
    """Whatever the order in the file, and whatever else is in it: readers know one order."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]
    names = [subject(name) for name in ("signer", "office", "root")]
    root = issued(names[2], names[2], keys[2].public_key(), keys[2], authority=True)
    office = issued(names[1], names[2], keys[1].public_key(), keys[2], authority=True)
    leaf = issued(names[0], names[1], keys[0].public_key(), keys[1])
    impostor = issued(names[1], names[2], keys[3].public_key(), keys[3], authority=True)
    (tmp_path / "k.pem").write_bytes(pem(keys[0]))
    chain = [one.public_bytes(serialization.Encoding.PEM).decode() for one in (leaf, office, root)]
    for given in itertools.permutations((leaf, office, root, impostor, office)):
        text = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in given)
        (tmp_path / "c.pem").write_bytes(b"a comment\n" + text)
        found = user_credential(tmp_path / "c.pem", tmp_path / "k.pem")
        assert found.chain == "".join(chain)


def test_what_is_wrong_with_the_users_files_is_said(tmp_path):
    chain, key = make_certificate()
    certificate, secret = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_bytes(chain)
    with pytest.raises(UsageError, match=r"k\.pem cannot be read: it is not there"):
        user_credential(certificate, secret)
    for content, told in (
        (b"nonsense", "no private key in PEM"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "is not the key of"),
        (pem(ec.generate_private_key(ec.SECP256R1()), b"word"), "has a password"),
    ):
        secret.write_bytes(content)
        with pytest.raises(UsageError, match=told):
            user_credential(certificate, secret)
    secret.write_bytes(key)
    assert user_credential(certificate, secret).algorithm == "ES256"
    certificate.write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="no PEM file"):
        read_credential(certificate, secret)
    with pytest.raises(UsageError, match="C2PA knows elliptic curves"):
        signing(ec.generate_private_key(ec.SECP256K1()), secret)
