"""How much longer does ``mcap mask`` take than decoding the photos and finding the faces?

    python benchmarks/mask_speed.py --pictures FOLDER --out out/speed

Enlarges FOLDER's portraits to JPEG files of 1,024 pixels (200 of them), then in one run
measures

- decoding each file with Pillow and looking for faces with the bare detector, one photo after the
  other, and
- ``mcap mask`` on the same files as users call it: a process of its own, with its start, the
  identity network, verdicts, masks, crops, contact sheet and report.

The whole of ``mcap mask`` is one call on all files. Since the machine may do other work the bare
half is measured before and after it and the mean is taken; ``--rounds`` repeats all of it. Prints a
Markdown table of wall-clock and processor seconds and writes OUT/speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mcap.images.find import find_photos
from mcap.registry import registry
from mcap.runtime.parallel import cores

SIDE = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("out/speed"))
    options = parser.parse_args()
    photos = enlarged(options)
    detector = registry().create("detector", "yunet")
    bare(detector, photos[:2])  # the first call sets the network up
    rounds = []
    for number in range(options.rounds):
        before = bare(detector, photos)
        whole = mcap_mask(photos, options.out / "masked")
        after = bare(detector, photos)
        base = np.mean([before, after], axis=0)
        rounds.append(
            {"bare": base.tolist(), "mask": whole, "ratio": (np.array(whole) / base).tolist()}
        )
        print(f"round {number + 1}: wall {rounds[-1]['ratio'][0]:.2f}", flush=True)
    middle = sorted(rounds, key=lambda each: each["ratio"][0])[len(rounds) // 2]
    lines = [
        f"{len(photos)} pictures of {SIDE} pixels, {cores()} cores, OMP_NUM_THREADS="
        f"{os.environ.get('OMP_NUM_THREADS', 'not set')}, the middle one of {len(rounds)} rounds:",
        "",
        "| | decoding and detector | mcap mask | ratio |",
        "| --- | --- | --- | --- |",
    ]
    for place, name in enumerate(("wall-clock", "processor")):
        lines.append(
            f"| {name} | {middle['bare'][place]:.1f} s | {middle['mask'][place]:.1f} s "
            f"| {middle['ratio'][place]:.2f} |"
        )
    text = "\n".join(lines) + "\n"
    (options.out / "speed.md").write_text(text, encoding="utf-8")
    record = {"photos": len(photos), "cores": cores(), "rounds": rounds}
    (options.out / "speed.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("\n" + text)


def enlarged(options: argparse.Namespace) -> list[Path]:
    folder = options.out / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for path in find_photos([options.pictures])[: options.count]:
        copy = folder / f"{path.stem}.jpg"
        if not copy.exists():
            with Image.open(path) as picture:
                large = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            large.save(copy, quality=90)
        made.append(copy)
    return made


def bare(detector, photos: list[Path]) -> tuple[float, float]:
    """Wall-clock and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    for path in photos:
        with Image.open(path) as picture:
            image = np.asarray(picture.convert("RGB"))
        detector.detect(image)
    return time.perf_counter() - wall, time.process_time() - processor


def mcap_mask(photos: list[Path], out: Path) -> tuple[float, float]:
    shutil.rmtree(out, ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = time.perf_counter()
    command = [sys.executable, "-m", "mcap", "--quiet", "mask", "-", "--out", str(out)]
    listed = "".join(f"{path}\n" for path in photos)
    subprocess.run(command, input=listed, text=True, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, spent


if __name__ == "__main__":
    main()
