"""Identity networks as torch modules: ONNX Runtime's numbers, and gradients that are true.

Every identity network that is registered as differentiable is tested here: SFace with its real
weights where they can be had, ArcFace as a small random graph of insightface's own shape.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from mcap.contracts import IdentityInfo
from mcap.geometry.align import embed_faces
from mcap.losses.identity import identity as identity_loss
from mcap.registry import Registry
from tests.support import onnx_graphs


def sface(weights, folder):
    from mcap_plugins.opencv.sface import SFace

    return SFace(weights("sface")), weights("sface")


def arcface(weights, folder, **shape):
    from mcap_plugins.shared.onnx_identity import arcface

    path = onnx_graphs.arcface(folder / "w600k_r50.onnx", **shape)
    return arcface(path, "insightface", IdentityInfo()), path


NETWORKS = {
    "sface": sface,
    "insightface": arcface,
    "insightface from MXNet": partial(arcface, normalises=True),
}


@pytest.fixture(params=NETWORKS)
def network(request, weights, tmp_path):
    """The network in mcap, its ONNX file, and what mcap hands the file for faces in [0, 1]."""
    made, path = NETWORKS[request.param](weights, tmp_path)
    scaled = (lambda x: x * 2 - 1) if request.param == "insightface" else (lambda x: x * 255)
    return made, path, scaled


def test_every_differentiable_network_is_tested_here():
    entries = Registry().entries["identity"].values()
    differentiable = {entry.name for entry in entries if entry.info.differentiable}
    assert differentiable == {name.split()[0] for name in NETWORKS}


def test_agrees_with_onnx_runtime(network):
    onnxruntime = pytest.importorskip("onnxruntime")
    identity, path, scaled = network
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    faces = np.random.default_rng(0).random((3, 3, 112, 112), dtype=np.float32)
    name = session.get_inputs()[0].name
    # One by one: SFace's file takes no batches.
    theirs = np.concatenate([session.run(None, {name: scaled(face[None])})[0] for face in faces])
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    with torch.no_grad():
        mine = identity.embed(torch.from_numpy(faces)).numpy()
    assert mine.shape == theirs.shape and mine.dtype == np.float32
    assert np.abs(mine - theirs).max() < 1e-4
    assert abs(theirs[0] @ theirs[1]) < 0.999  # the file does look at its input


def picture(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth picture, float64[1, 3, side, side], and five landmarks in it, float64[1, 5, 2]."""
    rng = np.random.default_rng(1)
    coarse = torch.from_numpy(rng.uniform(0.1, 0.9, (1, 3, 12, 12)))
    image = torch.nn.functional.interpolate(coarse, side, mode="bicubic", align_corners=False)
    points = np.array([[34, 40], [62, 36], [50, 55], [40, 74], [66, 71]]) * side / 100
    return image, torch.from_numpy(points + rng.normal(0, 0.5, (5, 2)))[None]


# 130: the face is enlarged to the template. 480: halved once by area averaging before the warp.
@pytest.mark.parametrize("side", [130, 480])
def test_finite_differences_agree_with_autograd_through_the_warp(network, side):
    identity = network[0].to(torch.float64)
    image, landmarks = picture(side)
    with torch.no_grad():
        target = embed_faces(identity, image.flip(-1), landmarks)

    def loss(pixels: torch.Tensor) -> torch.Tensor:
        return identity_loss(embed_faces(identity, pixels, landmarks), target)

    pixels = image.clone().requires_grad_()
    loss(pixels).backward()
    gradient = pixels.grad
    assert gradient.dtype == torch.float64

    def difference(direction: torch.Tensor, step: float) -> float:
        with torch.no_grad():
            return float(loss(image + step * direction) - loss(image - step * direction)) / step / 2

    # All pixels at once cross kinks of the network's PReLUs unless the step is tiny, which costs
    # digits: measured for SFace, the two differ by 2e-3 at 1e-7 and by 2e-7 at 1e-8.
    generator = torch.Generator().manual_seed(2)
    directions = [(torch.randn(image.shape, generator=generator, dtype=torch.float64), 1e-8)]
    # Single pixels, the strongest and a middling one: they meet no kink at 1e-6 (1e-8 to 2e-7).
    order = gradient.abs().flatten().argsort(descending=True)
    for index in (order[0], order[1000]):
        one = torch.zeros_like(image).flatten()
        one[index] = 1.0
        directions.append((one.view_as(image), 1e-6))
    for direction, step in directions:
        expected = float((gradient * direction).sum())
        assert abs(expected) > 1e-4
        assert difference(direction, step) == pytest.approx(expected, rel=1e-5)
