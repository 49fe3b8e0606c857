"""Measures one or more versions of the demo backbone, side by side; writes the model card's table.

    python tools/demo_backbone/evaluate.py --model second=OLD --model third=NEW --data DATA
        --reader FACEAPI/model --sheets FOLDER --card plugins/mcap_plugins/demo/MODEL_CARD.md

DATA: of prepare.py at 256 pixels. FACEAPI: the npm package of face_reader.py; without, what only it
can tell is left out. A model that was measured before need not be drawn again: --model
second=SHEETS/second/measures.json, with the same numbers of pictures, which that file names. With
--card, the table replaces what stands between the card's two marks, so that the card holds exactly
what was measured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from canvases import PORTRAIT, SQUARE
from diffusers import StableDiffusionPipeline
from export import load_identity
from face_reader import FaceReader
from features import Features
from obedience import PERSON, WORDS, Seen, is_black_and_white, is_plain_white
from sharpness import fine_power
from text import identities
from train_autoencoder import sheet
from train_decoder import Faces

from mcap.framing.crop import cut, measure_framing
from mcap.framing.head import crown_to_chin
from mcap.registry import registry
from mcap.style.profile import find_profile

__all__ = ["is_black_and_white", "is_plain_white"]  # also for benchmarks/demo.py

TIGHT = "a close-up photo of a person"
MARKS = ("<!-- evaluate.py begins -->", "<!-- evaluate.py ends -->")


@dataclass(frozen=True)
class Settings:
    """Numbers of pictures, and the settings that they are drawn with."""

    count: int
    """Pictures a word, and for most other measures."""
    frechet: int
    """Pictures for the Frechet distances."""
    adults: int
    """Pictures that the age network looks at."""
    held_out: int
    """Held-out faces to reconstruct."""
    people: int
    """Held-out people for the identity word, three pictures of each."""
    steps: int
    guidance: float
    sheets: Path


class Eyes:
    """Networks that look at pictures: mcap's detector, SFace, dlib; face_reader.py where it is."""

    def __init__(self, reader: Path | None):
        part = registry().get
        self.detector = part("detector", "yunet").factory()
        self.sface = part("identity", "sface").factory()
        self.dlib = part("identity", "dlib").factory()
        self.reader = FaceReader(reader) if reader else None
        self.features = Features()

    def look(self, image: np.ndarray) -> Seen:
        """A picture with its largest face and, where that can be read, age and expression."""
        faces = self.detector.detect(image)
        face = faces[0] if faces else None
        reading = None
        if face is not None and self.reader:
            x0, y0, x1, y1 = face.box
            reading = self.reader(image, (x0, y0, x1 - x0, y1 - y0))
        return Seen(image, face, reading)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """float[..., 3] in [0, 1] to uint8."""
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


def samples(pipeline, prompt, count, settings: Settings, seed=0, size=SQUARE) -> np.ndarray:
    """Pictures uint8[count, H, W, 3] for one prompt; seeds seed, seed + 1, ..."""
    done = []
    for start in range(0, count, 10):
        some = range(seed + start, seed + min(start + 10, count))
        generators = [torch.Generator().manual_seed(s) for s in some]
        done.append(
            pipeline(
                [prompt] * len(some), generator=generators, num_inference_steps=settings.steps,
                guidance_scale=settings.guidance, output_type="np", width=size[0], height=size[1],
            ).images
        )  # fmt: skip
    return to_bytes(np.concatenate(done))


def show(images: np.ndarray, path: Path, columns: int = 8):
    """A sheet of pictures uint8[B, H, W, 3] as one PNG."""
    sheet(torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2) / 255, path, columns)


