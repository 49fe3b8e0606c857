"""Which detectors find faces in pictures that are turned, dark, blurred, small or crowded?

    python benchmarks/faces.py --pictures FOLDER --out out/faces

FOLDER holds portraits, one face each, near the middle. Every detector that can run here looks at
each of them and, of every fourth (``--every``), at copies that are transformed in a known way
(`TRANSFORMS`). A face counts as
found where the detector reports one with a score of mcap's ``faces.min_score`` or more whose
landmarks' mean lies within one eye distance of where it must be. The landmark error is the mean
distance of the five landmarks from where the same detector saw them in the untransformed picture,
brought into the copy by the transform, in eye distances of the copy. Everything else that is
reported counts as an extra.

Every masker that can run here draws the mask of the face that YuNet found; pairs of maskers are
compared by the intersection of their masks over the union.

    python benchmarks/faces.py --pictures FOLDER --second-opinion

measures what makes a finding a face instead: SFace's quality of the portraits' faces and of their
copies, and of what YuNet finds in pictures without a face: scikit-image's (but the astronaut), cuts
of them enlarged and turned, and smoothed noise. The cameraman's face is real and not counted.

    python benchmarks/faces.py --pictures FOLDER --count 100 --verdicts

puts each portrait alone through `mcap mask` as a library, and every eighth of the pictures without
a face, and counts who is accepted.

Times are processor time, so that other work on the machine does not count, with one thread for
OpenCV; MediaPipe's threads are all counted. Prints Markdown tables and writes OUT/faces.md and
OUT/faces.json.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from mcap.contracts import Face
from mcap.errors import McapError
from mcap.faces.masks import iou
from mcap.faces.measure import find_faces
from mcap.faces.settings import FaceSettings
from mcap.images.find import find_photos
from mcap.images.photo import read_photo
from mcap.masking.records import MaskedPhoto, RefusedPhoto
from mcap.registry import registry

MIN_SCORE = FaceSettings().min_score


@dataclass(frozen=True)
class Copy:
    """A transformed picture and where the plain pictures' faces are in it."""

    image: np.ndarray
    to_copy: list[np.ndarray]
    """float64[2, 3] for each picture in it, from that picture's pixels to the copy's."""
    mirrored: bool = False

    def landmarks(self, place: int, plain: np.ndarray) -> np.ndarray:
        """The plain picture's landmarks float[5, 2] in the copy, in their own order."""
        matrix = self.to_copy[place]
        moved = plain @ matrix[:, :2].T + matrix[:, 2]
        return moved[[1, 0, 2, 4, 3]] if self.mirrored else moved


Transform = Callable[[list[np.ndarray], Path, int], Copy]
"""The picture (and the next one), a folder for files, the picture's number -> the copy."""

IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def affine(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``matrix`` counts from the corner of the first pixel, OpenCV from its centre."""
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    return cv2.warpAffine(
        image, centred, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT
    )


def turned(degrees: float) -> Transform:
    """Clockwise, on a canvas that holds all of it; what is outside the picture is black."""

    def transform(images: list[np.ndarray], folder: Path, number: int) -> Copy:
        height, width = images[0].shape[:2]
        angle = np.radians(degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ turn.T
        low = corners.min(axis=0)
        size = np.ceil((corners.max(axis=0) - low).round(6)).astype(int)
        matrix = np.concatenate([turn, -low[:, None]], axis=1)
        return Copy(affine(images[0], matrix, (int(size[0]), int(size[1]))), [matrix])

    return transform


def plain(images: list[np.ndarray], folder: Path, number: int) -> Copy:
    return Copy(images[0], [IDENTITY])


def by_exif(images: list[np.ndarray], folder: Path, number: int) -> Copy:
    """A JPEG whose pixels lie otherwise than its orientation tag says to show them, read again."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    orientation = 2 + number % 7
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = folder / "turned.jpg"
    Image.fromarray(images[0]).transpose(undo[orientation]).save(path, quality=95, exif=exif)
    return Copy(read_photo(path).image, [IDENTITY])


def darkened(images: list[np.ndarray], folder: Path, number: int) -> Copy:
    """Three stops in linear light: an eighth of it."""
    curve = 255 * ((np.arange(256) / 255) ** 2.2 / 8) ** (1 / 2.2)
    return Copy(curve.round().astype(np.uint8)[images[0]], [IDENTITY])


def blurred(images: list[np.ndarray], folder: Path, number: int) -> Copy:
    """By a Gaussian of 1.5 % of the picture's side: 2 % of the face's height."""
    return Copy(cv2.GaussianBlur(images[0], (0, 0), 0.015 * len(images[0])), [IDENTITY])


def shrunk(images: list[np.ndarray], folder: Path, number: int) -> Copy:
    height, width = images[0].shape[:2]
    scale = 64 / max(height, width)
    size = round(width * scale), round(height * scale)
    small = cv2.resize(images[0], size, interpolation=cv2.INTER_AREA)
    return Copy(small, [np.array([[size[0] / width, 0, 0], [0, size[1] / height, 0.0]])])


def far(images: list[np.ndarray], folder: Path, number: int) -> Copy:
    """A sixteenth of the side of a large grey picture."""
    height, width = images[0].shape[:2]
    scale = 96 / max(height, width)
    matrix = np.array([[scale, 0, 1000.0], [0, scale, 300.0]])
    canvas = np.full((1536, 1536, 3), 128, np.uint8)
    size = round(width * scale), round(height * scale)
    small = cv2.resize(images[0], size, interpolation=cv2.INTER_AREA)
    canvas[300 : 300 + size[1], 1000 : 1000 + size[0]] = small
    return Copy(canvas, [matrix])


def mirrored(images: list[np.ndarray], folder: Path, number: int) -> Copy:
    width = images[0].shape[1]
    flipped = np.ascontiguousarray(images[0][:, ::-1])
    return Copy(flipped, [np.array([[-1, 0, width], [0, 1, 0.0]])], mirrored=True)


def compressed(images: list[np.ndarray], folder: Path, number: int) -> Copy:
    """Noise of a dark room, then a JPEG of quality 15."""
    noise = np.random.default_rng(number).normal(0, 12, images[0].shape)
    noisy = (images[0] + noise).round().clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=15)
    return Copy(np.array(Image.open(buffer)), [IDENTITY])


def side_by_side(images: list[np.ndarray], folder: Path, number: int) -> Copy:
    left, right = images
    right = cv2.resize(right, (left.shape[1], left.shape[0]), interpolation=cv2.INTER_AREA)
    shift = np.array([[1.0, 0, left.shape[1]], [0, 1.0, 0]])
    return Copy(np.concatenate([left, right], axis=1), [IDENTITY, shift])


TRANSFORMS: dict[str, Transform] = {
    "plain": plain,
    "rotated by EXIF (tags 2 to 8)": by_exif,
    "tilted by 15 degrees": turned(15),
    "tilted by 30 degrees": turned(-30),
    "rotated by 90 degrees": turned(90),
    "upside down": turned(180),
    "darkened by three stops": darkened,
    "blurred by 2 % of the face": blurred,
    "shrunk to 64 pixels": shrunk,
    "1/16 of a large picture": far,
    "mirrored": mirrored,
    "noise and JPEG of quality 15": compressed,
    "two people side by side": side_by_side,
}


@dataclass
class Row:
    """One detector on one transform."""

    faces: int = 0
    found: int = 0
    extra: int = 0
    errors: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        errors = self.errors or [float("nan")]
        return {
            "faces": self.faces,
            "found": self.found,
            "rate": self.found / max(self.faces, 1),
            "extra": self.extra,
            "error_mean": float(np.mean(errors)),
            "error_95": float(np.quantile(errors, 0.95)),
            "milliseconds": float(np.mean(self.milliseconds)),
        }


def eye_distance(landmarks: np.ndarray) -> float:
    return float(np.hypot(*(landmarks[1] - landmarks[0])))


def look(detector: Any, image: np.ndarray) -> tuple[list[Face], float]:
    """The faces that mcap would take, and the milliseconds it took."""
    start = time.process_time()
    faces = detector.detect(np.ascontiguousarray(image))
    spent = 1000 * (time.process_time() - start)
    return [face for face in faces if face.score >= MIN_SCORE], spent


