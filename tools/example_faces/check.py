"""Measure what draw.py drew: faces found, sizes, and who is like whom (SFace cosine).

    python tools/example_faces/check.py --models FOLDER

Ends with status 1 where a person is not alike in all her pictures, or two people are.
"""

from __future__ import annotations

import argparse
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
from people import Judge
from PIL import Image, ImageOps

ROOT = Path(__file__).parents[2]
SAME = 0.6  # each picture to the mean of the person's others
STRANGERS = 0.5  # at most, between any two who are not the same
ONE_PERSON = 0.363  # SFace's own threshold, by its authors; for the report only
APART = 0.35  # at most, between the benchmark's people and everybody else
GROUPS = ["examples/selfies", *(f"benchmarks/people/{i}" for i in range(1, 5))]


def _embeddings(folder: Path, judge: Judge) -> np.ndarray:
    """float32[N, 128], one row a picture of `folder`, the largest face of each."""
    rows = []
    for path in sorted(folder.glob("*.jpg")):
        with Image.open(path) as picture:
            image = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
        rows.append(judge.embed(image))
        count, size = len(judge.faces(image)), path.stat().st_size // 1024
        place = path.relative_to(ROOT)
        print(f"  {place}  {image.shape[1]} x {image.shape[0]}  {size} KB  {count} face(s)")
    return np.array(rows)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True)
    judge, bad = Judge(parser.parse_args().models), 0
    people: dict[str, np.ndarray] = {}
    table = [
        "| person | pictures | pairs: mean (lowest) | to the mean of the others: lowest |",
        "| --- | --- | --- | --- |",
    ]
    for group in GROUPS:
        rows = _embeddings(ROOT / group, judge)
        if not len(rows):
            continue
        pairs = [float(a @ b) for a, b in combinations(rows, 2)]
        others = [float(row @ _unit(rows.sum(0) - row)) for row in rows]
        bad += sum(value < SAME for value in others)
        people[group] = _unit(rows.mean(0))
        table.append(
            f"| {group} | {len(rows)} | {np.mean(pairs):.2f} ({min(pairs):.2f}) "
            f"| {min(others):.2f} |"
        )
    for folder in sorted((ROOT / "profiles/refs").glob("*")):
        names = [f"{folder.name}/{path.name}" for path in sorted(folder.glob("*.jpg"))]
        people.update(zip(names, _embeddings(folder, judge), strict=True))
    values = {(a, b): float(people[a] @ people[b]) for a, b in combinations(people, 2)}
    print("\n".join(["", *table, ""]))
    if values:
        nearest = max(values, key=values.get)
        above = sum(value > ONE_PERSON for value in values.values())
        print(
            f"{len(people)} people; between people: mean {np.mean(list(values.values())):.2f}, "
            f"largest {values[nearest]:.2f} ({nearest[0]}, {nearest[1]}); "
            f"{above} of {len(values)} pairs above {ONE_PERSON}"
        )
    for pair, value in sorted(values.items(), key=lambda item: -item[1]):
        limit = APART if any(name.startswith("benchmarks") for name in pair) else STRANGERS
        if value > limit:
            bad += 1
            print(f"  too alike: {pair[0]}, {pair[1]}: {value:.2f}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
