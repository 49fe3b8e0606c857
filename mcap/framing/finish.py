"""What a profile asks of a finished picture: framing, background, exact size and resolution.

    picture -> matte of the person -> where the finished picture lies (`mcap.framing.placement`)
            -> background replaced (`mcap.framing.matting`), what is missing made up (`mcap.framing.extend_canvas`)
            -> exact pixels

Crown to chin is measured as ICAO Doc 9303 and ISO/IEC 19794-5 define it, the crown being the top of
the head without the hair; `mcap.framing.head` estimates it. The hair itself, whose top the
person's matte shows, is kept inside the picture where the profile's ranges leave room for it.

Pixels, (x, y), origin at the top left corner of the top left pixel, as everywhere in mcap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from mcap.contracts import Face
from mcap.faces.masks import LandmarkMasker, iou
from mcap.faces.measure import FaceSettings, pose
from mcap.framing.crop import Box, Head, MeasuredFraming, measure_framing
from mcap.framing.extend_canvas import (
    crown_overhang,
    extend_background,
    extend_person,
    roughness,
    silhouette,
    touches,
)
from mcap.framing.head import crown_to_chin
from mcap.framing.matting import Layers, estimate_foreground, pure
from mcap.framing.placement import Room, outside, place
from mcap.geometry.similarity_transform import Similarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Float32Array, Masker
    from mcap.faces.eyes import MeshFinder
    from mcap.style.profile import StyleProfile

SIDES = ("left", "upper", "right", "lower")

WORKING_HEAD = 800.0
"""The height in pixels of a head at which its matte and colours are worked out; larger pictures
get them enlarged. Hair is softer than that in most photos."""

WORKING_SIDE = 2400

_FACE_ALONE = 0.85
"""A matte that is this much the same as the face's oval (intersection over union) is no person's:
the person masker falls back to the oval where it sees nobody, and hair and body would be lost."""

_PRICES = (6.0, 8.0, 6.0, 4.0)
"""What it costs to make up a person's left, top, right and lower side (`mcap.framing.placement.Room`):
clothes can be drawn out further than hair before one sees it."""

_ASIDE = 0.4
"""Of `FinishSettings.extend_person`, what goes for the other sides than the lower one: of a head or
an arm no more than a rim can be made up."""

UPRIGHT = 30.0
"""Degrees of tilt up to which a head can be framed by its height."""

_ROWS = 512  # rows of a large picture that are in memory as floats


class FinishSettings(BaseModel):
    """The settings' slice ``[finish]``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dpi: int = Field(default=300, ge=50, le=2400)
    """Resolution of a picture whose profile has a ``size_mm``."""
    extend_background: float = Field(default=0.5, ge=0, le=1)
    """Share of the finished picture's height or width, on each side, that may be made up where only
    background is missing."""
    extend_person: float = Field(default=0.25, ge=0, le=0.5)
    """The same where the picture cuts the person off: shoulders below a close-up. Two fifths of it
    on the other sides."""
    plain: float = Field(default=0.05, ge=0)
    """A background whose brightness varies less than this next to the picture's edge is extended
    (`mcap.framing.extend_canvas.roughness`). Of 102 sides of portraits, paper and painted walls have 0.002 to
    0.03, lawns and sunny walls 0.03 to 0.05, leaves and offices, even blurred, 0.06 to 0.19."""


