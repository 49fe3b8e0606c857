"""Restore a face: align, restore, match colours, paste back through a soft mask.

A restorer that says so (``info.masked`` False) has its change of the whole frame pasted, hair and
outline included, but for what is nearer to another face.

Legend: H, W are the picture's pixels; S is the side of the restorer's frame times its scale; a
*region* is the part of the picture that a frame covers. Pictures are in [0, 1] as float32, or in
the whole range of uint8 and uint16. Points are (x, y) pixels from the corner of the first pixel.

What is pasted is not the restored face but what the restorer changed: restored minus aligned,
brought back and added. So what a restorer leaves alone stays exactly as it is, whatever the size of
the frame: a face larger than it keeps its finest detail, an identity restorer changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mcap.faces.pose import pose
from mcap.geometry.resample import mirrored
from mcap.geometry.similarity_transform import Similarity, clip
from mcap.images.colour import to_eight_bits, to_unit_range

if TYPE_CHECKING:
    from mcap.contracts import Face, Float32Array, Masker, Restorer

Box = tuple[int, int, int, int]  # x0, y0, x1, y1


@dataclass(frozen=True)
class FaceFrame:
    """Where a restorer wants a face: ``size`` pixels a side, ``template`` float64[5, 2] in them."""

    size: int
    template: np.ndarray


FFHQ_512 = FaceFrame(
    512,
    np.array(
        [
            [192.98, 239.95],
            [318.90, 240.19],
            [256.63, 314.02],
            [201.26, 371.41],
            [313.09, 371.15],
        ]
    ),
)
"""FFHQ's framing (Karras, Laine and Aila, arXiv 1812.04948) as GFPGAN and CodeFormer were trained
on it: facexlib's mean landmarks of FFHQ at 512 pixels."""

MISFIT = 0.4
"""Five points that lie further than this (root mean square, in eye distances of the template) from
a face's are no face. Measured on 10,477 portraits, 27 of them turned by more than 40 degrees: 0.04
in the median, at most 0.29. Of five random points 95 % lie further."""

RIM = 0.06
"""The part of the frame's side over which a change runs out at the frame's edge, where restorers
draw worst."""

STRIP = 128  # rows of the picture that are worked on at once: faces may be of any size

COARSE = 1 / 12
"""Deviation, in sides of the frame, of the blur above which shades and colours are the input's."""

BETWEEN = 0.2
"""Face sizes over which a change runs out towards the middle between two faces."""


@dataclass(frozen=True)
class Candidate:
    """A face that was found, and why it is not restored; ``reason`` is empty where it is."""

    face: Face
    reason: str = ""


def candidates(
    faces: Sequence[Face], *, min_score: float, min_face: float, max_yaw: float
) -> list[Candidate]:
    """Which of a detector's findings are faces, and which of those can be restored.

    Findings below ``min_score`` and those whose landmarks cannot be a face's are left out.
    ``min_face`` is in pixels of height, ``max_yaw`` in degrees.
    """
    found = []
    for face in faces:
        if face.score < min_score or not is_face(face.landmarks):
            continue
        turned = pose(face.landmarks).yaw
        reason = ""
        if face.height < min_face:
            reason = f"too small: {face.height:.0f} pixels high, {min_face:.0f} are needed"
        elif abs(turned) > max_yaw:
            reason = f"turned too far: {abs(turned):.0f} degrees, at most {max_yaw:.0f}"
        found.append(Candidate(face, reason))
    return found


def is_face(landmarks: Float32Array) -> bool:
    """Return whether five landmarks can be a face's: in order, about in the right places."""
    points = np.asarray(landmarks, dtype=np.float64)
    if not np.isfinite(points).all():
        return False
    across = points[1] - points[0]
    down = points[3:].mean(axis=0) - points[:2].mean(axis=0)
    if across[0] * down[1] - across[1] * down[0] <= 0:  # a face seen in a mirror from behind
        return False
    template = FFHQ_512.template
    placed = Similarity.estimate(points, template).apply(points)
    misfit = np.sqrt(((placed - template) ** 2).sum(axis=1).mean())
    return float(misfit) <= MISFIT * float(np.hypot(*(template[1] - template[0])))


