"""Does training make the pictures look like the person, and not like the style's people?

    python benchmarks/identity.py --style passport

For every folder of ``--people`` (photos of one person each) it trains a subject with the command
that users type, draws the same prompt from the same seeds before and after (before: the tokens'
initial values and no LoRA), and measures with dlib's ResNet, a network that training never sees.

Similarity is the cosine of centred descriptors. dlib's descriptors are not centred: two strangers
have a raw cosine near 0.9. The mean over a few hundred strangers is subtracted first; it is stored
in ``plugins/mcap_plugins/dlib/mean.json`` (made by ``benchmarks/centred_dlib.py``) and its hash
stands in the results. Pictures without a face are counted and left out of the means.

Writes OUT/identity.json and OUT/identity.md and prints the table. A subject that is there and
complete is measured again without training.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from centred_dlib import MEAN_FILE, Measure
from PIL import Image

from mcap.diffusion.sampling import SamplingSettings, generate_images
from mcap.images.find import find_photos
from mcap.images.photo import read_photo
from mcap.registry import registry
from mcap.results.contact_sheet import Tile, contact_sheet
from mcap.style.profile import find_profile
from mcap.style.prompts import composed_prompts, negative_prompt_of
from mcap.subjects.manifest import is_subject_folder, read_manifest
from mcap.subjects.subject import read_subject

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Result:
    """One person; similarities are means over the pictures that have a face."""

    person: str
    before: float
    after: float
    best_half: float  # of the pictures after training: mean over the better half
    references: float  # after training, to the reference people: mean over them
    nearest_reference: float  # the same, to the one that comes nearest
    faces_before: int
    faces_after: int
    pictures: int
    seconds: float | None  # training, wall clock; None where the subject was there already

    @property
    def gain(self) -> float:
        return self.after - self.before


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    people = sorted(path for path in options.people.iterdir() if path.is_dir())
    profile = find_profile(options.style, registry().profile_dirs)
    measure = Measure()
    references = [measure.photo(path) for path in profile.reference_paths()]
    references = np.stack([found for found in references if found is not None])
    results = []
    for person in people:
        result, sheet = one_person(person, options, profile, measure, references)
        results.append(result)
        Image.fromarray(sheet).save(options.out / f"{person.name}.png")
        print(f"{person.name}: before {result.before:.3f}, after {result.after:.3f}", flush=True)
    report(results, options, measure)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=Path, default=HERE / "people", help="a folder a person")
    parser.add_argument("--style", default="passport")
    parser.add_argument("--backbone", default="demo")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--seed", type=int, default=100, help="of the first picture")
    parser.add_argument("--set", action="append", default=[], help="recipe key=value, as in train")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    return parser.parse_args()


def one_person(person, options, profile, measure, references) -> tuple[Result, np.ndarray]:
    subject_path = options.out / f"{person.name}-{options.style}.mcap"
    seconds = train(person, subject_path, options)
    subject = read_subject(subject_path)
    own = [measure.photo(path) for path in find_photos([person])]
    target = measure.mean([found for found in own if found is not None])

    # A new backbone for each person: nothing of the last one can be left in it.
    backbone = registry().get("backbone", options.backbone).factory("cpu", "float32")
    prompt = composed_prompts(profile)[0]
    seeds = list(range(options.seed, options.seed + options.pictures))
    pictures = {}
    for moment, scale in (("before", 0.0), ("after", 1.0)):
        pipeline = backbone.pipeline()
        subject.load_into(pipeline, adapter_scale=scale, token_scale=scale)
        pictures[moment] = draw_with(backbone, pipeline, prompt, seeds, profile)
        subject.unload_from(pipeline)
    found = {name: [measure.image(image) for image in drawn] for name, drawn in pictures.items()}
    similar = {
        name: [float(each @ target) if each is not None else None for each in values]
        for name, values in found.items()
    }
    after = np.stack([each for each in found["after"] if each is not None])
    to_references = (after @ references.T).mean(axis=0)
    values = sorted((v for v in similar["after"] if v is not None), reverse=True)
    result = Result(
        person=person.name,
        before=mean_of(similar["before"]),
        after=mean_of(similar["after"]),
        best_half=float(np.mean(values[: max(1, len(values) // 2)])),
        references=float(to_references.mean()),
        nearest_reference=float(to_references.max()),
        faces_before=sum(v is not None for v in similar["before"]),
        faces_after=len(values),
        pictures=len(seeds),
        seconds=seconds,
    )
    tiles = [
        Tile(image, f"{name} {seed}", [label(value)])
        for name in ("before", "after")
        for image, seed, value in zip(pictures[name], seeds, similar[name], strict=True)
    ]
    photos = [Tile(read_photo(path).image, path.stem, []) for path in find_photos([person])]
    return result, contact_sheet(photos + tiles, columns=8, tile_size=192)


def draw_with(backbone, pipeline, prompt, seeds, profile) -> list[np.ndarray]:
    negative = negative_prompt_of(backbone.info, profile)
    settings = SamplingSettings.for_backbone(backbone.info, negative_prompt=negative)
    return generate_images(backbone, prompt, seeds, settings, pipeline=pipeline)


def train(person: Path, subject: Path, options) -> float | None:
    """Train with the command line, as a user would; seconds, or None where it was done before."""
    if is_subject_folder(subject) and read_manifest(subject).state == "complete":
        return None
    command = [sys.executable, "-m", "mcap", "train", "--source", str(person)]
    command += ["--style", options.style, "--backbone", options.backbone, "--out", str(subject)]
    for pair in options.set:
        command += ["--set", pair]
    start = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - start


def mean_of(values: list[float | None]) -> float:
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else float("nan")


def label(value: float | None) -> str:
    return "no face" if value is None else f"{value:.2f}"


def interval(values: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over people."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (10_000, len(values))).mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def report(results: list[Result], options, measure: Measure) -> None:
    lines = [
        "| person | before | after | gain | better half | reference people (mean) "
        "| nearest of them | faces before, after | training |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in results:
        seconds = "-" if r.seconds is None else f"{r.seconds:.0f} s"
        lines.append(
            f"| {r.person} | {r.before:.3f} | {r.after:.3f} | {r.gain:+.3f} | {r.best_half:.3f} "
            f"| {r.references:.3f} | {r.nearest_reference:.3f} "
            f"| {r.faces_before}, {r.faces_after} of {r.pictures} | {seconds} |"
        )
    gains = [r.gain for r in results]
    low, high = interval(gains)
    columns = ("before", "after", "gain", "best_half", "references", "nearest_reference")
    means = {name: float(np.mean([getattr(r, name) for r in results])) for name in columns}
    lines.append(
        f"| **mean** | {means['before']:.3f} | {means['after']:.3f} | {means['gain']:+.3f} "
        f"({low:+.3f} to {high:+.3f}) | {means['best_half']:.3f} | {means['references']:.3f} "
        f"| {means['nearest_reference']:.3f} | | |"
    )
    table = "\n".join(lines) + "\n"
    (options.out / "identity.md").write_text(table, encoding="utf-8")
    record = {
        "command": " ".join(sys.argv),
        "style": options.style,
        "backbone": options.backbone,
        "set": options.set,
        "machine": platform.processor() or platform.machine(),
        "mean_sha256": hashlib.sha256(MEAN_FILE.read_bytes()).hexdigest(),
        "mean_faces": measure.mean_faces,
        "means": means,
        "gain_interval": [low, high],
        "people": [asdict(r) | {"gain": r.gain} for r in results],
    }
    (options.out / "identity.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    print("\n" + table)


if __name__ == "__main__":
    main()
