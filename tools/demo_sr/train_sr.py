"""Trains the demo's super-resolution network, by the clock, resumable.

    python tools/demo_sr/train_sr.py --pairs PAIRS --sface X.onnx --out RUN --seconds 1500

Loss: L1, L1 of the pixel steps, and on one whole face a step SFace's embedding and features, which
makes it true and smooth; sharpen_sr.py goes on from there. Writes RUN/sr.pt (weights, their
average, optimizers) and RUN/sr.png (held out: given, made, wanted).
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import backbone_tools  # noqa: F401
import cv2
import numpy as np
import torch
from degrade import photo
from face_features import FaceFeatures
from measures import psnr
from muon import optimizers
from network import build, hold_carriers
from pairs import REBUILT, Pictures, patches, whole_face
from picture_loss import differences
from schedule import Clock, rate, save, set_rate

BORDER = 16  # made pixels along a patch's edge for which the network lacks what lies beyond


def tensor(images: np.ndarray) -> torch.Tensor:
    """float32[B, H, W, 3] -> [B, 3, H, W], channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(images, np.float32)).permute(0, 3, 1, 2)


def weigh(x: torch.Tensor) -> torch.Tensor:
    """Weights of mean 1 for pictures [B, 3, H, W]: a tenth at the border, where less is known.

    Not 0, since every picture has a border.
    """
    weights = torch.full((1, 1, *x.shape[-2:]), 0.1)
    weights[..., BORDER:-BORDER, BORDER:-BORDER] = 1
    return weights / weights.mean()


def distance(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """L1 of two pictures, weighed."""
    return ((y - x).abs() * weigh(x)).mean()


def steps(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """L1 of the pixel-to-pixel steps of two pictures, weighed."""
    return differences(y * weigh(x), x * weigh(x))


def average(kept: dict, network, decay: float):
    with torch.no_grad():
        for name, value in network.state_dict().items():
            kept[name].lerp_(value, 1 - decay)


@torch.no_grad()
def held_out(network, state, pictures: Pictures, faces: FaceFeatures, count: int, path: Path):
    """Mean PSNR and SFace similarity of averaged weights on degraded held-out faces; a sheet."""
    network = copy.deepcopy(network)
    network.load_state_dict(state)
    found, alike, rows = [], [], []
    for row in pictures.held_out["half"][:count]:
        image = np.asarray(pictures.arrays["half"][row], np.float32) / 255
        given = photo(image, np.random.default_rng(int(pictures.numbers["half"][row])))
        made = network(tensor(given[None])).clamp(0, 1)
        points = torch.from_numpy(pictures.points["half"][row][None])
        found.append(psnr(made[0].permute(1, 2, 0).numpy(), image))
        alike.append(1 - faces.distances(made, tensor(image[None]), points)[0].item())
        large = cv2.resize(given, (512, 512), interpolation=cv2.INTER_LANCZOS4)
        rows.append((large, made[0].permute(1, 2, 0).numpy(), image))
    for row in pictures.held_out["full"][:4]:
        given = np.asarray(pictures.seen["full"][REBUILT, row, 64:192, 64:192], np.float32) / 255
        image = np.asarray(pictures.arrays["full"][row, 256:768, 256:768], np.float32) / 255
        made = network(tensor(given[None])).clamp(0, 1)
        large = cv2.resize(given, (512, 512), interpolation=cv2.INTER_LANCZOS4)
        rows.append((large, made[0].permute(1, 2, 0).numpy(), image))
    shown = np.concatenate([np.concatenate(row, 1) for row in (*rows[:2], *rows[count:])])
    levels = (np.clip(shown, 0, 1) * 255 + 0.5).astype(np.uint8)
    cv2.imwrite(str(path), levels[..., ::-1])
    return np.mean(found), np.mean(alike)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", required=True, type=Path)
    parser.add_argument("--sface", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--start", type=Path, help="sr.pt of a run to go on from, anew")
    parser.add_argument("--seconds", type=float, default=1500)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--side", type=int, default=56)
    parser.add_argument("--face-side", type=int, default=96)
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--adam-lr", type=float, default=1e-3)
    parser.add_argument("--flat", type=float, default=0.1, help="share of time before decay")
    parser.add_argument("--sharp", type=float, default=0.25)
    parser.add_argument("--identity", type=float, default=0.05)
    parser.add_argument("--seen-by-face", type=float, default=0.02)
    parser.add_argument("--generated", type=float, default=0.3, help="share of generated patches")
    parser.add_argument(
        "--clean", type=float, default=0.3, help="share of the other, lightly degraded"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    pictures, faces = Pictures(options.pairs), FaceFeatures(options.sface)
    state, step, spent = options.out / "sr.pt", 0, 0.0
    kept = torch.load(state, weights_only=True) if state.exists() else None
    begun = kept or (torch.load(options.start, weights_only=True) if options.start else None)
    shape = begun["shape"] if begun else (options.features, options.layers)
    network = build(*shape)
    if begun:
        network.load_state_dict(begun["network" if kept else "average"])
    hold_carriers(network)
    last = f"body.{len(network.body) - 1}."
    made = optimizers(
        network.named_parameters(), options.muon_lr, options.adam_lr, skip=("body.0.", last)
    )
    mean = {name: value.clone() for name, value in network.state_dict().items()}
    if kept:
        mean, step, spent = kept["average"], kept["step"], kept["spent"]
        for optimizer, values in zip(made, kept["optimizers"], strict=True):
            optimizer.load_state_dict(values)
    clock, rng, means = Clock(options.seconds, spent), np.random.default_rng(step), {}
    saved = reported = clock.spent
    while clock.progress < 1:
        set_rate(made, rate(clock.progress, step, 50, options.flat))
        given, wanted = map(
            tensor,
            patches(pictures, options.batch, options.side, rng, options.generated, options.clean),
        )
        face, portrait, points = whole_face(pictures, options.face_side, rng, options.clean)
        y, whole = network(given), network(tensor(face[None]))
        portrait, points = tensor(portrait[None]), torch.from_numpy(points[None])
        apart, unlike = faces.distances(whole, portrait, points)
        share = portrait.numel() / (portrait.numel() + wanted.numel())
        terms = {
            "l1": (1 - share) * distance(y, wanted) + share * distance(whole, portrait),
            "sharp": options.sharp
            * ((1 - share) * steps(y, wanted) + share * steps(whole, portrait)),
            "identity": options.identity * apart,
            "face": options.seen_by_face * unlike,
        }
        for optimizer in made:
            optimizer.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in made:
            optimizer.step()
        step += 1
        average(mean, network, min(0.998, step / (step + 10)))
        for name, term in terms.items():
            means[name] = means.get(name, term.item()) * 0.98 + 0.02 * term.item()
        if clock.spent - reported > 60 or clock.progress >= 1:
            reported = clock.spent
            words = " ".join(f"{k} {v:.4f}" for k, v in means.items())
            print(f"{clock.spent:5.0f} s, {step} steps, {words}", flush=True)
        if clock.spent - saved > 300 or clock.progress >= 1:
            saved = clock.spent
            found, alike = held_out(network, mean, pictures, faces, 12, options.out / "sr.png")
            print(f"held out: PSNR {found:.2f} dB, SFace {alike:.3f}", flush=True)
            save(
                state,
                {"network": network.state_dict(), "average": mean, "shape": shape, "step": step,
                 "spent": clock.spent,
                 "optimizers": [optimizer.state_dict() for optimizer in made]},
            )  # fmt: skip


if __name__ == "__main__":
    main()
