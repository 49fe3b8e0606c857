"""Every picture that a command writes carries its marks, and ``mcap inspect`` finds them."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcap import cli
from mcap.images.marking import Statement
from mcap.images.provenance import (
    ALGORITHMICALLY_ENHANCED,
    COMPOSITE_WITH_TRAINED,
    TRAINED_ALGORITHMIC_MEDIA,
)
from mcap.images.provenance import (
    found as said_by,
)
from mcap.registry import Entry, registry
from tests.cli.test_generate import tiny_plugins  # noqa: F401  (a fixture, used by name)
from tests.support.marking import Stripe, certificate, marks, sign_file
from tests.support.restoring import SIZE, noise, run, stage
from tests.support.subjects import make_subject

pytest.importorskip("c2pa", reason="the extra c2pa is not installed")


PICTURES = (".png", ".jpg", ".webp")


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return make_subject(tmp_path_factory.mktemp("subject") / "jane.mcap").path


@pytest.fixture
def stripe(monkeypatch):
    """A watermark that the tiny model's pictures of 56 x 70 pixels hold."""
    entry = Entry("watermark", "stripe", Stripe, "test", info=Stripe.info)
    monkeypatch.setitem(registry().entries["watermark"], "stripe", entry)
    monkeypatch.setenv("MCAP_MARKS__WATERMARK", "stripe")


def call(capsys, *args) -> str:
    code = cli.run([str(arg) for arg in args])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def inspected(capsys, *paths) -> list[dict]:
    return json.loads(call(capsys, "--json", "inspect", *paths))["pictures"]


def require_marked(found: dict, kind: str) -> None:
    assert found["machine_made"] and found["digital_source_type"] == kind, found["file"]
    assert found["c2pa"]["state"] == "untrusted" and found["c2pa"]["source_type"] == kind
    assert found["watermarks"]["stripe"]["found"], found["file"]


