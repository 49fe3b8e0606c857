"""Is a face that something covers told from a plain one, and how many plain ones are doubted?

    python benchmarks/covers.py --pictures FOLDER --out out/covers            # measure
    python benchmarks/covers.py --pictures FOLDER --landmarks CSV --fit       # fit mcap's weights

FOLDER holds portraits, one face each. Every tenth is measured, the others are for fitting, so that
nobody who was fitted to is measured. ``--covered`` of them have something drawn onto them
(`draw_covers.COVERS`); to be fitted to, each is seen as it is and four times more (`degraded`).
Covered faces are found by YuNet after they were covered. Plain ones, too, unless CSV has their
landmarks (columns number, x0, y0 to x4, y4), which saves the time.

Measured are ``--plain`` portraits as they are and ``--covered`` with each kind of cover in turn:
how many are refused (`FaceSettings.max_cover`), how many are noted (``soft_cover``); and how many
of each kind would be found if that kind had not been fitted to (``--held-out``, with --fit). Where
insightface is installed, its four photographs of masks are laid over faces, too: nothing like them
was fitted to.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from draw_covers import COVERS, Cover, photographed_mask

from mcap.faces.cover import WEIGHTS, cover, cover_features, upright
from mcap.faces.settings import FaceSettings
from mcap.images.find import find_photos
from mcap.images.photo import read_photo
from mcap.registry import registry

PENALTY = 1e-2
"""Of the weights' squares."""

COPIES = 4

KINDS = tuple(COVERS)


def looked_at(
    paths: list[Path], covered: int, known: dict[str, np.ndarray], covers: dict[str, Cover]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield (kind, picture, landmarks): of the first ``covered`` portraits with covers in turn.

    ``known`` has landmarks float[5, 2] of plain portraits by their name.
    """
    detector = registry().create("detector", "yunet")

    def landmarks_in(image: np.ndarray) -> np.ndarray | None:
        faces = [face for face in detector.detect(image) if face.score >= FaceSettings().min_score]
        return max(faces, key=lambda face: face.area).landmarks if faces else None

    for number, path in enumerate(paths):
        photo = read_photo(path)
        image = photo.image
        landmarks = known[path.stem] if path.stem in known else landmarks_in(image)
        kind = list(covers)[number % len(covers)] if number < covered else "plain"
        if kind != "plain" and landmarks is not None:
            rng = np.random.default_rng(int(photo.sha256[:8], 16))
            image = np.ascontiguousarray(covers[kind](image, landmarks, rng))
            landmarks = landmarks_in(image)
        if landmarks is None:
            print(f"no face is found in {path.name}, {kind}", flush=True)
        else:
            yield kind, image, np.asarray(landmarks, np.float32)
        if number % 200 == 199:
            print(f"{number + 1} of {len(paths)}", flush=True)


def degraded(face: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A face uint8[S, S, 3] as another camera, light and pose might have it, landmarks amiss."""
    side = len(face)
    turn = np.radians(rng.uniform(-9, 9))
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.array(
        [
            [rng.uniform(0.86, 1.12), rng.uniform(-0.14, 0.14)],
            [rng.uniform(-0.1, 0.1), rng.uniform(0.82, 1.14)],
        ]
    )
    middle = np.array([0.5, 0.55]) * side
    matrix = np.c_[linear, middle - linear @ middle + rng.uniform(-6, 6, 2)]
    border = cv2.BORDER_REPLICATE if rng.random() < 0.5 else cv2.BORDER_CONSTANT
    seen = cv2.warpAffine(face, matrix, (side, side), borderMode=border) / 255.0
    seen = seen ** rng.uniform(0.7, 1.5) * rng.uniform(0.3, 1.15) * rng.uniform(0.85, 1.15, 3)
    if rng.random() < 0.3:  # paler, or of stronger colours
        grey = seen.mean(axis=2, keepdims=True)
        seen = grey + (seen - grey) * rng.uniform(0, 1.5)
    if rng.random() < 0.4:  # light from one side
        y, x = np.mgrid[0:side, 0:side] / side - 0.5
        way = rng.uniform(0, 2 * np.pi)
        light = 1 + rng.uniform(0, 0.9) * (x * np.cos(way) + y * np.sin(way))
        seen = seen * light[..., None]
    if rng.random() < 0.5:
        seen = cv2.GaussianBlur(seen, (0, 0), rng.uniform(0.3, 1.8))
    if rng.random() < 0.5:
        seen = seen + rng.normal(0, rng.uniform(0, 0.04), seen.shape)
    face = (seen.clip(0, 1) * 255).round().astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.uniform(20, 95))
        face = cv2.imdecode(cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)
    return np.ascontiguousarray(face[:, ::-1]) if rng.random() < 0.5 else face