def match(faces: list[Face], expected: list[np.ndarray]) -> list[Face | None]:
    """For each place where a face must be the one that is there."""
    free = list(faces)
    matched: list[Face | None] = []
    for landmarks in expected:
        limit, middle = eye_distance(landmarks), landmarks.mean(axis=0)
        gaps = [float(np.hypot(*(face.landmarks.mean(axis=0) - middle))) for face in free]
        best = int(np.argmin(gaps)) if gaps else None
        matched.append(free.pop(best) if best is not None and gaps[best] <= limit else None)
    return matched


def runnable(kind: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What is registered and can run here, by name; the others with the reason why not."""
    made, failed = {}, {}
    for name in registry().names(kind):
        try:
            made[name] = registry().create(kind, name)
        except McapError as error:
            failed[name] = str(error)
    return made, failed


def whereabouts(image: np.ndarray) -> np.ndarray:
    """Five points that are certainly on the face of a portrait, where no detector has found it."""
    from mcap.faces.oval import TEMPLATE

    height, width = image.shape[:2]
    return (TEMPLATE - TEMPLATE.mean(axis=0)) * 0.78 * height + (width / 2, height * 0.567)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    cv2.setNumThreads(1)
    detectors, no_detectors = runnable("detector")
    maskers, no_maskers = runnable("masker")
    paths = find_photos([options.pictures])[: options.count]
    options.out.mkdir(parents=True, exist_ok=True)

    rows = {name: {title: Row() for title in TRANSFORMS} for name in detectors}
    seen: dict[str, list[np.ndarray | None]] = {name: [] for name in detectors}
    for path in paths:
        image = read_photo(path).image
        for name, detector in detectors.items():
            row = rows[name]["plain"]
            faces, spent = look(detector, image)
            face = match(faces, [whereabouts(image)])[0]
            row.milliseconds.append(spent)
            row.faces += 1
            row.found += face is not None
            row.extra += len(faces) - (face is not None)
            seen[name].append(None if face is None else np.asarray(face.landmarks, np.float64))
            if face is None:
                print(f"{name} finds no face in {path.name}", flush=True)

    pairs = list(itertools.combinations(maskers, 2))
    overlaps = {pair: {title: [] for title in TRANSFORMS} for pair in pairs}
    mask_times = {name: [] for name in maskers}
    copied = range(0, len(paths), options.every)
    for number in copied:
        path = paths[number]
        images = [read_photo(each).image for each in (path, paths[number - 1])]
        numbers = [number, number - 1]
        for title, transform in TRANSFORMS.items():
            copy = transform(images, options.out, number)
            here = range(len(copy.to_copy))
            for name, detector in detectors.items():
                # The plain ones are counted already; here they are looked at for their masks.
                row = Row() if title == "plain" else rows[name][title]
                faces, spent = look(detector, copy.image)
                row.milliseconds.append(spent)
                own = [seen[name][numbers[place]] for place in here]
                expected = [
                    copy.landmarks(place, whereabouts(images[place]) if mine is None else mine)
                    for place, mine in zip(here, own, strict=True)
                ]
                matched = match(faces, expected)
                row.faces += len(expected)
                row.found += sum(face is not None for face in matched)
                row.extra += len(faces) - sum(face is not None for face in matched)
                for face, must, mine in zip(matched, expected, own, strict=True):
                    if face is not None and mine is not None:
                        gaps = np.hypot(*(face.landmarks - must).T)
                        row.errors.append(float(gaps.mean()) / eye_distance(must))
                if name == "yunet" and pairs and matched[0]:
                    compare(maskers, copy.image, matched[0], overlaps, title, mask_times)
        if number % 80 == 0:
            print(f"{number} of {len(paths)}", flush=True)
    (options.out / "turned.jpg").unlink(missing_ok=True)
    return {
        "command": f"python benchmarks/faces.py --count {len(paths)} --every {options.every}",
        "pictures": len(paths),
        "copies": len(copied) * (len(TRANSFORMS) - 1),
        "machine": f"{platform.machine()}, OpenCV {cv2.__version__}",
        "min_score": MIN_SCORE,
        "detectors": {
            name: {title: row.as_json() for title, row in of.items()} for name, of in rows.items()
        },
        "not_run": {**no_detectors, **{f"masker {k}": v for k, v in no_maskers.items()}},
        "masks": {
            f"{a} and {b}": {
                title: {
                    "pictures": len(values),
                    "mean": float(np.mean(values)) if values else None,
                    "low": float(np.quantile(values, 0.05)) if values else None,
                }
                for title, values in overlaps[a, b].items()
            }
            for a, b in pairs
        },
        "mask_milliseconds": {name: float(np.mean(of)) for name, of in mask_times.items() if of},
    }


FACELESS = (
    *("brick", "chelsea", "clock", "coffee", "coins", "colorwheel", "grass", "gravel"),
    *("horse", "hubble_deep_field", "immunohistochemistry", "moon", "page", "retina", "rocket"),
    *("text", "checkerboard", "cell"),
)
"""Pictures of scikit-image that show no person; those that are not installed are left out."""


def faceless(cuts: int = 40, noises: int = 60) -> Iterator[np.ndarray]:
    """Yield pictures without a face uint8[H, W, 3]."""
    from skimage import data

    for seed, name in enumerate(FACELESS):
        try:
            picture = np.asarray(getattr(data, name)())
        except Exception:  # of a registry that asks for the network, of whatever kind
            print(f"{name} is not here", flush=True)
            continue
        if picture.dtype == bool:
            picture = picture.astype(np.uint8) * 255
        image = np.stack([picture] * 3, axis=2) if picture.ndim == 2 else picture[..., :3]
        yield np.ascontiguousarray(image)
        rng = np.random.default_rng(seed)
        for number in range(cuts):
            side = int(rng.uniform(0.15, 0.7) * min(image.shape[:2]))
            y, x = (int(rng.integers(0, room - side + 1)) for room in image.shape[:2])
            cut = np.ascontiguousarray(image[y : y + side, x : x + side])
            large = cv2.resize(cut, (384, 384), interpolation=cv2.INTER_CUBIC)
            yield np.ascontiguousarray(np.rot90(large, number % 4))
    for seed in range(noises):
        rng = np.random.default_rng(seed)
        noise = np.zeros((384, 384, 3))
        for octave in range(1, 8):
            layer = rng.normal(size=(2**octave, 2**octave, 3))
            large = cv2.resize(layer, (384, 384), interpolation=cv2.INTER_CUBIC)
            noise += large * 2.0 ** (-0.7 * octave)
        yield ((noise - noise.min()) / np.ptp(noise) * 255).astype(np.uint8)


def second_opinion(options: argparse.Namespace) -> str:
    """Return a table: pictures, with a finding, its quality, with a face that counts."""
    cv2.setNumThreads(1)
    detector = registry().create("detector", "yunet")
    identity = registry().create("identity", "sface")
    least = identity.info.face_quality
    paths = find_photos([options.pictures])[: options.count]
    options.out.mkdir(parents=True, exist_ok=True)
    best: dict[str, list[float | None]] = {title: [] for title in TRANSFORMS}

    def quality(image: np.ndarray) -> float | None:
        """The best of a picture's findings; None where there is none."""
        found = find_faces(np.ascontiguousarray(image), detector, identity)
        return max((each.quality for each in found), default=None)

    for number, path in enumerate(paths):
        images = [read_photo(each).image for each in (path, paths[number - 1])]
        for title, transform in TRANSFORMS.items():
            if title == "plain" or number % options.every == 0:
                best[title].append(quality(transform(images, options.out, number).image))
    (options.out / "turned.jpg").unlink(missing_ok=True)
    best["without a face"] = [quality(image) for image in faceless()]
    lines = [
        "| pictures | count | with a finding | its quality: least, median, most | with a face |",
        "| --- | --- | --- | --- | --- |",
    ]
    for title, values in best.items():
        seen = [value for value in values if value is not None]
        low, middle, high = np.quantile(seen, (0, 0.5, 1)) if seen else [float("nan")] * 3
        lines.append(
            f"| {title} | {len(values)} | {len(seen)} | {low:.1f}, {middle:.1f}, {high:.1f} "
            f"| {sum(value >= least for value in seen)} |"
        )
    return "\n".join(lines) + "\n"


def verdicts(options: argparse.Namespace) -> str:
    """Return a table: pictures, each alone through masking, and how many are accepted."""
    from mcap.contracts import FaceTools
    from mcap.masking import MaskSettings, mask_photos

    cv2.setNumThreads(1)
    made = {"detector": "yunet", "identity": "sface", "masker": "landmarks"}
    tools = FaceTools(**{kind: registry().create(kind, name) for kind, name in made.items()})
    settings = MaskSettings(size=256)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = ["| pictures | count | accepted | with a note | why not |"]
    lines += ["| --- | --- | --- | --- | --- |"]

    def row(title: str, paths: list[Path]) -> None:
        entries = [mask_photos([path], tools, settings).entries[0] for path in paths]
        accepted = [entry for entry in entries if isinstance(entry, MaskedPhoto)]
        refused = Counter(
            kind for entry in entries if isinstance(entry, RefusedPhoto) for kind in entry.kinds
        )
        why = ", ".join(f"{kind} {count}" for kind, count in refused.most_common())
        noted = sum(bool(entry.kinds) for entry in accepted)
        lines.append(f"| {title} | {len(paths)} | {len(accepted)} | {noted} | {why} |")

    row("portraits", find_photos([options.pictures])[: options.count])
    without = []
    for number, image in enumerate(faceless()):
        if number % 8 == 0:
            without.append(options.out / f"faceless-{number}.png")
            Image.fromarray(image).save(without[-1])
    row("without a face", without)
    for path in without:
        path.unlink()
    return "\n".join(lines) + "\n"


def compare(
    maskers: dict[str, Any],
    image: np.ndarray,
    face: Face,
    overlaps: dict[tuple[str, str], dict[str, list[float]]],
    title: str,
    times: dict[str, list[float]],
) -> None:
    masks = {}
    for name, masker in maskers.items():
        start = time.process_time()
        masks[name] = masker.mask(image, face)
        times[name].append(1000 * (time.process_time() - start))
    for a, b in overlaps:
        overlaps[a, b][title].append(iou(masks[a], masks[b]))


def tables(result: dict[str, Any]) -> str:
    lines = [
        f"{result['pictures']} pictures and {result['copies']} transformed copies.",
        "",
        "| detector | pictures | faces | found | landmark error, mean (95 %) | extra | ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, of in result["detectors"].items():
        for title, row in of.items():
            error = "-" if title == "plain" else f"{row['error_mean']:.3f} ({row['error_95']:.3f})"
            lines.append(
                f"| {name} | {title} | {row['faces']} | {100 * row['rate']:.2f} % | {error} "
                f"| {row['extra']} | {row['milliseconds']:.0f} |"
            )
    if result["not_run"]:
        lines += ["", "Not run here:", ""]
        lines += [f"- {name}: {reason}" for name, reason in result["not_run"].items()]
    if result["masks"]:
        pairs = list(result["masks"])
        lines += ["", "| pictures | " + " | ".join(pairs) + " |"]
        lines += ["| --- |" + " --- |" * len(pairs)]
        for title in TRANSFORMS:
            cells = []
            for pair in pairs:
                cell = result["masks"][pair][title]
                cells.append(f"{cell['mean']:.3f} ({cell['low']:.3f})" if cell["pictures"] else "-")
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
        times = ", ".join(f"{name} {ms:.0f}" for name, ms in result["mask_milliseconds"].items())
        lines += ["", f"Milliseconds a mask: {times}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="a folder of portraits")
    parser.add_argument("--count", type=int, default=660)
    parser.add_argument("--every", type=int, default=4, help="copies of every so many-th picture")
    parser.add_argument("--out", type=Path, default=Path("out/faces"))
    parser.add_argument("--second-opinion", action="store_true", help="what makes it a face")
    parser.add_argument("--verdicts", action="store_true", help="who is accepted, each alone")
    options = parser.parse_args()
    if options.second_opinion or options.verdicts:
        text = verdicts(options) if options.verdicts else second_opinion(options)
        name = "verdicts.md" if options.verdicts else "second-opinion.md"
        (options.out / name).write_text(text, encoding="utf-8")
        print("\n" + text)
        return
    result = measure(options)
    text = tables(result)
    (options.out / "faces.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (options.out / "faces.md").write_text(text, encoding="utf-8")
    print("\n" + text)


if __name__ == "__main__":
    main()
