"""The differentiable alignment: exact on synthetic transforms, gradients checked in float64."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcap.geometry.align import align_faces, embed_faces, invert, similarity, warp_images
from mcap.geometry.similarity_transform import Similarity, cut_upright

TEMPLATE = torch.tensor(
    [[38.8, 52.2], [74.0, 52.0], [56.5, 72.2], [42.0, 92.9], [71.2, 92.7]], dtype=torch.float64
)


def matrix(angle: float, scale: float, x: float, y: float) -> torch.Tensor:
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    return torch.tensor([[c, -s, x], [s, c, y]], dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(
    st.floats(-math.pi, math.pi), st.floats(0.05, 20), st.floats(-3000, 3000), st.floats(-99, 99)
)
def test_similarity_finds_the_transform_that_was_applied(angle, scale, x, y):
    true = matrix(angle, scale, x, y)
    points = TEMPLATE @ true[:, :2].T + true[:, 2]
    assert torch.allclose(similarity(TEMPLATE, points), true, atol=1e-8 * max(1, abs(x)), rtol=1e-9)
    assert torch.allclose(similarity(points[None], TEMPLATE)[0], invert(true), rtol=1e-7, atol=1e-6)


def test_similarity_is_the_least_squares_solution_and_never_mirrors():
    rng = np.random.default_rng(0)
    points = TEMPLATE + torch.from_numpy(rng.normal(0, 3, (5, 2)))
    found = similarity(points, TEMPLATE)

    def error(m: torch.Tensor) -> float:
        return float(((points @ m[:, :2].T + m[:, 2] - TEMPLATE) ** 2).sum())

    for _ in range(200):
        near = matrix(*(rng.normal(0, 1e-3, 4)))
        moved = torch.cat([near[:, :2] + found[:, :2], near[:, 2:] + found[:, 2:]], dim=1)
        moved[0, 0] = moved[1, 1]
        moved[0, 1] = -moved[1, 0]  # still a similarity
        assert error(moved) >= error(found)
    mirrored = TEMPLATE * torch.tensor([-1.0, 1.0])
    assert torch.det(similarity(mirrored, TEMPLATE)[:, :2]) > 0


def test_points_in_one_place_are_refused():
    with pytest.raises(ValueError, match="one point"):
        similarity(torch.ones(5, 2), TEMPLATE)


def test_warp_agrees_with_opencv():
    rng = np.random.default_rng(1)
    image = cv2.GaussianBlur(rng.random((60, 80, 3), dtype=np.float32), (0, 0), 2)
    m = matrix(0.3, 1.4, -10.0, 5.0)
    mine = warp_images(torch.from_numpy(image).permute(2, 0, 1)[None], m[None], (50, 70))
    centred = m.numpy().copy()  # OpenCV counts from the centre of the first pixel
    centred[:, 2] += centred[:, :2] @ (0.5, 0.5) - 0.5
    theirs = cv2.warpAffine(image, centred, (70, 50), flags=cv2.INTER_LINEAR)
    difference = np.abs(mine[0].permute(1, 2, 0).numpy() - theirs)
    assert difference.max() < 0.01  # OpenCV rounds coordinates to 1/32 of a pixel


def test_identity_warp_changes_nothing():
    image = torch.rand(2, 3, 17, 23, generator=torch.Generator().manual_seed(0))
    same = warp_images(image, matrix(0, 1, 0, 0).expand(2, 2, 3), (17, 23))
    assert torch.allclose(same, image, atol=1e-5)


def test_crop_then_paste_is_the_identity_inside():
    image = torch.rand(1, 3, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    image = torch.nn.functional.interpolate(image, (96, 128), mode="bicubic", align_corners=False)
    m = matrix(0.4, 1.5, 30.0, -40.0)[None]
    crop = warp_images(image, m, 140)
    back = warp_images(crop, invert(m), (96, 128))
    inside = warp_images(warp_images(torch.ones_like(image), m, 140), invert(m), (96, 128)) > 0.999
    assert inside.float().mean() > 0.2
    assert (back - image)[inside].abs().max() < 0.02


def test_gradients_of_warp_and_similarity_in_double_precision():
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(1, 1, 7, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    points = (torch.rand(1, 5, 2, dtype=torch.float64, generator=generator) * 5).requires_grad_()
    target = torch.rand(5, 2, dtype=torch.float64, generator=generator) * 4
    assert torch.autograd.gradcheck(lambda p: similarity(p, target), points)
    # eps below the distance to the next kink of the bilinear interpolation
    assert torch.autograd.gradcheck(
        lambda i, p: warp_images(i, similarity(p, target), 4), (image, points), eps=1e-7, atol=1e-4
    )


def test_large_faces_are_reduced_without_aliasing():
    # A checkerboard of single pixels is grey at a quarter of its size, wherever it is sampled.
    board = torch.from_numpy(np.indices((448, 448)).sum(0) % 2).float()[None, None]
    faces = align_faces(board, TEMPLATE[None] * 4, TEMPLATE, 112)
    assert (faces - 0.5).abs().max() < 1e-4


def test_align_faces_puts_landmarks_on_the_template():
    # One bright spot a landmark: after alignment it lies where the template says.
    true = matrix(0.5, 1.3, 60.0, 20.0)
    points = TEMPLATE @ true[:, :2].T + true[:, 2]
    grid = (
        torch.stack(torch.meshgrid(torch.arange(200), torch.arange(200), indexing="xy"), -1) + 0.5
    )
    for index in range(5):
        spot = torch.exp(-((grid - points[index]) ** 2).sum(-1) / 8)[None, None].float()
        face = align_faces(spot, points[None].float(), TEMPLATE, 112)[0, 0]
        centres = torch.arange(112) + 0.5
        found = torch.stack([(face.sum(0) * centres).sum(), (face.sum(1) * centres).sum()])
        assert torch.allclose(found / face.sum(), TEMPLATE[index].float(), atol=0.05)


@pytest.mark.parametrize(("scale", "places"), [(0.4, 1), (1.7, 0), (4.3, 3)])
def test_what_measures_sees_what_training_sees(scale, places):
    # The two ways to a face in a recogniser's frame: OpenCV for measuring, torch for training.
    rng = np.random.default_rng(places)
    image = cv2.GaussianBlur(rng.uniform(0, 255, (560, 600, 3)), (0, 0), 4.0 * scale)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    true = matrix(0.3, scale, 90.0, 40.0)
    points = (TEMPLATE @ true[:, :2].T + true[:, 2]).numpy()
    found = Similarity.estimate(points, TEMPLATE.numpy())
    assert np.allclose(found.matrix, similarity(torch.from_numpy(points), TEMPLATE).numpy())
    picture = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    seen = align_faces(picture, torch.from_numpy(points)[None], TEMPLATE, 112)
    cut = cut_upright(image, points, TEMPLATE.numpy(), 112)
    # The halved pixels may begin at another place, so that a reduced face differs a little.
    assert np.abs(cut - seen[0].permute(1, 2, 0).numpy()).max() < (0.6 if scale < 2 else 3.0)
    with pytest.raises(ValueError, match="one point"):
        Similarity.estimate(np.ones((5, 2)), TEMPLATE.numpy())


class MeanColour:
    name, input_size, template = "mean", 112, TEMPLATE.numpy().astype(np.float32)

    def embed(self, faces: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(faces.mean(dim=(2, 3)), dim=1)

    def to(self, device):
        return self


def test_embed_faces_carries_gradients_to_the_pictures():
    images = torch.rand(2, 3, 130, 130, generator=torch.Generator().manual_seed(3))
    images.requires_grad_()
    landmarks = TEMPLATE.float().expand(2, 5, 2)
    embeddings = embed_faces(MeanColour(), images, landmarks)
    assert embeddings.shape == (2, 3)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(2))
    embeddings[:, 0].sum().backward()
    assert images.grad.isfinite().all() and images.grad.abs().sum() > 0


def test_half_precision_pictures_are_sampled_at_full_precision():
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    m = matrix(0.2, 1.0, 3.3, 4.4)[None]
    exact = warp_images(image, m, 64)
    half = warp_images(image.to(torch.bfloat16), m, 64)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < 0.01
