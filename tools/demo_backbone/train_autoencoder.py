"""Trains the autoencoder: AutoencoderKL, f = 8, on prepared pictures, by the clock, resumable.

    python tools/demo_backbone/train_autoencoder.py --data DATA --sface X.onnx --out RUN

With --start it goes on from another run's weights, holding the latents near the old ones
(--anchor) and starting channels anew that the KL term had switched off.

Loss: picture_loss.py, its face term on part of the batch, and a tiny KL. Legend: B batch, S side,
L latents.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from faces_torch import embed, load_sface
from muon import optimizers
from picture_loss import face_distance, green_magenta, picture_terms
from schedule import Clock, rate, save, set_rate
from styles import apply_styles, draw_styles

HELD_OUT = 20  # every 20th picture number is seen by no training


def build(channels, latents):
    """The autoencoder's shape: one residual block a level, attention in the middle.

    Four levels make 16 x 16 latents of 128 x 128 pictures, five of 256 x 256.
    """
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        latent_channels=latents,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=16 * 2 ** (len(channels) - 1),
    )


class Pictures:
    """Prepared pictures: arrays and records; train and held-out rows."""

    def __init__(self, folder: Path):
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.mattes = np.load(folder / "mattes.npy", mmap_mode="r")
        self.records = json.loads((folder / "table.json").read_text())
        self.points = np.array([r["points"] for r in self.records], np.float32)
        held = np.array([r["number"] % HELD_OUT == 0 for r in self.records])
        self.train, self.held_out = np.flatnonzero(~held), np.flatnonzero(held)

    def styled(self, i: int, names: list[str], rng) -> np.ndarray:
        """Picture i with made styles; float32[S, S, 3] in [0, 1]."""
        image = np.asarray(self.images[i], np.float32) / 255
        matte = np.asarray(self.mattes[i], np.float32) / 255
        return apply_styles(image, matte, names, rng)


RIGHT_LEFT = [1, 0, 2, 4, 3]


def batch(pictures: Pictures, rows, rng, styled_share: float):
    """Pictures [B, 3, S, S] in [0, 1] and landmarks [B, 5, 2], styled and flipped at random."""
    images, points = [], []
    for i in rows:
        names = draw_styles(rng) if rng.random() < styled_share else []
        image, point = pictures.styled(i, names, rng), pictures.points[i]
        if rng.random() < 0.5:
            image = image[:, ::-1]
            point = point[RIGHT_LEFT] * [-1, 1] + [image.shape[1] - 1, 0]
        images.append(image)
        points.append(point)
    tensor = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return tensor.contiguous(memory_format=torch.channels_last), torch.tensor(
        np.stack(points), dtype=torch.float32
    )


def load_autoencoder(run: Path, name: str = "autoencoder.pt"):
    """The trained autoencoder; name "enlarged.pt": the one for twice the side."""
    kept = torch.load(run / name, weights_only=True)
    vae = build(kept["channels"], kept["latents"])
    vae.load_state_dict(kept["vae"])
    return vae.eval().to(memory_format=torch.channels_last)


@torch.no_grad()
def spread(vae, pictures, count=32):
    """Each latent channel's deviation [L, 1, 1], and which channels the KL term left alive [L]."""
    x, _ = batch(pictures, pictures.held_out[:count], np.random.default_rng(0), 0.0)
    latent = vae.encode(x * 2 - 1).latent_dist.mode()
    deviation = latent.std((0, 2, 3))
    return deviation[:, None, None], deviation > 0.3


@torch.no_grad()
def revive(vae, dead: list[int], pictures, count=32):
    """Gives channels that the KL term has switched off a new start; pictures do not change by it.

    The encoder's row becomes a random mixture of what its last layer makes, at deviation 1 and with
    little noise of its own; the decoder ignores the channel until its gradient says otherwise.
    """
    x, _ = batch(pictures, pictures.held_out[:count], np.random.default_rng(0), 0.0)
    features = vae.encoder(x * 2 - 1)
    latents = vae.config.latent_channels
    for channel in dead:
        row = torch.randn(features.shape[1]) / features.std((0, 2, 3))
        mixed = torch.einsum("c,bchw->bhw", row, features)
        vae.quant_conv.weight[channel, :, 0, 0] = row / mixed.std()
        vae.quant_conv.bias[channel] = -mixed.mean() / mixed.std()
        vae.quant_conv.weight[latents + channel] = 0
        vae.quant_conv.bias[latents + channel] = -6.0  # log of the variance
        vae.post_quant_conv.weight[:, channel] = 0


@torch.no_grad()
def held_out(vae, sface, pictures, count=64):
    """PSNR in dB (mean over pictures) and mean SFace similarity on held-out pictures."""
    rows = pictures.held_out[:count]
    x, points = batch(pictures, rows, np.random.default_rng(0), 0.0)
    y = torch.cat([vae.decode(vae.encode(p * 2 - 1).latent_dist.mode()).sample for p in x.split(8)])
    y = (y / 2 + 0.5).clamp(0, 1)
    psnr = -10 * torch.log10((x - y).pow(2).mean((1, 2, 3)))
    alike = (embed(sface, x, points) * embed(sface, y, points)).sum(-1)
    return psnr.mean().item(), alike.mean().item(), torch.cat([x[:8], y[:8]])