@dataclass(frozen=True)
class FinishedPicture:
    """A picture as its profile asks for it."""

    image: NDArray[Any]
    """[H, W, C] in the type and with the channels of the input."""
    framed: MeasuredFraming | None
    """By the head that was found before; None where no face was."""
    dpi: tuple[float, float] | None
    """Pixels an inch, horizontal and vertical; None where the profile has no ``size_mm``."""
    cut: Box
    """What was taken, in pixels of the input; it reaches outside where something was made up."""
    made_up: tuple[float, float, float, float]
    """Shares beyond the input's left, upper, right and lower side."""
    enlarged: float | None
    """FinishedPicture pixels per pixel of the input along a side; None where nothing was scaled."""
    background: str | None
    """The colour that the background was replaced by."""
    notes: tuple[str, ...]
    """What a person should know, in sentences: what was made up, what could not be met."""
    notice: str
    """The profile's own notice, for whoever uses the picture."""

    @property
    def changed(self) -> bool:
        """Whether anything but the cut and the scale differs from the input."""
        return self.background is not None or any(self.made_up)

    def record(self) -> dict[str, Any]:
        """For results.jsonl and the picture's own metadata."""
        return {
            "framing": asdict(self.framed) if self.framed else None,
            "cut": list(self.cut),
            "made_up": [round(share, 4) for share in self.made_up],
            "enlarged": None if self.enlarged is None else round(self.enlarged, 4),
            "background": self.background,
            "dpi": list(self.dpi) if self.dpi else None,
            "notes": list(self.notes),
        }


def finish(
    image: NDArray[Any],
    faces: Face | Sequence[Face] | None,
    profile: StyleProfile,
    *,
    masker: Masker | None = None,
    mesh: MeshFinder | None = None,
    settings: FinishSettings | None = None,
) -> FinishedPicture:
    """Frame, cut out and size a picture as its profile says.

    ``image`` is RGB or RGBA, uint8, uint16 or float32 in [0, 1], [H, W, 3 or 4]; an alpha channel
    that hides something is taken for the person's matte. ``faces`` are in its pixels; the largest
    that can be relied on is framed. ``masker`` finds the whole person (mcap's ``person``); without
    one the background is neither replaced nor extended beyond a plain edge, and a note says so.
    ``mesh`` finds a face's finer landmarks, which know the chin better than five do
    (`mcap.framing.head`). Raises ValueError for another shape or type.
    """
    settings = settings or FinishSettings()
    white = _white(image)
    face = chosen = _main_face(faces, image.shape[1::-1])
    roll = pose(face.landmarks).roll if face else 0.0
    if abs(roll) > UPRIGHT:
        face = None
        notes = [
            f"The head is tilted by {abs(roll):.0f} degrees: cut about the middle, background left "
            "as it is. Turn the picture upright first."
        ]
    elif face is None:
        notes = ["No face was found: cut about the middle, background left as it is."]
    else:
        notes = []
    head = crown_to_chin(face) if face else None
    size = _print_pixels(profile, settings.dpi)
    aspect = size[0] / size[1] if size else profile.aspect_ratio
    others = [] if faces is None or isinstance(faces, Face) else list(faces)
    if face is not None and len(others) > 1:
        notes.append(f"The largest of {len(others)} faces was framed.")

    if face is not None and mesh is not None and face.mesh is None:
        face = _meshed(image, white, face, mesh)
        head = crown_to_chin(face)
    reduced = _reduction(image.shape[1::-1], head, profile, size)
    if reduced > 1:
        image = _reduce(image, reduced)
        face = face.moved(zoom=1 / reduced) if face else None
        head = crown_to_chin(face) if face else None

    view = None
    if face and head and _needs_view(image.shape[1::-1], aspect, head, profile):
        view = _View.of(image, white, face, head, masker, profile)
    if view is None:
        room, top = Room(), None
    else:
        room, top = view.room(settings), view.top_of_hair()
        notes += view.notes
        if view.shows(other.moved(zoom=1 / reduced) for other in others if other is not chosen):
            notes.append("Somebody touches the person in the picture and stays in it.")
    box = place(image.shape[1::-1], aspect, head, profile.framing, room, top=top)
    beyond = outside(box, image.shape[1::-1])
    colour = profile.background.color if view is not None and view.sure else None
    picture = _composed(image, white, box, view, colour)
    enlarged = None
    if size is not None:
        enlarged = size[1] / (box[3] - box[1]) / reduced
        picture = _resized(picture, size)
        if enlarged > 1.005:
            notes.append(
                f"Enlarged {enlarged:.2f} times: {round(size[0] / enlarged)} x "
                f"{round(size[1] / enlarged)} pixels are there for the {size[0]} x {size[1]} of "
                f"{profile.size_mm[0]:g} x {profile.size_mm[1]:g} mm at {settings.dpi} DPI."
            )
    result = measure_framing(box, head, profile.framing) if head else None
    if view is not None:
        notes += _made_up_notes(beyond, view, colour)
    if result is not None and not result.met:
        notes.append(_missed(result, profile))
    if top is not None and top < box[1] - 0.01 * (box[3] - box[1]):
        notes.append("The hair reaches over the upper edge.")
    return FinishedPicture(
        image=picture,
        framed=result,
        dpi=(float(settings.dpi), float(settings.dpi)) if size else None,
        cut=tuple(edge * reduced for edge in box),
        made_up=beyond,
        enlarged=enlarged,
        background=colour,
        notes=tuple(notes),
        notice=profile.notice,
    )


