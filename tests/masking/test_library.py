"""mcap.masking as a library: light until it is used, and usable without the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mcap.masking
from mcap.contracts import FaceTools
from mcap.faces.masks import LandmarkMasker
from mcap.masking import MaskSettings, mask_photos
from tests.support.masked_photos import OneFace, TellsStrangers, photos


def test_importing_the_package_loads_nothing_heavy_and_measuring_no_torch():
    code = """
import sys, mcap.masking
assert not {"cv2", "numpy", "torch"} & set(sys.modules)
from mcap.masking import mask_photos
assert not {"torch", "scipy", "rich"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_photos_are_masked_without_the_command_line(tmp_path):
    paths = photos(tmp_path)
    told = []
    tools = FaceTools(OneFace(), TellsStrangers(), LandmarkMasker())
    found = mask_photos(paths, tools, MaskSettings(size=256), on_photo=told.append)
    assert [entry.path for entry in found.accepted] == paths and not found.refused
    assert told == [*paths, *paths]


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="mask_nothing"):
        _ = mcap.masking.mask_nothing
