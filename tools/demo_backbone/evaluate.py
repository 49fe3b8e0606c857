"""Measures the shipped demo backbone against its bars; prints the model card's table.

    python tools/demo_backbone/evaluate.py --model plugins/mcap_plugins/demo/model --data DATA
        --yunet Y.onnx --sface S.onnx --sheets FOLDER --card plugins/mcap_plugins/demo/MODEL_CARD.md

With --card, the table replaces what stands between the card's two marks, so the card holds exactly
what was measured.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from styles import luma
from train_autoencoder import Pictures, sheet

PROMPT = "a photo of a person"


class Faces:
    """YuNet and SFace through OpenCV; pictures below 256 pixels are enlarged to that first."""

    def __init__(self, yunet: str, sface: str, side: int):
        self.zoom = max(1, 256 // side)
        shape = (self.zoom * side, self.zoom * side)
        self.detector = cv2.FaceDetectorYN.create(yunet, "", shape, 0.5)
        self.recogniser = cv2.FaceRecognizerSF.create(sface, "")

    def enlarge(self, image: np.ndarray) -> np.ndarray:
        image = np.ascontiguousarray(image[..., ::-1])
        if self.zoom == 1:
            return image
        shape = (self.zoom * image.shape[1], self.zoom * image.shape[0])
        return cv2.resize(image, shape, interpolation=cv2.INTER_CUBIC)

    def as_face(self, points: np.ndarray) -> np.ndarray:
        """Known landmarks [5, 2] of a picture as a YuNet row of the enlarged one."""
        points = self.zoom * points.flatten() + (self.zoom - 1) / 2
        return np.concatenate([np.zeros(4), points, [1]]).astype(np.float32)

    def find(self, image: np.ndarray):
        """Best face row of YuNet (15 numbers) in uint8[S, S, 3] RGB, or None under 0.5."""
        _, found = self.detector.detect(self.enlarge(image))
        return None if found is None else max(found, key=lambda row: row[14])

    def embed(self, image: np.ndarray, face) -> np.ndarray:
        crop = self.recogniser.alignCrop(self.enlarge(image), face)
        vector = self.recogniser.feature(crop)[0].astype(np.float32)
        return vector / np.linalg.norm(vector)


def to_bytes(image: np.ndarray) -> np.ndarray:
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


@torch.no_grad()
def reconstruction(pipeline, pictures, faces, count):
    """Mean PSNR (dB), mean SFace similarity, colours kept, and pairs to look at; held-out pictures.

    Colours kept: correlation, original to reconstruction, of the red-blue and the green-magenta
    difference over all pixels. A code that drops one of them still passes PSNR: it is small.
    """
    psnr, alike, pairs = [], [], []
    for i in pictures.held_out[:count]:
        image = pictures.styled(i, [], None)
        x = torch.from_numpy(image).permute(2, 0, 1)[None] * 2 - 1
        y = pipeline.vae.decode(pipeline.vae.encode(x).latent_dist.mode()).sample
        y = (y[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1).numpy()
        psnr.append(-10 * np.log10(((y - image) ** 2).mean()))
        face = faces.as_face(pictures.points[i])
        alike.append(faces.embed(to_bytes(image), face) @ faces.embed(to_bytes(y), face))
        pairs.append((image, y))
    rows = [p[0] for p in pairs[:16]] + [p[1] for p in pairs[:16]]
    axes = np.array([[1, 0, -1], [-0.5, 1, -0.5]], dtype=np.float32)
    before, after = (np.stack(x) @ axes.T for x in zip(*pairs, strict=True))
    kept = [np.corrcoef(before[..., k].ravel(), after[..., k].ravel())[0, 1] for k in range(2)]
    sheets = torch.tensor(np.stack(rows)).permute(0, 3, 1, 2)
    return np.mean(psnr), np.mean(alike), kept, sheets


def samples(pipeline, prompt, count, steps, guidance, seed=0):
    """Pictures uint8[count, S, S, 3] for one prompt; seeds seed, seed + 1, ..."""
    done = []
    for start in range(0, count, 20):
        some = range(seed + start, seed + min(start + 20, count))
        generators = [torch.Generator().manual_seed(s) for s in some]
        done.append(
            pipeline(
                [prompt] * len(some), generator=generators, num_inference_steps=steps,
                guidance_scale=guidance, output_type="np",
            ).images
        )  # fmt: skip
    return to_bytes(np.concatenate(done))


def is_plain_white(image: np.ndarray) -> bool:
    """The upper corners and sides are near white, grey and even: the picture's upper border.

    Border: 6 % of the side at the left and right edge, upper third. At least 80 % of its pixels
    brighter than 0.85 with channels within 0.08 of each other.
    """
    side = image.shape[0]
    band, third = max(side * 6 // 100, 1), side // 3
    pixels = (
        np.concatenate([image[:third, :band].reshape(-1, 3), image[:third, -band:].reshape(-1, 3)])
        / 255
    )
    good = (luma(pixels.astype(np.float32)) > 0.85) & (np.ptp(pixels, axis=1) < 0.08)
    return good.mean() >= 0.8


def is_black_and_white(image: np.ndarray) -> bool:
    """Mean difference between a pixel's largest and smallest channel under 0.03."""
    return np.ptp(image.astype(np.float32) / 255, axis=2).mean() < 0.03


