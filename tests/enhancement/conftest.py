"""Pictures for the tests of enhancing."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.support.restoring import noise


@pytest.fixture
def photo(tmp_path):
    """``photo("a.png", image)`` -> the path of an input; noise of `SIZE` without an image."""

    def write(name="a.png", image=None, **options):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise(90, 120) if image is None else image).save(path, **options)
        return path

    return write
