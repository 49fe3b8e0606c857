"""What do tiles cost over plain spandrel on the same tiles, and how much memory does a large
picture take?

    python benchmarks/enhance_tiles.py --out out/tiles

Full-size networks with random weights, which cost what trained ones do.

*Time*: `mcap.enhancement.tiling.restore_tiled` on a picture, result as 8 bits, against the calls of
spandrel's network alone on the very same tiles. The two take turns tile by tile in one process, so
that other work on the machine slows both; the middle one of the rounds' ratios counts.

*Memory*: the largest resident size of a process of its own that enlarges a picture of 6,000 x 4,000
pixels. Networks that would take hours are stopped after ``--most`` tiles, which is told: what a
process holds does not grow after the first row of tiles, whose finished rows leave it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN

from mcap.enhancement.tiling import Tiling, restore_tiled, tile_by_tile
from mcap_plugins.spandrel.restorer import SpandrelRestorer, load

LARGE = (4000, 6000)  # height, width

TIMED = {  # height and width of the picture, tile
    "demo-sr": (384, 512, 256),
    "realesr-general-x4v3": (384, 512, 256),
    "RealESRGAN_x4plus": (64, 96, 64),
    "RealESRGAN_x2plus": (128, 192, 128),
}


def network(name: str, folder: Path) -> SpandrelRestorer:
    """A restorer of that network's architecture with random weights."""
    torch.manual_seed(0)
    model = {
        "demo-sr": lambda: Compact(num_feat=64, num_conv=16, upscale=4),
        "realesr-general-x4v3": lambda: Compact(num_feat=64, num_conv=32, upscale=4),
        "RealESRGAN_x4plus": lambda: ESRGAN(num_filters=64, num_blocks=23, scale=4),
        "RealESRGAN_x2plus": lambda: ESRGAN(
            in_nc=12, num_filters=64, num_blocks=23, scale=4, shuffle_factor=2
        ),
    }[name]()
    path = folder / f"{name}.pth"
    torch.save({"params": model.state_dict()}, path)
    return load(path)