def training_embeddings(pictures, faces, cache: Path) -> np.ndarray:
    """float32[N, 128] of every training picture, kept on disk."""
    if not cache.exists():
        vectors = [
            faces.embed(np.asarray(pictures.images[i]), faces.as_face(pictures.points[i]))
            for i in pictures.train
        ]
        np.save(cache, np.stack(vectors))
    return np.load(cache)


def show(images: np.ndarray, path: Path, columns: int = 8):
    sheet(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, path, columns)


def seconds(pipeline, steps, guidance, count=5):
    """Seconds a picture by the clock, and of processor time, which a busy machine stretches less.

    The quickest of count pictures, after one to warm up.
    """
    times = []
    for seed in range(count + 1):
        wall, work = time.time(), time.process_time()
        samples(pipeline, PROMPT, 1, steps, guidance, seed)
        times.append((time.time() - wall, time.process_time() - work))
    return tuple(min(column) for column in zip(*times[1:], strict=True))


MARKS = ("<!-- evaluate.py begins -->", "<!-- evaluate.py ends -->")


def fill(card: Path, lines: list[str]):
    """Puts the table between the card's two marks."""
    before, _, rest = card.read_text(encoding="utf-8").partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise SystemExit(f"{card} has no {MARKS[0]} ... {MARKS[1]}")
    table = "\n".join([MARKS[0], "", *lines, "", MARKS[1]])
    card.write_text(before + table + after, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--yunet", required=True)
    parser.add_argument("--sface", required=True)
    parser.add_argument("--sheets", required=True, type=Path)
    parser.add_argument("--card", type=Path, help="the model card to put the table into")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--held-out", type=int, default=200, help="pictures to reconstruct")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    options = parser.parse_args()
    options.sheets.mkdir(parents=True, exist_ok=True)
    pipeline = StableDiffusionPipeline.from_pretrained(options.model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    side = pipeline.vae.config.sample_size
    pictures, faces = Pictures(options.data), Faces(options.yunet, options.sface, side)
    steps, guidance, count = options.steps, options.guidance, options.count

    lines = ["| measure | value | bar |", "| --- | --- | --- |"]

    def report(name, value, bar):
        lines.append(f"| {name} | {value} | {bar} |")
        print(lines[-1], flush=True)

    print("\n".join(lines))
    psnr, alike, kept, pairs = reconstruction(pipeline, pictures, faces, options.held_out)
    sheet(pairs, options.sheets / "reconstructions.png", 16)
    report(
        f"PSNR of a reconstruction, {options.held_out} held-out pictures", f"{psnr:.2f} dB", "28 dB"
    )
    report("SFace similarity of a reconstruction to its original", f"{alike:.3f}", "0.85")
    value = f"red-blue {kept[0]:.2f}, green-magenta {kept[1]:.2f}"
    report("colours kept by a reconstruction (correlation)", value, "reported")

    images = samples(pipeline, PROMPT, count, steps, guidance)
    show(images[:64], options.sheets / "samples.png")
    found = [faces.find(image) for image in images]
    sure = [f is not None and f[14] >= 0.8 for f in found]
    report(f'"{PROMPT}": a face by YuNet at 0.8', f"{sum(sure)} of {count}", "95 of 100")
    vectors = [faces.embed(i, f) for i, f in zip(images, found, strict=True) if f is not None]
    if len(vectors) > 1:
        vectors = np.stack(vectors)
        pairs = (vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)]
        report("mean SFace similarity of two samples", f"{pairs.mean():.3f}", "below 0.35")
        known = training_embeddings(pictures, faces, options.data / "embeddings.npy")
        nearest = (vectors @ known.T).max(1)
        value = f"median {np.median(nearest):.3f}, largest {nearest.max():.3f}"
        report("SFace similarity to the nearest training face", value, "reported")
        others = known[:500] @ known.T
        others[np.arange(500), np.arange(500)] = -1
        value = f"median {np.median(others.max(1)):.3f}, largest {others.max():.3f}"
        report("the same between training faces themselves", value, "for comparison")
    checks = [
        (f"{PROMPT}, plain white background", is_plain_white, "white"),
        (f"{PROMPT}, black and white", is_black_and_white, "black-and-white"),
    ]
    for prompt, check, name in checks:
        images = samples(pipeline, prompt, count, steps, guidance, seed=1000)
        show(images[:64], options.sheets / f"{name}.png")
        obeyed = sum(map(check, images))
        faces_too = sum(f is not None and f[14] >= 0.8 for f in map(faces.find, images))
        report(f'"{prompt}" obeyed', f"{obeyed} of {count}", "90 of 100")
        report("... and a face by YuNet at 0.8", f"{faces_too} of {count}", "reported")
    wall, work = seconds(pipeline, steps, guidance)
    name = f"seconds a picture, {steps} guided steps, {torch.get_num_threads()} thread(s)"
    report(name, f"{wall:.2f} by the clock, {work:.2f} of computing", "1.5 s on two cores")
    if options.card:
        fill(options.card, lines)


if __name__ == "__main__":
    main()