def sheet(images: torch.Tensor, path: Path, columns: int):
    """Pictures [B, 3, S, S] in [0, 1] as one PNG; white where the last line is not full."""
    rows = images.permute(0, 2, 3, 1).clamp(0, 1).numpy()
    lacking = -len(rows) % min(columns, len(rows))
    rows = np.concatenate([rows, np.ones((lacking, *rows.shape[1:]), rows.dtype)])
    lines = [np.concatenate(rows[i : i + columns], 1) for i in range(0, len(rows), columns)]
    cv2.imwrite(str(path), (np.concatenate(lines, 0)[..., ::-1] * 255).round().astype(np.uint8))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--sface", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seconds", type=float, default=2100)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels", type=int, nargs=4, default=[16, 32, 64, 128])
    parser.add_argument("--latents", type=int, default=8)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--faces-per-step", type=int, default=2)
    parser.add_argument("--face-weight", type=float, default=0.1)
    parser.add_argument("--kl", type=float, default=1e-5)
    parser.add_argument("--flat", type=float, default=0.4, help="share of time before decay")
    parser.add_argument("--chroma", type=float, default=1.0, help="weight of the colour term")
    parser.add_argument("--start", type=Path, help="autoencoder.pt to begin with, not from nothing")
    parser.add_argument(
        "--anchor",
        type=float,
        default=0.0,
        help="with --start: hold latents near the old ones, so a UNet can go on",
    )
    parser.add_argument(
        "--guide",
        type=float,
        default=0.0,
        help="with --start: the first dead channel learns green against magenta",
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    pictures, sface = Pictures(options.data), load_sface(options.sface)
    vae = build(options.channels, options.latents).to(memory_format=torch.channels_last)
    state, step, spent = options.out / "autoencoder.pt", 0, 0.0
    if options.start:
        vae.load_state_dict(torch.load(options.start, weights_only=True)["vae"])
        old = copy.deepcopy(vae).requires_grad_(False)
        scale, alive = spread(old, pictures)
        revive(vae, (~alive).nonzero().flatten().tolist(), pictures)
        print(f"channels alive: {int(alive.sum())} of {options.latents}", flush=True)
    learned = [(name, p) for name, p in vae.named_parameters() if p.requires_grad]
    made = optimizers(
        learned, options.muon_lr, options.adam_lr, skip=("conv_in", "decoder.conv_out")
    )
    if state.exists():
        kept = torch.load(state, weights_only=True)
        vae.load_state_dict(kept["vae"])
        for optimizer, values in zip(made, kept["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        step, spent = kept["step"], kept["spent"]

    def reconstruct(x):
        latent = vae.encode(x * 2 - 1).latent_dist
        return vae.decode(latent.sample()).sample / 2 + 0.5, latent

    clock, rng, means = Clock(options.seconds, spent), np.random.default_rng(step), {}
    saved = reported = clock.spent
    order = []
    while clock.progress < 1:
        while len(order) < options.batch:
            order.extend(rng.permutation(pictures.train).tolist())
        rows, order = order[: options.batch], order[options.batch :]
        set_rate(made, rate(clock.progress, step, 50, options.flat))
        x, points = batch(pictures, rows, rng, 0.4)
        y, latent = reconstruct(x)
        terms = picture_terms(y, x, options.chroma)
        terms["kl"] = options.kl * latent.kl().mean() / 64
        if options.start:
            with torch.no_grad():
                before = old.encode(x * 2 - 1).latent_dist.mode()
            mode = latent.mode()
            moved = ((mode - before) / scale)[:, alive]
            terms["anchor"] = options.anchor * moved.pow(2).mean()
            if not alive.all():
                tint = 20 * green_magenta(F.avg_pool2d(x, x.shape[-1] // mode.shape[-1]))
                terms["guide"] = options.guide * (mode[:, ~alive][:, :1] - tint).pow(2).mean()
        if options.faces_per_step and step > 200:
            n = options.faces_per_step
            distance = face_distance(sface, y[:n], x[:n], points[:n])
            terms["face"] = options.face_weight * distance
        for optimizer in made:
            optimizer.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in learned], 1.0)
        for optimizer in made:
            optimizer.step()
        step += 1
        for name, term in terms.items():
            means[name] = means.get(name, term.item()) * 0.98 + 0.02 * term.item()
        if clock.spent - reported > 60:
            reported = clock.spent
            words = " ".join(f"{k} {v:.4f}" for k, v in means.items())
            print(f"{clock.spent:5.0f} s, {step * options.batch} pictures, {words}", flush=True)
        if clock.spent - saved > 240 or clock.progress >= 1:
            saved = clock.spent
            psnr, alike, pairs = held_out(vae, sface, pictures)
            print(f"held out: PSNR {psnr:.2f} dB, SFace {alike:.3f}", flush=True)
            sheet(pairs, options.out / "autoencoder.png", 8)
            values = [optimizer.state_dict() for optimizer in made]
            save(
                state,
                {"vae": vae.state_dict(), "optimizers": values, "step": step,
                 "spent": clock.spent, "channels": options.channels, "latents": options.latents},
            )  # fmt: skip


if __name__ == "__main__":
    main()