def picture(height: int, width: int) -> np.ndarray:
    """uint8[height, width, 3]: slopes and some noise."""
    rng = np.random.default_rng(0)
    side = 500
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
    square = np.empty((side, side, 3), np.uint8)
    for channel in range(3):
        levels = 120 + 100 * np.sin(rows / 90 + channel) * np.cos(columns / 70)
        square[..., channel] = np.clip(levels + rng.normal(0, 6, rows.shape), 0, 255)
    return np.tile(square, (-(-height // side), -(-width // side), 1))[:height, :width]


class BothWays:
    """A restorer that gives each tile to spandrel's network too, before or after its own turn.

    ``plain`` is wall-clock and processor seconds of those calls alone.
    """

    def __init__(self, restorer: SpandrelRestorer) -> None:
        self.restorer, self.descriptor = restorer, restorer._descriptor
        self.plain = np.zeros(2)
        self.calls = 0

    def __getattr__(self, name: str):
        return getattr(self.restorer, name)

    def to(self, device, half: bool = False) -> None:
        self.restorer.to(device, half=half)

    def restore(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls % 2:
            self.call_plain(image)
            return self.restorer.restore(image)
        made = self.restorer.restore(image)
        self.call_plain(image)
        return made

    def call_plain(self, image: torch.Tensor) -> None:
        started = clocks()
        self.descriptor(image)
        self.plain += clocks() - started


def clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def timed(name: str, folder: Path, rounds: int) -> dict:
    height, width, tile = TIMED[name]
    restorer = network(name, folder)
    image = picture(height, width)
    restorer.restore(torch.rand(1, 3, 32, 32))  # the first call sets things up
    found = []
    for _ in range(rounds):
        both = BothWays(restorer)
        started = clocks()
        made = restore_tiled(both, image, Tiling(tile=tile, memory=2**40))
        found.append((both.plain, clocks() - started - both.plain))
        print(name, *(np.round(seconds, 2) for seconds in found[-1]), flush=True)
    plain, ours = np.transpose(found, (1, 2, 0))  # [clock, round]
    ratios = np.median(ours / plain, axis=1)
    return {
        "network": name,
        "picture": [width, height],
        "tile": tile,
        "tiles": made.tiles,
        "seconds": {"plain": float(np.median(plain[1])), "mcap": float(np.median(ours[1]))},
        "ratio": float(ratios[0]),
        "processor_ratio": float(ratios[1]),
    }


def peak(name: str, folder: Path, tile: int, most: int, dtype: str) -> dict:
    """In a process of its own: see `child`."""
    command = [sys.executable, __file__, "--child", name, "--tile", str(tile), "--out", str(folder)]
    command += ["--most", str(most), "--dtype", dtype]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def child(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    restorer = network(options.child, options.out)
    kind = np.dtype(options.dtype)
    image = picture(*LARGE)
    if kind == np.uint16:
        image = image.astype(np.uint16) * 257
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = (0, 0)
    started = time.perf_counter()
    notes: tuple[str, ...] = ()
    size = None
    steps = tile_by_tile(
        restorer, image, Tiling(tile=options.tile, dtype=kind, scratch=options.out)
    )
    while not (options.most and count[0] >= options.most):
        try:
            count = next(steps)
        except StopIteration as end:
            notes, size = end.value.notes, list(end.value.image.shape)
            break
    record = {
        "network": options.child,
        "tile": options.tile,
        "dtype": kind.name,
        "tiles": count,
        "result": size,
        "seconds": time.perf_counter() - started,
        "before_mib": before / 1024,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "notes": notes,
    }
    print(json.dumps(record))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(TIMED))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part", choices=("time", "memory", "both"), default="both")
    parser.add_argument("--tile", type=int, default=512, help="of the large picture")
    parser.add_argument("--most", type=int, default=0, help="tiles of the large picture; 0: all")
    parser.add_argument("--dtype", choices=("uint8", "uint16"), default="uint8")
    parser.add_argument("--out", type=Path, default=Path("out/tiles"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    names = [name for name in options.networks.split(",") if name]
    record: dict = {"threads": torch.get_num_threads(), "time": [], "memory": []}
    lines = [f"{torch.get_num_threads()} threads, processor time.", ""]
    with tempfile.TemporaryDirectory(dir=options.out) as scratch:
        if options.part != "memory":
            record["time"] = [timed(name, Path(scratch), options.rounds) for name in names]
            lines += [
                "| network | picture | tile | tiles | spandrel | mcap | ratio | by the clock |",
                "| --- | --- | --- | --- | --- | --- | --- | --- |",
            ]
            for each in record["time"]:
                lines.append(
                    f"| {each['network']} | {each['picture'][0]} x {each['picture'][1]} "
                    f"| {each['tile']} | {each['tiles']} | {each['seconds']['plain']:.2f} s "
                    f"| {each['seconds']['mcap']:.2f} s | {each['processor_ratio']:.3f} "
                    f"| {each['ratio']:.3f} |"
                )
            lines.append("")
        if options.part != "time":
            record["memory"] = [
                peak(name, Path(scratch), options.tile, options.most, options.dtype)
                for name in names
            ]
            lines += [
                f"A picture of {LARGE[1]} x {LARGE[0]} pixels, {options.dtype}:",
                "",
                "| network | tile | tiles done | time | largest resident size |",
                "| --- | --- | --- | --- | --- |",
            ]
            for each in record["memory"]:
                lines.append(
                    f"| {each['network']} | {each['tile']} | {each['tiles'][0]} of "
                    f"{each['tiles'][1]} | {each['seconds']:.0f} s "
                    f"| {each['peak_mib'] / 1024:.2f} GiB |"
                )
    text = "\n".join(lines) + "\n"
    (options.out / "tiles.md").write_text(text, encoding="utf-8")
    (options.out / "tiles.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("\n" + text)


if __name__ == "__main__":
    main()