def as_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8[B, H, W, 3] to float32[B, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of two clouds [N, F] taken for Gaussian (Heusel et al. 2017)."""
    means = a.mean(0) - b.mean(0)
    spread_a, spread_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shared = np.linalg.eigvals(spread_a @ spread_b).real.clip(0)
    return float(
        means @ means + np.trace(spread_a) + np.trace(spread_b) - 2 * np.sqrt(shared).sum()
    )


def described(eyes: Eyes, images: np.ndarray) -> dict[str, np.ndarray]:
    """Two clouds: dlib's descriptors of the faces [N, 128], features of the pictures [N, 1280]."""
    faces = [(image, eyes.look(image).face) for image in images]
    dlib = [eyes.dlib.describe(image, face) for image, face in faces if face is not None]
    vectors = [eyes.features.vectors(some) for some in as_tensor(images).split(16)]
    return {"dlib": np.stack(dlib), "EfficientNet-Lite0": torch.cat(vectors).numpy()}


Row = tuple[str, str, str]  # measure, value, bar


def distances(pipeline, eyes: Eyes, faces: Faces, settings: Settings) -> Iterator[Row]:
    """Frechet distances and sharpness, of close-ups against held-out faces."""
    photos = np.stack([faces.images[i] for i in faces.held_out[: settings.frechet]])
    drawn = samples(pipeline, TIGHT, settings.frechet, settings)
    theirs, ours = described(eyes, photos), described(eyes, drawn)
    for name, cloud in ours.items():
        value = frechet(cloud, theirs[name])
        title = f"Frechet distance, {name}: {len(drawn)} close-ups to {len(photos)} held-out faces"
        yield title, f"{value:.4f}" if name == "dlib" else f"{value:.1f}", "half of the second's"
    powers = [fine_power(as_tensor(images)).median().item() for images in (drawn, photos)]
    yield (
        "sharpness: fine power of samples over photos', medians",
        (f"{powers[0] / powers[1]:.3f}"),
        "0.8",
    )


def reconstruction(pipeline, eyes: Eyes, faces: Faces, settings: Settings) -> Iterator[Row]:
    """PSNR, SFace similarity and colours of held-out faces that went through the autoencoder."""
    psnr, alike, pairs = [], [], []
    for i in faces.held_out[: settings.held_out]:
        image = np.asarray(faces.images[i])
        x = as_tensor(image[None]) * 2 - 1
        with torch.no_grad():
            y = pipeline.vae.decode(pipeline.vae.encode(x).latent_dist.mode()).sample / 2 + 0.5
        again = to_bytes(y[0].permute(1, 2, 0).numpy())
        psnr.append(-10 * np.log10(((again / 255.0 - image / 255.0) ** 2).mean()))
        face = eyes.look(image).face
        if face is not None:
            vectors = [eyes.sface.embed_images(p, face) for p in (image, again)]
            alike.append(float(vectors[0] @ vectors[1]))
        pairs.append((image, again))
    before, after = zip(*pairs[:16], strict=True)
    show(np.stack([*before, *after]), settings.sheets / "reconstructions.png", 16)
    yield f"PSNR of a reconstruction, {len(pairs)} held-out faces", f"{np.mean(psnr):.2f} dB", "26"
    yield "SFace similarity of a reconstruction to its original", f"{np.mean(alike):.3f}", "0.85"
    kept = []
    for axis in ([1, 0, -1], [-0.5, 1, -0.5]):
        a, b = (np.concatenate([(p[k] @ axis).ravel() for p in pairs]) for k in range(2))
        kept.append(np.corrcoef(a, b)[0, 1])
    value = f"red-blue {kept[0]:.2f}, green-magenta {kept[1]:.2f}"
    yield "colours kept by a reconstruction (correlation)", value, "reported"


def people(pipeline, eyes: Eyes, faces: Faces, settings: Settings) -> Iterator[Row]:
    """Faces found, how different they are, how near to training faces, how old."""
    count = max(settings.count, settings.adults)
    drawn = samples(pipeline, PERSON, count, settings)
    show(drawn[:64], settings.sheets / "samples.png")
    seen = [eyes.look(image) for image in drawn]
    one = [len([f for f in eyes.detector.detect(s.image) if f.score >= 0.9]) == 1
           for s in seen[: settings.count]]  # fmt: skip
    yield f'"{PERSON}": one face by YuNet at 0.9', f"{sum(one)} of {len(one)}", "98 of 100"
    vectors = np.stack([eyes.sface.embed_images(s.image, s.face)
                        for s in seen[: settings.count] if s.face])  # fmt: skip
    pairs = (vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)]
    yield "mean SFace similarity of two samples", f"{pairs.mean():.3f}", "below 0.35"
    known = faces.vectors[faces.train]
    nearest = (vectors @ known.T).max(1)
    value = f"median {np.median(nearest):.3f}, largest {nearest.max():.3f}"
    yield "SFace similarity to the nearest training face", value, "reported"
    strangers = [i for i in range(0, len(faces.train), 20) if faces.alone(faces.train[i])]
    others = known[strangers] @ known.T
    others[np.arange(len(strangers)), strangers] = -1
    value = f"median {np.median(others.max(1)):.3f}, largest {others.max():.3f}"
    yield "the same between training people themselves", value, "for comparison"
    if eyes.reader:
        ages = [s.reading.age for s in seen[: settings.adults] if s.reading]
        value = f"{sum(a < 18 for a in ages)} of {len(ages)}, youngest {min(ages):.0f}"
        yield "samples that the age network calls below 18", value, "0 of 500"


