"""The finished picture put together: the picture's own pixels, the new background, what is missing.

Only what lies beyond the picture and the person's edge is worked out at the working size and
enlarged; every pixel that the picture has is taken from the picture itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mcap.framing.extend_canvas import extend_background, extend_person
from mcap.framing.matting import Cutout, Layers, foreground_colour
from mcap.geometry.similarity_transform import Similarity, clip

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Float32Array
    from mcap.framing.crop import Box

STRIP = 512  # rows of a large picture that are in memory as floats


def composite(
    image: NDArray[Any], white: float, box: Box, cutout: Cutout | None, colour: str | None
) -> tuple[NDArray[Any], float]:
    """Return the finished picture before it is scaled, and the extrapolated share of its person.

    [height, width, C] of ``box``, of the type and with the channels of ``image`` [H, W, C], whose
    values are 0 to ``white``. ``box`` may reach outside where there is a ``cutout``, whose
    background becomes ``colour`` (None: stays as it is).
    """
    x0, y0, x1, y1 = box
    inner = clip(box, image.shape[1::-1])
    inside = image[inner[1] : inner[3], inner[0] : inner[2]]
    known = (inner[0] - x0, inner[1] - y0, inner[2] - x0, inner[3] - y0)
    whole = inner == box
    if cutout is None or (whole and colour is None):
        return np.ascontiguousarray(inside), 0.0
    canvas, layers, extrapolated = finished_canvas(cutout, box, colour, extend=not whole)
    kind, channels = image.dtype, image.shape[2]
    result = np.empty((y1 - y0, x1 - x0, channels), kind)
    for start in range(0, len(result), STRIP):
        rows = min(STRIP, len(result) - start)
        # Finished pixels of these rows -> pixels of the canvas, which is smaller for large ones.
        to_canvas = Similarity.scaling(cutout.scale, 0.0, start * cutout.scale)

        def enlarged(
            values: NDArray[Any], to_canvas: Similarity = to_canvas, rows: int = rows
        ) -> NDArray[Any]:
            return to_canvas.warp(
                values,
                (x1 - x0, rows),
                interpolation=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                border=cv2.BORDER_REPLICATE,
            )

        strip = enlarged(canvas)
        first, last = max(start, known[1]), min(start + rows, known[3])
        if first < last and colour is not None:
            real = inside[first - known[1] : last - known[1], :, :3].astype(np.float32) / white
            there = (slice(first - start, last - start), slice(known[0], known[2]))
            matte, person, background = (
                enlarged(values)[there]
                for values in (layers.matte, layers.person, layers.background)
            )
            own = foreground_colour(real, matte, Layers(matte, person, background))
            strip[there][..., :3] = over_colour(own, matte, colour)
        strip = strip[..., :channels]
        if kind != np.float32:
            strip = np.rint(np.clip(strip, 0.0, 1.0) * white)
        result[start : start + rows] = strip.astype(kind)
    if colour is None:
        result[known[1] : known[3], known[0] : known[2]] = inside
    return result, extrapolated


def finished_canvas(
    cutout: Cutout, box: Box, colour: str | None, *, extend: bool
) -> tuple[Float32Array, Layers, float]:
    """Return the box at the working size: finished RGBA float32[h, w, 4], layers, and a share.

    ``extend`` draws out the person where the box reaches beyond the picture; the share of them that
    this makes is returned. The background goes on by itself, or becomes ``colour``.
    """
    height, width = cutout.image.shape[:2]
    x0, y0 = round(box[0] * cutout.scale), round(box[1] * cutout.scale)
    x1 = max(x0 + 1, round(box[2] * cutout.scale))
    y1 = max(y0 + 1, round(box[3] * cutout.scale))
    inner = clip((x0, y0, x1, y1), (width, height))
    known = (inner[0] - x0, inner[1] - y0, inner[2] - x0, inner[3] - y0)

    def on_canvas(values: Float32Array) -> Float32Array:
        part = values[inner[1] : inner[3], inner[0] : inner[2]]
        sides = (known[1], y1 - y0 - known[3], known[0], x1 - x0 - known[2])
        return np.asarray(cv2.copyMakeBorder(part, *sides, cv2.BORDER_REPLICATE), np.float32)

    image, seen = on_canvas(cutout.image), on_canvas(cutout.layers.matte)
    layers = Layers(seen, on_canvas(cutout.layers.person), on_canvas(cutout.layers.background))
    own, matte, share = foreground_colour(image, seen, layers), seen, 0.0
    if extend:
        middle = cutout.head.center_x - x0
        own, matte = extend_person(own, matte, known, cutout.head.height, cutout.skin, middle)
        inside = matte[known[1] : known[3], known[0] : known[2]].sum(dtype=np.float64)
        share = 1.0 - float(inside) / max(float(matte.sum(dtype=np.float64)), 1.0)
    if colour is not None:
        finished = over_colour(own, matte, colour)
    else:
        background = extend_background(image, seen, known)
        finished = matte[..., None] * own + (1 - matte[..., None]) * background
    canvas = np.dstack([finished, np.ones_like(matte)]).astype(np.float32)
    return canvas, Layers(matte, layers.person, layers.background), max(share, 0.0)


def over_colour(own: Float32Array, matte: Float32Array, colour: str) -> Float32Array:
    """Lay a person's own colours float32[H, W, 3] on a plain background, "#rrggbb"."""
    plain = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255.0
    share = matte[..., None]
    return np.clip(share * own + (1 - share) * plain, 0.0, 1.0)
