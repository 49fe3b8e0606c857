"""Peak memory of `mcap mask` and `mcap enhance` on one large picture: docs/faults.md.

    python benchmarks/picture_memory.py mask tiles.heic --megapixels 64
    python benchmarks/picture_memory.py enhance deep.png --megapixels 124 --restorer face --scale 1
    python benchmarks/picture_memory.py enhance rgb.png --megapixels 31 --restorer WEIGHTS \\
        --scale 4 --seconds 300

Kinds are rgb.png, deep.png and deep-rgba.png (16 bits a colour), rgba.png, grey.png, telephone.jpg
and tiles.heic, a grid of tiles as telephones write it; all but that show a face. ``--restorer
face`` takes no time. ``--seconds`` ends a run that would take hours; what it had taken until then
is told. Linux alone: the peak is the process's VmHWM.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.pictures import gradient, heic_of_tiles  # noqa: E402

SELFIE = ROOT / "examples" / "selfies" / "01-living-room.jpg"
KINDS = (
    "rgb.png",
    "deep.png",
    "deep-rgba.png",
    "rgba.png",
    "grey.png",
    "telephone.jpg",
    "tiles.heic",
)

CHILD = """
import sys
from mcap import cli
from mcap.registry import Entry, registry
from tests.support.restoring import Restore
face = Restore("face")
entry = Entry("restorer", "face", lambda *_: face, "benchmarks", licence="none", info=face.info)
registry().entries["restorer"]["face"] = entry
sys.exit(cli.run(sys.argv[1:]))
"""


def make(kind: str, megapixels: float, path: Path) -> None:
    """Write a picture of the kind, three wide to two high."""
    height = int((megapixels * 1e6 / 1.5) ** 0.5) // 8 * 8
    width = int(megapixels * 1e6 / height) // 8 * 8
    if kind == "tiles.heic":
        path.write_bytes(heic_of_tiles(gradient(512, 512), width, height))
        return
    selfie = cv2.imread(str(SELFIE))
    image = cv2.resize(selfie, (width, height), interpolation=cv2.INTER_LINEAR)
    if "rgba" in kind:
        image = np.dstack([image, image[..., 1]])
    if kind.startswith("deep"):
        image = image.astype(np.uint16) * 257
    elif kind == "grey.png":
        image = image[..., 1]
    options = [] if kind == "telephone.jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    assert cv2.imwrite(str(path), image, options)


def peak_of(command: list[str], seconds: float) -> tuple[int | None, float, float]:
    """Run mcap with the words ``command``; return its exit code (None: ended after ``seconds``),
    its peak of resident memory in GiB, and how long it ran."""
    begun, peak = time.monotonic(), 0
    with subprocess.Popen([sys.executable, "-c", CHILD, *command], cwd=ROOT) as process:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            if "VmHWM:" in status:
                peak = max(peak, int(status.partition("VmHWM:")[2].split()[0]))
            if time.monotonic() - begun > seconds:
                process.kill()
                process.wait()
                return None, peak / 2**20, time.monotonic() - begun
            time.sleep(0.05)
    return process.returncode, peak / 2**20, time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["mask", "enhance"])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--megapixels", type=float, required=True)
    parser.add_argument("--restorer", default="face")
    parser.add_argument("--scale", default="1")
    parser.add_argument("--seconds", type=float, default=3600)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        picture = Path(name) / given.kind
        made = subprocess.run(  # in a process of its own, whose memory is not the command's
            [sys.executable, "-c", MAKE, given.kind, str(given.megapixels), str(picture)],
            cwd=ROOT,
            check=False,
        )
        assert made.returncode == 0
        words = ["--quiet", given.command, str(picture), "--out", f"{name}/out"]
        if given.command == "enhance":
            words += ["--restorer", given.restorer, "--scale", given.scale, "--device", "cpu"]
        code, peak, seconds = peak_of(words, given.seconds)
        size = picture.stat().st_size / 1e6
    ended = f"ended after {seconds:.0f} s" if code is None else f"exit code {code}"
    print(
        f"{given.command} {given.kind}, {given.megapixels:g} megapixels, {size:.0f} MB: "
        f"{peak:.2f} GiB, {ended}"
    )


MAKE = (
    "import sys; sys.path.insert(0, 'benchmarks'); from pathlib import Path; "
    "from picture_memory import make; make(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))"
)

if __name__ == "__main__":
    main()
