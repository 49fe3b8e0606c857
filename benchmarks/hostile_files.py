"""What does ``mcap mask`` do with files that are damaged, mislabelled or hostile?

    python benchmarks/hostile_files.py --out out/hostile

makes 1,000 files from the examples, in every format that mcap reads: truncated, with bits flipped,
bytes overwritten or doubled, under a wrong extension, with metadata of nonsense, and with sizes in
their headers or in truth that would fill the memory. Each goes alone through ``mcap mask`` in a
child process that is watched from outside. A file passes where the command ends within 10 seconds
of processor time (a minute by the clock) with exit code 0 or 3 (accepted or refused), prints no
traceback and calls nothing a defect, and the process stays under 2 GiB. Prints a Markdown table and
writes OUT/hostile.json; status 1 where a file failed. What failed stays in OUT/failed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import select
import shutil
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
SECONDS = 10.0
PATIENCE = 60.0
BYTES = 2 * 1024**3

FORMATS = {
    "jpg": ("JPEG", {"quality": 88}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"quality": 85}),
    "tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "avif": ("AVIF", {"quality": 60}),
    "heic": ("HEIF", {"quality": 60}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
}


def seeds() -> dict[str, bytes]:
    """A portrait in every format, with EXIF where the format holds it: extension -> bytes."""
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    path = ROOT / "examples" / "selfies" / "02-garden-sideways.jpg"
    with Image.open(path) as photo:
        exif = photo.getexif()
        picture = photo.convert("RGB")
        picture.thumbnail((384, 384))
    Image.init()
    made = {"mpo.jpg": path.read_bytes()}
    for suffix, (name, options) in FORMATS.items():
        if name in Image.SAVE:
            more = {"exif": exif} if name in {"JPEG", "PNG", "WEBP", "AVIF", "HEIF"} else {}
            buffer = io.BytesIO()
            picture.save(buffer, name, **options, **more)
            made[suffix] = buffer.getvalue()
    return made


Mutation = Callable[[np.random.Generator, dict[str, bytes]], tuple[str, bytes]]
"""A generator and the seeds -> an extension and a file's bytes."""


def one(rng: np.random.Generator, seeds: dict[str, bytes]) -> tuple[str, bytes]:
    suffix = str(rng.choice(sorted(seeds)))
    return suffix.removeprefix("mpo."), seeds[suffix]


def truncated(rng, seeds):
    suffix, data = one(rng, seeds)
    # As often in the header as in the pixels.
    part = rng.random() ** (4 if rng.random() < 0.5 else 1)
    return suffix, data[: int(part * len(data))]


def flipped(rng, seeds):
    suffix, data = one(rng, seeds)
    changed = bytearray(data)
    reach = len(data) if rng.random() < 0.5 else min(len(data), 600)
    for place in rng.integers(0, reach, int(rng.choice([1, 3, 10, 100]))):
        changed[place] ^= 1 << int(rng.integers(0, 8))
    return suffix, bytes(changed)


def overwritten(rng, seeds):
    suffix, data = one(rng, seeds)
    changed = bytearray(data)
    start = int(rng.integers(0, len(data)))
    length = int(rng.integers(1, 2000))
    filler = [b"\x00", b"\xff", rng.bytes(length)][int(rng.integers(0, 3))]
    changed[start : start + length] = (filler * length)[:length]
    return suffix, bytes(changed)


def doubled(rng, seeds):
    suffix, data = one(rng, seeds)
    start, end = sorted(int(place) for place in rng.integers(0, len(data), 2))
    return suffix, data[:end] + data[start:]


def mislabelled(rng, seeds):
    """A good picture, or none at all, under any extension."""
    suffix, data = one(rng, seeds)
    others = ["txt", "mp4", "pdf", "zip", "JPG", "tif", *FORMATS]
    if rng.random() < 0.3:
        data = [
            b"eggs, milk\n" * 50,
            b"%PDF-1.7\n1 0 obj\n",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
            b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
            b"PK\x03\x04" + rng.bytes(300),
            rng.bytes(5000),
        ][int(rng.integers(0, 6))]
    return str(rng.choice([each for each in others if each != suffix])), data


