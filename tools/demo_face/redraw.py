"""Heads as the demo backbone draws them, beside sharp ones: what demo-face is trained on.

    python tools/demo_face/redraw.py --faces FACES --large LARGE --out PAIRS \\
        --model plugins/mcap_plugins/demo/model --kinds 2

FACES/512 and LARGE: pictures of tools/demo_sr (512 and 1024 pixels). Most get a plain background
first, as portraits in a style have (mattes by the person masker), and in what is given a ragged
outline. Each is made small, its latent noised and brought back by the UNet in so few steps that it
becomes as soft as what `mcap generate` draws, decoded, enlarged by demo-sr and brought into the
frame, as `mcap enhance` does it. Writes PAIRS/given.npy and wanted.npy, uint8[N, S, S, 3] of the
frame and `MARGIN` around it, points.npy (five landmarks in those pixels) and table.json (numbers
of the people). Resumable; a row of given.npy that is not there yet is 0. A bit more than a second
a picture on one core.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import sr_tools  # noqa: F401
import torch
from aligned import MARGIN
from prepare import read_rows
from prepare_pairs import read
from seen import Backbone
from transformers import CLIPTextModel, CLIPTokenizer

from mcap.contracts import Face
from mcap.enhancement.face_restoration import FFHQ_512, warp
from mcap.geometry.similarity_transform import Similarity
from mcap.registry import registry
from mcap_plugins.demo_face import FFHQ_SIDE as SIDE
from mcap_plugins.person.segmenter import guided_filter

SHARES = (0.05, 0.38)
"""Least and largest share of the way to pure noise. From 0.5 on it is somebody else (looked at),
and who is taught by that learns to draw other people."""
STEPS = 20  # of a whole picture
GUIDANCE = 2.0
SLACK = 1.5  # pixels of the frame: standard deviation of a landmark's error
COARSE = SIDE / 16  # deviation of the blur above which colours are the given face's
PLAIN = 0.8
"""Share of pairs with a plain background, of those pictures whose matte is clear."""
UNCLEAR = 0.05
"""The largest mean of a (1 - a) x 4 over a matte a: in pictures above it the outline is a guess
(looked at: people beside the person, dark hair before darkness)."""
RAGGED = (2.0, 9.0)
"""Least and largest shift of a given outline, in pixels of 512; half of it comes in pieces too
small for `bend` to follow."""
CAPTIONS = (
    "a photo of a person",
    "a photo of a person, plain white background",
    "a photo of a person, light background",
    "a close-up photo of a person",
)


class Painter:
    """The backbone with words and guidance, and demo-sr."""

    def __init__(self, folder: Path, file: Path | None = None):
        self.backbone = Backbone(folder)
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        text = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
        with torch.no_grad():
            self.contexts = text.eval()(
                tokenizer(
                    ["", *CAPTIONS], padding="max_length", max_length=tokenizer.model_max_length,
                    truncation=True, return_tensors="pt",
                ).input_ids
            )[0]  # fmt: skip
        weights = ("spandrel", file) if file else ("demo-sr",)
        self.enlarge = registry().create("restorer", *weights)

    @torch.no_grad()
    def redraw(self, picture: np.ndarray, share: float, steps: int, rng) -> np.ndarray:
        """uint8[S, S, 3] noised to a share of the way and brought back in so many steps."""
        backbone, scheduler = self.backbone, self.backbone.scheduler
        total = scheduler.config.num_train_timesteps
        clean = backbone.latents(picture[None])
        times = [round(total * share * (1 - i / steps)) - 1 for i in range(steps)] + [-1]
        noise = torch.from_numpy(rng.normal(size=tuple(clean.shape)).astype(np.float32))
        x = scheduler.add_noise(clean, noise, torch.tensor(times[:1]))
        context = self.contexts[[0, 1 + int(rng.integers(len(CAPTIONS)))]]
        for now, then in pairwise(times):
            plain, said = backbone.unet(x.expand(2, -1, -1, -1), now, context).sample.chunk(2)
            velocity = plain + GUIDANCE * (said - plain)
            a = scheduler.alphas_cumprod[now]
            b = scheduler.alphas_cumprod[then] if then >= 0 else torch.tensor(1.0)
            x0 = a.sqrt() * x - (1 - a).sqrt() * velocity
            rest = a.sqrt() * velocity + (1 - a).sqrt() * x
            x = b.sqrt() * x0 + (1 - b).sqrt() * rest
        return backbone.decoded(x)[0]

    @torch.no_grad()
    def enlarged(self, picture: np.ndarray) -> np.ndarray:
        """uint8[4 H, 4 W, 3] of uint8[H, W, 3]."""
        image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None] / 255
        made = self.enlarge.restore(image)[0].permute(1, 2, 0).numpy()
        return (made * 255 + 0.5).clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Cutout:
    """A picture float32[S, S, 3] in [0, 1] whose person can be put before something else."""

    person: np.ndarray
    """The person's colours, also where what stood behind shows through."""
    matte: np.ndarray
    """float32[S, S] in [0, 1]."""

    def before(self, colour: np.ndarray) -> np.ndarray:
        """Return the person before a plain colour float32[3]."""
        matte = self.matte[..., None]
        return self.person * matte + colour * (1 - matte)

    def ragged(self, rng) -> Cutout:
        """Return it with an outline as the backbone draws: jagged, in places smeared."""
        side = len(self.matte)
        unit = side / 512
        shift = sum(
            rng.uniform(*RAGGED) * unit * share * waves(side, size * unit, rng, 2)
            for share, size in ((0.5, 8), (0.5, 24))
        )
        y, x = np.mgrid[:side, :side].astype(np.float32)
        at = (x + shift[..., 0], y + shift[..., 1])
        matte = cv2.remap(self.matte, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        smeared = cv2.GaussianBlur(matte, (0, 0), rng.uniform(4, 14) * unit)
        where = np.clip(waves(side, 30 * unit, rng, 1)[..., 0] + rng.uniform(-0.5, 0.5), 0, 1)
        # Colours from within the outline, where it grew beyond the person.
        return Cutout(filled(self.person, self.matte), matte + (smeared - matte) * where)


def waves(side: int, size: float, rng, count: int) -> np.ndarray:
    """Smooth noise float32[side, side, count] of deviation 1 in waves of about ``size`` pixels."""
    small = max(round(2 * side / size), 2)
    noise = rng.normal(size=(small, small, count)).astype(np.float32)
    noise = cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    return noise.reshape(side, side, count) / noise.std()


def filled(picture: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """Return the picture with what is not surely the person replaced by the person's colours."""
    sure = np.where(matte > 0.98, np.float32(1), np.float32(0))
    made = (picture * sure[..., None]).sum((0, 1)) / max(sure.sum(), 1)
    for deviation in (30, 12, 5, 2):  # the nearest that there are
        near = cv2.GaussianBlur(sure, (0, 0), deviation)[..., None]
        found = cv2.GaussianBlur(picture * sure[..., None], (0, 0), deviation)
        trust = np.clip(near * 20, 0, 1)
        made = found / np.maximum(near, 1e-6) * trust + made * (1 - trust)
    share = np.clip((matte - 0.6) / 0.4, 0, 1)[..., None]
    return (picture * share + made * (1 - share)).astype(np.float32)


def cutout(masker, picture: np.ndarray, points: np.ndarray, box: np.ndarray) -> Cutout | None:
    """The person of uint8[S, S, 3], whose face is given in its pixels; None: no clear matte."""
    rough = masker.mask(picture, Face(tuple(map(float, box)), 1.0, points.astype(np.float32)))
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    matte = np.clip(guided_filter(grey, rough, max(len(grey) // 85, 1), 4e-4), 0, 1)
    matte = np.clip((matte - 0.2) / 0.65, 0, 1)
    if (4 * matte * (1 - matte)).mean() > UNCLEAR:
        return None
    return Cutout(filled(picture.astype(np.float32) / 255, matte), matte)


def plain_colour(rng) -> np.ndarray:
    """A light background's colour float32[3] in [0, 1]: often white, now and then tinted."""
    if rng.random() < 0.6:
        return np.full(3, rng.uniform(0.93, 1.0), np.float32)
    return np.clip(rng.uniform(0.75, 1.0) + rng.uniform(-0.06, 0.06, 3), 0, 1).astype(np.float32)


def bend(wanted: np.ndarray, given: np.ndarray, matte: np.ndarray | None = None) -> np.ndarray:
    """What is wanted float32[H, W, 3], moved to where the outlines of what is given lie, in its
    colours: the person's detail on the face that was drawn. With a matte float32[H, W] of what is
    wanted, person and background take their colours each from their own."""
    greys = [
        (cv2.GaussianBlur(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY), (0, 0), 2.5) * 255).astype(np.uint8)
        for i in (given, wanted)
    ]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*greys, None)
    flow = cv2.GaussianBlur(flow, (0, 0), SIDE / 48)
    size = np.linalg.norm(flow, axis=-1, keepdims=True)
    flow *= np.minimum(1, (SIDE / 32) / np.maximum(size, 1e-6))
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    at = (x + flow[..., 0], y + flow[..., 1])
    moved = cv2.remap(wanted, *at, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    parts = [np.ones(moved.shape[:2], np.float32)]
    if matte is not None:
        person = cv2.remap(matte, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        parts = [person, 1 - person]
    for part in parts:
        # Not from the outline, where the two may differ.
        inside = cv2.erode(part, np.ones((9, 9), np.uint8))
        weight = cv2.GaussianBlur(inside, (0, 0), COARSE)[..., None]
        change = cv2.GaussianBlur((given - moved) * inside[..., None], (0, 0), COARSE)
        moved = moved + part[..., None] * change / np.maximum(weight, 1e-3)
    return moved.clip(0, 1)


def pair(painter: Painter, picture, points, rng, cut: Cutout | None = None):
    """Given and wanted uint8[H, W, 3] of the frame with its margin; landmarks in it.

    With a cutout of the picture the person stands before a plain colour in both.
    """
    side = picture.shape[0]
    shown = picture
    if cut is not None:
        colour = plain_colour(rng)
        picture, shown = (
            (i.before(colour) * 255 + 0.5).clip(0, 255).astype(np.uint8)
            for i in (cut, cut.ragged(rng))
        )
    zoom = rng.uniform(0.8, 1.05) * 256 / side
    centre = 128 - zoom * side / 2
    to_small = Similarity.scaling(zoom, centre, centre)
    small = warp(shown, to_small, 256, cv2.BORDER_REFLECT_101)
    share = rng.uniform(*SHARES)
    most = max(round(share * STEPS), 1)
    steps = int(rng.integers(1, max(most // 2, 1) + 1))
    seen = painter.redraw((small.clip(0, 1) * 255 + 0.5).astype(np.uint8), share, steps, rng)
    template = (FFHQ_512.template + rng.normal(0, SLACK, (5, 2))) * (SIDE / FFHQ_512.size) + MARGIN
    to_frame = Similarity.estimate(points, template)
    from_small = to_frame @ to_small.inverse()
    large = painter.enlarged(seen)
    whole = SIDE + 2 * MARGIN
    given = warp(large, from_small @ Similarity.scaling(0.25), whole, cv2.BORDER_REFLECT_101)
    wanted = warp(picture, to_frame, whole, cv2.BORDER_REFLECT_101)
    matte = None
    if cut is not None:
        matte = warp(cut.matte, to_frame, whole, cv2.BORDER_REFLECT_101).clip(0, 1)
    given = given.clip(0, 1)
    wanted = bend(wanted.clip(0, 1), given, matte)
    placed = to_frame.apply(points) - 0.5
    return *((i * 255 + 0.5).astype(np.uint8) for i in (given, wanted)), placed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", required=True, type=Path)
    parser.add_argument("--large", required=True, type=Path)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--with", dest="file", type=Path, help="demo-sr's weights, if others")
    parser.add_argument("--kinds", type=int, default=2, help="times that each picture is redrawn")
    parser.add_argument("--plain", type=float, default=PLAIN, help="share before a plain colour")
    parser.add_argument("--part", type=int, default=0, help="of --parts processes at work, this")
    parser.add_argument("--parts", type=int, default=1)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    known = {r["number"]: r for r in read_rows(options.faces) if r["folder"] == "256"}
    paths = [*(options.faces / "512").glob("*.jpg"), *options.large.glob("*.png")]
    paths = sorted(p for p in paths if p.stem.isdecimal() and int(p.stem) in known)
    shape = (len(paths) * options.kinds, SIDE + 2 * MARGIN, SIDE + 2 * MARGIN, 3)
    table = options.out / "table.json"
    if not table.exists():
        table.write_text(json.dumps([int(p.stem) for p in paths] * options.kinds))
        np.lib.format.open_memmap(options.out / "points.npy", "w+", np.float32, (shape[0], 5, 2))
        for name in ("wanted", "given"):
            np.lib.format.open_memmap(options.out / f"{name}.npy", "w+", np.uint8, shape)
    given, wanted, placed = (
        np.lib.format.open_memmap(options.out / f"{name}.npy", "r+")
        for name in ("given", "wanted", "points")
    )
    painter = Painter(options.model, options.file)
    masker = registry().create("masker", "person")
    order = np.random.default_rng(0).permutation(len(paths))
    rows = [k * len(paths) + int(i) for k in range(options.kinds) for i in order]
    for row in rows[options.part :: options.parts]:
        if given[row, ::32, ::32].any():
            continue
        path = paths[row % len(paths)]
        picture, rng = read(path), np.random.default_rng([7, row])
        face, unit = known[int(path.stem)], picture.shape[0] / 256
        points, cut = (np.asarray(face["points"], np.float64) + 0.5) * unit, None
        if rng.random() < options.plain:
            corner = np.asarray(face["box"][:2])
            box = np.concatenate([corner, corner + face["box"][2:]]) * unit
            cut = cutout(masker, picture, points, box)
        found = pair(painter, picture, points, rng, cut)
        wanted[row], placed[row] = found[1], found[2]
        given[row] = found[0]  # the last: a row of it says that the pair is whole


if __name__ == "__main__":
    main()
