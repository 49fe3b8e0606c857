"""Draw docs/images/demo.jpg: the selfies of the example, and what `make demo` made of them.

    python tools/docs/draw_demo.py [OUT] [--to docs/images/demo.jpg]
    python tools/docs/draw_demo.py --people PHOTO:FOLDER... --to docs/images/five-people.jpg

OUT is the folder of `make demo`. Above the selfies, cut to squares; below its finished pictures.
With --people a row for each person: a photo, and the first four finished pictures of a folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[2]
WIDTH, GAP, GROUND = 1400, 12, (226, 226, 222)
PASSPORT = (413, 531)


def cut(path: Path, size: tuple[int, int]) -> Image.Image:
    """Return a photo, upright, cut to ``size`` around its upper middle."""
    photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    return ImageOps.fit(photo, size, centering=(0.5, 0.3))


def finished(folder: Path) -> list[Image.Image]:
    """Return the pictures of a folder of `mcap enhance`, by name."""
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]


def row(pictures: Sequence[Image.Image]) -> Image.Image:
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
    parser.add_argument("--people", nargs="+", metavar="PHOTO:FOLDER")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "images" / "demo.jpg")
    options = parser.parse_args()
    if options.people:
        pairs = [map(Path, text.rsplit(":", 1)) for text in options.people]
        rows = [row([cut(photo, PASSPORT), *finished(folder)[:4]]) for photo, folder in pairs]
    else:
        selfies = sorted((ROOT / "examples" / "selfies").glob("*.jpg"))
        rows = [
            row([cut(photo, (512, 512)) for photo in selfies]),
            row(finished(options.folder / "print")),
        ]
    height = sum(strip.height for strip in rows) + GAP * (len(rows) - 1)
    sheet = Image.new("RGB", (WIDTH, height), GROUND)
    top = 0
    for strip in rows:
        sheet.paste(strip, (0, top))
        top += strip.height + GAP
    sheet.save(options.to, quality=85)


if __name__ == "__main__":
    main()