def nonsense_metadata(rng, seeds):
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(seeds["png"])).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = int(rng.choice([0, 9, 255, 65535, 6]))
    exif[0x010E] = "x" * int(rng.integers(0, 60_000))
    noise = rng.bytes(int(rng.integers(1, 3000)))
    options = {"exif": exif} if rng.random() < 0.5 else {"exif": b"Exif\x00\x00MM\x00*" + noise}
    suffix = str(rng.choice(["jpg", "png", "webp"]))
    picture.save(buffer, FORMATS[suffix][0], icc_profile=noise, **options)
    return suffix, buffer.getvalue()


def hostile_header(rng, seeds):
    """A small file whose header claims any size."""
    width, height = (int(rng.choice([0, 1, 65_535, 20_000, 100_000, 2**31 - 1])) for _ in "wh")
    kind = str(rng.choice(["png", "bmp", "gif", "jpg", "webp", "tiff"]))
    data = bytearray(seeds[kind])
    if kind == "png":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))  # a checksum that fits
    elif kind == "bmp":
        data[18:26] = struct.pack("<ii", width, height)
    elif kind == "gif":
        data[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    elif kind == "jpg":
        frame = data.find(b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    elif kind == "webp":
        place = data.find(b"VP8 ")
        fields = struct.pack("<HH", width & 0x3FFF, height & 0x3FFF)
        data[place + 14 : place + 18] = fields
    else:
        offset = struct.unpack("<I", data[4:8])[0]
        for entry in range(struct.unpack("<H", data[offset : offset + 2])[0]):
            place = offset + 2 + 12 * entry
            tag = struct.unpack("<H", data[place : place + 2])[0]
            if tag in (256, 257):
                side = width if tag == 256 else height
                data[place + 2 : place + 12] = struct.pack("<HII", 4, 1, side)
    return kind, bytes(data)


def hostile_pixels(rng, seeds):
    """Few bytes that really hold very many pixels, or very thin ones."""
    sizes = [(1, 60_000), (60_000, 1), (2, 30_000), (15_000, 15_000), (16_000, 15_900)]
    sizes += [(30_000, 30_000), (65_000, 300), (17, 16), (1, 1), (16, 16)]
    size = sizes[int(rng.integers(0, len(sizes)))]
    suffix = str(rng.choice(["png", "gif", "webp", "tiff", "jpg"]))
    if max(size) > 16_383 and suffix == "webp":
        suffix = "png"
    mode = "L" if suffix in {"png", "gif", "tiff"} and rng.random() < 0.5 else "RGB"
    picture = Image.new(mode, size, 90 if mode == "L" else (90, 80, 200))
    buffer = io.BytesIO()
    picture.save(buffer, FORMATS[suffix][0], **(FORMATS[suffix][1] if suffix != "gif" else {}))
    return suffix, buffer.getvalue()


MUTATIONS: dict[str, tuple[Mutation, int]] = {
    "truncated": (truncated, 200),
    "bits flipped": (flipped, 350),
    "bytes overwritten": (overwritten, 120),
    "parts doubled": (doubled, 50),
    "wrong extension": (mislabelled, 100),
    "nonsense metadata": (nonsense_metadata, 60),
    "sizes that the header claims": (hostile_header, 80),
    "sizes that are true": (hostile_pixels, 40),
}
"""What is done, and to how many of 1,000 files."""


def hostile_files(count: int, seed: int = 0) -> Iterator[tuple[str, str, bytes]]:
    """(what was done, a name, the bytes) of ``count`` files, the same for the same seed."""
    of = seeds()
    total = sum(share for _, share in MUTATIONS.values())
    number = 0
    for title, (mutation, share) in MUTATIONS.items():
        for _ in range(max(1, round(share * count / total))):
            suffix, data = mutation(np.random.default_rng([seed, number]), of)
            yield title, f"{number:04}.{suffix}", data
            number += 1


CHILD = """
import json, resource, sys, time
from mcap.cli import run
answers, sys.stdout = sys.stdout, sys.stderr  # what mcap prints goes to the log
def peak_memory():
    try:  # of this program alone; ru_maxrss begins with what the parent held as it started us
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for line in sys.stdin:
    path, out = json.loads(line)
    start = time.process_time()
    code = run(["--quiet", "mask", path, "--out", out, "--size", "128"])
    sys.stderr.flush()
    peak = peak_memory() * 1024
    print(json.dumps([code, peak, time.process_time() - start]), file=answers, flush=True)
"""


class Child:
    """A process that runs ``mcap mask`` on one file after the other."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._log = log.open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "MCAP_OFFLINE": "1"},
        )

    def run(self, path: Path, out: Path) -> tuple[tuple[int, int, float] | None, str]:
        """Exit code, peak bytes and seconds (None where it hung or died), and what it printed."""
        before = self._log.seek(0, os.SEEK_END)
        self.process.stdin.write(json.dumps([str(path), str(out)]) + "\n")
        self.process.stdin.flush()
        answer = None
        if select.select([self.process.stdout], [], [], PATIENCE)[0]:
            line = self.process.stdout.readline()
            answer = tuple(json.loads(line)) if line else None
        self._log.seek(before)
        return answer, self._log.read().decode(errors="replace")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()


@dataclass
class Outcome:
    name: str
    mutation: str
    code: int | None
    seconds: float
    peak: int
    failure: str | None


def judged(answer: tuple[int, int, float] | None, printed: str) -> str | None:
    if answer is None:
        return "no answer: it hung or died"
    code, peak, seconds = answer
    if seconds > SECONDS:
        return f"{seconds:.1f} seconds"
    if "Traceback" in printed or "is a defect of mcap" in printed:
        return "a traceback"
    if code not in (0, 3):
        return f"exit code {code}"
    if peak > BYTES:
        return f"{peak / 1024**3:.2f} GiB"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(MUTATIONS), nargs="+", default=list(MUTATIONS))
    parser.add_argument("--out", type=Path, default=Path("out/hostile"))
    options = parser.parse_args()
    failed = options.out / "failed"
    failed.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    child = Child(options.out / "child.log")
    for title, name, data in hostile_files(options.count, options.seed):
        if title not in options.only:
            continue
        path, out = options.out / name, options.out / "masked"
        shutil.rmtree(out, ignore_errors=True)
        path.write_bytes(data)
        answer, printed = child.run(path, out)
        failure = judged(answer, printed)
        code, peak, seconds = answer or (None, 0, PATIENCE)
        outcomes.append(Outcome(name, title, code, seconds, peak, failure))
        if failure:
            path.replace(failed / name)
            print(f"{name} ({title}): {failure}\n{printed[-2000:]}", flush=True)
        path.unlink(missing_ok=True)
        if answer is None or peak > BYTES / 2:  # the peak of the next file shall be its own
            child.end()
            child = Child(options.out / "child.log")
        if len(outcomes) % 100 == 0:
            print(len(outcomes), flush=True)
    child.end()
    shutil.rmtree(options.out / "masked", ignore_errors=True)
    report(outcomes, options.out)
    sys.exit(any(outcome.failure for outcome in outcomes))


def report(outcomes: list[Outcome], out: Path) -> None:
    lines = [
        "| what was done | files | accepted | refused | slowest | largest | failed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    groups = {title: [o for o in outcomes if o.mutation == title] for title in MUTATIONS}
    for title, of in {**groups, "**all**": outcomes}.items():
        if not of:
            continue
        codes = Counter(outcome.code for outcome in of)
        lines.append(
            f"| {title} | {len(of)} | {codes[0]} | {codes[3]} "
            f"| {max(o.seconds for o in of):.1f} s | {max(o.peak for o in of) / 1024**2:.0f} MiB "
            f"| {sum(o.failure is not None for o in of)} |"
        )
    text = "\n".join(lines) + "\n"
    (out / "hostile.md").write_text(text, encoding="utf-8")
    record = [asdict(outcome) for outcome in outcomes]
    (out / "hostile.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("\n" + text)


if __name__ == "__main__":
    main()