@pytest.mark.parametrize("metadata", ["all", "none"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_generated_and_edited_pictures(subject, stripe, capsys, tmp_path, suffix, metadata):
    how = ["--format", suffix, "--metadata", metadata, "--count", 1]
    call(capsys, "generate", subject, *how, "--out", "drawn")
    found = inspected(
        capsys,
        *(path for path in (tmp_path / "drawn").iterdir() if path.suffix in PICTURES),
    )
    assert {Path(item["file"]).name for item in found} == {
        f"test-000000.{suffix}",
        "contact-sheet.jpg",
    }
    for item in found:
        require_marked(item, TRAINED_ALGORITHMIC_MEDIA)
        assert item["c2pa"]["actions"] == ["c2pa.created"]
        if metadata == "none":
            assert item["record"] is None and item["parameters"] is None
    if metadata == "none":
        return
    (drawn,) = tmp_path.joinpath("drawn").glob(f"test-000000.{suffix}")
    changes = ["--weigh", "person=1.5", "--subject", subject, "--format", suffix]
    call(capsys, "edit", drawn, *changes, "--out", "edited")
    edited = [tmp_path / "edited" / f"test-000000-edit.{suffix}"]
    (own, sheet) = inspected(capsys, *edited, tmp_path / "edited" / "contact-sheet.jpg")
    for item in (own, sheet):
        require_marked(item, TRAINED_ALGORITHMIC_MEDIA)
    assert own["c2pa"]["actions"] == ["c2pa.opened", "c2pa.edited"]
    assert own["c2pa"]["manifests"] == 2  # the picture before, with its own


def test_a_repeated_run_ends_with_the_same_bytes(subject, stripe, capsys, tmp_path):
    for out in ("one", "two"):
        call(capsys, "generate", subject, "--count", 1, "--out", out)
    for name in ("test-000000.png", "contact-sheet.jpg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_users_certificate_and_trust(subject, capsys, tmp_path, monkeypatch):
    chain, key = certificate()
    (tmp_path / "c.pem").write_bytes(chain)
    (tmp_path / "k.pem").write_bytes(key)
    settings = f'[marks]\ncertificate = "{tmp_path}/c.pem"\nkey = "{tmp_path}/k.pem"\n'
    (tmp_path / "mcap.toml").write_text(settings + f'trust = "{tmp_path}/c.pem"\n')
    call(capsys, "generate", subject, "--count", 1)
    out = call(capsys, "inspect", "portraits/test-000000.png")
    assert "C2PA manifest: trusted" in out and "made with: mcap" in out
    assert not (Path(os.environ["MCAP_CONFIG_DIR"]) / "marks").exists()
    monkeypatch.setenv("MCAP_MARKS__TRUST", str(tmp_path / "k.pem"))
    assert cli.run(["inspect", "portraits/test-000000.png"]) == 2
    assert "holds no certificate" in capsys.readouterr().err


def test_without_c2pa_a_certificate_is_asked_for_in_vain(subject, capsys, monkeypatch):
    monkeypatch.setattr("mcap.cli.marks.find_spec", lambda _: None)
    call(capsys, "generate", subject, "--count", 1)
    assert inspected(capsys, "portraits/test-000000.png")[0]["c2pa"]["state"] == "absent"
    monkeypatch.setenv("MCAP_MARKS__CERTIFICATE", "c.pem")
    monkeypatch.setenv("MCAP_MARKS__KEY", "k.pem")
    assert cli.run(["generate", str(subject), "--count", "2"]) == 4
    assert "pip install 'mcap[c2pa]'" in " ".join(capsys.readouterr().err.split())


def test_marks_that_are_not_wanted_and_that_nobody_has(subject, capsys, monkeypatch):
    monkeypatch.setenv("MCAP_MARKS__C2PA", "false")
    monkeypatch.setenv("MCAP_MARKS__WATERMARK", "none")
    call(capsys, "generate", subject, "--count", 1, "--metadata", "none")
    (found,) = inspected(capsys, "portraits/test-000000.png")
    assert found["c2pa"]["state"] == "absent"
    assert found["digital_source_type"] == TRAINED_ALGORITHMIC_MEDIA
    monkeypatch.setenv("MCAP_MARKS__WATERMARK", "strip")
    assert cli.run(["generate", str(subject), "--out", "other"]) == 4
    assert "No watermark called 'strip'" in " ".join(capsys.readouterr().err.split())


def test_absence_proves_nothing(capsys, tmp_path):
    Image.new("RGB", (80, 80), "grey").save(tmp_path / "a.png")
    out = call(capsys, "inspect", "a.png")
    assert "C2PA manifest: absent" in out and "'spread': not found" in out
    assert "proves nothing" in out
    assert "proves nothing" in json.loads(call(capsys, "--json", "inspect", "a.png"))["notice"]


def picture(path: Path, **options) -> Path:
    smooth = Image.fromarray(noise(9, 12)).resize(SIZE)
    smooth.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_enhanced_pictures_and_what_lies_beside_them(stripe, capsys, tmp_path, suffix):
    how = marks(tmp_path / "key")
    photo = picture(tmp_path / "photo.jpg")
    settings = {"format": suffix, "metadata": "none"}
    run([photo], [stage(scale=2)], tmp_path / "out", settings=settings, marks=how)
    names = [f"photo.{suffix}", "contact-sheet.jpg"]
    names += [f"previews/photo{part}-after.jpg" for part in ("", "-face")]
    for item in inspected(capsys, *(tmp_path / "out" / name for name in names)):
        require_marked(item, COMPOSITE_WITH_TRAINED)
    before = [tmp_path / "out" / f"previews/photo{part}-before.jpg" for part in ("", "-face")]
    for item in inspected(capsys, *before):  # which no machine has changed
        assert not item["machine_made"] and item["c2pa"]["state"] == "absent"


def test_what_the_input_says_of_itself_is_kept(subject, stripe, capsys, tmp_path):
    """Also where a service has taken its XMP away, but not its manifest."""
    call(capsys, "generate", subject, "--count", 1)
    drawn = tmp_path / "portraits" / "test-000000.png"
    how = marks(tmp_path / "key")
    stripped = picture(tmp_path / "stripped.png")
    sign_file(how.signer, stripped, Statement(TRAINED_ALGORITHMIC_MEDIA))
    for path in (drawn, stripped):
        out = tmp_path / f"enhanced-{path.stem}"
        run([path], [stage(scale=2)], out, marks=how)
        (found,) = inspected(capsys, out / path.name)
        require_marked(found, TRAINED_ALGORITHMIC_MEDIA)
        assert found["c2pa"]["manifests"] == 2
        assert found["c2pa"]["actions"] == ["c2pa.opened", "c2pa.edited"]


def test_where_only_the_watermark_is_left_it_counts(stripe, capsys, tmp_path):
    """Converted, cut by mcap with no network: still no photograph."""
    photo = picture(tmp_path / "photo.jpg")
    with Image.open(photo) as image:
        pixels = np.array(image.convert("RGB"))
    Stripe().embed(pixels)
    for number, deep in enumerate((pixels, pixels[..., 1])):
        Image.fromarray(deep).save(tmp_path / f"{number}.png")
        how = marks(tmp_path / "key")
        run([tmp_path / f"{number}.png"], [], tmp_path / "out", marks=how)
        (found,) = inspected(capsys, tmp_path / "out" / f"{number}.png")
        require_marked(found, COMPOSITE_WITH_TRAINED)


def test_a_photograph_that_no_network_touched_is_no_machines(stripe, capsys, tmp_path):
    photo = picture(tmp_path / "photo.jpg")
    how = marks(tmp_path / "key")
    run([photo], [], tmp_path / "out", settings={"scale": 2.0}, marks=how)
    (found,) = inspected(capsys, tmp_path / "out" / "photo.png")
    assert found["digital_source_type"] == ALGORITHMICALLY_ENHANCED
    assert not found["watermarks"]["stripe"]["found"] and found["c2pa"]["state"] == "untrusted"


def test_nothing_of_a_name_or_a_path_is_in_a_manifest(stripe, tmp_path):
    how = marks(tmp_path / "key")
    place = tmp_path / "secret-folder"
    place.mkdir()
    photo = picture(place / "jane-doe.jpg")
    run([photo], [stage()], tmp_path / "out", settings={"metadata": "none"}, marks=how)
    for path in (tmp_path / "out" / "jane-doe.png", tmp_path / "out" / "previews"):
        for file in [path] if path.is_file() else path.iterdir():
            data = file.read_bytes()
            assert b"jane-doe" not in data and b"secret-folder" not in data
            assert str(tmp_path).encode() not in data


def test_thumbnails_in_a_report_carry_the_mark(subject, capsys, tmp_path):
    call(capsys, "generate", subject, "--count", 1)
    photo = picture(tmp_path / "photo.jpg")
    call(capsys, "report", "portraits", "--photos", photo, "--out", "me.html")
    page = (tmp_path / "me.html").read_text("utf-8")
    kinds = []
    for text in re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page):
        with Image.open(io.BytesIO(base64.b64decode(text))) as thumbnail:
            kinds.append(said_by(Path("thumbnail"), thumbnail).digital_source_type)
    assert kinds.count(TRAINED_ALGORITHMIC_MEDIA) == 1 and kinds.count(None) == 1


def test_a_certificate_that_cannot_be_kept_is_told(subject, capsys, tmp_path, monkeypatch):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "marks").write_text("a file in its place")
    monkeypatch.setenv("MCAP_CONFIG_DIR", str(tmp_path / "config"))
    code = cli.run(["generate", str(subject), "--count", "1"])
    err = " ".join(capsys.readouterr().err.split())
    assert code == 0 and "Pictures are not signed (C2PA)" in err


def test_a_clock_that_is_years_wrong_costs_the_signature_alone(
    subject, capsys, tmp_path, monkeypatch
):
    """The local certificate is not valid then; pictures that were drawn are written."""
    from mcap.marks import certificate

    monkeypatch.setenv("MCAP_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setattr(certificate, "YEARS", 0)
    assert cli.run(["generate", str(subject), "--count", "1"]) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "Pictures are not signed (C2PA)" in err and "valid today" in err
    (found,) = inspected(capsys, "portraits/test-000000.png")
    assert found["c2pa"]["state"] == "absent" and found["generated"]
