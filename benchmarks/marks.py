"""What marks survive, what they cost, and what is taken for a mark: the tables of docs/marks.md.

    python benchmarks/marks.py survival FOLDER --count 100
    python benchmarks/marks.py false-positives FOLDER --count 1000
    python benchmarks/marks.py enhance FOLDER --count 20
    python benchmarks/marks.py likeness FOLDER --beside SECOND --count 100
    python benchmarks/marks.py cost FOLDER --count 20
    python benchmarks/marks.py share SUBJECT --count 4
    python benchmarks/marks.py training examples/selfies --count 5

FOLDER holds pictures that carry no watermark. `--watermark` names one of the registry's, or
"dwtDctSvd" or "rivaGan" of the package invisible-watermark, where that is installed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mcap.contracts import Watermark, WatermarkInfo
from mcap.registry import registry

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image


class InvisibleWatermark:
    """A method of invisible-watermark with a fixed message of 32 bits.

    Its score is the share of bits that are read back; 28 of 32 come about by chance once in
    100,000 pictures.
    """

    info = WatermarkInfo(threshold=28 / 32, kept=2.0, smallest_side=256)
    bits = tuple(np.random.default_rng(0).integers(0, 2, 32))

    def __init__(self, method: str) -> None:
        from imwatermark import WatermarkDecoder, WatermarkEncoder

        if method == "rivaGan":
            WatermarkEncoder.loadModel()
            WatermarkDecoder.loadModel()
        self.method, self.encoder = method, WatermarkEncoder()
        self.decoder = WatermarkDecoder("bits", 32)
        self.encoder.set_watermark("bits", self.bits)

    def embed(self, pixels: UInt8Image) -> None:
        pixels[...] = self.encoder.encode(pixels[..., ::-1].copy(), self.method)[..., ::-1]

    def score(self, image: UInt8Image) -> float:
        if min(image.shape[:2]) < 256:
            return 0.0
        read = self.decoder.decode(image[..., ::-1].copy(), self.method)
        return float(np.mean(np.asarray(read).astype(int) == np.asarray(self.bits)))


def encoded(image: UInt8Image, form: str, quality: int) -> UInt8Image:
    """Return a picture after it was written and read."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def resized(image: UInt8Image, zoom: float, how: Image.Resampling) -> UInt8Image:
    size = tuple(max(1, round(side * zoom)) for side in image.shape[1::-1])
    return np.asarray(Image.fromarray(image).resize(size, how))


def cropped(image: UInt8Image, lost: float, seed: int) -> UInt8Image:
    """Return a picture without ``lost`` of its width and of its height, at a random place."""
    rng = np.random.default_rng(seed)
    height, width = (round(side * (1 - lost)) for side in image.shape[:2])
    top, left = (
        rng.integers(0, n - m + 1) for n, m in zip(image.shape, (height, width), strict=False)
    )
    return image[top : top + height, left : left + width]


def in_a_window(image: UInt8Image) -> UInt8Image:
    """Return a picture as a screen shows it: a bar above and below, 4:3, JPEG 85."""
    height, width = image.shape[:2]
    screen = np.full((round(height * 1.25), round(width * 1.6), 3), 236, np.uint8)
    top, left = round(height * 0.15), round(width * 0.3)
    screen[top : top + height, left : left + width] = image
    return encoded(screen, "JPEG", 85)


