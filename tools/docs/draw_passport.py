"""Draw docs/images/passport.jpg: a photo, the passport picture made of it, and the print sheet.

    python tools/docs/draw_passport.py [PHOTO] [--out docs/images/passport.jpg]

The photo is by default one of `examples/selfies`, a close-up as most people have them; the rest is
what `mcap enhance --restorer none --profile passport --print-sheet` makes of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, GAP, GROUND = 400, 14, (226, 226, 222)


def enhanced(photo: Path, out: Path) -> tuple[Path, Path]:
    """Return the finished picture and its print sheet; exit where mcap could not make them."""
    command = [sys.executable, "-m", "mcap", "--json", "enhance", str(photo), "--out", str(out)]
    command += ["--restorer", "none", "--profile", "passport", "--print-sheet", "--offline"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):  # 3: drawn, and not as the style asks
        sys.exit(done.stderr or done.stdout)
    (picture,) = json.loads(done.stdout)["pictures"]
    (sheet,) = (out / "sheets").iterdir()
    return Path(picture["file"]), sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "examples" / "selfies" / "01-living-room.jpg"
    parser.add_argument("photo", type=Path, nargs="?", default=default)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "passport.jpg")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        files = [options.photo, *enhanced(options.photo, Path(scratch) / "out")]
        panels = []
        for file in files:
            panel = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
            width = round(panel.width * HEIGHT / panel.height)
            panels.append(panel.resize((width, HEIGHT), Image.Resampling.LANCZOS))
    width = sum(panel.width + GAP for panel in panels) + GAP
    drawn = Image.new("RGB", (width, HEIGHT + 2 * GAP), GROUND)
    left = GAP
    for panel in panels:
        drawn.paste(panel, (left, GAP))
        left += panel.width + GAP
    drawn.save(options.out, quality=90, optimize=True)
    print(f"{options.out}: {drawn.width} x {drawn.height}")


if __name__ == "__main__":
    main()
