"""Does enhancing keep the person? Degraded faces through mcap enhance, against the originals.

    python benchmarks/enhance.py ../shared/faces/512 --count 100 [--restorer A,B] [--out FOLDER]

Every picture is degraded as tools/demo_sr does it (twice blurred, resized, noisy, compressed, a
quarter of the side; seeded by its number; --harsh with the ranges that Real-ESRGAN's authors
published, which ruin a portrait, else with milder ones), enhanced with the settings that mcap comes
with, and compared with the original at the original's landmarks. Numbers that demo-sr was trained
on are left out. SFace is what the guard itself looks with; dlib (centred descriptors) has no part
in anything.
"before" is the degraded picture. The last line says what --strict asks for: the mean rises, and no
picture loses more to the original than the guard allows a face to lose.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from centred_dlib import Measure
from PIL import Image

from mcap.cli.restorers import choose_restorer, load_restorers
from mcap.contracts import Face
from mcap.enhancement import (
    Enhanced,
    Enhancement,
    EnhancementFinished,
    EnhanceSettings,
    Refused,
    Tools,
    enhance,
)
from mcap.enhancement.identity_guard import IdentityGuard
from mcap.faces.measure import embed
from mcap.images.find import find_photos
from mcap.images.picture import read_picture
from mcap.registry import registry
from mcap_plugins.dlib.identity import centred

sys.path.insert(0, str(Path(__file__).parent.parent / "tools" / "demo_sr"))
from degrade import MILD, PUBLISHED, photo
from draw_large import HELD_OUT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="pictures of 512 pixels, called by their number")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--restorer", default="demo-sr")
    parser.add_argument("--harsh", action="store_true", help="degrade as Real-ESRGAN's authors do")
    parser.add_argument("--max-change", type=float, default=EnhanceSettings().max_change)
    parser.add_argument("--out", type=Path, help="keep the pictures here")
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a bar is missed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        originals = [p for p in find_photos([options.folder]) if int(p.stem) % HELD_OUT == 0]
        good = measure(originals[: options.count], folder, options)
    sys.exit(0 if good or not options.strict else 1)


def measure(originals: list[Path], folder: Path, options: argparse.Namespace) -> bool:
    made = registry()
    tools = Tools(
        made.create("detector", "yunet"),
        made.create("identity", "sface"),
        made.create("masker", "landmarks"),
    )
    settings = EnhanceSettings(max_change=options.max_change)
    choices = [choose_restorer(name) for name in options.restorer.split(",")]
    stages = load_restorers(None, choices, settings)
    given = folder / "degraded"
    given.mkdir(parents=True, exist_ok=True)
    for path in originals:
        whole = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
        small = photo(
            whole, np.random.default_rng(int(path.stem)), PUBLISHED if options.harsh else MILD
        )
        Image.fromarray((small * 255 + 0.5).astype(np.uint8)).save(given / f"{path.stem}.png")
    networks = {"sface": _sface(tools.identity), "dlib": _dlib()}
    rows, held_back, unseen, drifts = [], 0, 0, []
    events = enhance(
        [given / f"{path.stem}.png" for path in originals],
        folder / "out",
        Enhancement(stages, tools, settings),
    )
    by_stem = {path.stem: path for path in originals}
    for event in events:
        if isinstance(event, Refused):
            print(f"{event.source.name}: refused: {event.reason}")
        if not isinstance(event, Enhanced):
            if isinstance(event, EnhancementFinished):
                print(f"report: {event.report}" if options.out else "", end="\n")
            continue
        original = read_picture(by_stem[event.source.stem]).pixels
        faces = tools.detector.detect(original)
        if not faces:
            continue
        face = faces[0]
        held_back += bool(event.held_back)
        unseen += not event.faces
        drifts += [found["similarity_after"] for found in event.faces[:1] if found["stages"]]
        row = {}
        for name, look in networks.items():
            truth = look(original, face)
            for when, path in (("before", event.source), ("after", event.path)):
                image = read_picture(path).pixels
                placed = face.moved(zoom=image.shape[1] / original.shape[1])
                row[name, when] = float(look(image, placed) @ truth)
        rows.append(row)
    return _print(rows, held_back, unseen, drifts, tools, settings)


def _sface(network):
    return lambda image, face: embed(network, image, face)


def _dlib():
    own = Measure()

    def look(image: np.ndarray, face: Face) -> np.ndarray:
        return centred(own.network.describe(image, face), own.mean_descriptor)

    return look


def _print(rows, held_back, unseen, drifts, tools, settings) -> bool:
    print(
        f"\n{len(rows)} pictures; {unseen} in which no face was found before; {held_back} held back"
    )
    print("| similarity to the original | before | after | gain (95 %) | lost the most | 5 % |")
    print("|" + " --- |" * 6)
    limit = IdentityGuard(
        tools.identity, max_change=settings.max_change, max_loss=settings.max_loss
    ).max_change
    good = True
    for name in ("sface", "dlib"):
        before = np.array([row[name, "before"] for row in rows])
        after = np.array([row[name, "after"] for row in rows])
        gain = after - before
        error = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
        print(
            f"| {name} | {before.mean():.3f} | {after.mean():.3f} | {gain.mean():+.3f} "
            f"({gain.mean() - error:+.3f} to {gain.mean() + error:+.3f}) | {gain.min():+.3f} | "
            f"{np.percentile(gain, 5):+.3f} |"
        )
        good &= gain.mean() > 0 and (name != "sface" or gain.min() >= -limit)
    if drifts:
        print(
            f"The face after to itself before (sface): mean {np.mean(drifts):.3f}, 5 % "
            f"{np.percentile(drifts, 5):.3f}, least {min(drifts):.3f}; the guard asks for "
            f"{1 - limit:.2f}."
        )
    print("kept" if good else "NOT KEPT", f"(mean rises; none loses more than {limit:g})")
    return good


if __name__ == "__main__":
    main()
