"""Draw people who do not exist, several photos of each, for `benchmarks/subject_groups.py`.

    pip install openvino && pip install --no-deps random-face==2021.7.21.1
    python benchmarks/draw_people.py --out PEOPLE --people 40 --photos 6

Writes PEOPLE/NUMBER/01.jpg and so on; what is there already is not drawn again. About a second and
a half a picture on one core. People are numbers as in `tools/example_faces/people.py`, from 30000
on: none of them is in the examples or in any training data. The same person again is the same
number moved a little, turned, and in another light and frame.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tools" / "example_faces"))

FIRST = 30000
OTHERS = 40000  # the numbers towards which a person is moved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--photos", type=int, default=6)
    options = parser.parse_args()
    from people import Painter

    painter = Painter()
    for number in range(FIRST, FIRST + options.people):
        for place in range(options.photos):
            path = options.out / str(number) / f"{place + 1:02}.jpg"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                draw(painter, number, place, path)
        print(number, flush=True)


def draw(painter, number: int, place: int, path: Path) -> None:
    from photo import Frame, Light, frame, light, save

    rng = np.random.default_rng([number, place])
    picture = painter.draw(
        number,
        OTHERS + 100 * (number - FIRST) + place if place else None,
        amount=rng.uniform(0.15, 0.22),
        yaw=rng.uniform(-0.18, 0.18) if place else 0.0,
    )
    how = Light(
        exposure=rng.uniform(-1.5, 0.3),
        warmth=rng.uniform(-0.3, 0.4),
        side=rng.uniform(-0.4, 0.4),
        noise=rng.uniform(0.0, 0.02),
    )
    # Six degrees of roll stay inside the scene at this width.
    cut = Frame(width=rng.uniform(0.8, 0.9), roll=rng.uniform(-6, 6))
    scene = frame(picture.astype(np.float32) / 255, cut, 640)
    save(light(scene, how, rng), path, quality=86, orientation=int(rng.choice([1, 1, 6, 8])))


if __name__ == "__main__":
    main()