LANCZOS, BILINEAR = Image.Resampling.LANCZOS, Image.Resampling.BILINEAR
CHANGES: dict[str, Callable[[UInt8Image, int], UInt8Image]] = {
    "nothing": lambda image, _: image,
    "JPEG 95": lambda image, _: encoded(image, "JPEG", 95),
    "JPEG 75": lambda image, _: encoded(image, "JPEG", 75),
    "JPEG 50": lambda image, _: encoded(image, "JPEG", 50),
    "WebP 80": lambda image, _: encoded(image, "WEBP", 80),
    "AVIF 60": lambda image, _: encoded(image, "AVIF", 60),
    "half size": lambda image, _: resized(image, 0.5, LANCZOS),
    "quarter size": lambda image, _: resized(image, 0.25, LANCZOS),
    "twice the size": lambda image, _: resized(image, 2.0, LANCZOS),
    "crop of 10 %": lambda image, seed: cropped(image, 0.10, seed),
    "crop of 25 %": lambda image, seed: cropped(image, 0.25, seed),
    "crop of 10 %, half size, JPEG 75": lambda image, seed: encoded(
        resized(cropped(image, 0.10, seed), 0.5, LANCZOS), "JPEG", 75
    ),
    "screenshot: 0.77 of the size, JPEG 80": lambda image, _: encoded(
        resized(image, 0.77, BILINEAR), "JPEG", 80
    ),
    "screenshot with the window around it": lambda image, _: in_a_window(image),
    "mirrored": lambda image, _: np.ascontiguousarray(image[:, ::-1]),
}


def pictures(folder: Path, count: int) -> Iterator[UInt8Image]:
    """Yield up to ``count`` pictures, spread over the folder's names in their order."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png", ".webp"))
    for index in np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int):
        yield np.array(Image.open(paths[index]).convert("RGB"))


def marked(image: UInt8Image, watermark: Watermark) -> UInt8Image:
    copy = image.copy()
    watermark.embed(copy)
    return copy


def psnr(one: UInt8Image, other: UInt8Image) -> float:
    """Peak signal to noise, dB."""
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def survival(watermark: Watermark, folder: Path, count: int) -> None:
    before = list(pictures(folder, count))
    after = [marked(image, watermark) for image in before]
    decibels = [psnr(one, other) for one, other in zip(before, after, strict=True)]
    print(f"{len(after)} pictures, PSNR {np.mean(decibels):.1f} dB, least {min(decibels):.1f} dB\n")
    print("| after | found | lowest score |\n| --- | --- | --- |")
    for name, change in CHANGES.items():
        scores = [watermark.score(change(image, seed)) for seed, image in enumerate(after)]
        found = sum(score >= watermark.info.threshold for score in scores)
        print(f"| {name} | {found} of {len(scores)} | {min(scores):.1f} |", flush=True)


def false_positives(watermark: Watermark, folder: Path, count: int) -> None:
    scores = np.array([watermark.score(image) for image in pictures(folder, count)])
    found = int(np.sum(scores >= watermark.info.threshold))
    print(
        f"{found} of {len(scores)} unmarked pictures taken for marked; threshold "
        f"{watermark.info.threshold}, highest {scores.max():.2f}, mean {scores.mean():.2f}, "
        f"standard deviation {scores.std():.2f}"
    )


def enhance(watermark: Watermark, folder: Path, count: int) -> None:
    """Run `mcap enhance` on marked pictures, with nothing marked again, and look at its results."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for number, image in enumerate(pictures(folder, count)):
            Image.fromarray(marked(image, watermark)).save(place / f"{number:03d}.jpg", quality=90)
        off = place / "mcap.toml"
        off.write_text('[marks]\nwatermark = "none"\nc2pa = false\n')
        command = [sys.executable, "-m", "mcap", "--config", off, "--quiet", "enhance"]
        sources = sorted(place.glob("*.jpg"))
        out = place / "out"
        subprocess.run([*map(str, [*command, *sources, "--out", out])], check=True)
        scores = [
            watermark.score(np.asarray(Image.open(path).convert("RGB")))
            for path in sorted(out.glob("*.png"))
        ]
    found = sum(score >= watermark.info.threshold for score in scores)
    print(f"| JPEG 90 and `mcap enhance` | {found} of {len(scores)} | {min(scores):.1f} |")