def _needs_view(size: tuple[int, int], aspect: float, head: Head, profile: StyleProfile) -> bool:
    """Whether person and background have to be told apart: not where a plain cut does it all."""
    if profile.background.color is not None:
        return True
    box = place(size, aspect, head, profile.framing)
    return not measure_framing(box, head, profile.framing).met


@dataclass(frozen=True)
class _View:
    """The picture at the working size, its person told from its background."""

    image: Float32Array  # [h, w, 3]
    layers: Layers
    head: Head  # in working pixels
    scale: float  # working pixels per pixel of the picture
    skin: Float32Array  # [3], the face's colour
    sure: bool  # whether the matte is a person's
    coloured: bool  # whether the background becomes the profile's colour
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        image: NDArray[Any],
        white: float,
        face: Face,
        head: Head,
        masker: Masker | None,
        profile: StyleProfile,
    ) -> _View:
        height, width = image.shape[:2]
        scale = min(1.0, WORKING_HEAD / max(head.height, 1.0), WORKING_SIDE / max(height, width))
        small = _shrunk(image, scale)
        # The two sides are rounded apart by less than a pixel, which no landmark notices.
        scale = small.shape[0] / height
        floats = small[..., :3].astype(np.float32) / np.float32(white)
        there = face.moved(zoom=scale)
        matte, notes, sure = _matte(small, floats, white, there, masker, profile)
        layers = (
            estimate_foreground(floats, matte, there.height)
            if sure and small.shape[2] == 3
            else Layers(matte, floats, floats)
        )
        return cls(
            floats,
            layers,
            crown_to_chin(there),
            scale,
            _skin(floats, there),
            sure,
            sure and profile.background.color is not None,
            tuple(notes),
        )

    def shows(self, others: Iterable[Face]) -> bool:
        """Whether the matte takes another face for a part of the person."""
        height, width = self.layers.matte.shape
        for face in others:
            x, y = (face.landmarks.mean(axis=0) * self.scale).astype(int)
            if 0 <= x < width and 0 <= y < height and self.layers.matte[y, x] > 0.5:
                return True
        return False

    def touched(self, side: int) -> bool:
        return touches(self.layers.matte, side)

    def room(self, settings: FinishSettings) -> Room:
        """How far the picture may go on beyond each side."""
        rough = [
            roughness(self.image, self.layers.matte, side, self.head.height) for side in range(4)
        ]
        limits, prices = [], []
        for side in range(4):
            cut_off = self.touched(side)
            # Where the person fills the side, another side's background says what it is like.
            here = rough[side] if np.isfinite(rough[side]) else min(rough)
            plain = self.coloured or here <= settings.plain
            most = settings.extend_background
            if cut_off:
                most = settings.extend_person * (1.0 if side == 3 else _ASIDE)
            if cut_off and not self.sure:
                most = 0.0
            limits.append(most if plain else 0.0)
            prices.append(_PRICES[side] if cut_off else 0.2 if self.coloured else 1.0)
        return Room(tuple(limits), tuple(prices))

    def top_of_hair(self) -> float | None:
        """The row of the picture in which the hair begins; above 0 where the picture cuts it."""
        if not self.sure:
            return None
        reach = 0.45 * self.head.height
        columns = np.clip([self.head.center_x - reach, self.head.center_x + reach], 0, None)
        first, last = columns.astype(int)
        above = self.layers.matte[: max(1, round(self.head.eyes)), first : last + 1]
        rows = np.flatnonzero((above > 0.5).any(axis=1))
        if len(rows) == 0:
            return None
        if rows[0] > 0:
            return float(rows[0]) / self.scale
        line = silhouette(self.layers.matte, round(0.05 * self.head.height), top=True)
        return -crown_overhang(line) / self.scale if line else 0.0


