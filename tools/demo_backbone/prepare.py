"""Faces on disk -> arrays: pictures at the model's size, mattes, landmarks and attributes.

Writes to --out: images.npy uint8[N, S, S, 3] RGB, mattes.npy uint8[N, S, S], table.json (one
record a picture, in the order of the arrays: number, landmarks in pixels of the small picture,
attributes that can be read off with certainty).

    python tools/demo_backbone/prepare.py --faces FACES --segmenter X.tflite --out DATA
"""

from __future__ import annotations

import argparse
import csv
import json
from multiprocessing import Pool
from pathlib import Path

import cv2
import numpy as np


def guided_filter(guide: np.ndarray, mask: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Edge-preserving refinement of a mask by a grey guide (He, Sun, Tang, ECCV 2010, eq. 5-6).

    guide, mask: float32[H, W] in [0, 1]. Returns float32[H, W] in [0, 1].
    """
    size = (2 * radius + 1, 2 * radius + 1)

    def mean(x):
        return cv2.blur(x, size, borderType=cv2.BORDER_REFLECT)

    mean_g, mean_m = mean(guide), mean(mask)
    slope = (mean(guide * mask) - mean_g * mean_m) / (mean(guide * guide) - mean_g**2 + eps)
    offset = mean_m - slope * mean_g
    return np.clip(mean(slope) * guide + mean(offset), 0, 1)


def load_segmenter(path: str):
    """Compiles the MediaPipe selfie segmenter with OpenVINO, one thread.

    Its one operation that no runtime knows, Convolution2DTransposeBias, is written out here: a
    2 x 2 transposed convolution of stride 2 and a bias. Weights come as O, H, W, I.
    """
    import openvino as ov
    import openvino.opset13 as ops
    from openvino.frontend import ConversionExtension

    def transposed(node):
        x, weight, bias = (node.get_input(i) for i in range(3))
        x = ops.transpose(x, ops.constant(np.array([0, 3, 1, 2])))
        weight = ops.transpose(weight, ops.constant(np.array([3, 0, 1, 2])))
        y = ops.convolution_backprop_data(x, weight, strides=[2, 2])
        return ops.add(ops.transpose(y, ops.constant(np.array([0, 2, 3, 1]))), bias).outputs()

    core = ov.Core()
    core.add_extension(ConversionExtension("Convolution2DTransposeBias", transposed))
    return core.compile_model(core.read_model(path), "CPU", {"INFERENCE_NUM_THREADS": 1})


def person_matte(segment, image: np.ndarray, centre: tuple[float, float]) -> np.ndarray:
    """float32[256, 256]: 1 on the person whose face is at centre (x, y); others are background."""
    rough = segment(image[None].astype(np.float32) / 255)[0][0, ..., 0]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    matte = guided_filter(grey, rough, 4, 1e-3)
    matte = np.clip((matte - 0.15) / 0.7, 0, 1)
    _, parts = cv2.connectedComponents((matte > 0.5).astype(np.uint8))
    part = parts[min(int(centre[1]), 255), min(int(centre[0]), 255)]
    if part == 0:
        return matte
    near = cv2.dilate((parts == part).astype(np.uint8), np.ones((9, 9), np.uint8))
    return matte * near


def attributes(image: np.ndarray, matte: np.ndarray, row: dict) -> dict:
    """What can be read off with certainty; a doubtful attribute is left out.

    image uint8[256, 256, 3], matte float32[256, 256], row: box and landmarks in these pixels.
    """
    found = {}
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    outside = matte < 0.05
    if outside.mean() > 0.12:
        level = np.median(grey[outside])
        hue, saturation = np.median(hsv[outside][:, 0]), np.median(hsv[outside][:, 1])
        if 35 <= hue <= 80 and saturation > 60 and level > 40:
            found["background"] = "green"
        elif level > 185:
            found["background"] = "light"
        elif level < 55:
            found["background"] = "dark"
    points = row["points"]
    eyes, nose = (points[0] + points[1]) / 2, points[2]
    distance = float(np.linalg.norm(points[1] - points[0]))
    x, y, w, h = row["box"]
    yy, xx = np.mgrid[0:256, 0:256]
    above = (yy < y - 0.03 * h) & (xx > x + 0.1 * w) & (xx < x + 0.9 * w)
    hair = (matte > 0.95) & above
    if hair.sum() > 600:
        level, spread = np.median(grey[hair]), grey[hair].std()
        if level < 62 and spread < 45:
            found["hair"] = "dark"
        elif level > 150 and spread < 45:
            found["hair"] = "light"
    turn = float((nose - eyes)[0]) / max(distance, 1)
    if abs(turn) > 0.3:
        found["looking"] = "left" if turn < 0 else "right"
    # A smile is left out: mouth width over face size does not tell one (looked at on a sheet).
    return found


_state = {}


def _start(segmenter, faces, size):
    cv2.setNumThreads(1)
    _state.update(segment=load_segmenter(segmenter), faces=Path(faces), size=size)


def _one(row: dict):
    path = _state["faces"] / "256" / f"{row['number']:06d}.webp"
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1].copy()
    matte = person_matte(_state["segment"], image, tuple(row["points"][2]))
    record = {
        "number": row["number"],
        "points": np.round(row["points"] * _state["size"] / 256, 2).tolist(),
        "attributes": attributes(image, matte, row),
        "person": round(float(matte.mean()), 3),
    }
    shape = (_state["size"], _state["size"])
    small = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
    soft = cv2.resize(matte, shape, interpolation=cv2.INTER_AREA)
    return record, small, np.round(soft * 255).astype(np.uint8)


def read_rows(path: Path) -> list[dict]:
    """landmarks.csv -> rows with box float[4] (x, y, w, h) and points float[5, 2], 256 pixels."""
    rows = []
    with open(path, newline="") as file:
        for line in csv.DictReader(file):
            points = [[float(line[f"x{i}"]), float(line[f"y{i}"])] for i in range(5)]
            box = np.array([float(line[k]) for k in ("x", "y", "width", "height")])
            rows.append({"number": int(line["number"]), "box": box, "points": np.array(points)})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", required=True, help="folder with 256/*.webp and landmarks.csv")
    parser.add_argument("--segmenter", required=True, help="selfie_segmentation.tflite")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = read_rows(Path(options.faces) / "landmarks.csv")
    count, size = len(rows), options.size
    images = np.empty((count, size, size, 3), np.uint8)
    mattes = np.empty((count, size, size), np.uint8)
    records = []
    start = (options.segmenter, options.faces, size)
    with Pool(options.workers, _start, start) as pool:
        for i, (record, image, matte) in enumerate(pool.imap(_one, rows, chunksize=32)):
            records.append(record)
            images[i], mattes[i] = image, matte
            if i % 1000 == 0:
                print(f"{i} of {count}", flush=True)
    np.save(options.out / "images.npy", images)
    np.save(options.out / "mattes.npy", mattes)
    (options.out / "table.json").write_text(json.dumps(records))


if __name__ == "__main__":
    main()
