"""A picture as its style profile asks for it."""

from __future__ import annotations

from PIL import ImageCms

from mcap.enhancement import (
    FinishOptions,
)
from mcap.images.picture import read_picture
from tests.support.restoring import (
    run,
    stage,
)


def test_the_colour_profile_goes_along_and_a_style_profile_wants_srgb(photo, tmp_path):
    from mcap.framing.settings import FinishSettings
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