def _matte(
    small: NDArray[Any],
    floats: Float32Array,
    white: float,
    face: Face,
    masker: Masker | None,
    profile: StyleProfile,
) -> tuple[Float32Array, list[str], bool]:
    """The person's matte, what is to be said about it, and whether it can be relied on."""
    wanted = profile.background.color
    if small.shape[2] == 4:
        alpha = small[..., 3].astype(np.float32) / np.float32(white)
        if float(alpha.min()) < 0.5:
            return alpha, [], True
    nobody = np.zeros(small.shape[:2], np.float32)
    if masker is None:
        note = f"The background is not replaced by {wanted}: there is no person masker."
        return nobody, [note] if wanted else [], False
    seen = np.ascontiguousarray(np.round(floats * 255.0).astype(np.uint8))
    matte = np.asarray(masker.mask(seen, face), np.float32)
    if iou(matte, LandmarkMasker().mask(seen, face)) > _FACE_ALONE:
        note = "The person could not be told from the background, which is left as it is."
        return nobody, [note], False
    return matte, [], True


def _skin(image: Float32Array, face: Face) -> Float32Array:
    """float32[3]: the median colour between eyes and mouth."""
    low, high = face.landmarks.min(axis=0), face.landmarks.max(axis=0)
    x0, y0 = np.maximum(low, 0).astype(int)
    x1, y1 = np.maximum(high, (x0 + 1, y0 + 1)).astype(int)
    part = image[y0:y1, x0:x1].reshape(-1, 3)
    return np.median(part if len(part) else image.reshape(-1, 3), axis=0).astype(np.float32)


