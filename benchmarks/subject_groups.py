"""Is the right person the subject when strangers are among the photos?

    python benchmarks/draw_people.py --out PEOPLE
    python benchmarks/subject_groups.py --people PEOPLE benchmarks/people examples \\
        --strangers FOLDER --out out/groups

PEOPLE are folders with a folder of photos for each person, FOLDER holds portraits of other people,
one each. A group is made at random of

- 3 to 8 photos of one person, some of them transformed copies (lighter or darker, smaller,
  mirrored, recompressed) and some with a stranger beside the person, who may be the larger one;
- photos of strangers: up to one fewer than the person's; another person of PEOPLE may be in
  several of them, but always in fewer than the subject;
- pictures of two strangers side by side.

`mcap.masking.mask_photos`, as ``mcap mask`` calls it, gets the shuffled files. The right subject is
chosen where, of the photos that show the subject, more than half are accepted, each for the
subject's face. Accepted photos that show strangers only are counted apart: they are a matter of how
well the identity network tells two people apart, and people of one generator are more alike than
people in the street. Prints a Markdown table and writes OUT/groups.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mcap.contracts import FaceTools
from mcap.faces.measure import FoundFace
from mcap.images.find import find_photos
from mcap.images.photo import read_photo
from mcap.masking.records import KnownPhotos, MaskedPhoto, MaskSettings
from mcap.masking.select import mask_photos
from mcap.registry import registry

SIDE = 512
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class Made:
    """One file of a group: where the subject is in it, as x from and to, or None."""

    path: Path
    subject: tuple[float, float] | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=Path, nargs="+", required=True)
    parser.add_argument("--strangers", type=Path, required=True)
    parser.add_argument("--groups", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=256, help="of the training crops")
    parser.add_argument("--out", type=Path, default=Path("out/groups"))
    options = parser.parse_args()
    people = [
        photos
        for root in options.people
        for folder in sorted(root.iterdir())
        if folder.is_dir() and len(photos := pictures(folder)) >= 3
    ]
    strangers = pictures(options.strangers)
    options.out.mkdir(parents=True, exist_ok=True)
    tools = FaceTools(
        registry().create("detector", "yunet"),
        registry().create("identity", "sface"),
        registry().create("masker", "landmarks"),
    )
    settings = MaskSettings(size=options.size)
    known: dict[str, list[FoundFace]] = {}  # a photo that is in several groups is measured once
    results = []
    for number in range(options.groups):
        rng = np.random.default_rng([options.seed, number])
        made = make_group(rng, people, strangers, options.out / "group")
        masked = mask_photos(
            [each.path for each in made], tools, settings, known=KnownPhotos(known)
        )
        known |= masked.faces
        result = judge(made, masked.entries) | {"group": number}
        results.append(result)
        if result["reasons"]:
            print(f"group {number}: {'; '.join(result['reasons'])}", flush=True)
        if number % 20 == 19:
            right = sum(each["right"] for each in results)
            print(f"{right} of {number + 1} right", flush=True)
    report(results, people, options)


def pictures(folder: Path) -> list[Path]:
    return [path for path in find_photos([folder]) if path.suffix.lower() in SUFFIXES]


def make_group(rng, people, strangers, folder: Path) -> list[Made]:
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    subject, *others = rng.permutation(len(people))
    photos = people[subject]
    count = int(rng.integers(3, 9))
    contents: list[tuple[np.ndarray, tuple[float, float] | None]] = []
    for place in range(count):
        # Every photo once before any is repeated as a copy.
        image = opened(photos[place % len(photos)])
        if place >= len(photos) or rng.random() < 0.3:
            image = copy_of(image, rng)
        if rng.random() < 0.3:
            contents.append(beside(image, opened(rng.choice(strangers)), rng))
        else:
            contents.append((image, (0.0, 1.0)))
    alone = int(rng.integers(0, count))
    again = people[others[0]]
    for place in range(alone):
        # Somebody else who recurs, too, but in fewer photos than the subject.
        if place < min(count - 2, len(again)) and rng.random() < 0.4:
            contents.append((opened(again[place]), None))
        else:
            contents.append((opened(rng.choice(strangers)), None))
    for _ in range(int(rng.integers(0, 3))):
        two = rng.choice(strangers, 2, replace=False)
        contents.append((beside(opened(two[0]), opened(two[1]), rng)[0], None))
    made = []
    for name, place in enumerate(rng.permutation(len(contents))):
        image, where = contents[place]
        path = folder / f"{name:02}.jpg"
        Image.fromarray(image).save(path, quality=92)
        made.append(Made(path, where))
    return made


def opened(path: Path) -> np.ndarray:
    image = read_photo(path).image
    scale = SIDE / max(image.shape[:2])
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def copy_of(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    kind = rng.integers(0, 4)
    if kind == 0:
        return np.ascontiguousarray(image[:, ::-1])
    if kind == 1:
        gain = 2.0 ** rng.uniform(-2, 0.5)
        return (image.astype(np.float32) * gain).clip(0, 255).astype(np.uint8)
    if kind == 2:
        scale = rng.uniform(0.5, 0.9)
        return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    noisy = image + rng.normal(0, 10, image.shape)
    return noisy.round().clip(0, 255).astype(np.uint8)


def beside(
    first: np.ndarray, second: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[float, float]]:
    """The two side by side, ``first`` on either side and from 0.6 to 1.3 times as large; where
    ``first`` is, in fractions of the width."""
    scale = rng.uniform(0.6, 1.3)
    if scale < 1:
        first = cv2.resize(first, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    else:
        second = cv2.resize(second, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
    height = max(len(first), len(second))
    fill = [
        cv2.copyMakeBorder(image, 0, height - len(image), 0, 0, cv2.BORDER_REPLICATE)
        for image in (first, second)
    ]
    width = first.shape[1] + second.shape[1]
    if rng.random() < 0.5:
        return np.concatenate(fill, axis=1), (0.0, first.shape[1] / width)
    return np.concatenate(fill[::-1], axis=1), (second.shape[1] / width, 1.0)


def judge(made, entries) -> dict:
    own = other = wrong = missed = 0
    reasons = []
    for each, entry in zip(made, entries, strict=True):
        accepted = isinstance(entry, MaskedPhoto)
        if accepted:
            x = float(entry.face.landmarks[:, 0].mean()) / entry.shape[1]
            if each.subject is not None and each.subject[0] <= x <= each.subject[1]:
                own += 1
            elif each.subject is not None:
                wrong += 1
                reasons.append(f"{each.path.name}: the person beside, {entry.similarity:.3f}")
            else:
                other += 1
                reasons.append(f"{each.path.name}: a stranger's photo, {entry.similarity:.3f}")
        elif each.subject is not None:
            missed += 1
            reasons.append(f"{each.path.name}: {entry.reason}")
    photos = sum(each.subject is not None for each in made)
    return {
        "files": len(made),
        "subject_photos": photos,
        "accepted": own,
        "missed": missed,
        "wrong": wrong,
        "strangers": other,
        "strangers_photos": len(made) - photos,
        "right": wrong == 0 and 2 * own > photos,
        "reasons": reasons,
    }


def report(results, people, options) -> None:
    keys = ("files", "subject_photos", "accepted", "missed", "wrong", "strangers")
    total = {key: sum(each[key] for each in results) for key in (*keys, "strangers_photos")}
    right = sum(each["right"] for each in results)
    rows = {
        "groups": len(results),
        "people to be the subject": len(people),
        "photos": total["files"],
        "right subject": right,
        "subject's photos accepted": f"{total['accepted']} of {total['subject_photos']}",
        "for the face beside": total["wrong"],
        "strangers' photos accepted": f"{total['strangers']} of {total['strangers_photos']}",
    }
    text = "| | |\n| --- | --- |\n"
    text += "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    record = {"groups": len(results), "right": right, **total, "people": len(people)}
    record["results"] = results
    (options.out / "groups.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (options.out / "groups.md").write_text(text, encoding="utf-8")
    print("\n" + text)


if __name__ == "__main__":
    main()
