"""The embedded super-resolution network on pictures of the repo, and the tools that made it."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
import torch

from mcap.registry import registry
from mcap.weights.locate import local_path
from tests.support import ROOT

PORTRAIT = ROOT / "profiles/refs/passport/01.jpg"


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """float32[512, 512, 3] RGB in [0, 1]; nobody in training."""
    image = cv2.imread(str(PORTRAIT))[..., ::-1]
    side = min(image.shape[:2])
    square = np.ascontiguousarray(image[:side, (image.shape[1] - side) // 2 :][:, :side])
    return cv2.resize(square, (512, 512), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


@pytest.fixture(scope="module")
def tools():
    """Modules of tools/demo_sr, which a source distribution leaves out."""
    folder = ROOT / "tools/demo_sr"
    if not folder.is_dir():
        pytest.skip("tools/demo_sr is not in this copy of the source")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        import degrade
        import measures

        yield degrade, measures
        for name in ("degrade", "measures"):
            sys.modules.pop(name, None)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(((a - b) ** 2).mean()))


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(
        ".jpg", (image * 255).round().astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return cv2.imdecode(data, cv2.IMREAD_COLOR).astype(np.float32) / 255


def test_a_noisy_compressed_portrait_comes_out_nearer_to_the_original_than_by_lanczos(portrait):
    """Measured with the first weights: 1.3 dB; the model card has held-out faces."""
    if local_path("demo-sr") is None:
        pytest.skip("demo-sr's weights are not in this copy")
    small = cv2.resize(portrait, (128, 128), interpolation=cv2.INTER_AREA)
    noise = np.random.default_rng(0).normal(0, 15 / 255, small.shape)
    small = compressed((small + noise).clip(0, 1).astype(np.float32), 60)
    lanczos = cv2.resize(small, (512, 512), interpolation=cv2.INTER_LANCZOS4).clip(0, 1)
    restorer = registry().create("restorer", "demo-sr")
    made = restorer.restore(torch.from_numpy(small).permute(2, 0, 1)[None])
    made = made[0].permute(1, 2, 0).numpy()
    assert psnr(made, portrait) > psnr(lanczos, portrait) + 0.8


def test_degradations_follow_their_seed_and_do_not_move_the_picture(tools):
    degrade, _ = tools
    y, x = np.mgrid[0:192, 0:192].astype(np.float32)
    blob = np.exp(-((x - 110.5) ** 2 + (y - 80.5) ** 2) / (2 * 20**2))
    image = np.repeat(blob[..., None], 3, 2)
    kinds = (
        degrade.clean,
        degrade.photo,
        lambda image, rng: degrade.photo(image, rng, degrade.PUBLISHED),
    )
    for kind in kinds:
        centres = []
        for seed in range(12):
            given = kind(image, np.random.default_rng(seed))
            assert given.shape == (48, 48, 3)
            assert given.min() >= 0 and given.max() <= 1
            assert np.array_equal(given, kind(image, np.random.default_rng(seed)))
            bright = np.where(given.mean(2) > 0.4, given.mean(2), 0)
            rows, columns = np.mgrid[0:48, 0:48]
            centres.append([(bright * v).sum() / bright.sum() for v in (columns, rows)])
        # Pixel centres: (110.5 + 0.5) / 4 - 0.5 and (80.5 + 0.5) / 4 - 0.5.
        assert np.mean(centres, 0) == pytest.approx([27.25, 19.75], abs=0.1)


def test_gradient_deviation_is_0_for_equal_pictures_and_grows_with_blur(tools, portrait):
    _, measures = tools
    soft, softer = (cv2.GaussianBlur(portrait, (0, 0), sigma) for sigma in (1.5, 4))
    assert measures.gmsd(portrait, portrait) == 0
    assert 0 < measures.gmsd(soft, portrait) < measures.gmsd(softer, portrait)
    assert measures.gmsd(soft, portrait) == pytest.approx(measures.gmsd(portrait, soft), rel=1e-4)
