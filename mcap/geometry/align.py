"""Differentiable alignment of faces to a recogniser's template.

Shapes: B pictures, H x W pixels, S the template's side. Points are (x, y) pixels, the origin at
the top left corner of the top left pixel (its centre is (0.5, 0.5)), as everywhere in mcap.
Everything here works in the precision that it is handed, so that gradients can be checked in
float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from mcap.contracts import IdentityModel


def similarity(points: torch.Tensor, template: torch.Tensor) -> torch.Tensor:
    """Return the similarity transforms that take ``points`` closest to ``template``.

    ``points`` float[..., N, 2], ``template`` float[N, 2] (or float[..., N, 2]) -> float[..., 2, 3]
    matrices M with ``M @ (x, y, 1)`` = the template's place: rotation, uniform scale and shift, no
    mirroring. It is the least-squares solution of Umeyama (IEEE PAMI 13(4), 1991, eq. 40-42); in
    the plane it has a closed form: with a = centred points and b = centred template as complex
    numbers, scale and rotation are sum(conj(a) b) / sum(|a|^2).

    Points that all coincide have no similarity: ValueError.
    """
    points = torch.as_tensor(points)
    template = torch.as_tensor(template).to(points)
    if points.shape[-1] != 2 or template.shape[-2:] != points.shape[-2:]:
        raise ValueError(
            f"points {tuple(points.shape)} and template {tuple(template.shape)} must both end in "
            "the same N x 2"
        )
    centre = points.mean(dim=-2, keepdim=True)
    target = template.mean(dim=-2, keepdim=True)
    a = points - centre
    b = template - target
    spread = (a * a).sum(dim=(-2, -1))
    if not bool((spread > 0).all()):
        raise ValueError("landmarks that all lie in one point cannot be aligned")
    real = (a * b).sum(dim=(-2, -1)) / spread
    imaginary = (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).sum(dim=-1) / spread
    rotation = torch.stack(
        [torch.stack([real, -imaginary], dim=-1), torch.stack([imaginary, real], dim=-1)], dim=-2
    )
    shift = target.squeeze(-2).unsqueeze(-1) - rotation @ centre.squeeze(-2).unsqueeze(-1)
    return torch.cat([rotation, shift], dim=-1)


def invert(matrices: torch.Tensor) -> torch.Tensor:
    """Return the inverse of affine transforms, float[..., 2, 3] -> float[..., 2, 3]."""
    linear = torch.linalg.inv(matrices[..., :2])
    return torch.cat([linear, -linear @ matrices[..., 2:]], dim=-1)


def warp_images(
    images: torch.Tensor,
    matrices: torch.Tensor,
    size: int | tuple[int, int],
    *,
    padding: str = "zeros",
) -> torch.Tensor:
    """Resample pictures bilinearly into a new frame; differentiable in both arguments.

    ``images`` float[B, C, H, W]; ``matrices`` float[B, 2, 3] take a point of the picture to a point
    of the result; ``size`` is the result's side S or its (height, width) -> float[B, C, S, S].
    Outside the picture the result is 0 (``padding="zeros"``, what OpenCV's warpAffine gives),
    the nearest edge pixel ("border") or a mirror image ("reflection").

    Minification is not filtered: a picture much larger than the result should be reduced first,
    which `embed_faces` and `mcap.masking.crops` do.
    """
    height, width = (size, size) if isinstance(size, int) else size
    batch, _, image_height, image_width = images.shape
    if matrices.shape != (batch, 2, 3):
        raise ValueError(f"{batch} pictures need {batch} x 2 x 3 matrices, not {matrices.shape}")
    # grid_sample asks, for each pixel of the result, where in the picture it comes from, in
    # coordinates that run from -1 to 1 over the picture's edges. With align_corners=False those
    # edges are the pixels' outer corners: exactly our origin.
    back = invert(matrices)
    scale = back.new_tensor([[2.0 / image_width], [2.0 / image_height]])
    offset = back.new_tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    # affine_grid hands over coordinates in [-1, 1] of the result: x = (u + 1) * width / 2.
    half = back.new_tensor(
        [[width / 2, 0.0, width / 2], [0.0, height / 2, height / 2], [0.0, 0.0, 1.0]]
    )
    theta = (back * scale - offset) @ half
    # The few numbers above may be doubles on the CPU (Apple's MPS has none); half precision is
    # too coarse for coordinates, so half-precision pictures are sampled in float32.
    precision = images.dtype if images.dtype == torch.float64 else torch.float32
    theta = theta.to(images.device, precision)
    grid = F.affine_grid(theta, [batch, 1, height, width], align_corners=False)
    sampled = F.grid_sample(
        images.to(precision), grid, mode="bilinear", padding_mode=padding, align_corners=False
    )
    return sampled.to(images.dtype)


def align_faces(
    images: torch.Tensor,
    landmarks: torch.Tensor,
    template: torch.Tensor,
    size: int,
    *,
    padding: str = "zeros",
) -> torch.Tensor:
    """Faces in a recogniser's frame: float[B, 3, H, W], float[B, 5, 2] -> float[B, 3, size, size].

    Where a face is more than twice as large as the template, the pictures are halved by area
    averaging first as often as needed, so that fine detail does not alias into the small crop;
    differentiable in ``images``. ``padding`` as in `warp_images`.
    """
    # Double precision for a handful of points: the squares of a large picture's coordinates are
    # beyond what float32 holds to a hundredth of a pixel. On the CPU, because MPS has no doubles.
    matrices = similarity(landmarks.to("cpu", torch.float64), template.to("cpu", torch.float64))
    # The transform's uniform scale; the smallest reduction of the batch is safe for all of it.
    zoom = torch.linalg.vector_norm(matrices[:, :, 0], dim=-1).max().item()
    while zoom <= 0.5 and min(images.shape[-2:]) >= 2:
        images = F.avg_pool2d(images, 2)  # drops an odd last row: the origin stays where it is
        zoom *= 2.0
        matrices = torch.cat([matrices[..., :2] * 2.0, matrices[..., 2:]], dim=-1)
    return warp_images(images, matrices, size, padding=padding)


def embed_faces(
    model: IdentityModel, images: torch.Tensor, landmarks: torch.Tensor
) -> torch.Tensor:
    """B and R of the method: pictures and their landmarks -> identity embeddings.

    ``images`` float[B, 3, H, W] in [0, 1] RGB (values beyond are not clamped: a decoded estimate
    may leave the range and must keep its gradient); ``landmarks`` float[B, 5, 2] pixels of those
    pictures. Returns float[B, D] of unit length, differentiable in ``images``.
    """
    template = torch.as_tensor(model.template)
    faces = align_faces(images, torch.as_tensor(landmarks), template, model.input_size)
    return model.embed(faces)
