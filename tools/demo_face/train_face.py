"""Trains the face restorer: from what the demo backbone draws to a sharp face; resumable.

    python tools/demo_face/train_face.py --pairs PAIRS --sface SFACE --out RUN

PAIRS: of redraw.py. Losses as in tools/demo_sr/sharpen_sr.py, and SFace's
embedding and features of every face. With --start it goes on from weights. Writes RUN/face.pt and
RUN/face.png (held out: given, made, wanted). What a step sees follows from its number.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import cv2
import numpy as np
import sr_tools  # noqa: F401
import torch
import torch.nn.functional as F
from aligned import AlignedFaces, Pair
from face_features import FaceFeatures
from judges import Judges, contrast_distance
from muon import optimizers
from run_steps import run_steps
from safetensors.torch import load_file
from schedule import autocast, rate, save, set_rate
from sharpness import fine_power
from train_sr import average, tensor

from mcap_plugins.demo_face import FFHQ_SIDE as SIDE
from mcap_plugins.demo_face.network import FaceNetwork, places

PART = 160  # pixels a side that the critics see of a face at once


def stacked(pairs: list[Pair]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Given and wanted [B, 3, H, W], landmarks [B, 5, 2]."""
    given, wanted = (
        tensor(np.stack([getattr(pair, name) for pair in pairs])).contiguous()
        for name in ("given", "wanted")
    )
    return given, wanted, torch.from_numpy(np.stack([pair.points for pair in pairs]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", required=True, type=Path)
    parser.add_argument("--sface", required=True)
    parser.add_argument("--start", type=Path, help="safetensors to go on from")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--alone", type=int, default=400, help="steps without critics, at first")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--lr", type=float, default=1e-3, help="of what Muon leaves to AdamW")
    parser.add_argument("--critic-lr", type=float, default=6e-4)
    parser.add_argument("--flat", type=float, default=0.5, help="share of steps before decay")
    parser.add_argument("--coarse", type=float, default=1.0, help="L1 of 4 x 4 averages")
    parser.add_argument("--fine", type=float, default=0.3, help="L1 of pixels")
    parser.add_argument("--features", type=float, default=0.15)
    parser.add_argument("--contrast", type=float, default=0.2)
    parser.add_argument("--adversarial", type=float, default=0.012)
    parser.add_argument("--identity", type=float, default=0.15)
    parser.add_argument("--seen-by-face", type=float, default=0.02)
    parser.add_argument("--save-every", type=float, default=300, help="seconds between states")
    return parser.parse_args()


class Training:
    """The network with its average, critics and optimizer; `step` is all that a step does."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.aligned, self.eyes = AlignedFaces(options.pairs), FaceFeatures(options.sface)
        self.network = FaceNetwork()
        if options.start:
            weights = load_file(options.start)
            self.network.load_state_dict({name: v.float() for name, v in weights.items()})
        self.place = places(0, 0, SIDE, SIDE, SIDE)
        self.judges = Judges(options.critic_lr)
        self.optimizers = optimizers(
            self.network.named_parameters(), options.muon_lr, options.lr, skip=("enter", "leave")
        )
        self.mean = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.at = 0

    def step(self) -> dict[str, float]:
        """Learn from one batch; the terms of the loss."""
        options, rng = self.options, np.random.default_rng([4, self.at])
        factor = rate(self.at / options.steps, self.at, 50, options.flat)
        set_rate([*self.optimizers, self.judges.optimizer], factor)
        x, wanted, points = stacked([self.aligned.draw(rng) for _ in range(options.batch)])
        with autocast():
            change = self.network(x, self.place)
        y = x + change.float()
        terms = {
            "coarse": options.coarse * (F.avg_pool2d(y, 4) - F.avg_pool2d(wanted, 4)).abs().mean(),
            "fine": options.fine * (y - wanted).abs().mean(),
            "contrast": options.contrast * contrast_distance(y, wanted),
        }
        apart, unlike = self.eyes.distances(y, wanted, points)
        terms["identity"] = options.identity * apart
        terms["face"] = options.seen_by_face * unlike
        # A part of the frame, for time: which one, the step decides; every other time of the face.
        first, last = (0.25, 0.75) if rng.random() < 0.5 else (0.0, 1.0)
        ends = [round(share * (SIDE - PART)) for share in (first, last)]
        top, left = (int(rng.integers(ends[0], ends[1] + 1)) for _ in range(2))
        part = (..., slice(top, top + PART), slice(left, left + PART))
        judged = self.judges.terms(y[part], wanted[part])
        terms["features"] = options.features * judged["features"]
        trust = min(max((self.at - options.alone) / 100, 0.0), 1.0)
        terms["fooled"] = options.adversarial * trust * judged["fooled"]
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.at += 1
        average(self.mean, self.network, min(0.996, (self.at + 1) / (self.at + 10)))
        return {name: term.item() for name, term in (terms | {"told": judged["told"]}).items()}

    @torch.no_grad()
    def check(self, network, count: int = 6) -> str:
        """Held-out faces in words, and as a sheet: given, made, wanted."""
        rows = self.aligned.held_out[:count]
        x, wanted, points = stacked([self.aligned.pair(int(row)) for row in rows])
        y = torch.cat([x[i : i + 1] + network(x[i : i + 1], self.place) for i in range(len(x))])
        y = y.clamp(0, 1)
        before, after = (
            (1 - self.eyes.distances(a, wanted, points)[0].item(), fine_power(a).median().item())
            for a in (x, y)
        )
        photos = fine_power(wanted).median().item()
        shown = torch.cat([x, y, wanted], 3).permute(0, 2, 3, 1).flatten(0, 1).numpy()
        levels = (shown * 255 + 0.5).astype(np.uint8)
        cv2.imwrite(str(self.options.out / "face.png"), levels[..., ::-1])
        return (
            f"SFace {before[0]:.3f} -> {after[0]:.3f}, fine power {before[1] / photos:.3f} -> "
            f"{after[1] / photos:.3f} of the photos'"
        )

    def keep(self):
        """Write the state, and say and show what held-out faces look like."""
        save(
            self.options.out / "face.pt",
            {"network": self.network.state_dict(), "average": self.mean, "step": self.at,
             "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
             "judges": self.judges.state()},
        )  # fmt: skip
        smooth = copy.deepcopy(self.network)
        smooth.load_state_dict(self.mean)
        print(f"{self.at} steps, held out: {self.check(smooth)}", flush=True)

    def resume(self):
        path = self.options.out / "face.pt"
        if not path.exists():
            return
        kept = torch.load(path, weights_only=True)
        self.network.load_state_dict(kept["network"])
        for optimizer, values in zip(self.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.judges.load(kept["judges"])
        self.mean, self.at = kept["average"], kept["step"]


if __name__ == "__main__":
    run_steps(Training, arguments())