def _composed(
    image: NDArray[Any], white: float, box: Box, view: _View | None, colour: str | None
) -> NDArray[Any]:
    """The finished picture before it is scaled: [height, width, C] of the box."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box
    known = (max(0, x0), max(0, y0), min(width, x1), min(height, y1))
    inside = image[known[1] : known[3], known[0] : known[2]]
    known = (known[0] - x0, known[1] - y0, known[2] - x0, known[3] - y0)
    whole = known == (0, 0, x1 - x0, y1 - y0)
    if view is None or (whole and colour is None):
        return np.ascontiguousarray(inside)
    layers, canvas, scale = _canvas(view, box, None if whole else known, colour)
    result = np.empty((y1 - y0, x1 - x0, image.shape[2]), image.dtype)
    for start in range(0, len(result), _ROWS):
        rows = min(_ROWS, len(result) - start)
        enlarged = _Enlarger(scale, start, (x1 - x0, rows))
        strip = enlarged(canvas)
        first, last = max(start, known[1]), min(start + rows, known[3])
        if first < last:
            real = inside[first - known[1] : last - known[1]]
            place_in = (slice(first - start, last - start), slice(known[0], known[2]))
            if colour is None:
                strip[place_in][..., :3] = real[..., :3].astype(np.float32) / white
            else:
                matte = enlarged(layers.matte)[place_in]
                here = Layers(
                    matte, enlarged(layers.person)[place_in], enlarged(layers.behind)[place_in]
                )
                own = pure(real[..., :3].astype(np.float32) / white, matte, here)
                strip[place_in][..., :3] = _over(own, matte, colour)
            if image.shape[2] == 4 and colour is None:
                strip[place_in][..., 3] = real[..., 3].astype(np.float32) / white
        result[start : start + rows] = _as(strip[..., : image.shape[2]], image.dtype, white)
    if colour is None:  # through floats and back, 32-bit numbers would differ in their last bit
        result[known[1] : known[3], known[0] : known[2]] = inside
    return result


@dataclass(frozen=True)
class _Enlarger:
    """Some rows of the finished picture from values of the canvas, which is smaller for large ones.

    ``scale`` is canvas pixels per finished pixel, ``size`` the (width, height) that is wanted.
    """

    scale: float
    start: int
    size: tuple[int, int]

    def __call__(self, values: np.ndarray) -> np.ndarray:
        from_canvas = Similarity.scaling(1 / self.scale, 0.0, -self.start)
        return from_canvas.warp(values, self.size, border=cv2.BORDER_REPLICATE)


def _canvas(
    view: _View, box: Box, known: Box | None, colour: str | None
) -> tuple[Layers, Float32Array, float]:
    """The box at the working size: its layers, the finished RGBA, canvas pixels per picture pixel.

    ``known`` is where the picture lies in the box, None where it fills it.
    """
    scale = view.scale
    height, width = view.image.shape[:2]
    x0, y0 = round(box[0] * scale), round(box[1] * scale)
    x1, y1 = max(x0 + 1, round(box[2] * scale)), max(y0 + 1, round(box[3] * scale))
    inner = (max(0, x0), max(0, y0), min(width, x1), min(height, y1))
    here = (inner[0] - x0, inner[1] - y0, inner[2] - x0, inner[3] - y0)

    def on_canvas(values: np.ndarray) -> np.ndarray:
        part = values[inner[1] : inner[3], inner[0] : inner[2]]
        border = (here[1], y1 - y0 - here[3], here[0], x1 - x0 - here[2])
        return cv2.copyMakeBorder(part, *border, cv2.BORDER_REPLICATE)

    image, matte = on_canvas(view.image), on_canvas(view.layers.matte)
    layers = Layers(matte, on_canvas(view.layers.person), on_canvas(view.layers.behind))
    own = pure(image, matte, layers)
    if known is not None:
        head = view.head
        own, matte = extend_person(own, matte, here, head.height, view.skin, head.center_x - x0)
    if colour is not None:
        finished = _over(own, matte, colour)
        alpha = np.ones_like(matte)
    else:
        behind = extend_background(image, layers.matte, here)
        finished = matte[..., None] * own + (1 - matte[..., None]) * behind
        alpha = np.ones_like(matte)
    return (
        Layers(matte, layers.person, layers.behind),
        np.dstack([finished, alpha]).astype(np.float32),
        scale,
    )


def _over(own: Float32Array, matte: Float32Array, colour: str) -> Float32Array:
    """A person's own colours on a plain background."""
    plain = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255.0
    share = matte[..., None]
    return np.clip(share * own + (1 - share) * plain, 0.0, 1.0)


def _made_up_notes(beyond: Sequence[float], view: _View, colour: str | None) -> list[str]:
    notes = []
    for side, share in enumerate(beyond):
        if share < 0.0025:
            continue
        percent = f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"
        length = "height" if side % 2 else "width"
        how = f"the background's colour {colour}" if colour else "blurred background"
        if view.touched(side):
            how = "the person drawn out beyond the picture's edge, and " + how
        notes.append(f"At the {SIDES[side]} edge {percent} of the {length} is made up: {how}.")
    return notes


def _missed(result: MeasuredFraming, profile: StyleProfile) -> str:
    framing = profile.framing
    missed = [
        f"{name} {value:.2f} is not within {wanted[0]:.2f} to {wanted[1]:.2f}"
        for name, value, wanted in (
            ("head height", result.head_height, framing.head_height),
            ("eye line", result.eye_line, framing.eye_line),
            ("the head's middle", result.head_center_x, framing.head_center_x),
        )
        if wanted is not None and not wanted[0] <= value <= wanted[1]
    ]
    return (
        f"The framing of '{profile.name}' could not be met: {'; '.join(missed)}. The picture ends "
        "too near to the head, and what lies beyond cannot be made up; take one with more room."
    )