def words(pipeline, eyes: Eyes, settings: Settings) -> Iterator[Row]:
    """Each word that can be checked."""
    for name, word in WORDS.items():
        if word.reads and not eyes.reader:
            yield f'"{word.prompt}" obeyed', "not measured (no --reader)", "90 of 100"
            continue
        drawn = samples(pipeline, word.prompt, settings.count, settings, seed=1000)
        show(drawn[:32], settings.sheets / f"word-{name.replace(' ', '-')}.png")
        obeyed = sum(bool(word.obeyed(eyes.look(image))) for image in drawn)
        yield f'"{word.prompt}" obeyed', f"{obeyed} of {len(drawn)}", "90 of 100"


def passports(pipeline, eyes: Eyes, settings: Settings, size) -> Iterator[Row]:
    """Pictures for the profile's prompts that can be cut as it asks, with no border added."""
    profile = find_profile("passport", registry().profile_dirs)
    count = -(-settings.count // 4)
    prompts = [p.format(noun=profile.class_noun) for p in profile.references.prompts]
    each = -(-count // len(prompts))
    drawn = np.concatenate([samples(pipeline, p, each, settings, 2000, size) for p in prompts])
    drawn = drawn[:count]
    show(drawn[:16], settings.sheets / "passport.png")
    met, heights, lines = 0, [], []
    for image in drawn:
        face = eyes.look(image).face
        if face is None:
            continue
        head, shape = crown_to_chin(face), (image.shape[1], image.shape[0])
        found = measure_framing(
            cut(shape, profile.aspect_ratio, head, profile.framing), head, profile.framing
        )
        met += found.met
        heights.append(found.head_height)
        lines.append(found.eye_line)
    medians = f"head {np.median(heights):.2f}, eyes {np.median(lines):.2f}, medians"
    value = f"{met} of {count} at {size[0]} x {size[1]} ({medians})"
    yield "passport prompts: framed as the profile asks, no border added", value, "7 of 8"


def instant(pipeline, eyes: Eyes, faces: Faces, model: Path, settings: Settings) -> Iterator[Row]:
    """Likeness by dlib of what the identity word draws of people held out, nothing trained."""
    folder = model / "identity_encoder"
    title = f"`instant`: likeness by dlib, nothing trained, {settings.people} held-out people x 3"
    bar = "0.55, strangers below 0.10"
    if not folder.exists():
        yield title, "no identity word", bar
        return
    identity = load_identity(folder)
    chosen = faces.held_out_people(settings.people)
    token = pipeline.tokenizer.convert_tokens_to_ids("person</w>")
    rows, means, drawn_faces = [], [], []
    for place, i in enumerate(chosen):
        photo = np.asarray(faces.images[i])
        face = eyes.look(photo).face
        if face is None:
            continue
        vector = eyes.sface.embed_images(photo, face)
        with torch.no_grad():
            row = identity(torch.from_numpy(np.asarray(vector))[None])
        images = draw_identity(pipeline, row, token, 3, settings, seed=3000 + 10 * place)
        means.append(eyes.dlib.embed_images(photo, face))
        drawn_faces.append([eyes.dlib.embed_images(s.image, s.face)
                            for s in map(eyes.look, images) if s.face])  # fmt: skip
        rows.append([photo, *images])
    own = [float(v @ means[k]) for k, found in enumerate(drawn_faces) for v in found]
    strange = [float(v @ m) for k, found in enumerate(drawn_faces) for v in found
               for j, m in enumerate(means) if j != k]  # fmt: skip
    columns = [image for column in zip(*rows, strict=True) for image in column]
    show(np.stack(columns), settings.sheets / "instant.png", len(rows))
    yield title, f"{np.mean(own):.3f}, strangers {np.mean(strange):.3f}", bar


def draw_identity(pipeline, row, token: int, count: int, settings: Settings, seed: int):
    """ "a photo of a <identity> person" with a row [1, D] in the identity's place.

    The prompt is encoded with a word of the vocabulary, whose row is replaced meanwhile: the
    tokenizer has no identity word of its own.
    """
    length = pipeline.tokenizer.model_max_length
    prompts = ["a photo of a person person", ""]
    ids = pipeline.tokenizer(prompts, padding="max_length", max_length=length,
                             return_tensors="pt").input_ids  # fmt: skip
    first = (ids[0] == token).nonzero()[0].item()
    spare = pipeline.tokenizer.convert_tokens_to_ids("zebra</w>")
    if spare in (None, pipeline.tokenizer.unk_token_id):
        spare = pipeline.tokenizer.convert_tokens_to_ids("z")
    ids[0, first] = spare
    with torch.no_grad(), identities(pipeline.text_encoder, spare, row.expand(2, -1)):
        context = pipeline.text_encoder(ids)[0]
    generators = [torch.Generator().manual_seed(seed + k) for k in range(count)]
    images = pipeline(
        prompt_embeds=context[:1].expand(count, -1, -1),
        negative_prompt_embeds=context[1:].expand(count, -1, -1),
        generator=generators, num_inference_steps=settings.steps,
        guidance_scale=settings.guidance, output_type="np",
    ).images  # fmt: skip
    return to_bytes(images)


def seconds(pipeline, settings: Settings, count: int = 4) -> Iterator[Row]:
    """Seconds a picture by the clock, and of processor time, which a busy machine stretches less.

    The quickest of count pictures, after one to warm up.
    """
    times = []
    for seed in range(count + 1):
        wall, work = time.time(), time.process_time()
        samples(pipeline, PERSON, 1, settings, seed)
        times.append((time.time() - wall, time.process_time() - work))
    wall, work = (min(column) for column in zip(*times[1:], strict=True))
    threads = torch.get_num_threads()
    title = f"seconds a picture, {settings.steps} guided steps, {threads} thread(s)"
    yield title, f"{wall:.2f} by the clock, {work:.2f} of computing", "1.0 s on two cores"


def fill(card: Path, lines: list[str]):
    """Puts the table between the card's two marks."""
    before, _, rest = card.read_text(encoding="utf-8").partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise SystemExit(f"{card} has no {MARKS[0]} ... {MARKS[1]}")
    table = "\n".join([MARKS[0], "", *lines, "", MARKS[1]])
    card.write_text(before + table + after, encoding="utf-8")


def measure(model: Path, eyes: Eyes, faces: Faces, settings: Settings) -> Iterator[Row]:
    """Every measure of one model."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    # A version without an identity word was trained on squares alone.
    size = PORTRAIT if (model / "identity_encoder").exists() else SQUARE
    yield "guidance", f"{settings.guidance:g}", "each version's own"
    yield from reconstruction(pipeline, eyes, faces, settings)
    yield from distances(pipeline, eyes, faces, settings)
    yield from people(pipeline, eyes, faces, settings)
    yield from words(pipeline, eyes, settings)
    yield from passports(pipeline, eyes, settings, size)
    yield from instant(pipeline, eyes, faces, model, settings)
    yield from seconds(pipeline, settings)


def table(found: dict[str, list[Row]]) -> list[str]:
    """Markdown, a column a version; measures in the order in which they came."""
    names = list(found)
    titles: dict[str, str] = {}
    for rows in found.values():
        for title, _, bar in rows:
            titles.setdefault(title, bar)
    lines = ["| measure | " + " | ".join(names) + " | bar |", "| --- " * (len(names) + 2) + "|"]
    values = {name: {title: value for title, value, _ in rows} for name, rows in found.items()}
    for title, bar in titles.items():
        cells = [values[name].get(title, "") for name in names]
        lines.append(f"| {title} | " + " | ".join(cells) + f" | {bar} |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, action="append", metavar="NAME=FOLDER")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--reader", type=Path, help="folder model/ of @vladmandic/face-api")
    parser.add_argument("--sheets", required=True, type=Path)
    parser.add_argument("--card", type=Path, help="the model card to put the table into")
    parser.add_argument("--count", type=int, default=100, help="pictures a measure")
    parser.add_argument("--frechet", type=int, default=1000)
    parser.add_argument("--adults", type=int, default=500)
    parser.add_argument("--held-out", type=int, default=200, help="pictures to reconstruct")
    parser.add_argument("--people", type=int, default=16, help="held-out people to draw")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    options = parser.parse_args()
    eyes, faces = Eyes(options.reader), Faces.read(options.data)
    found: dict[str, list[Row]] = {}
    for named in options.model:
        name, _, folder = named.partition("=")
        if not folder:
            parser.error(f"--model {named}: NAME=FOLDER is wanted")
        sheets = options.sheets / name
        settings = Settings(
            options.count, options.frechet, options.adults, options.held_out, options.people,
            options.steps, options.guidance, sheets,
        )  # fmt: skip
        # Versions may be drawn with another guidance each, which a row of the table says.
        numbers = {k: v for k, v in asdict(settings).items() if k not in ("sheets", "guidance")}
        if folder.endswith(".json"):
            known = json.loads(Path(folder).read_text())
            if known["settings"] != numbers:
                parser.error(f"{folder} was measured with {known['settings']}, not with {numbers}")
            found[name] = [tuple(row) for row in known["rows"]]
            continue
        sheets.mkdir(parents=True, exist_ok=True)
        found[name] = []
        for row in measure(Path(folder), eyes, faces, settings):
            found[name].append(row)
            print(f"{name}: " + " | ".join(row), flush=True)
        measured = {"settings": numbers, "rows": found[name]}
        (sheets / "measures.json").write_text(json.dumps(measured, indent=1) + "\n")
    lines = table(found)
    print("\n".join(lines))
    if options.card:
        fill(options.card, lines)


if __name__ == "__main__":
    main()