def likeness(watermark: Watermark, folder: Path, count: int, beside: Path | None = None) -> None:
    """Compare faces with themselves changed, and with the same person's in ``beside``."""
    from mcap.faces.similarity import embed_largest_face

    detector = registry().create("detector", "yunet")
    identity = registry().create("identity", "sface")
    changes = {
        "nothing": lambda image: image,
        "watermark": lambda image: marked(image, watermark),
        "JPEG 90": lambda image: encoded(image, "JPEG", 90),
        "JPEG 75": lambda image: encoded(image, "JPEG", 75),
    }
    own: dict[str, list[float]] = {name: [] for name in changes}
    other: dict[str, list[float]] = {name: [] for name in changes}
    names = sorted(path.name for path in folder.iterdir())
    if beside is not None:
        names = [name for name in names if (beside / name).is_file()]
    for index in np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int):
        image = np.array(Image.open(folder / names[index]).convert("RGB"))
        second = (
            image if beside is None else np.array(Image.open(beside / names[index]).convert("RGB"))
        )
        seen = [
            embed_largest_face(change(image), detector, identity) for change in changes.values()
        ]
        known = embed_largest_face(second, detector, identity)
        if known is None or seen[0] is None:
            continue
        for name, face in zip(changes, seen, strict=True):
            if face is not None:
                own[name].append(float(seen[0][1] @ face[1]))
                other[name].append(float(known[1] @ face[1]))
    print("| after | to itself | least | to another picture |\n| --- | --- | --- | --- |")
    for name, values in own.items():
        means = f"{np.mean(values):.3f} | {min(values):.3f} | {np.mean(other[name]):.3f}"
        print(f"| {name} ({len(values)} faces) | {means} |")


def cost(watermark: Watermark, folder: Path, count: int) -> None:
    """Time what marks add to a picture, in seconds of one core."""
    from mcap.images.marking import Marks
    from mcap.images.provenance import Label
    from mcap.images.write import write_generated
    from mcap.marks.certificate import local_credential
    from mcap.marks.manifest import ManifestSigner

    images = list(pictures(folder, count))
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        signer = ManifestSigner(local_credential(place / "certificate"))
        for label, marks in (
            ("XMP alone", Marks()),
            ("and watermark", Marks(watermark)),
            ("and C2PA", Marks(watermark, signer)),
        ):
            for suffix in (".png", ".jpg", ".webp"):
                begun = time.process_time()
                for image in images:
                    how = Label({}, metadata="label", marks=marks)
                    write_generated(place / f"a{suffix}", marks.watermarked(image), how)
                seconds = (time.process_time() - begun) / len(images)
                print(f"| {label} | {suffix[1:]} | {seconds:.3f} |")


def timed_marks() -> dict[str, float]:
    """Return CPU seconds by what they were spent on, counted from here on in this process.

    "chosen_marks" is what a command does before its work: certificate, key, a signature to try.
    """
    from mcap.cli import marks
    from mcap.images.marking import Marks
    from mcap.marks.manifest import ManifestSigner

    spent: dict[str, float] = {}
    inside: list[str] = []

    def timed(owner: object, name: str) -> None:
        real = getattr(owner, name)
        spent[name] = 0.0

        def call(*given: object) -> object:
            begun = time.process_time()
            inside.append(name)
            try:
                return real(*given)
            finally:
                inside.pop()
                if not inside:
                    spent[name] += time.process_time() - begun

        setattr(owner, name, call)

    for owner, name in ((marks, "chosen_marks"), (Marks, "embed"), (Marks, "watermarked"),
                        (Marks, "declared"), (ManifestSigner, "sign")):  # fmt: skip
        timed(owner, name)
    return spent


