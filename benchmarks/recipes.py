"""Which training recipe is best for a backbone: likeness, leak and style of each, in one table.

    python benchmarks/recipes.py benchmarks/recipes.toml

The TOML holds one table a variant, recipe keys as `mcap train --set` takes them. Every variant
trains every cell (a person of ``--people`` in a style; ``--cells all``: each in each style,
``--cells turns``: person i in style i modulo the number of styles) with the command that users
type, and draws the same seeds. Likeness and leak are centred cosines by dlib's ResNet, which
training never sees; look is how far the faces are from the photos when laid over them (the measure
of that name), for a face network alone can be pleased by what is no face to anybody, and head the
same with the hair (head_look.py); framed is how many pictures have the head where the profile wants
it; style is the share of pictures that lie nearest to their style's reference photos (by the
measure's description). Each cell's figures are kept in OUT, so a run goes on where it was cut;
OUT/recipes.md is the table, and beside each subject lie its pictures. ``--people`` is a folder with
a folder of photos for each person: real people's do as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from centred_dlib import Measure
from head_look import HeadLook

from mcap.diffusion.sampling import SamplingSettings, generate_images
from mcap.framing.crop import cut, measure_framing, sampling_size
from mcap.framing.head import head_from_box
from mcap.images.find import find_photos
from mcap.images.jpeg import write_jpeg
from mcap.images.photo import read_photo
from mcap.registry import registry
from mcap.style.profile import find_profile
from mcap.style.prompts import composed_prompts, negative_prompt_of
from mcap.subjects.manifest import is_subject_folder, read_manifest
from mcap.subjects.subject import read_subject
from mcap_plugins.measures.look import FaceLook, is_grey
from mcap_plugins.measures.style import StyleMatch, describe

HERE = Path(__file__).parent
STYLES = ("passport", "business", "studio-bw")
LATER = dict.fromkeys(("others", "head_look", "own_head_look", "framed"))
"""What the oldest rows were not measured in."""


@dataclass(frozen=True)
class Cell:
    """One subject: a person in a style under a variant. Similarities are means over pictures."""

    variant: str
    person: str
    style: str
    likeness: float
    best_half: float
    nearest_reference: float  # to the reference person that comes nearest
    by_nature: float  # of the person's own photos to that same reference person
    others: float | None  # to the other people of --people, mean
    look: float  # distance of the faces to the nearest of the person's photos, as the measure look
    own_look: float  # the same between these photos
    head_look: float | None  # the same over the whole head, hair included
    own_head_look: float | None
    framed: int | None  # pictures whose head is as the profile asks, cut and nothing added
    style_share: float
    faces: int
    pictures: int
    seconds: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", type=Path, help="TOML: a table of recipe keys a variant")
    parser.add_argument("--people", type=Path, default=HERE / "people")
    parser.add_argument("--styles", nargs="+", default=list(STYLES))
    parser.add_argument("--cells", choices=["all", "turns"], default="turns")
    parser.add_argument("--only", nargs="*", help="names of variants; default: all of the file")
    parser.add_argument("--backbone", default="demo")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("out/recipes"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    variants = tomllib.loads(options.variants.read_text(encoding="utf-8"))
    people = people_in(options.people)
    judge = Judge(options.styles)
    for name in options.only or variants:
        for person, style in cells(people, options.styles, options.cells):
            measured(judge, name, variants[name], person, style, options)
    print("\n" + table(options.out, variants))


def measured(judge, name, keys, person, style, options) -> dict[str, Any]:
    """Return what a training of a variant gives, trained and judged where OUT does not have it."""
    place = options.out / f"{name}-{person.name}-{style}"
    record = place.with_suffix(".json")
    if not record.exists():
        seconds = train(person, style, keys, place.with_suffix(".mcap"), options)
        cell = judge.cell(place.with_suffix(".mcap"), person, style, options)
        done = asdict(replace(cell, variant=name, seconds=seconds))
        part = record.with_suffix(".part")
        part.write_text(json.dumps(done, indent=1), encoding="utf-8")
        os.replace(part, record)
        print(done, flush=True)
    found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return found


def people_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def cells(people, styles, which):
    if which == "all":
        return [(person, style) for person in people for style in styles]
    return [(person, styles[i % len(styles)]) for i, person in enumerate(people)]


def train(person, style, keys, subject, options) -> float | None:
    if is_subject_folder(subject) and read_manifest(subject).state == "complete":
        return None
    command = [sys.executable, "-m", "mcap", "--quiet", "train", "--source", str(person)]
    command += ["--style", style, "--backbone", options.backbone, "--out", str(subject)]
    keys = dict(keys)
    if "recipe" in keys:
        command += ["--recipe", keys.pop("recipe")]
    for key, value in keys.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    start = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - start


class Judge:
    """Draws from a subject and measures what came out."""

    def __init__(self, styles) -> None:
        self.measure = Measure()
        self.people: dict[str, np.ndarray] = {}
        self.profiles = {name: find_profile(name, registry().profile_dirs) for name in styles}
        self.references = {
            name: [read_photo(path).image for path in profile.reference_paths()]
            for name, profile in self.profiles.items()
        }
        self.groups = {
            name: [describe(*each) for each in self.seen(images)]
            for name, images in self.references.items()
        }

    def face(self, image):
        found = self.measure.detector.detect(image)
        return max(found, key=lambda face: face.area) if found else None

    def seen(self, images) -> list[tuple]:
        """The pictures that have a face, with it."""
        faces = ((image, self.face(image)) for image in images)
        return [(image, face) for image, face in faces if face is not None]

    def mean_of(self, person: Path) -> np.ndarray:
        """The direction of the mean descriptor of a person's photos."""
        if person.name not in self.people:
            found = [self.measure.photo(path) for path in find_photos([person])]
            self.people[person.name] = self.measure.mean([f for f in found if f is not None])
        return self.people[person.name]

    def cell(self, subject_path, person, style, options) -> Cell:
        own = [read_photo(path).image for path in find_photos([person])]
        seen = self.seen(own)
        match = StyleMatch({**self.groups, "own photos": [describe(*each) for each in seen]})
        grey = is_grey(self.references[style])
        look, head_look = FaceLook(seen, grey), HeadLook(seen, grey)
        target = self.mean_of(person)
        others = [p for p in people_in(options.people) if p.name != person.name]
        found = [self.measure.image(image) for image in self.references[style]]
        references = np.stack([each for each in found if each is not None])

        subject, profile = read_subject(subject_path), self.profiles[style]
        backbone = registry().get("backbone", options.backbone).factory("cpu", "float32")
        pipeline = backbone.pipeline()
        subject.load_into(pipeline, adapter_scale=1.0, token_scale=1.0)
        seeds = list(range(options.seed, options.seed + options.pictures))
        negative = negative_prompt_of(backbone.info, profile)
        images = generate_images(
            backbone,
            composed_prompts(profile)[0],
            seeds,
            SamplingSettings.for_backbone(
                backbone.info,
                negative_prompt=negative,
                size=sampling_size(backbone.info, profile.aspect_ratio),
            ),
            pipeline=pipeline,
        )
        write_jpeg(subject_path.with_suffix(".jpg"), np.hstack(images))
        vectors = [self.measure.image(image) for image in images]
        faces = np.stack([each for each in vectors if each is not None])
        seen = self.seen(images)
        similar = np.sort(faces @ target)[::-1]
        leaks = (faces @ references.T).mean(axis=0)
        nearest = int(leaks.argmax())
        styles = [match.nearest(describe(*each)) for each in seen]
        to_others = [float((faces @ self.mean_of(each)).mean()) for each in others]
        return Cell(
            variant="",
            person=person.name,
            style=style,
            likeness=float(similar.mean()),
            best_half=float(similar[: max(1, len(similar) // 2)].mean()),
            nearest_reference=float(leaks[nearest]),
            by_nature=float(references[nearest] @ target),
            others=float(np.mean(to_others)) if to_others else None,
            look=float(np.mean([look.distance(*each) for each in seen])),
            own_look=look.own(),
            head_look=float(np.mean([head_look.distance(*each) for each in seen])),
            own_head_look=head_look.own(),
            framed=sum(framed(image, face, profile) for image, face in seen),
            style_share=styles.count(style) / len(images),
            faces=len(faces),
            pictures=len(images),
            seconds=None,
        )


def framed(image, face, profile) -> bool:
    """Whether the head is where the profile wants it once the picture is cut, as `mcap generate`
    does."""
    height, width = image.shape[:2]
    head = head_from_box(face)
    box = cut((width, height), profile.aspect_ratio, head, profile.framing)
    return measure_framing(box, head, profile.framing).met


def table(folder: Path, variants) -> str:
    """A row a cell, written as recipes.md and, with what each variant sets, as recipes.jsonl."""
    kept = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    found = [Cell(**{**LATER, **each}) for each in kept if "variant" in each]
    lines = [
        "| variant | person | style | likeness | better half | nearest reference person "
        "| own photos to them | others | look | own photos | head | own photos | framed | style "
        "| faces | seconds |",
        "| --- |" + " --- |" * 15,
    ]
    records = []
    for name, keys in variants.items():
        for cell in (cell for cell in found if cell.variant == name):
            records.append(json.dumps({"variant": name, "sets": keys, **asdict(cell)}))
            seconds = "" if cell.seconds is None else f"{cell.seconds:.0f}"
            lines.append(
                f"| {name} | {cell.person} | {cell.style} | {cell.likeness:.3f} "
                f"| {cell.best_half:.3f} | {cell.nearest_reference:.3f} | {cell.by_nature:.3f} "
                f"| {told(cell.others, 3)} | {cell.look:.1f} | {cell.own_look:.1f} "
                f"| {told(cell.head_look)} | {told(cell.own_head_look)} "
                f"| {'' if cell.framed is None else cell.framed} | {cell.style_share:.0%} "
                f"| {cell.faces} of {cell.pictures} | {seconds} |"
            )
    text = "\n".join(lines) + "\n"
    (folder / "recipes.md").write_text(text, encoding="utf-8")
    (folder / "recipes.jsonl").write_text("\n".join(records) + "\n", encoding="utf-8")
    return text


def told(value: float | None, places: int = 1) -> str:
    return "" if value is None else f"{value:.{places}f}"


if __name__ == "__main__":
    main()