def frame_of(restorer: Restorer) -> FaceFrame:
    """Return the restorer's own frame, or FFHQ's at its size."""
    size = restorer.info.input_size
    template: Any = restorer.info.template
    if template is None:
        template = FFHQ_512.template * (size / FFHQ_512.size)
    return FaceFrame(size, np.asarray(template, dtype=np.float64))


@dataclass(frozen=True)
class Change:
    """The difference that a restorer makes to a part of a picture, worked out by rows."""

    box: Box
    """x0, y0, x1, y1 in pixels of the picture."""
    rows: Callable[[int, int], Float32Array]
    """``rows(start, stop)``: float32[stop - start, w, 3] of these rows of the box, to be added to
    the picture in [0, 1]; 0 where nothing changes."""

    def region(self, picture: np.ndarray, weight: float = 1.0) -> np.ndarray:
        """Return that part of the picture [H, W, 3] with ``weight`` times the change in it."""
        x0, y0, x1, y1 = self.box
        part = picture[y0:y1, x0:x1]
        changed = np.empty(part.shape, part.dtype)
        self.add(part, changed, weight)
        return changed

    def apply(self, picture: np.ndarray, weight: float = 1.0) -> None:
        """Add ``weight`` times the change to the picture [H, W, 3], in place."""
        x0, y0, x1, y1 = self.box
        part = picture[y0:y1, x0:x1]
        self.add(part, part, weight)

    def add(self, part: np.ndarray, into: np.ndarray, weight: float) -> None:
        """Write the part of a picture under the box, and so much of the change, into an array.

        Both are [h, w, 3] of one type, uint8, uint16 or float32 in [0, 1]; they may be the same.
        """
        white = np.float32(1.0 if part.dtype == np.float32 else np.iinfo(part.dtype).max)
        for start in range(0, len(part), STRIP):
            stop = min(start + STRIP, len(part))
            mixed = part[start:stop].astype(np.float32)
            mixed += (np.float32(weight) * white) * self.rows(start, stop)
            if part.dtype != np.float32:
                mixed = np.rint(mixed)
            into[start:stop] = np.clip(mixed, 0, white).astype(part.dtype)


class NonFiniteOutputError(ValueError):
    """A restorer gave NaN or infinity, as half precision may where it cannot hold a value."""


def restoration(
    restorer: Restorer,
    picture: np.ndarray,
    face: Face,
    masker: Masker,
    *,
    others: Sequence[Face] = (),
    device: Any = "cpu",
    colour_match: bool = True,
) -> Change:
    """Return what ``restorer`` changes of one face of a picture [H, W, 3].

    The restorer is where it is to work already (``device``). Beyond the picture's edges the frame
    is filled with its mirror image. ``masker`` says where the face is; outside its mask, and near
    the frame's edge, nothing changes. With ``restorer.info.masked`` False all of the frame may
    change but what is nearer to one of ``others``, the picture's other faces. Raises
    `NonFiniteOutputError` where the restorer gives NaN or infinity, ValueError for a result of
    another size.
    """
    import torch

    frame = frame_of(restorer)
    scale = restorer.info.scale
    side = frame.size * scale
    to_frame = Similarity.estimate(face.landmarks, frame.template * scale)
    frame_box = to_frame.footprint(side, margin=2)
    box = clip(frame_box, picture.shape[1::-1], least=1)
    x0, y0, x1, y1 = box
    region = picture[y0:y1, x0:x1]
    here = to_frame.shifted((x0, y0))
    whole = mirror_extended(picture, frame_box)
    aligned = warp(whole, to_frame.shifted(frame_box[:2]), side, cv2.BORDER_REPLICATE)
    aligned = np.clip(aligned, 0.0, 1.0)
    seen = aligned
    if scale > 1:
        size = (frame.size, frame.size)
        seen = np.asarray(cv2.resize(aligned, size, interpolation=cv2.INTER_AREA), np.float32)
    tensor = torch.from_numpy(np.ascontiguousarray(seen.transpose(2, 0, 1)))[None].to(device)
    with torch.inference_mode():
        restored = restorer.restore(tensor)[0].float().clamp(0.0, 1.0).cpu().numpy()
    if not np.isfinite(restored).all():
        raise NonFiniteOutputError("the restorer gave values that are no numbers for a face")
    if restored.shape != (3, side, side):
        raise ValueError(
            f"the restorer gave {list(restored.shape)} for a face of {frame.size} pixels at "
            f"scale {scale}: [3, {side}, {side}] was expected"
        )
    change = restored.transpose(1, 2, 0) - aligned
    shown = np.ascontiguousarray(to_eight_bits(region))
    mask = np.clip(masker.mask(shown, face.moved(-x0, -y0)), 0.0, 1.0)
    if colour_match:
        in_frame = np.clip(warp(mask, here, side, cv2.BORDER_CONSTANT), 0.0, 1.0)
        coarse = shades(change, in_frame)
        # Outside the face a smear that is taken away is coarse, too: that is no shade.
        change -= coarse if restorer.info.masked else coarse * in_frame[..., None]
    if not restorer.info.masked:
        mask = nearest(face.moved(-x0, -y0), [o.moved(-x0, -y0) for o in others], mask.shape)
    change *= frame_window(side)[..., None]
    change, back = here.inverse().reduced(change)

    def rows(start: int, stop: int) -> Float32Array:
        strip = Similarity.scaling(1.0, 0.0, -start) @ back
        part = strip.warp(change, (x1 - x0, stop - start), interpolation=cv2.INTER_CUBIC)
        return part * mask[start:stop, :, None]

    return Change(box, rows)


