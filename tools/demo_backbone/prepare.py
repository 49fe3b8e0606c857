"""Faces on disk -> arrays: pictures of 256 pixels, mattes, face vectors, and what is known of each.

Writes to --out, row for row the same faces: images.npy uint8[N, 256, 256, 3] RGB, mattes.npy
uint8[N, 256, 256], embeddings.npy float32[N, 128] (unit vectors of SFace), and table.json, a
record a face: number (the same for two pictures of one person), set, landmarks and box in pixels,
chin (y), clear and sides (frames.HeadAt), and attributes that can be told with certainty.

    python tools/demo_backbone/prepare.py --faces FACES --segmenter X.tflite --sface S.onnx
        --out DATA

--size 128 makes the smaller pictures that train_autoencoder.py begins with: landmarks are in their
pixels then, all else stays in those of 256.

FACES holds 256/*.webp with landmarks.csv and attributes.csv and, where there are more,
second/ (other pictures of the same people) and new/ with theirs (landmarks-second.csv, ...).
"""

from __future__ import annotations

import argparse
import csv
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from frames import rows_above_hair, rows_at_sides

from mcap.contracts import Face
from mcap.framing.head import crown_to_chin


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
    """Attributes that can be read off with certainty; a doubtful one is left out.

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
    elif abs(turn) < 0.08:
        found["looking"] = "front"
    return found


def told_by_networks(line: dict) -> dict:
    """Sex, age and expression from a row of attributes.csv; a doubtful one is left out."""
    found = {}
    male, age = float(line["male"]), float(line["age"])
    if male > 0.9 or male < 0.1:
        found["sex"] = "man" if male > 0.9 else "woman"
    found["age"] = min(int(age // 10) * 10, 60)
    if age < 31:
        found["years"] = "young"
    elif age > 58:
        found["years"] = "old"
    # The network that reads expressions is sure of a smile only where teeth show.
    if float(line["happy"]) > 0.9:
        found["expression"] = "smile"
    elif float(line["neutral"]) > 0.7:
        found["expression"] = "neutral"
    return found


_state = {}


def _start(segmenter, sface, faces, size):
    cv2.setNumThreads(1)
    recogniser = cv2.FaceRecognizerSF.create(sface, "")
    _state.update(segment=load_segmenter(segmenter), recogniser=recogniser, faces=faces, size=size)


def _one(row: dict):
    path = _state["faces"] / row["folder"] / f"{row['number']:06d}.webp"
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    image = bgr[..., ::-1].copy()
    matte = person_matte(_state["segment"], image, tuple(row["points"][2]))
    face = np.concatenate([row["box"], row["points"].ravel(), [row["score"]]]).astype(np.float32)
    recogniser = _state["recogniser"]
    small = (_state["size"],) * 2
    vector = recogniser.feature(recogniser.alignCrop(bgr, face))[0]
    x, y, w, h = row["box"]
    known = Face((x, y, x + w, y + h), row["score"], row["points"].astype(np.float32))
    record = {
        "number": row["number"],
        "set": row["folder"],
        "points": np.round(row["points"] * small[0] / 256, 2).tolist(),
        "box": np.round(row["box"], 2).tolist(),
        "chin": round(crown_to_chin(known).chin, 2),
        "clear": rows_above_hair(matte),
        "sides": rows_at_sides(matte),
        "attributes": attributes(image, matte, row) | row["told"],
    }
    image, matte = (cv2.resize(a, small, interpolation=cv2.INTER_AREA) for a in (image, matte))
    return record, image, np.round(matte * 255).astype(np.uint8), vector / np.linalg.norm(vector)


def read_rows(faces: Path) -> list[dict]:
    """Every face of the folder that has landmarks and attributes, set after set.

    A row: folder, number, score, box float[4] (x, y, w, h), points float[5, 2], told (attributes).
    """
    rows = []
    for folder, end in (("256", ""), ("second", "-second"), ("new", "-new")):
        if not (faces / f"landmarks{end}.csv").exists():
            continue
        with open(faces / f"attributes{end}.csv", newline="") as file:
            told = {line["number"]: told_by_networks(line) for line in csv.DictReader(file)}
        with open(faces / f"landmarks{end}.csv", newline="") as file:
            for line in csv.DictReader(file):
                if line["number"] not in told:
                    continue
                points = [[float(line[f"x{i}"]), float(line[f"y{i}"])] for i in range(5)]
                box = np.array([float(line[k]) for k in ("x", "y", "width", "height")])
                rows.append(
                    {"folder": folder, "number": int(line["number"]), "score": float(line["score"]),
                     "box": box, "points": np.array(points), "told": told[line["number"]]}
                )  # fmt: skip
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", required=True, type=Path)
    parser.add_argument("--segmenter", required=True, help="selfie_segmentation.tflite")
    parser.add_argument("--sface", required=True, help="SFace's ONNX file")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = read_rows(options.faces)
    if not rows:
        raise SystemExit(f"no faces with landmarks and attributes in '{options.faces}'")
    whole = (len(rows), options.size, options.size)
    shapes = {"images": (*whole, 3), "mattes": whole}
    arrays = {
        name: np.lib.format.open_memmap(options.out / f"{name}.npy", "w+", np.uint8, shape)
        for name, shape in shapes.items()
    }
    records, vectors = [], []
    start = (options.segmenter, options.sface, options.faces, options.size)
    # It ends where a worker cannot start; multiprocessing.Pool would start another for ever.
    with ProcessPoolExecutor(options.workers, initializer=_start, initargs=start) as pool:
        for i, (record, image, matte, vector) in enumerate(pool.map(_one, rows, chunksize=32)):
            records.append(record)
            vectors.append(vector)
            arrays["images"][i], arrays["mattes"][i] = image, matte
            if i % 1000 == 0:
                print(f"{i} of {len(rows)}", flush=True)
    for array in arrays.values():
        array.flush()
    np.save(options.out / "embeddings.npy", np.stack(vectors).astype(np.float32))
    # Last, so that a folder with a table is whole.
    (options.out / "table.json").write_text(json.dumps(records))


if __name__ == "__main__":
    main()
