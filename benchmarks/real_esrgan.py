"""What does Real-ESRGAN give on portraits, in what time, and what does bfloat16 change of it?

    python benchmarks/real_esrgan.py ../shared/models/RealESRGAN_x4plus.fp16.safetensors

Faces of `examples/selfies`, 384 pixels wide, made four times smaller by bicubic interpolation
("clean"), with noise and JPEG besides as in pictures that need a restorer ("worn"), and enlarged
again through mcap's tiles. For each: peak signal-to-noise ratio to the original, and sharpness, the
mean difference of neighbouring pixels as a share of the original's.

*Time*: single precision and bfloat16 take turns on the same picture in one process, so that other
work on the machine slows both; the median of the rounds, in processor seconds a megapixel of the
result. *Memory*: the largest resident size of a process of its own for each (Linux).
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from mcap.enhancement.tiling import Tiling, restore_tiled
from mcap_plugins.spandrel.restorer import load

SIDE, SCALE = 384, 4
PLACES = {"02-garden-sideways": (60, 20), "03-turned-head": (60, 20)}
NOISE, QUALITY = 16.0, 30
HERE = Path(__file__).parent


def truths(folder: Path) -> dict[str, Image.Image]:
    """Photos at half their size, `SIDE` pixels of each from its place on."""
    found = {}
    for name, (left, top) in PLACES.items():
        photo = ImageOps.exif_transpose(Image.open(folder / f"{name}.jpg")).convert("RGB")
        half = photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.BICUBIC)
        found[name] = half.crop((left, top, left + SIDE, top + SIDE))
    return found


def clean(truth: Image.Image) -> Image.Image:
    return truth.resize((SIDE // SCALE, SIDE // SCALE), Image.Resampling.BICUBIC)


def worn(truth: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, NOISE, (SIDE // SCALE, SIDE // SCALE, 3))
    noisy = np.clip(np.asarray(clean(truth)) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=QUALITY)
    return Image.open(file).convert("RGB")


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def sharpness(image: np.ndarray) -> float:
    grey = image.astype(np.float64).mean(axis=2)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


def quality(restorer, folder: Path, tile: int) -> list[dict]:
    rows = []
    for name, truth in truths(folder).items():
        original = np.asarray(truth)
        for degrade in (clean, worn):
            small = degrade(truth)
            bicubic = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            results = {"bicubic": bicubic}
            for half in (False, True):
                tiled = restore_tiled(restorer, np.asarray(small), Tiling(tile=tile, half=half))
                results["bfloat16" if half else "single"] = tiled.image
            row = {"photo": name, "input": degrade.__name__}
            row["kept"] = decibels(results["bfloat16"], results["single"])
            for way, image in results.items():
                row[way] = decibels(image, original)
                row[f"{way} sharpness"] = sharpness(image) / sharpness(original)
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def times(restorer, folder: Path, rounds: int, side: int) -> dict[str, float]:
    """Median processor seconds a megapixel of the result, in one tile of ``side`` pixels."""
    truth = next(iter(truths(folder).values()))
    image = np.asarray(truth.resize((side, side)))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds + 1):
        for half in (False, True):
            restorer.to("cpu", half=half)
            began = time.process_time()
            restore_tiled(restorer, image, Tiling(tile=side, half=half))
            if number:  # the first sets things up
                seconds[half].append(time.process_time() - began)
    area = (SCALE * side) ** 2 / 1e6
    ratios = np.divide(seconds[True], seconds[False])
    return {
        "single": float(np.median(seconds[False]) / area),
        "bfloat16": float(np.median(seconds[True]) / area),
        "ratio": float(np.median(ratios)),
        "lowest": float(ratios.min()),
        "highest": float(ratios.max()),
    }


def memory(weights: Path, tile: int, half: bool) -> dict[str, float]:
    command = [sys.executable, __file__, str(weights), "--tile", str(tile), "--child", str(half)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--photos", type=Path, default=HERE.parent / "examples" / "selfies")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--child", choices=("True", "False"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    restorer = load(options.weights)
    if options.child:
        image = np.random.default_rng(0).integers(0, 256, (options.tile,) * 2 + (3,), np.uint8)
        restore_tiled(restorer, image, Tiling(tile=options.tile, half=options.child == "True"))
        # Not getrusage's, which begins at what the parent had.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        print(json.dumps({"tile": options.tile, "peak_mib": int(peak) / 1024}))
        return
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    print(json.dumps({"seconds a megapixel": times(restorer, options.photos, options.rounds, 96)}))
    for half in (False, True):
        print(json.dumps({"half": half, **memory(options.weights, options.tile, half)}))
    quality(restorer, options.photos, options.tile)


if __name__ == "__main__":
    main()