def nearest(face: Face, others: Sequence[Face], shape: tuple[int, int]) -> Float32Array:
    """Return float32[H, W]: 1 where a face is nearer than the others, 0 where one of them is.

    Distances are in sizes of each face, from its middle; between is a ramp of `BETWEEN`.
    """
    rows, columns = np.ogrid[: shape[0], : shape[1]]

    def distance(one: Face) -> Float32Array:
        (x0, y0, x1, y1), size = one.box, max(one.width, one.height, 1.0)
        across, down = (columns + 0.5 - (x0 + x1) / 2) / size, (rows + 0.5 - (y0 + y1) / 2) / size
        return np.sqrt(np.float32(across) ** 2 + np.float32(down) ** 2)

    part = np.ones(shape, np.float32)
    own = distance(face) if others else part
    for other in others:
        np.minimum(part, (distance(other) - own) / BETWEEN, out=part)
    return part.clip(0, 1)


def shades(change: Float32Array, mask: Float32Array) -> Float32Array:
    """Return the coarse part of a change float32[S, S, 3]: its mean around each masked place."""
    deviation = COARSE * len(mask)
    weight = cv2.GaussianBlur(mask, (0, 0), deviation)[..., None]
    coarse = cv2.GaussianBlur(change * mask[..., None], (0, 0), deviation)
    return np.asarray(coarse / np.maximum(weight, 1e-3), np.float32)


def mirror_extended(picture: np.ndarray, box: Box) -> np.ndarray:
    """Return the box of a picture [H, W, 3], mirrored where the picture has ended.

    (OpenCV's own mirroring looks for each pixel's place step by step, which takes minutes where no
    more than a strip of the face is in the picture.)
    """
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = box
    if clip(box, (width, height)) == box:
        return picture[y0:y1, x0:x1]
    columns, rows = mirrored(np.arange(x0, x1), width), mirrored(np.arange(y0, y1), height)
    return picture[np.ix_(rows, columns)]


def warp(image: np.ndarray, to_frame: Similarity, side: int, border: int) -> Float32Array:
    """Return what a frame shows of [H, W(, 3)]: float32[side, side(, 3)] in [0, 1].

    Cubic; where it becomes smaller averaged by area first. ``border`` is OpenCV's name for what
    lies outside the picture.
    """
    image, to_frame = to_frame.reduced(image)
    return to_frame.warp(
        to_unit_range(image), (side, side), interpolation=cv2.INTER_CUBIC, border=border
    )


def frame_window(side: int) -> Float32Array:
    """Return float32[side, side], 1 inside, falling smoothly to 0 over `RIM` at the edge."""
    along = (np.arange(side, dtype=np.float32) + 0.5) / side
    near = np.clip(np.minimum(along, 1 - along) / RIM, 0.0, 1.0)
    smooth = near * near * (3 - 2 * near)
    return np.asarray(smooth[:, None] * smooth[None, :], np.float32)
