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
from mcap.framing.placement import Room, Sides, lacking_room, outside, place, room_around
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
    """Pixels an inch, horizontal and vertical; None where no size is asked for."""
    cut: Box
    """The part taken, in pixels of the input; outside of it where something was extrapolated."""
    extrapolated: Sides
    """Shares beyond the input's left, upper, right and lower side."""
    extrapolated_person: float
    """Share of the finished person's pixels that were extrapolated."""
    lacking: Sides
    """Shares of a picture framed as the profile asks that lie beyond the input's sides and were
    not extrapolated; zeros where the framing is met, or no head was found."""
    enlarged: float | None
    """Finished pixels per pixel of the input along a side; None where nothing was scaled."""
    background: str | None
    """The colour that the background was replaced by."""
    unmet: tuple[str, ...]
    """Sentences on what the profile asks for and could not be had."""
    notes: tuple[str, ...]
    """Sentences for a person: what was extrapolated, and all of ``unmet``."""
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
            "extrapolated_person": round(self.extrapolated_person, 4),
            "lacking": [round(share, 4) for share in self.lacking],
            "unmet": list(self.unmet),
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
    size: tuple[int, int] | None = None,
) -> FinishedPicture:
    """Frame, cut out and size a picture as its profile says.

    ``image`` is RGB or RGBA, uint8, uint16 or float32 in [0, 1], [H, W, 3 or 4]; an alpha channel
    that hides something is taken for the person's matte, unless ``masker`` sees that it is not.
    ``faces`` are in its pixels; the largest that can be relied on is framed. ``masker`` finds the
    whole person (mcap's ``person``); without one the background is neither replaced nor extended
    beyond a plain edge, and a note says so. ``mesh`` finds a face's finer landmarks, which know the
    chin better than five do (`mcap.framing.head`). ``size``, (width, height) in pixels, stands in
    for the profile's ``size_mm``. Raises ValueError for another shape or type.
    """
    settings = settings or FinishSettings()
    white = white_level(image)
    found = [faces] if isinstance(faces, Face) else list(faces or ())
    face, others, unmet = face_to_frame(found, image, white, mesh)
    notes = [f"The largest of {len(found)} faces was framed."] if face and others else []
    head = crown_to_chin(face) if face else None
    size = size or print_size(profile, settings.dpi)
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
        beside = cutout.beside_head()
        open_sides = flat.open_sides if flat else frozenset()
        room = room_around(cutout, settings, open_sides | beside)
        top = cutout.top_of_hair()
        colour = profile.background.color if cutout.sure else None
        touches = cutout.shows(face.moved(-corner[0], -corner[1], 1 / reduced) for face in others)
        unmet += [*cutout.notes, *([say.TOUCHES] if touches else [say.BESIDE] if beside else [])]
    for here in (room, room.without_person()):
        box = place(image.shape[1::-1], aspect, head, profile.framing, here, top=top)
        picture, of_person = composite(image, white, box, cutout, colour)
        framed = measure_framing(box, head, profile.framing) if head else None
        # Part of what is missing helps nobody: all of it is extrapolated, or none of the person.
        if of_person <= settings.extrapolated_person and (framed is None or framed.met):
            break
    beyond, lacking = outside(box, image.shape[1::-1]), (0.0, 0.0, 0.0, 0.0)

    enlarged = None
    if size is not None:
        enlarged = size[1] / (box[3] - box[1]) / reduced
        picture = resize(picture, size)
        notes += say.enlarged(enlarged, size, profile, settings.dpi)
    if cutout is not None:
        notes += say.extrapolated(beyond, cutout, colour)
    if head is not None and framed is not None and not framed.met:
        lacking, person = lacking_room(
            image.shape[1::-1], aspect, head, profile.framing, room, top=top
        )
        unmet.append(say.missed(framed, profile, lacking, person))
    if top is not None and top < box[1] - 0.01 * (box[3] - box[1]):
        notes.append(say.HAIR_CUT)
    x0, y0, x1, y1 = (edge + start for edge, start in zip(box, (*corner, *corner), strict=True))
    return FinishedPicture(
        image=picture,
        framed=framed,
        dpi=(float(settings.dpi), float(settings.dpi)) if size else None,
        cut=(x0 * reduced, y0 * reduced, x1 * reduced, y1 * reduced),
        extrapolated=beyond,
        extrapolated_person=of_person,
        lacking=lacking,
        enlarged=enlarged,
        background=colour,
        unmet=tuple(unmet) if asks_for_more_than_a_cut(profile) else (),
        notes=(*unmet, *notes),
        notice=profile.notice,
    )


def face_to_frame(
    faces: Sequence[Face], image: NDArray[Any], white: float, mesh: MeshFinder | None
) -> tuple[Face | None, list[Face], list[str]]:
    """Return a picture's main face, the others, and why there is none to frame: None, and a note.

    The main face has the points that ``mesh`` finds; the other arguments are those of `finish`.
    """
    face = main_face(faces, image.shape[1::-1])
    if face is None:
        return None, [], [say.NO_FACE]
    others = [other for other in faces if other is not face]
    roll = pose(face.landmarks).roll
    if abs(roll) > UPRIGHT:
        return None, others, [say.tilted(roll)]
    if mesh is not None and face.mesh is None:
        face = with_mesh(image, white, face, mesh)
    return face, others, []


def asks_for_more_than_a_cut(profile: StyleProfile) -> bool:
    """Return whether a profile says where the head belongs, or what is behind it."""
    framing = profile.framing
    ranges = (framing.head_height, framing.eye_line, framing.head_center_x)
    return profile.background.color is not None or any(ranges)


def needs_cutout(size: tuple[int, int], aspect: float, head: Head, profile: StyleProfile) -> bool:
    """Return whether person and background have to be told apart: more than a plain cut."""
    if profile.background.color is not None:
        return True
    box = place(size, aspect, head, profile.framing)
    return not measure_framing(box, head, profile.framing).met
