"""Faces as the demo backbone draws them, beside sharp ones: what demo-face is trained on.

    python tools/demo_face/redraw.py --faces FACES --large LARGE --out PAIRS \\
        --model plugins/mcap_plugins/demo/model --kinds 2

FACES/512 and LARGE: pictures of tools/demo_sr (512 and 1024 pixels). Each is made small, its latent
noised and brought back by the UNet in so few steps that it becomes as soft as what `mcap generate`
draws, decoded, enlarged by demo-sr and brought into the frame, as `mcap enhance` does it. Writes
PAIRS/given.npy and wanted.npy, uint8[N, H, W, 3] of the frame's window and `MARGIN` around it,
points.npy (five landmarks in those pixels) and table.json (numbers of the people). Resumable; a row
of given.npy that is not there yet is 0. About a second and a half a picture on one core.
"""

from __future__ import annotations

import argparse
import json
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

from mcap.enhancement.face_restoration import FFHQ_512, warp
from mcap.geometry.similarity_transform import Similarity
from mcap.registry import registry
from mcap_plugins.demo_face.restorer import SIDE, WINDOW

SHARES = (0.05, 0.38)
"""Least and largest share of the way to pure noise. From 0.5 on it is somebody else (looked at),
and who is taught by that learns to draw other people."""
STEPS = 20  # of a whole picture
GUIDANCE = 2.0
SLACK = 1.5  # pixels of the frame: standard deviation of a landmark's error
COARSE = SIDE / 16  # deviation of the blur above which colours are the given face's
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


def bend(wanted: np.ndarray, given: np.ndarray) -> np.ndarray:
    """What is wanted float32[H, W, 3], moved to where the outlines of what is given lie, in its
    colours: the person's detail on the face that was drawn."""
    greys = [
        (cv2.GaussianBlur(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY), (0, 0), 2.5) * 255).astype(np.uint8)
        for i in (given, wanted)
    ]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*greys, None)
    flow = cv2.GaussianBlur(flow, (0, 0), SIDE / 48)
    size = np.linalg.norm(flow, axis=-1, keepdims=True)
    flow *= np.minimum(1, (SIDE / 32) / np.maximum(size, 1e-6))
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    moved = cv2.remap(wanted, x + flow[..., 0], y + flow[..., 1], cv2.INTER_CUBIC,
                      borderMode=cv2.BORDER_REFLECT_101)  # fmt: skip
    change = cv2.GaussianBlur(given, (0, 0), COARSE) - cv2.GaussianBlur(moved, (0, 0), COARSE)
    return (moved + change).clip(0, 1)


def pair(painter: Painter, picture, points, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Given and wanted uint8[H, W, 3] of the window with its margin; landmarks in it."""
    side = picture.shape[0]
    zoom = rng.uniform(0.8, 1.05) * 256 / side
    centre = 128 - zoom * side / 2
    to_small = Similarity.scaling(zoom, centre, centre)
    small = warp(picture, to_small, 256, cv2.BORDER_REFLECT_101)
    share = rng.uniform(*SHARES)
    most = max(round(share * STEPS), 1)
    steps = int(rng.integers(1, max(most // 2, 1) + 1))
    seen = painter.redraw((small.clip(0, 1) * 255 + 0.5).astype(np.uint8), share, steps, rng)
    template = (FFHQ_512.template + rng.normal(0, SLACK, (5, 2))) * (SIDE / FFHQ_512.size)
    x0, y0, x1, y1 = WINDOW
    box = np.array([[x0 - MARGIN, y0 - MARGIN], [x1 + MARGIN, y1 + MARGIN]])
    to_frame = Similarity.estimate(points, template)
    # Only the part that the frame shows is enlarged: the network is what takes the time.
    from_small = to_frame @ to_small.inverse()
    corners = from_small.inverse().apply(
        np.array([[x, y] for x in box[:, 0] for y in box[:, 1]], np.float64)
    )
    a = np.maximum(np.floor(corners.min(0)).astype(int) - 8, 0)
    b = np.minimum(np.ceil(corners.max(0)).astype(int) + 8, 256)
    large = painter.enlarged(seen[a[1] : b[1], a[0] : b[0]])
    from_large = from_small @ Similarity.scaling(1.0, *map(float, a)) @ Similarity.scaling(0.25)
    given = warp(large, from_large, SIDE, cv2.BORDER_REFLECT_101).clip(0, 1)
    wanted = warp(picture, to_frame, SIDE, cv2.BORDER_REFLECT_101).clip(0, 1)
    wanted = bend(wanted, given)
    cut = (slice(box[0, 1], box[1, 1]), slice(box[0, 0], box[1, 0]))
    placed = to_frame.apply(points) - 0.5 - box[0]
    return *((i[cut] * 255 + 0.5).astype(np.uint8) for i in (given, wanted)), placed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", required=True, type=Path)
    parser.add_argument("--large", required=True, type=Path)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--with", dest="file", type=Path, help="demo-sr's weights, if others")
    parser.add_argument("--kinds", type=int, default=2, help="times that each picture is redrawn")
    parser.add_argument("--part", type=int, default=0, help="of --parts processes at work, this")
    parser.add_argument("--parts", type=int, default=1)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    known = {r["number"]: r["points"] for r in read_rows(options.faces) if r["folder"] == "256"}
    paths = [*(options.faces / "512").glob("*.jpg"), *options.large.glob("*.png")]
    paths = sorted(p for p in paths if p.stem.isdecimal() and int(p.stem) in known)
    x0, y0, x1, y1 = WINDOW
    shape = (len(paths) * options.kinds, y1 - y0 + 2 * MARGIN, x1 - x0 + 2 * MARGIN, 3)
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
    order = np.random.default_rng(0).permutation(len(paths))
    rows = [k * len(paths) + int(i) for k in range(options.kinds) for i in order]
    for row in rows[options.part :: options.parts]:
        if given[row, ::32, ::32].any():
            continue
        path = paths[row % len(paths)]
        picture, rng = read(path), np.random.default_rng([7, row])
        points = (np.asarray(known[int(path.stem)], np.float64) + 0.5) * (picture.shape[0] / 256)
        found = pair(painter, picture, points, rng)
        wanted[row], placed[row] = found[1], found[2]
        given[row] = found[0]  # the last: a row of it says that the pair is whole


if __name__ == "__main__":
    main()
