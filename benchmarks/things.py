"""How well does a masker of things cut out what stands in the middle of a picture?

    python benchmarks/things.py --pictures FOLDER --count 100

FOLDER holds portraits: the masker is told nothing of faces, and its mask is compared with that of
`person`, a network that was trained on people. Prints the intersection over union, its mean and
5 %, how often nothing was told apart, and the processor time a picture.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

from mcap.faces.masks import iou
from mcap.images.find import find_photos
from mcap.images.photo import read_photo
from mcap.registry import registry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="a folder of portraits")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--masker", default="foreground")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    detector = registry().create("detector", "yunet")
    person = registry().create("masker", "person")
    masker = registry().create("masker", options.masker)
    paths = find_photos([options.pictures])
    overlaps, nothing, seconds = [], 0, []
    for path in paths[:: max(1, len(paths) // options.count)][: options.count]:
        image = read_photo(path).image
        face = max(detector.detect(image), key=lambda each: each.area)
        began = time.process_time()
        mask = masker.object_mask(image)
        seconds.append(time.process_time() - began)
        nothing += not mask.any()
        overlaps.append(iou(mask, person.mask(image, face)))
    values = np.array(overlaps)
    print(
        f"{len(values)} pictures: {values.mean():.2f} (5 %: {np.quantile(values, 0.05):.2f}, "
        f"half of them {np.median(values):.2f} or more); nothing told apart in {nothing}; "
        f"{np.mean(seconds):.2f} s a picture"
    )


if __name__ == "__main__":
    main()
