"""Draw docs/images/demo.jpg: the selfies of the example, and what `make demo` made of them.

    python tools/docs/draw_demo.py [OUT] [--to docs/images/demo.jpg]

OUT is the folder of `make demo`. Above the selfies, cut to squares; below its finished pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[2]
WIDTH, GAP, GROUND = 1400, 12, (226, 226, 222)


def row(pictures: list[Image.Image]) -> Image.Image:
    """Return pictures of one aspect side by side, `WIDTH` wide in all."""
    each = (WIDTH - GAP * (len(pictures) - 1)) // len(pictures)
    height = round(each * pictures[0].height / pictures[0].width)
    strip = Image.new("RGB", (WIDTH, height), GROUND)
    for index, picture in enumerate(pictures):
        small = picture.resize((each, height), Image.Resampling.LANCZOS)
        strip.paste(small, (index * (each + GAP), 0))
    return strip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "out", metavar="OUT")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "images" / "demo.jpg")
    options = parser.parse_args()
    opened = [
        ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        for path in sorted((ROOT / "examples" / "selfies").glob("*.jpg"))
    ]
    selfies = [ImageOps.fit(photo, (512, 512), centering=(0.5, 0.3)) for photo in opened]
    finished = [
        Image.open(path).convert("RGB") for path in sorted((options.folder / "print").glob("*.png"))
    ]
    above, below = row(selfies), row(finished)
    sheet = Image.new("RGB", (WIDTH, above.height + GAP + below.height), GROUND)
    sheet.paste(above, (0, 0))
    sheet.paste(below, (0, above.height + GAP))
    sheet.save(options.to, quality=85)


if __name__ == "__main__":
    main()