def _print_pixels(profile: StyleProfile, dpi: int) -> tuple[int, int] | None:
    """(width, height) of the printed size; None where the profile has none."""
    if profile.size_mm is None:
        return None
    width, height = (max(1, round(side / 25.4 * dpi)) for side in profile.size_mm)
    return width, height


def _reduction(
    size: tuple[int, int], head: Head | None, profile: StyleProfile, wanted: tuple[int, int] | None
) -> int:
    """By how many the picture is divided first, so that two pixels or more are left for one."""
    if wanted is None:
        return 1
    height = min(size[1], size[0] / (wanted[0] / wanted[1]))
    if head is not None and profile.framing.head_height:
        height = head.height / max(profile.framing.head_height[1], 0.05)
    return max(1, int(height / (2 * wanted[1])))


def _reduce(image: NDArray[Any], by: int) -> NDArray[Any]:
    """Averages of ``by`` x ``by`` pixels, a few rows at a time; what is left over is dropped."""
    height, width = image.shape[0] // by, image.shape[1] // by
    result = np.empty((height, width, image.shape[2]), image.dtype)
    for start in range(0, height, 64):
        rows = min(64, height - start)
        part = np.ascontiguousarray(image[start * by : (start + rows) * by, : width * by])
        result[start : start + rows] = cv2.resize(part, (width, rows), interpolation=cv2.INTER_AREA)
    return result


def _shrunk(image: NDArray[Any], scale: float) -> NDArray[Any]:
    if scale >= 1.0:
        return image
    by = int(1 / scale)
    if by > 1:
        image, scale = _reduce(image, by), scale * by
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _resized(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """To exactly ``size`` = (width, height): averaged where it is reduced, else Lanczos."""
    if image.shape[1::-1] == size:
        return image
    smaller = image.shape[0] >= size[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LANCZOS4
    result = cv2.resize(image, size, interpolation=how)
    return np.clip(result, 0.0, 1.0) if result.dtype == np.float32 else result


def _as(values: Float32Array, kind: np.dtype, white: float) -> NDArray[Any]:
    if kind == np.float32:
        return values.astype(np.float32)
    return np.rint(np.clip(values, 0.0, 1.0) * white).astype(kind)


def _white(image: NDArray[Any]) -> float:
    if image.ndim != 3 or image.shape[2] not in (3, 4) or 0 in image.shape:
        raise ValueError(f"a picture is [H, W, 3] or [H, W, 4], not {list(image.shape)}")
    whites = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}
    if image.dtype.name not in whites:
        raise ValueError(f"a picture is uint8, uint16 or float32, not {image.dtype}")
    return whites[image.dtype.name]


def _meshed(image: NDArray[Any], white: float, face: Face, finder: MeshFinder) -> Face:
    """The face with a mesh, looked for in the part of the picture that it lies in."""
    height, width = image.shape[:2]
    size = max(face.width, face.height)
    x0, y0 = (max(0, int(edge - size)) for edge in face.box[:2])
    x1, y1 = min(width, int(face.box[2] + size) + 1), min(height, int(face.box[3] + size) + 1)
    if x1 <= x0 or y1 <= y0:
        return face
    corner = np.array([x0, y0], np.float32)
    part = image[y0:y1, x0:x1, :3].astype(np.float32) * np.float32(255.0 / white)
    points = finder.mesh(np.round(part).astype(np.uint8), face.moved(-x0, -y0))
    if points is None:
        return face
    return replace(face, mesh=(points + corner).astype(np.float32))


def _main_face(faces: Face | Sequence[Face] | None, size: tuple[int, int]) -> Face | None:
    """The face of which most is seen, of those that the detector is sure of if there are any.

    What is half outside the picture may be large, and hardly ever is what it was taken for.
    """
    if faces is None or isinstance(faces, Face):
        return faces
    sure = [face for face in faces if face.score >= FaceSettings().min_score]

    def seen(face: Face) -> float:
        x0, y0, x1, y1 = face.box
        across, down = min(x1, size[0]) - max(x0, 0), min(y1, size[1]) - max(y0, 0)
        return max(across, 0.0) * max(down, 0.0)

    return max(sure or faces, key=seen, default=None)
