"""Files that kohya's sd-scripts and OneTrainer take for photo, mask and caption.

Neither was run: the checks are what their loaders do, written from their documentation.
"""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from mcap.masking.crops import TrainingCrop
from mcap.masking.training_set import TrainingSet, trainer_of

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (64, 48, 3), dtype=np.uint8)
MASK = np.zeros((64, 48), np.float32)
MASK[10:40, 8:40] = 1.0
MASK[9, 8:40] = 0.5
CROP = TrainingCrop("me", IMAGE, MASK, None, None, "0" * 64)


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_kohya_reads_photo_mask_and_caption():
    files = TrainingSet(trainer="kohya", trigger="ohwx woman", repeats=12).files("me", CROP)
    assert set(files) == {"kohya/12_ohwx woman/me.png", "kohya/12_ohwx woman/me.txt"}
    folder = "12_ohwx woman"
    repeats, words = folder.split("_", 1)  # as it splits a folder's name
    assert (int(repeats), words) == (12, "ohwx woman")
    picture = decoded(files["kohya/12_ohwx woman/me.png"])
    assert picture.mode == "RGBA"
    assert np.array_equal(np.asarray(picture.convert("RGB")), IMAGE)  # under alpha 0, too
    alpha = np.asarray(picture)[..., 3]
    assert (alpha[20, 20], alpha[9, 20], alpha[0, 0]) == (255, 128, 0)
    assert files["kohya/12_ohwx woman/me.txt"] == b"a photo of ohwx woman\n"


def test_onetrainer_reads_photo_mask_and_caption():
    files = TrainingSet(trainer="onetrainer").files("me", CROP)
    assert set(files) == {f"onetrainer/me{end}" for end in (".png", "-masklabel.png", ".txt")}
    assert np.array_equal(np.asarray(decoded(files["onetrainer/me.png"])), IMAGE)
    mask = decoded(files["onetrainer/me-masklabel.png"])
    assert (mask.mode, mask.size) == ("L", (48, 64))
    assert np.asarray(mask)[20, 20] == 255 and np.asarray(mask)[0, 0] == 0
    assert files["onetrainer/me.txt"] == b"a photo of ohwx person\n"


def test_a_photo_that_is_called_as_a_mask():
    files = TrainingSet(trainer="onetrainer").files("me-masklabel", CROP)
    photos = [path for path in files if re.search(r"(?<!-masklabel)\.png$", path)]
    assert photos == ["onetrainer/me-masklabel_.png"]


@pytest.mark.parametrize(
    "trigger", ["", " x", "../x", "a/b", "a\\b", ".x", "a\nb", "a:b", "x" * 81]
)
def test_words_that_no_folder_can_be_called(trigger):
    with pytest.raises(ValidationError):
        TrainingSet(trainer="kohya", trigger=trigger)


def test_the_trainer_of_a_path():
    assert trainer_of("kohya/10_x/a.png") == "kohya" and trainer_of("onetrainer/a.txt")
    assert trainer_of("kohya") is None and trainer_of("masks/a.png") is None
