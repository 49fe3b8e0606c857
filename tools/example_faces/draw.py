"""Draw the example pictures, the built-in profiles' references and the benchmark's people.

    python tools/example_faces/draw.py --models FOLDER [--only selfies passport ... ] [--check]

FOLDER holds face_detection_yunet_2023mar.onnx, face_recognition_sface_2021dec.onnx and
selfie_segmentation.tflite. Everything drawn depends on the tables below only.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import backgrounds
import cv2
import numpy as np
from matte import composite, person_matte
from people import Judge, Painter
from photo import Frame, Light, black_and_white, frame, light, save
from segmenter import Segmenter

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Shot:
    """One picture. Numbers are picture numbers as in people.py."""

    file: str  # relative to the repository
    person: int
    other: int | None = None  # moves the person's w a little: the same person again
    amount: float = 0.22
    yaw: float = 0.0
    background: str | None = None  # of backgrounds.BY_NAME; None keeps what was drawn
    frame: Frame = field(default_factory=Frame)
    light: Light = field(default_factory=Light)
    wrap: float = 0.15  # how much of the background's light spills over the edge
    tighten: float = 0.12  # of the matte's lower end; more where old background shows on white
    behind: tuple[int, float, float, float] | None = None  # person, x, y, width as fractions
    mono: bool = False
    orientation: int = 1
    quality: int = 88
    side: int = 1024


def _selfies() -> list[Shot]:
    """One person, six pictures, each with a trouble of real selfies."""
    me = 20043
    folder = "examples/selfies"
    return [
        Shot(
            f"{folder}/01-living-room.jpg",
            me,
            background="living_room",
            frame=Frame((0.5, 0.5), 0.97, 1.0, 2.0),
            light=Light(0.1, 0.15, noise=0.008, side=-0.2),
        ),
        Shot(
            f"{folder}/02-garden-sideways.jpg",
            me,
            20501,
            background="garden",
            orientation=6,
            frame=Frame((0.5, 0.5), 0.76, 0.8, -3.0),
            light=Light(0.25, 0.1, side=0.3, noise=0.006),
        ),
        Shot(
            f"{folder}/03-turned-head.jpg",
            me,
            20500,
            yaw=-0.3,
            frame=Frame((0.5, 0.5), 0.96, 1.0),
            light=Light(0.0, -0.1, side=-0.4, noise=0.008),
        ),
        Shot(
            f"{folder}/04-friend-behind.jpg",
            me,
            20507,
            background="street_at_night",
            behind=(20130, 0.88, 0.74, 0.56),
            wrap=0.1,
            frame=Frame((0.5, 0.5), 1.0, 1.0),
            light=Light(-0.25, 0.3, noise=0.014),
        ),
        Shot(
            f"{folder}/05-bad-light.jpg",
            me,
            20503,
            background="kitchen",
            frame=Frame((0.5, 0.53), 0.72, 0.8, 4.0),
            light=Light(-2.0, 0.6, 0.25, side=0.7, contrast=0.92, noise=0.035, blur=1.2),
            quality=84,
        ),
        Shot(
            f"{folder}/06-close.jpg",
            me,
            20504,
            yaw=0.12,
            frame=Frame((0.5, 0.52), 0.78, 1.0, -5.0),
            light=Light(0.2, -0.15, noise=0.006),
        ),
    ]


def _references() -> list[Shot]:
    """The three built-in styles, eight different people each."""
    shots = []
    passport = (20248, 20104, 20257, 20272, 20170, 20092, 20166, 20301)
    for i, person in enumerate(passport, 1):
        file = f"profiles/refs/passport/{i:02}.jpg"
        # Moved a little, because as drawn he is too like one of the benchmark's people.
        other = 20604 if person == 20248 else None
        shots.append(
            Shot(file, person, other, background="white", wrap=0.0, tighten=0.3, quality=90)
        )
    business = (20126, 20059, 20238, 20254, 20255, 20131, 20234, 20139)
    for i, person in enumerate(business, 1):
        file = f"profiles/refs/business/{i:02}.jpg"
        # A yellow blotch at the lower left of one stays outside.
        cut = Frame((0.545, 0.455), 0.91) if person == 20255 else Frame()
        shots.append(Shot(file, person, background="office", frame=cut, wrap=0.12, quality=90))
    studio = (20215, 20192, 20151, 20250, 20277, 20007, 20148, 20127)
    for i, person in enumerate(studio, 1):
        file = f"profiles/refs/studio-bw/{i:02}.jpg"
        # These three were drawn in front of black, with every hair in place.
        scene = None if person in (20215, 20192, 20148) else "dark"
        lamp = Light(0.2, side=-0.25 if i % 2 else 0.25)
        shots.append(Shot(file, person, background=scene, light=lamp, wrap=0.0, mono=True))
    return shots


def _people() -> list[Shot]:
    """Four people for the identity benchmark, six pictures each."""
    shots = []
    # How far each can be turned to the left and right, and moved, and still be the same person.
    people = (
        (20183, -0.24, 0.24, 0.22),
        (20236, -0.24, 0.12, 0.22),
        (20008, -0.14, 0.06, 0.15),
        (20193, -0.14, 0.22, 0.15),
    )
    for place, (person, left, right, amount) in enumerate(people, 1):
        folder = f"benchmarks/people/{place}"
        base = 20510 + 10 * place
        looks = [
            dict(frame=Frame((0.5, 0.5), 0.95), light=Light(noise=0.006)),
            dict(
                other=base + 1,
                background="garden",
                frame=Frame((0.5, 0.5), 0.9, roll=4.0),
                light=Light(0.2, 0.1, side=0.3, noise=0.006),
            ),
            dict(
                other=base + 2,
                yaw=left,
                frame=Frame((0.5, 0.5), 0.96),
                light=Light(-0.2, 0.2, side=-0.3, noise=0.01),
            ),
            dict(
                other=base + 3,
                yaw=right,
                background="plain_wall",
                frame=Frame((0.5, 0.5), 0.96),
                light=Light(0.1, -0.2, noise=0.008),
            ),
            dict(
                other=base + 4,
                background="living_room",
                frame=Frame((0.5, 0.5), 0.86, roll=-4.0),
                light=Light(-1.3, 0.45, 0.1, side=0.4, contrast=0.95, noise=0.02, blur=0.5),
            ),
            dict(
                other=base + 5,
                background="kitchen",
                frame=Frame((0.5, 0.52), 0.8),
                light=Light(0.15, 0.2, side=-0.3, noise=0.01),
            ),
        ]
        for i, look in enumerate(looks, 1):
            shots.append(
                Shot(f"{folder}/{i:02}.jpg", person, amount=amount, quality=86, side=512, **look)
            )
    return shots


def _put_behind(
    scene: np.ndarray, shot: Shot, painter: Painter, segmenter: Segmenter
) -> np.ndarray:
    """A second person, smaller and a little out of focus, over the background."""
    number, x, y, width = shot.behind
    person = painter.draw(number).astype(np.float32) / 255
    alpha = person_matte(person, segmenter)
    side = scene.shape[0]
    scale = width
    matrix = np.float32([[scale, 0, (x - width / 2) * side], [0, scale, (y - width / 2) * side]])
    size = (side, side)
    # The portrait ends below the shoulders; its last rows, mirrored, stand in for the chest.
    tall = np.float32([[1, 0, 0], [0, 1, 0]])
    room = (1024, 1500)
    person = cv2.warpAffine(person, tall, room, borderMode=cv2.BORDER_REFLECT)
    alpha = cv2.warpAffine(alpha, tall, room, borderMode=cv2.BORDER_REPLICATE)
    person = cv2.GaussianBlur(person, (0, 0), 2.2)
    alpha = cv2.GaussianBlur(alpha, (0, 0), 2.2)
    # Shrunk pictures are averaged first, or hair would sparkle.
    person = cv2.warpAffine(cv2.GaussianBlur(person, (0, 0), 0.4 / scale), matrix, size)
    alpha = cv2.warpAffine(cv2.GaussianBlur(alpha, (0, 0), 0.4 / scale), matrix, size)
    return composite(person, alpha, scene, shot.wrap)


def draw(shot: Shot, painter: Painter, segmenter: Segmenter) -> np.ndarray:
    """float32[H, W, 3] in [0, 1]."""
    # A seed of the file's own: pictures do not change when the table grows.
    seed = zlib.crc32(shot.file.encode())
    image = painter.draw(shot.person, shot.other, shot.amount, shot.yaw).astype(np.float32) / 255
    if shot.background:
        scene = backgrounds.BY_NAME[shot.background](seed, image.shape[0]).astype(np.float32)
        if shot.behind:
            scene = _put_behind(scene, shot, painter, segmenter)
        matte = person_matte(image, segmenter, shot.tighten)
        image = composite(image, matte, scene, shot.wrap)
    taken = frame(image, shot.frame, shot.side)
    taken = light(taken, shot.light, np.random.default_rng(seed))
    if shot.mono:
        taken = black_and_white(taken, contrast=0.6, vignette=0.5)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument(
        "--only", nargs="*", default=[], help="draw files whose path has one of these"
    )
    parser.add_argument("--out", type=Path, default=ROOT, help="instead of this repository")
    arguments = parser.parse_args()
    painter = Painter()
    segmenter = Segmenter(arguments.models / "selfie_segmentation.tflite")
    judge = Judge(arguments.models)
    first: dict[int, np.ndarray] = {}
    for shot in _selfies() + _references() + _people():
        if arguments.only and not any(word in shot.file for word in arguments.only):
            continue
        picture = draw(shot, painter, segmenter)
        path = arguments.out / shot.file
        save(picture, path, shot.quality, shot.orientation)
        vector = judge.embed((picture * 255).round().astype(np.uint8))
        same = float(first.setdefault(shot.person, vector) @ vector)
        print(f"{shot.file}  {path.stat().st_size // 1024} KB  to this person's first: {same:.2f}")


if __name__ == "__main__":
    sys.exit(main())