def share(watermark: Watermark, subject: Path, count: int) -> None:
    """Print what marks take of a whole `mcap generate` of ``count`` pictures.

    In CPU seconds of this process: whatever else the machine does counts for neither.

    The watermark is the settings'; ``watermark`` is not asked.
    """
    from mcap import cli

    spent = timed_marks()
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as name:
        code = cli.run(["--quiet", "generate", str(subject), "--count", str(count), "--device",
                        "cpu", "--out", name])  # fmt: skip
        assert code == 0, code
        files = [path for path in Path(name).rglob("*") if path.suffix in (".png", ".jpg")]
    whole, marks = time.process_time() - begun, sum(spent.values())
    print(
        f"{count} pictures, {len(files)} marked files: {whole:.2f} s of CPU, of which marks "
        f"{marks:.3f} ({marks / whole:.2%}): "
        + ", ".join(f"{name} {seconds:.3f}" for name, seconds in spent.items())
    )


def one_training(_: Watermark, photos: Path, _count: int) -> None:
    """Train in this process; print as JSON what `training` asks."""
    from mcap import cli

    spent = timed_marks()
    with tempfile.TemporaryDirectory() as name:
        command = [
            *("--quiet", "train", "--source", str(photos)),
            *("--style", "passport", "--backbone", "demo", "--device", "cpu"),
            *("--threads", "1", "--preview-every", "5", "--out", f"{name}/a.mcap"),
            *("--set", "phase1_steps=10", "--set", "phase2_steps=10", "--set", "least_steps=1.0"),
        ]
        assert cli.run(command) == 0
        pictures = len(list(Path(name).rglob("samples/*.jpg")))
    whole = time.process_time()  # from the process's start: what is imported counts
    print(json.dumps({"whole": whole, "marks": sum(spent.values()), "previews": pictures}))


def training(_: Watermark, photos: Path, count: int) -> None:
    """Print what marks take of a training, in two ways, over ``count`` rounds.

    ``photos`` are those of a person. Each round runs a training with marks and one without, a
    process each, now this one first and now the other: twenty steps of the demo model and a preview
    of four pictures after every fifth. Told are the CPU seconds (user and system) of both, whose
    difference is the machine's noise as well, and those that were spent inside of what marks.
    """
    ways = {
        "with": {},
        "without": {"MCAP_MARKS__WATERMARK": "none", "MCAP_MARKS__C2PA": "false"},
    }
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in range(count):
        for way in sorted(ways, reverse=bool(number % 2)):
            done = subprocess.run(
                [sys.executable, __file__, "one-training", str(photos)],
                check=True,
                stdout=subprocess.PIPE,
                env={**os.environ, **ways[way]},
            )
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
        told = ", ".join(
            f"{way} marks {runs[-1]['whole']:.2f} s ({runs[-1]['marks']:.3f} in them)"
            for way, runs in found.items()
        )
        print(f"round {number + 1}: {told}", flush=True)
    ratios = [one["whole"] / other["whole"] for one, other in zip(*found.values(), strict=True)]
    shares = [run["marks"] / run["whole"] for run in found["with"]]
    print(
        f"{found['with'][0]['previews']} previews; whole with marks to whole without: median "
        f"{np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}); spent in marks: median "
        f"{np.median(shares):.2%} ({min(shares):.2%} to {max(shares):.2%})"
    )


COMMANDS = {
    "survival": survival,
    "false-positives": false_positives,
    "enhance": enhance,
    "cost": cost,
    "share": share,
    "training": training,
    "one-training": one_training,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=[*COMMANDS, "likeness"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--watermark", default="spread")
    parser.add_argument("--beside", type=Path, help="likeness: other pictures, by the same names")
    given = parser.parse_args()
    watermark: Watermark
    if given.watermark in ("dwtDctSvd", "rivaGan"):
        watermark = InvisibleWatermark(given.watermark)
    else:
        watermark = registry().create("watermark", given.watermark)
    if given.what == "likeness":
        likeness(watermark, given.folder, given.count, given.beside)
    else:
        COMMANDS[given.what](watermark, given.folder, given.count)


if __name__ == "__main__":
    main()
