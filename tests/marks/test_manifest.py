"""Manifests: what c2pa-python's own reader says of them, and that they are the same each time."""

from __future__ import annotations

import errno
import io
import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

import mcap
from mcap.errors import UsageError
from mcap.images import provenance
from mcap.images.marking import NO_MARKS, Marks, Statement
from mcap.images.provenance import COMPOSITE_WITH_TRAINED, TRAINED_ALGORITHMIC_MEDIA, Label
from mcap.images.write import write_generated
from mcap.marks.certificate import issued, subject, user_credential
from mcap.marks.manifest import ManifestSigner, described, read_manifest
from tests.support.marking import certificate, sign_file, signer
from tests.support.mutations import FUZZED, MUTATIONS, mutated

c2pa = pytest.importorskip("c2pa", reason="the extra c2pa is not installed")

FORMATS = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
MADE = Statement(TRAINED_ALGORITHMIC_MEDIA)


def picture(path, seed: int = 0, **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def store(path) -> dict:
    """What the library's reader says, with nothing of mcap in between."""
    with path.open("rb") as file, c2pa.Reader(FORMATS[path.suffix[1:]], file) as reader:
        return json.loads(reader.json())


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_librarys_own_reader_validates_it(tmp_path, suffix):
    path = picture(tmp_path / f"a.{suffix}", comment="kept") if suffix == "jpg" else None
    path = path or picture(tmp_path / f"a.{suffix}")
    before = np.asarray(Image.open(path))
    sign_file(signer(tmp_path / "key"), path, MADE)
    assert np.array_equal(np.asarray(Image.open(path)), before)
    found = store(path)
    assert found["validation_state"] == "Valid"
    assert [item["code"] for item in found["validation_status"]] == ["signingCredential.untrusted"]
    own = found["manifests"][found["active_manifest"]]
    (program,) = own["claim_generator_info"]
    assert (program["name"], program["version"]) == ("mcap", mcap.__version__)
    (action,) = own["assertions"][0]["data"]["actions"]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"] == TRAINED_ALGORITHMIC_MEDIA
    assert "thumbnail" not in own and "title" not in own and "when" not in action
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_picture_is_the_same_file(tmp_path, suffix):
    sign = partial(sign_file, signer(tmp_path / "key"))
    parent = picture(tmp_path / "parent.jpg", 1)
    for statement in (MADE, Statement(COMPOSITE_WITH_TRAINED, parent)):
        one, two = (picture(tmp_path / f"{name}.{suffix}") for name in "ab")
        sign(one, statement), sign(two, statement)
        assert one.read_bytes() == two.read_bytes()
    other = picture(tmp_path / f"c.{suffix}", 2)
    sign(other, MADE)
    assert store(other)["active_manifest"] != store(one)["active_manifest"]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("with_signer", [True, False])
def test_on_disk_as_in_memory(tmp_path, monkeypatch, suffix, with_signer):
    """Of a large picture nothing is in memory whole; its file is the same."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    label = Label({}, metadata="label", marks=Marks(signer=signer(tmp_path / "key")))
    label = label if with_signer else replace(label, marks=NO_MARKS)
    kept = []
    for name, limit in (("memory", pixels.nbytes), ("disk", pixels.nbytes - 1)):
        monkeypatch.setattr(provenance, "IN_MEMORY", limit)
        path = tmp_path / name / f"a.{suffix}"
        write_generated(path, pixels, label)
        kept.append(path.read_bytes())
        assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert kept[0] == kept[1]
    assert read_manifest(path).state == ("untrusted" if with_signer else "absent")


@pytest.mark.parametrize("which", ["picture", "signed"])
def test_a_disk_that_fails_is_told_as_such(tmp_path, which):
    """C2PA's library says nothing of why."""

    class Failing(io.BytesIO):
        def readinto(self, buffer):
            raise OSError(errno.EIO, "failed")

        def write(self, data):
            raise OSError(errno.EIO, "failed")

    whole = io.BytesIO(picture(tmp_path / "a.png").read_bytes())
    files = {"picture": whole, "signed": io.BytesIO()}
    if which == "signed":
        files["signed"] = Failing()
    else:
        files["picture"] = Failing(whole.getvalue())
    with pytest.raises(OSError, match="failed"):
        signer(tmp_path / "key").sign(*files.values(), ".png", MADE)


def test_the_picture_before_is_an_ingredient_with_its_manifests(tmp_path):
    """A chain of edits, as long as one segment of a JPEG cannot hold it."""
    sign = partial(sign_file, signer(tmp_path / "key"))
    path = picture(tmp_path / "a.jpg")
    sign(path, MADE)
    for step in range(6):
        before = shutil.copy(path, tmp_path / "before.jpg")
        twins = [picture(tmp_path / name, step) for name in ("a.jpg", "b.jpg")]
        for twin in twins:
            sign(twin, Statement(TRAINED_ALGORITHMIC_MEDIA, tmp_path / "before.jpg"))
        assert twins[0].read_bytes() == twins[1].read_bytes(), before
    found = store(path)
    assert found["validation_state"] == "Valid" and len(found["manifests"]) == 7
    own = found["manifests"][found["active_manifest"]]
    (ingredient,) = own["ingredients"]
    assert ingredient["relationship"] == "parentOf" and ingredient["active_manifest"]
    text = json.dumps(found)
    assert "before.jpg" not in text and str(tmp_path) not in text
    assert path.stat().st_size > 65_536


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "AVIF", "nothing"])
def test_a_parent_of_another_format_is_named_by_its_hash(tmp_path, kind):
    parent = tmp_path / "parent.bin"
    if kind == "nothing":
        parent.write_bytes(b"no picture")
    else:
        file = io.BytesIO()
        Image.new("RGB", (40, 40), "red").save(file, kind)
        parent.write_bytes(file.getvalue())
    path = picture(tmp_path / "a.png")
    sign_file(signer(tmp_path / "key"), path, Statement(COMPOSITE_WITH_TRAINED, parent))
    found = read_manifest(path)
    assert found.state == "untrusted" and found.actions == ("c2pa.opened", "c2pa.edited")
    assert found.source_type == COMPOSITE_WITH_TRAINED


