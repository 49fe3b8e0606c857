"""A picture as its profile asks for it: framing, background, exact size and resolution.

    picture -> the main face (`main_face`) -> its head (`head`)
            -> the person told from the background (`matting`), where either has to change
            -> where the finished picture lies (`placement`), which may be beyond the edges
            -> background replaced, what is missing extrapolated (`composite`, `extend_canvas`)
            -> exact pixels (`resize`) -> a sheet of copies, if asked for (`print_sheet`)

Crown to chin is measured as ICAO Doc 9303 and ISO/IEC 19794-5 define it, the crown being the top of
the head without the hair; `mcap.framing.head` estimates it. The hair itself, whose top the
person's matte shows, is kept inside the picture where the profile's ranges leave room for it.

Pixels, (x, y), origin at the top left corner of the top left pixel, as everywhere in mcap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mcap.contracts import Face
from mcap.faces.pose import pose
from mcap.framing import notes as say
from mcap.framing.composite import composite
from mcap.framing.crop import Box, MeasuredFraming, measure_framing
from mcap.framing.head import Head, crown_to_chin
from mcap.framing.main_face import main_face, with_mesh
from mcap.framing.matting import cut_out, flattened
from mcap.framing.placement import Room, Sides, outside, place, room_around
from mcap.framing.resize import divide, print_size, resize, spare_reduction, white_level
from mcap.framing.settings import FinishSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Masker
    from mcap.faces.eyes import MeshFinder
    from mcap.style.profile import StyleProfile

UPRIGHT = 30.0
"""Degrees of tilt up to which a head can be framed by its height."""


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
    """The part taken, in pixels of the input; outside of it where something was extrapolated."""
    extrapolated: Sides
    """Shares beyond the input's left, upper, right and lower side."""
    enlarged: float | None
    """Finished pixels per pixel of the input along a side; None where nothing was scaled."""
    background: str | None
    """The colour that the background was replaced by."""
    notes: tuple[str, ...]
    """Sentences for a person: what was extrapolated, what could not be met."""
    notice: str
    """The profile's own notice, for whoever uses the picture."""

    @property
    def changed(self) -> bool:
        """True where anything but the cut and the scale differs from the input."""
        return self.background is not None or any(self.extrapolated)

    def record(self) -> dict[str, Any]:
        """Return what results.jsonl and the picture's own metadata say of it."""
        return {
            "framing": asdict(self.framed) if self.framed else None,
            "cut": list(self.cut),
            "extrapolated": [round(share, 4) for share in self.extrapolated],
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
    that hides something is taken for the person's matte, unless ``masker`` sees that it is not.
    ``faces`` are in its pixels; the largest that can be relied on is framed. ``masker`` finds the
    whole person (mcap's ``person``); without one the background is neither replaced nor extended
    beyond a plain edge, and a note says so. ``mesh`` finds a face's finer landmarks, which know the
    chin better than five do (`mcap.framing.head`). Raises ValueError for another shape or type.
    """
    settings = settings or FinishSettings()
    white = white_level(image)
    found = [faces] if isinstance(faces, Face) else list(faces or ())
    face = chosen = main_face(found, image.shape[1::-1])
    roll = pose(face.landmarks).roll if face else 0.0
    notes = [] if face else [say.NO_FACE]
    if abs(roll) > UPRIGHT:
        face, notes = None, [say.tilted(roll)]
    elif len(found) > 1:
        notes.append(f"The largest of {len(found)} faces was framed.")
    if face and mesh is not None and face.mesh is None:
        face = with_mesh(image, white, face, mesh)
    head = crown_to_chin(face) if face else None
    size = print_size(profile, settings.dpi)
    aspect = size[0] / size[1] if size else profile.aspect_ratio

    reduced = spare_reduction(image.shape[1::-1], head, profile, size)
    if reduced > 1:
        image = divide(image, reduced)
        face = face.moved(zoom=1 / reduced) if face else None
        head = crown_to_chin(face) if face else None

    cutout, room, top, colour, corner = None, Room(), None, None, (0, 0)
    if face and head and needs_cutout(image.shape[1::-1], aspect, head, profile):
        flat = flattened(image, white, face, masker)
        if flat is not None:
            image, corner = flat.image, flat.corner
            face = face.moved(-corner[0], -corner[1])
            head = crown_to_chin(face)
            notes.append(say.LAID_ON_WHITE)
        shown = flat.shown if flat else None
        cutout = cut_out(image, white, face, masker, profile.background.color, shown)
        room = room_around(cutout, settings, flat.open_sides if flat else frozenset())
        top = cutout.top_of_hair()
        colour = profile.background.color if cutout.sure else None
        notes += cutout.notes
        others = [other for other in found if other is not chosen]
        if cutout.shows(face.moved(-corner[0], -corner[1], 1 / reduced) for face in others):
            notes.append(say.TOUCHES)
    box = place(image.shape[1::-1], aspect, head, profile.framing, room, top=top)
    beyond = outside(box, image.shape[1::-1])
    picture = composite(image, white, box, cutout, colour)

    enlarged = None
    if size is not None:
        enlarged = size[1] / (box[3] - box[1]) / reduced
        picture = resize(picture, size)
        if enlarged > 1.005:
            notes.append(say.enlarged(enlarged, size, profile, settings.dpi))
    framed = measure_framing(box, head, profile.framing) if head else None
    if cutout is not None:
        notes += say.extrapolated(beyond, cutout, colour)
    if framed is not None and not framed.met:
        notes.append(say.missed(framed, profile))
    if top is not None and top < box[1] - 0.01 * (box[3] - box[1]):
        notes.append(say.HAIR_CUT)
    x0, y0, x1, y1 = (edge + start for edge, start in zip(box, (*corner, *corner), strict=True))
    return FinishedPicture(
        image=picture,
        framed=framed,
        dpi=(float(settings.dpi), float(settings.dpi)) if size else None,
        cut=(x0 * reduced, y0 * reduced, x1 * reduced, y1 * reduced),
        extrapolated=beyond,
        enlarged=enlarged,
        background=colour,
        notes=tuple(notes),
        notice=profile.notice,
    )


def needs_cutout(size: tuple[int, int], aspect: float, head: Head, profile: StyleProfile) -> bool:
    """Return whether person and background have to be told apart: more than a plain cut."""
    if profile.background.color is not None:
        return True
    box = place(size, aspect, head, profile.framing)
    return not measure_framing(box, head, profile.framing).met
