"""Is a picture that mcap framed for a profile framed, when somebody else measures it?

    python benchmarks/framing.py --pictures FOLDER --profile passport --out out/framing
    python benchmarks/framing.py --pictures FOLDER --frame-with mediapipe --measure-with dlib ...

Takes ``--count`` pictures evenly out of FOLDER (one face each), finishes them for the profile with
the default detector (YuNet), the person masker and, with ``--frame-with mediapipe``, the mesh of
`--masker mediapipe`. Head height and eye line of the finished picture are then measured by another
network, which finds the face in it anew: MediaPipe's 478 points (eyes: the irises; chin: 152), or
dlib's 68 (eyes: the mean of the lids' points; chin: 8). The crown, which is under the hair, lies as
far above the eyes as the chin below them, as in `mcap.framing.head`.

Prints a Markdown table and writes OUT/framing.md, OUT/framing.json and a contact sheet of before
and after.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mcap.framing.finish import FinishedPicture, finish
from mcap.framing.settings import FinishSettings
from mcap.images.find import find_photos
from mcap.images.photo import read_photo
from mcap.registry import registry
from mcap.results.contact_sheet import GOOD, WARNING, Tile, contact_sheet
from mcap.runtime import files
from mcap.style.profile import Framing, find_profile

NAMES = ("head_height", "eye_line", "head_center_x")

Points = tuple[float, float, float]  # row of the eyes, row of the chin, column of the head's middle
Finder = Callable[[np.ndarray], Points | None]


@dataclass(frozen=True)
class Measured:
    """One picture: what the other network says of it; None where it finds no face in it."""

    name: str
    finished: FinishedPicture
    again: dict[str, float] | None
    seconds: float

    def inside(self, framing: Framing, names: tuple[str, ...] = NAMES) -> bool:
        if self.again is None:
            return False
        return all(
            (wanted := getattr(framing, name)) is None or wanted[0] <= self.again[name] <= wanted[1]
            for name in names
        )


def by_mediapipe() -> Finder:
    mesh = registry().create("detector", "mediapipe")

    def find(image: np.ndarray) -> Points | None:
        faces = mesh.detect(image)
        if not faces or faces[0].mesh is None:
            return None
        points = faces[0].mesh
        middle = float(points[:, 0].min() + points[:, 0].max()) / 2
        return float(faces[0].landmarks[:2, 1].mean()), float(points[152, 1]), middle

    return find


def by_dlib() -> Finder:
    """Its 68 landmarks come from photos that may not be used commercially: for measuring only."""
    import dlib
    import face_recognition_models

    detector = dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(face_recognition_models.pose_predictor_model_location())

    def find(image: np.ndarray) -> Points | None:
        found = detector(image, 1)
        if not found:
            return None
        shape = predictor(image, max(found, key=lambda place: place.area()))
        points = np.array([(p.x, p.y) for p in shape.parts()], float) + 0.5
        middle = float(points[:17, 0].min() + points[:17, 0].max()) / 2
        return float(points[36:48, 1].mean()), float(points[8, 1]), middle

    return find


def measure(image: np.ndarray, find: Finder) -> dict[str, float] | None:
    """Head height, eye line and the head's middle, as fractions of the picture."""
    found = find(image)
    if found is None:
        return None
    height, width = image.shape[:2]
    eyes, chin, middle = found
    return {
        "head_height": 2 * (chin - eyes) / height,
        "eye_line": (height - eyes) / height,
        "head_center_x": middle / width,
    }


def run(arguments: argparse.Namespace) -> tuple[list[Measured], list[Tile]]:
    found = registry()
    detector, masker = found.create("detector", "yunet"), found.create("masker", "person")
    mesh = found.create("masker", "mediapipe") if arguments.frame_with == "mediapipe" else None
    find = by_dlib() if arguments.measure_with == "dlib" else by_mediapipe()
    profile = find_profile(arguments.profile)
    paths = find_photos([arguments.pictures])
    chosen = np.unique(np.linspace(0, len(paths) - 1, arguments.count).astype(int))
    results, tiles = [], []
    for index in chosen:
        image = read_photo(paths[index]).image
        faces = detector.detect(image)
        started = time.process_time()
        # The pictures are close-ups: what is measured is where the head lies.
        settings = FinishSettings(extrapolated_person=1)
        finished = finish(image, faces, profile, masker=masker, mesh=mesh, settings=settings)
        seconds = time.process_time() - started
        results.append(
            Measured(
                paths[index].name,
                finished,
                measure(finished.image, find),
                seconds,
            )
        )
        good = results[-1].inside(profile.framing)
        if len(tiles) < 2 * arguments.shown:
            lines = (f"extrapolated below: {100 * finished.extrapolated[3]:.0f} %",)
            tiles.append(Tile(image, paths[index].name))
            tiles.append(Tile(finished.image, "", lines, GOOD if good else WARNING))
        print(f"{paths[index].name}: {'inside' if good else results[-1].again}", flush=True)
    return results, tiles


def table(results: list[Measured], framing: Framing) -> str:
    seen = [result for result in results if result.again is not None]
    lines = [
        "| | asked for | mean | 5 % | 95 % | inside |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in NAMES:
        wanted = getattr(framing, name)
        values = np.array([result.again[name] for result in seen])
        inside = sum(result.inside(framing, (name,)) for result in results)
        low, high = np.percentile(values, [5, 95])
        asked = "-" if wanted is None else f"{wanted[0]:.2f} to {wanted[1]:.2f}"
        lines.append(
            f"| {name} | {asked} | {values.mean():.3f} | {low:.3f} | {high:.3f} | "
            f"{inside} of {len(results)} |"
        )
    both = sum(result.inside(framing, NAMES[:2]) for result in results)
    every = sum(result.inside(framing) for result in results)
    claimed = sum(bool(r.finished.framed and r.finished.framed.met) for r in results)
    extrapolated = np.array([result.finished.extrapolated for result in results])
    lines += [
        "",
        f"Head height and eye line inside: {both} of {len(results)}; all three: {every}; said to "
        f"be met by mcap: {claimed}. Faces not found again: {len(results) - len(seen)}.",
        "Extrapolated, median and largest share: "
        + ", ".join(
            f"{side} {100 * np.median(shares):.0f} % / {100 * shares.max():.0f} %"
            for side, shares in zip(
                ("left", "above", "right", "below"), extrapolated.T, strict=True
            )
        )
        + ".",
        f"Processor seconds a picture: {np.mean([r.seconds for r in results]):.2f}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--profile", default="passport")
    parser.add_argument("--frame-with", choices=("landmarks", "mediapipe"), default="landmarks")
    parser.add_argument("--measure-with", choices=("mediapipe", "dlib"), default="mediapipe")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--shown", type=int, default=24, help="pictures on the contact sheet")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    results, tiles = run(arguments)
    text = table(results, find_profile(arguments.profile).framing)
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    files.write_bytes(arguments.out / "framing.md", text.encode())
    entries = [
        {
            "name": result.name,
            **result.finished.record(),
            "again": result.again,
        }
        for result in results
    ]
    files.write_bytes(arguments.out / "framing.json", json.dumps(entries, indent=1).encode())
    Image.fromarray(contact_sheet(tiles, 8, (180, 230))).save(arguments.out / "framing.jpg")


if __name__ == "__main__":
    main()
