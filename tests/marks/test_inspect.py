"""The detector: each mark alone is enough, and none proves nothing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mcap.errors import InputRejectedError
from mcap.images.provenance import TRAINED_ALGORITHMIC_MEDIA, mark_only
from mcap.images.write import write_generated
from mcap.marks.inspect import find_marks
from tests.support.marking import Stripe, marks

WATERMARKS = {"stripe": Stripe()}


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (64, 96, 3), dtype=np.uint8)


@pytest.fixture
def marked(tmp_path):
    pytest.importorskip("c2pa", reason="the extra c2pa is not installed")
    how = marks(tmp_path / "key")
    path = tmp_path / "a.png"
    write_generated(path, how.watermarked(pixels()), mark_only(how))
    return path


def test_all_three(marked):
    found = find_marks(marked, WATERMARKS)
    assert found.machine_made and found.provenance.generated
    assert found.manifest.state == "untrusted"
    assert found.manifest.source_type == TRAINED_ALGORITHMIC_MEDIA
    assert found.watermarks["stripe"].found


def test_the_watermark_is_left_after_a_conversion(marked, tmp_path):
    copy = tmp_path / "copy.jpg"
    Image.open(marked).convert("RGB").save(copy, quality=75)
    found = find_marks(copy, WATERMARKS)
    assert found.provenance.digital_source_type is None and found.manifest.state == "absent"
    assert found.watermarks["stripe"].found and found.machine_made


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "AVIF", "BMP"])
def test_a_picture_without_marks(tmp_path, kind):
    path = tmp_path / f"a.{kind.lower()}"
    Image.fromarray(pixels()).save(path, kind)
    found = find_marks(path, WATERMARKS)
    assert not found.machine_made and not found.watermarks["stripe"].found
    assert found.manifest.state in ("absent", "unknown")
    assert find_marks(path, {}).watermarks == {}


def test_what_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputRejectedError):
        find_marks(tmp_path / "a.png", WATERMARKS)
