"""Trains a network of train_sr.py on until its pictures are as sharp as photos; resumable.

    python tools/demo_sr/sharpen_sr.py --pairs PAIRS --sface SFACE --start WEIGHTS --out RUN

Half of the pairs are portraits as the demo backbone draws them, half degraded photos. Losses: L1,
more of it where pixels are averaged over 4 x 4 (the fine detail of what a portrait lost cannot be
known, its colours and shades can), the perceptual distance and the critics of judges.py, fine
contrast, and the identity of a whole face at every few steps. Writes RUN/sharp.pt, which
export_sr.py reads. What a step sees follows from its number.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import backbone_tools  # noqa: F401
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from face_features import FaceFeatures
from judges import Judges, contrast_distance
from network import build, has_carriers, hold_carriers
from pairs import Pictures, patches, whole_face
from run_steps import run_steps
from safetensors.torch import load_file
from schedule import rate, save, set_rate
from sharpness import fine_power
from train_sr import BORDER, average, tensor

WHOLE_FACE_EVERY = 4


def shape_of(weights: dict[str, torch.Tensor]) -> tuple[int, int]:
    """Channels and hidden layers of a network, from its weights."""
    kernels = [value for value in weights.values() if value.ndim == 4]
    return len(kernels[0]), len(kernels) - 2


def inner(x: torch.Tensor) -> torch.Tensor:
    """Pictures without the border for which the network lacks what lies beyond."""
    return x[..., BORDER:-BORDER, BORDER:-BORDER]


@torch.no_grad()
def check(network, pictures: Pictures, count: int, path: Path) -> str:
    """Fine power of held-out portraits at 1024 pixels, and a sheet: given, made, original."""
    shares, rows = [], []
    for row in pictures.held_out["full"][:count]:
        wanted = np.asarray(pictures.arrays["full"][row], np.float32) / 255
        for kind in range(len(pictures.seen["full"])):
            given = np.asarray(pictures.seen["full"][kind, row], np.float32) / 255
            made = network(tensor(given[None])).clamp(0, 1)
            power = fine_power(made) / fine_power(tensor(wanted[None]))
            shares.append(power.item())
            large = cv2.resize(given, (1024, 1024), interpolation=cv2.INTER_CUBIC)
            part = (slice(200, 840), slice(192, 832))
            shown = (large, made[0].permute(1, 2, 0).numpy(), wanted)
            rows.append(np.concatenate([image[part] for image in shown], 1))
    levels = (np.clip(np.concatenate(rows), 0, 1) * 255 + 0.5).astype(np.uint8)
    cv2.imwrite(str(path), levels[..., ::-1])
    return f"fine power {np.median(shares):.3f} of the photos'"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", required=True, type=Path)
    parser.add_argument("--sface", required=True)
    parser.add_argument("--start", required=True, type=Path, help="weights to go on from")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--side", type=int, default=56)
    parser.add_argument("--face-side", type=int, default=72)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--critic-lr", type=float, default=6e-4)
    parser.add_argument("--flat", type=float, default=0.6, help="share of steps before decay")
    parser.add_argument("--coarse", type=float, default=1.0, help="L1 of 4 x 4 averages")
    parser.add_argument("--fine", type=float, default=0.3, help="L1 of pixels")
    parser.add_argument("--features", type=float, default=0.4)
    parser.add_argument("--contrast", type=float, default=0.03)
    parser.add_argument("--adversarial", type=float, default=0.02)
    parser.add_argument("--identity", type=float, default=0.1)
    parser.add_argument("--generated", type=float, default=0.5, help="share of generated patches")
    parser.add_argument("--clean", type=float, default=0.4, help="share of the rest that is clean")
    parser.add_argument("--save-every", type=float, default=300, help="seconds between states")
    return parser.parse_args()


class Training:
    """The network with its average, critics and optimizer; `step` is all that a step does."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.pictures, self.faces = Pictures(options.pairs), FaceFeatures(options.sface)
        weights = {name: v.float() for name, v in load_file(options.start).items()}
        self.shape = shape_of(weights)
        self.network = build(*self.shape).to(memory_format=torch.contiguous_format)
        self.network.load_state_dict(weights)
        if has_carriers(self.network):
            hold_carriers(self.network)
        self.judges = Judges(options.critic_lr)
        self.optimizer = torch.optim.Adam(self.network.parameters(), options.lr, betas=(0.9, 0.99))
        self.optimizer.param_groups[0]["base_lr"] = options.lr
        self.mean = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.at = 0

    def step(self) -> dict[str, float]:
        """Learn from one batch; the terms of the loss."""
        options, rng = self.options, np.random.default_rng([3, self.at])
        factor = rate(self.at / options.steps, self.at, 30, options.flat)
        set_rate([self.optimizer, self.judges.optimizer], factor)
        given, wanted = map(
            tensor,
            patches(
                self.pictures, options.batch, options.side, rng, options.generated, options.clean
            ),
        )
        y, x = inner(self.network(given.contiguous())), inner(wanted).contiguous()
        judged = self.judges.terms(y, x)
        # Critics that have just begun know nothing to teach.
        trust = min(max((self.at - 20) / 60, 0.0), 1.0)
        terms = {
            "coarse": options.coarse * (F.avg_pool2d(y, 4) - F.avg_pool2d(x, 4)).abs().mean(),
            "fine": options.fine * (y - x).abs().mean(),
            "features": options.features * judged["features"],
            "contrast": options.contrast * contrast_distance(y, x),
            "fooled": options.adversarial * trust * judged["fooled"],
        }
        if self.at % WHOLE_FACE_EVERY == 0:
            face, portrait, points = whole_face(
                self.pictures, options.face_side, rng, options.clean
            )
            whole = self.network(tensor(face[None]).contiguous())
            points = torch.from_numpy(points[None])
            apart, _ = self.faces.distances(whole, tensor(portrait[None]), points)
            terms["identity"] = options.identity * apart
        self.optimizer.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.at += 1
        average(self.mean, self.network, min(0.995, (self.at + 1) / (self.at + 10)))
        return {name: term.item() for name, term in (terms | {"told": judged["told"]}).items()}

    def keep(self):
        """Write the state, and say and show what held-out portraits look like."""
        save(
            self.options.out / "sharp.pt",
            {"network": self.network.state_dict(), "average": self.mean, "shape": self.shape,
             "step": self.at, "optimizer": self.optimizer.state_dict(),
             "judges": self.judges.state()},
        )  # fmt: skip
        smooth = copy.deepcopy(self.network)
        smooth.load_state_dict(self.mean)
        words = check(smooth, self.pictures, 2, self.options.out / "sharp.png")
        print(f"{self.at} steps, held out: {words}", flush=True)

    def resume(self):
        path = self.options.out / "sharp.pt"
        if not path.exists():
            return
        kept = torch.load(path, weights_only=True)
        self.network.load_state_dict(kept["network"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.judges.load(kept["judges"])
        self.mean, self.at = kept["average"], kept["step"]


if __name__ == "__main__":
    run_steps(Training, arguments())
