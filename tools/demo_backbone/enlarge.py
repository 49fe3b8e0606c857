"""Doubles the side of an autoencoder's pictures: one more level outside, the latents stay.

    python tools/demo_backbone/enlarge.py --data DATA256 --sface X.onnx --out RUN

Starts from RUN/autoencoder.pt (trained on pictures of half the side) and writes RUN/enlarged.pt;
by the clock, resumable. Training at half the side is four times cheaper a picture, and a UNet can
be trained on its latents meanwhile. First the encoder's new level learns to hand over what the
first layer of the small encoder sees of a halved picture, so that both give the same latents. Then
the whole decoder learns on, from latents of the small encoder, with the losses of
picture_loss.py. Legend: B batch, S side of the large pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from faces_torch import load_sface
from muon import optimizers
from picture_loss import face_distance, picture_terms
from schedule import Clock, rate, save, set_rate
from train_autoencoder import Pictures, batch, build, held_out, load_autoencoder, sheet


def enlarge(small, channels):
    """The same autoencoder with one more level whose blocks begin as the identity."""
    large = build([channels[0], *channels], small.config.latent_channels)
    last = len(channels) - 1
    kept = small.state_dict()
    moved = {}
    for name, value in kept.items():
        head, _, rest = name.partition("down_blocks.")
        if rest:
            index, _, rest = rest.partition(".")
            name = f"{head}down_blocks.{int(index) + 1}.{rest}"
        if not name.startswith("encoder.conv_in"):
            moved[name] = value
    large.load_state_dict(moved, strict=False)
    decoder, top = large.decoder, large.decoder.up_blocks[last + 1]
    for block in (*large.encoder.down_blocks[0].resnets, *top.resnets):
        torch.nn.init.zeros_(block.conv2.weight)
        torch.nn.init.zeros_(block.conv2.bias)
    upsampler = decoder.up_blocks[last].upsamplers[0].conv
    torch.nn.init.dirac_(upsampler.weight)
    torch.nn.init.zeros_(upsampler.bias)
    return large.to(memory_format=torch.channels_last)


def front(encoder, x: torch.Tensor) -> torch.Tensor:
    """What the encoder's new level makes of pictures [B, 3, S, S]: [B, C, S/2, S/2]."""
    return encoder.down_blocks[0](encoder.conv_in(x))


def teach_front(large, small, pictures, seconds: float, by_latents: bool, size: int = 4):
    """Fits the encoder's new level to the small encoder, for some seconds.

    First by what the small encoder's first layer makes of the halved picture, which is cheap; then
    by the latents, since not all that the layer makes matters to them.
    """
    learned = [*large.encoder.conv_in.parameters(), *large.encoder.down_blocks[0].parameters()]
    peak = 1e-3 if by_latents else 3e-3
    optimizer = torch.optim.Adam(learned, lr=peak)
    clock, rng = Clock(seconds), np.random.default_rng(1 + by_latents)
    while clock.progress < 1:
        x = batch(pictures, rng.choice(pictures.train, size), rng, 0.4)[0] * 2 - 1
        with torch.no_grad():
            half = F.avg_pool2d(x, 2)
            wanted = modes(small, half) if by_latents else small.encoder.conv_in(half)
        made = modes(large, x) if by_latents else front(large.encoder, x)
        scale = wanted.var((0, 2, 3), keepdim=True) + 1e-4
        loss = ((made - wanted).pow(2) / scale).mean()
        for group in optimizer.param_groups:
            group["lr"] = peak * (1 - clock.progress) + 1e-5
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def modes(vae, x: torch.Tensor) -> torch.Tensor:
    """Latent modes of pictures in [-1, 1], as the encoder gives them (not standardised)."""
    return vae.encode(x).latent_dist.mode()


@torch.no_grad()
def agreement(large, small, pictures, count=16) -> float:
    """Deviation of the large encoder's latents from the small one's, in deviations of those."""
    rows = pictures.held_out[:count]
    x = batch(pictures, rows, np.random.default_rng(0), 0.0)[0] * 2 - 1
    a, b = modes(large, x), modes(small, F.avg_pool2d(x, 2))
    return ((a - b).std((0, 2, 3)) / b.std((0, 2, 3))).mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="prepared at the large side")
    parser.add_argument("--sface", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--front-seconds", type=float, default=900)
    parser.add_argument(
        "--refine-front",
        type=float,
        default=0,
        metavar="SECONDS",
        help="only that, on what is there",
    )
    parser.add_argument("--seconds", type=float, default=2400)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--adam-lr", type=float, default=1.5e-3)
    parser.add_argument("--face-weight", type=float, default=0.1)
    parser.add_argument("--chroma", type=float, default=0.5)
    parser.add_argument("--flat", type=float, default=0.4, help="share of time before decay")
    options = parser.parse_args()
    torch.manual_seed(0)
    pictures, sface = Pictures(options.data), load_sface(options.sface)
    small = load_autoencoder(options.out).requires_grad_(False)
    channels = torch.load(options.out / "autoencoder.pt", weights_only=True)["channels"]
    large = enlarge(small, list(channels))
    state, step, spent = options.out / "enlarged.pt", 0, 0.0
    kept = torch.load(state, weights_only=True) if state.exists() else None
    if kept:
        large.load_state_dict(kept["vae"])
        step, spent = kept["step"], kept["spent"]
    else:
        teach_front(large, small, pictures, options.front_seconds / 3, False)
        teach_front(large, small, pictures, options.front_seconds * 2 / 3, True)
        print(f"front: latents differ by {agreement(large, small, pictures):.4f}", flush=True)
    if options.refine_front:
        teach_front(large, small, pictures, options.refine_front, True)
        print(f"front: latents differ by {agreement(large, small, pictures):.4f}", flush=True)
        save(state, {**kept, "vae": large.state_dict()})
        return
    large.encoder.requires_grad_(False)
    large.quant_conv.requires_grad_(False)
    learned = [(name, p) for name, p in large.named_parameters() if p.requires_grad]
    made = optimizers(learned, options.muon_lr, options.adam_lr, skip=("decoder.conv_out",))
    if kept:
        for optimizer, values in zip(made, kept["optimizers"], strict=True):
            optimizer.load_state_dict(values)
    clock, rng, means = Clock(options.seconds, spent), np.random.default_rng(step), {}
    saved = reported = clock.spent
    order = []
    while clock.progress < 1:
        while len(order) < options.batch:
            order.extend(rng.permutation(pictures.train).tolist())
        rows, order = order[: options.batch], order[options.batch :]
        set_rate(made, rate(clock.progress, step, 50, options.flat))
        x, points = batch(pictures, rows, rng, 0.4)
        with torch.no_grad():
            z = modes(small, F.avg_pool2d(x, 2) * 2 - 1)
        y = large.decode(z).sample / 2 + 0.5
        terms = picture_terms(y, x, options.chroma)
        distance = face_distance(sface, y[:1], x[:1], points[:1])
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
        if clock.spent - saved > 300 or clock.progress >= 1:
            saved = clock.spent
            psnr, alike, pairs = held_out(large, sface, pictures)
            print(f"held out: PSNR {psnr:.2f} dB, SFace {alike:.3f}", flush=True)
            sheet(pairs, options.out / "enlarged.png", 8)
            values = [optimizer.state_dict() for optimizer in made]
            save(
                state,
                {"vae": large.state_dict(), "optimizers": values, "step": step,
                 "spent": clock.spent, "channels": [channels[0], *channels],
                 "latents": small.config.latent_channels},
            )  # fmt: skip


if __name__ == "__main__":
    main()