def fitted(features: np.ndarray, covered: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias of a penalised logistic regression, features float[N, F] -> bool[N]."""
    import torch

    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    points = torch.tensor((features - mean) / spread)
    wanted = torch.tensor(covered.astype(np.float64))
    weights = torch.zeros(points.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = points @ weights + bias
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        loss = loss + PENALTY * (weights**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = weights.detach().numpy() / spread
    return found, float(bias.item() - (mean * found).sum())


def photographs_of_masks() -> list[np.ndarray]:
    """insightface's photographs of four masks lying flat; [] where it is not installed."""
    found = importlib.util.find_spec("insightface")
    if found is None or found.origin is None:
        return []
    folder = Path(found.origin).parent / "data" / "images"
    return [read_photo(path).image for path in sorted(folder.glob("mask_*.jpg"))]


def read_landmarks(path: Path) -> dict[str, np.ndarray]:
    with path.open(encoding="utf-8") as file:
        return {
            row["number"]: np.array(
                [[float(row[f"x{point}"]), float(row[f"y{point}"])] for point in range(5)]
            )
            for row in csv.DictReader(file)
        }


def shares(kinds: np.ndarray, values: np.ndarray, limits: FaceSettings) -> list[str]:
    lines = ["| pictures | count | refused | noted or refused |", "| --- | --- | --- | --- |"]
    rows = {kind: kinds == kind for kind in dict.fromkeys(["plain", *KINDS, *kinds])}
    rows["all covers"] = kinds != "plain"
    for name, chosen in rows.items():
        if chosen.any():
            refused, noted = (
                100 * float((values[chosen] > limit).mean())
                for limit in (limits.max_cover, limits.soft_cover)
            )
            lines.append(f"| {name} | {int(chosen.sum())} | {refused:.1f} % | {noted:.1f} % |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="a folder of portraits")
    parser.add_argument("--plain", type=int, default=500)
    parser.add_argument("--covered", type=int, default=210)
    parser.add_argument("--landmarks", type=Path, help="CSV of the plain portraits' landmarks")
    parser.add_argument("--fit", action="store_true", help="fit and write mcap/faces/cover.json")
    parser.add_argument("--held-out", action="store_true", help="leave out each kind of cover")
    parser.add_argument("--out", type=Path, default=Path("out/covers"))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    limits = FaceSettings()
    paths = find_photos([options.pictures])
    order = np.random.default_rng(0).permutation(len(paths))
    kinds_drawn = dict(COVERS)
    if not options.fit and (textures := photographs_of_masks()):
        kinds_drawn["photographed mask"] = lambda image, landmarks, rng: photographed_mask(
            textures[rng.integers(len(textures))]
        )(image, landmarks, rng)
    known = read_landmarks(options.landmarks) if options.landmarks else {}
    measured = {int(i) for i in order[::10]}
    chosen = [paths[i] for i in order if (int(i) in measured) != options.fit]
    found = [
        (kind, upright(image, landmarks), cover(image, landmarks))
        for kind, image, landmarks in looked_at(
            chosen[: options.covered + options.plain], options.covered, known, kinds_drawn
        )
    ]
    kinds = np.array([kind for kind, _, _ in found])
    if not options.fit:
        text = "\n".join(shares(kinds, np.array([value for *_, value in found]), limits)) + "\n"
        (options.out / "covers.md").write_text(text, encoding="utf-8")
        print("\n" + text)
        return
    rng = np.random.default_rng(1)
    faces = [face for _, face, _ in found]
    seen = [*faces, *(degraded(face, rng) for _ in range(COPIES) for face in faces)]
    features = np.stack([cover_features(face) for face in seen])
    every = np.concatenate([kinds] * (1 + COPIES))
    weights, bias = fitted(features, every != "plain")
    stored = {"bias": round(bias, 6), "weights": [float(f"{value:.6g}") for value in weights]}
    WEIGHTS.write_text(json.dumps(stored) + "\n", encoding="utf-8")
    np.savez(options.out / "fitted.npz", features=features, kinds=every)
    if options.held_out:
        for kind in KINDS:
            others = every != kind
            weights, bias = fitted(features[others], every[others] != "plain")
            values = 1 / (1 + np.exp(-(features[: len(kinds)] @ weights + bias)))
            share = 100 * float((values[kinds == kind] > limits.max_cover).mean())
            print(f"{kind}: {share:.0f} % of it refused where it was not fitted to")


if __name__ == "__main__":
    main()