def test_a_picture_before_with_two_stores_is_named_by_its_hash(tmp_path):
    """As who glues the manifest of one file into another makes it; C2PA's library refuses it."""
    sign = signer(tmp_path / "key")
    parent, path = picture(tmp_path / "parent.png"), picture(tmp_path / "a.png", 1)
    sign_file(sign, parent, MADE)
    data = parent.read_bytes()
    start = data.index(b"caBX") - 4
    length = 12 + int.from_bytes(data[start : start + 4])
    parent.write_bytes(data[:start] + data[start : start + length] + data[start:])
    assert read_manifest(parent).state == "broken"
    sign_file(sign, path, Statement(COMPOSITE_WITH_TRAINED, parent))
    found = read_manifest(path)
    assert (found.state, found.manifests) == ("untrusted", 1)
    assert found.actions == ("c2pa.opened", "c2pa.edited")


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_damaged_picture_before_stops_a_signature(tmp_path, suffix):
    sign = signer(tmp_path / "key")
    parent, path = tmp_path / f"parent.{suffix}", tmp_path / "a.png"
    sign_file(sign, picture(parent), MADE)
    whole, plain = parent.read_bytes(), picture(path).read_bytes()
    tried = []

    @settings(FUZZED, max_examples=max(30, MUTATIONS // 10))
    @given(mutated(whole))
    def signed_after(data):
        parent.write_bytes(data)
        path.write_bytes(plain)
        sign_file(sign, path, Statement(COMPOSITE_WITH_TRAINED, parent))
        tried.append(read_manifest(path).state)

    signed_after()
    assert set(tried) == {"untrusted"} and len(tried) >= 30


def test_every_state(tmp_path):
    path = picture(tmp_path / "a.png")
    assert read_manifest(path).state == "absent"
    sign = signer(tmp_path / "key")
    assert sign.declared(path) is None
    sign_file(sign, path, MADE)
    found = read_manifest(path)
    assert found.state == "untrusted" and found.generator == f"mcap {mcap.__version__}"
    assert "local certificate" in found.signer and "nobody vouches" in found.signer
    assert sign.declared(path) == TRAINED_ALGORITHMIC_MEDIA
    assert read_manifest(path, certificate()[0].decode()).state == "trusted"
    data = bytearray(path.read_bytes())
    data[-30] ^= 255  # of the pixels
    path.write_bytes(data)
    broken = read_manifest(path, certificate()[0].decode())
    assert broken.state == "broken" and "assertion.dataHash.mismatch" in broken.problems
    assert sign.declared(path) is None


def test_a_certificate_that_c2pa_does_not_take_is_refused_before_any_work(tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, root = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    names = (subject("me"), subject("somebody"))
    without_use = issued(*names, key.public_key(), root)
    own, secret = tmp_path / "c.pem", tmp_path / "k.pem"
    pem = serialization.Encoding.PEM
    own.write_bytes(without_use.public_bytes(pem))
    how = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    secret.write_bytes(key.private_bytes(pem, *how))
    with pytest.raises(UsageError, match=r"c\.pem: C2PA takes no signature by it"):
        ManifestSigner(user_credential(own, secret)).require_usable(own)
    signer(tmp_path / "key").require_usable(own)


def test_a_damaged_store_is_broken_and_no_defect(tmp_path):
    path = picture(tmp_path / "a.jpg")
    sign_file(signer(tmp_path / "key"), path, MADE)
    data = path.read_bytes()
    start = data.index(b"jumb")
    for place in range(start, start + 400, 13):
        path.write_bytes(data[:place] + b"\xff" + data[place + 1 :])
        assert read_manifest(path).state in ("broken", "absent", "untrusted")
    path.write_bytes(data[: start + 60])
    assert read_manifest(path).state in ("broken", "absent")


def test_a_store_of_strange_form_is_described():
    assert described({}).state == "broken"
    assert described({"validation_state": "Valid", "manifests": {}}).state == "valid"


def test_nothing_is_fetched_for_a_file_that_names_an_address(tmp_path, monkeypatch):
    """XMP's dcterms:provenance may point at a manifest elsewhere."""
    import socket

    path = tmp_path / "a.jpg"
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
        b'syntax-ns#"><rdf:Description rdf:about="" xmlns:dcterms="http://purl.org/dc/terms/" '
        b'dcterms:provenance="http://127.0.0.1:%d/m.c2pa"/></rdf:RDF></x:xmpmeta>'
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        picture(path, xmp=packet % server.getsockname()[1])
        assert read_manifest(path).state in ("absent", "broken")
        child = picture(tmp_path / "b.png")
        sign_file(signer(tmp_path / "key"), child, Statement(COMPOSITE_WITH_TRAINED, path))
        with pytest.raises(TimeoutError):
            server.accept()
