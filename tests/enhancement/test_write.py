"""Files of a finished picture: depth, colours, previews, where it comes from."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from mcap.enhancement import (
    FinishOptions,
)
from mcap.images import provenance, xmp
from mcap.images.picture import read_picture
from tests.support.restoring import (
    noise,
    run,
    stage,
)


def test_depth_and_alpha_go_through(photo, tmp_path):
    deep = noise(90, 120, deep=True)
    alpha = noise(90, 120, deep=True, seed=1)[..., :1]
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), np.dstack([deep[..., ::-1], alpha]))
    done = run([path], [stage(scale=2), stage(kind="face")], tmp_path / "out").pictures[0]
    result = read_picture(done.path)
    assert result.pixels.dtype == np.uint16
    assert np.array_equal(result.pixels, deep.repeat(2, 0).repeat(2, 1))
    assert result.alpha.shape == (180, 240)
    again = run([path], [stage(kind="face")], tmp_path / "same").pictures[0]
    assert np.array_equal(read_picture(again.path).alpha, alpha[..., 0])


def test_previews_are_in_srgb_before_and_after(photo, tmp_path):
    """The picture's own profile exchanges red and blue; a style profile takes it away."""
    from mcap.framing.settings import FinishSettings
    from mcap.style.profile import find_profile

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")
    path = photo(image=np.full((90, 120, 3), (200, 60, 20), np.uint8), icc_profile=swapped)
    framing = FinishOptions(find_profile("business"), FinishSettings())
    for options in ({}, {"finish": framing}):
        done = run([path], [stage()], tmp_path / f"out-{len(options)}", **options).pictures[0]
        for preview in (done.previews.before, done.previews.face_before):
            with Image.open(preview) as shown:
                middle = np.asarray(shown)[shown.height // 2, shown.width // 2]
            assert np.abs(middle.astype(int) - (20, 60, 200)).max() <= 6


def test_grey_stays_grey(photo, tmp_path):
    done = run([photo(image=noise(90, 120)[..., 0])], [stage(scale=2)], tmp_path).pictures[0]
    with Image.open(done.path) as written:
        assert written.mode == "L"


@pytest.mark.parametrize(
    ("stages", "generated", "mark"),
    [
        ([], False, provenance.ALGORITHMICALLY_ENHANCED),
        ([stage()], False, provenance.COMPOSITE_WITH_TRAINED),
        ([stage(kind="face")], False, provenance.COMPOSITE_WITH_TRAINED),
        ([stage(), stage(kind="face")], True, provenance.TRAINED_ALGORITHMIC_MEDIA),
    ],
)
def test_the_mark_says_what_was_done(photo, tmp_path, stages, generated, mark):
    options = {}
    if generated:
        from PIL.PngImagePlugin import PngInfo

        options["pnginfo"] = PngInfo()
        mark_of = {xmp.DIGITAL_SOURCE_TYPE: provenance.TRAINED_ALGORITHMIC_MEDIA}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.packet(mark_of).decode())
    done = run([photo(**options)], stages, tmp_path / "out").pictures[0]
    assert provenance.read(done.path).digital_source_type == mark
