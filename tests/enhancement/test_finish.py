"""A picture as its style profile asks for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image, ImageCms

from mcap.enhancement import Enhancement, EnhanceSettings, FinishOptions, enhance
from mcap.framing.settings import FinishSettings
from mcap.images.picture import read_picture
from mcap.style.id_documents import find_document
from tests.support.drawn_people import KnownMasker, person
from tests.support.restoring import Finds, run, stage, tools


def test_the_colour_profile_goes_along_and_a_style_profile_wants_srgb(photo, tmp_path):
    from mcap.style.profile import find_profile

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = photo(icc_profile=srgb)
    done = run([path], [stage()], tmp_path / "a").pictures[0]
    assert read_picture(done.path).icc == srgb
    framing = FinishOptions(find_profile("business"), FinishSettings())
    done = run([path], [stage()], tmp_path / "b", finish=framing).pictures[0]
    assert read_picture(done.path).icc is None
    assert done.record["profile"] == "business"
    assert done.record["finish"]["framing"] is not None


def document(name, someone, tmp_path, out, faces=None, **settings):
    """Enhance a drawn person, as she is, for a document: the run's last event."""
    path = tmp_path / "in.png"
    Image.fromarray(someone.image).save(path)
    rule = find_document(name)
    looking = replace(
        tools(Finds(someone.image.shape[1::-1], *(faces or [someone.face]))),
        person_masker=KnownMasker(someone.matte, 2),
    )
    finish = FinishOptions(rule.profile(name), FinishSettings(dpi=rule.dpi), document=rule)
    how = Enhancement(
        [], looking, EnhanceSettings(format=rule.format or "png", **settings), finish=finish
    )
    return list(enhance([path], tmp_path / out, how))[-1]


def test_a_document_has_its_pixels_bytes_and_record(tmp_path):
    someone = person(size=(560, 640), middle=(280, 260), head=260.0, hairs=30)
    done = document("in-driving-licence", someone, tmp_path, "a").pictures[0]
    assert done.unmet == [] and Image.open(done.path).size == (420, 540)
    assert 20 * 1024 <= done.path.stat().st_size <= 40_000
    assert (done.record["document"], done.record["profile"]) == ("in-driving-licence", None)
    # A limit of thirty thousand bytes, where as many as fit are used.
    done = document("in-pan-utiitsl", someone, tmp_path, "b", quality=100).pictures[0]
    assert 15_000 < done.path.stat().st_size <= 30_000
    found = read_picture(done.path)
    assert found.record == done.record and found.source_type


def test_a_document_too_small_or_with_two_people_is_unmet(tmp_path):
    someone = person(size=(280, 320), middle=(140, 130), head=130.0)
    done = document("us-visa", someone, tmp_path, "a").pictures[0]
    assert any("Too small for this document" in told for told in done.unmet)
    assert Image.open(done.path).size == (900, 900)  # written all the same
    someone = person(size=(560, 640), middle=(280, 260), head=260.0)
    other = someone.face.moved(250, 200, 0.3)
    done = document("in-pan", someone, tmp_path, "b", [someone.face, other]).pictures[0]
    assert done.unmet[-1] == "2 faces are in it; a document's photo shows one person."


def test_bytes_that_cannot_be_are_refused_and_nothing_is_left(tmp_path):
    rng = np.random.default_rng(0)
    someone = person(size=(560, 640), middle=(280, 260), head=260.0)
    # Noise all over the person: no quality makes 40 kB of it.
    grain = rng.integers(0, 255, someone.image.shape, dtype=np.uint8)
    loud = replace(someone, image=np.where(someone.matte[..., None] > 0.9, grain, someone.image))
    finished = document("in-driving-licence", loud, tmp_path, "a")
    (refused,) = finished.refused
    assert "no JPEG of 40,000 bytes" in refused.reason
    left = {path.name for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert not any(name.startswith(("in", ".mcap")) for name in left)
