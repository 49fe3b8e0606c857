"""Trains the decoder on for sharpness, encoder and latents as they are; resumable to the picture.

    python tools/demo_backbone/train_decoder.py --data DATA --model MODEL --sface X.onnx --out RUN

Starts from MODEL/vae, its top widened, and writes RUN/decoder.fp16.safetensors (averaged weights of
the whole autoencoder). Losses: those of picture_loss.py, features of an image network, and a patch
discriminator (hinge, weighted by the ratio of gradients at the last layer as in latent diffusion,
Rombach et al. 2022, less of it late; R1 on real pictures, Mescheder et al. 2018). Half of the
latents were noised to T_NEAR and brought back by the UNet in one step, because such are what the
decoder gets in use. What a step sees follows from its number alone.

Legend: B batch, H W sides of a canvas, L latents, h w their sides.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from canvases import CANVASES
from diffusers import AutoencoderKL
from encode_latents import is_held_out, load_vae, picture
from faces_torch import embed, load_sface
from features import Features
from frames import can_have_room, head_of
from picture_loss import face_distance, picture_terms
from schedule import Threads, autocast, rate, save, set_rate
from sharpness import fine_power
from text import ids
from torch import nn
from train_autoencoder import RIGHT_LEFT, sheet
from train_unet import Shape, build, build_scheduler, read_weights, write_weights
from transformers import CLIPTokenizer

T_NEAR = 150  # of 1000 steps of noise
R1_EVERY = 8


def widen(vae: AutoencoderKL, seed: int = 0) -> AutoencoderKL:
    """The same function with twice the channels at the pictures' own size, in and out.

    Each channel is doubled beside itself, so that group norms see what they saw; what reads a
    double reads both copies with weights that add up to the old one, drawn apart, because two
    copies that are treated alike would learn alike. The first two levels must be equally wide;
    where they no longer are, the identity becomes a shortcut of its own.
    """
    channels = list(vae.config.block_out_channels)
    if channels[0] != channels[1]:
        raise ValueError(f"the first two of the channels {channels} differ")
    wide = AutoencoderKL.from_config(
        vae.config, block_out_channels=[2 * channels[0], *channels[1:]]
    )
    generator = torch.Generator().manual_seed(seed)
    old, new = vae.state_dict(), wide.state_dict()
    for name, shape in ((k, v.shape) for k, v in wide.state_dict().items()):
        if name in old:
            value = old[name]
        elif name.endswith("weight"):
            value = torch.eye(channels[0])[..., None, None]
        else:
            value = torch.zeros(channels[0])
        if shape[0] != value.shape[0]:
            value = value.repeat_interleave(2, 0)
        if value.ndim > 1 and shape[1] != value.shape[1]:
            share = torch.rand(value.shape, generator=generator) * 0.6 + 0.2
            value = torch.stack([value * share, value * (1 - share)], 2).flatten(1, 2)
        new[name] = value
    wide.load_state_dict(new)
    return wide.eval().to(memory_format=torch.channels_last)


def build_discriminator() -> nn.Sequential:
    """Pictures [B, 3, H, W] in [-1, 1] to one number a patch, [B, 1, H / 8 - 2, W / 8 - 2]."""

    def block(inside: int, outside: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inside, outside, 4, stride, 1), nn.GroupNorm(8, outside), nn.LeakyReLU(0.2)
        )

    first = (nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.2))
    layers = [*first, block(32, 64, 2), block(64, 128, 2), block(128, 128, 1)]
    return nn.Sequential(*layers, nn.Conv2d(128, 1, 4, 1, 1)).to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Faces:
    """Prepared faces (prepare.py)."""

    records: list[dict]
    images: np.ndarray
    mattes: np.ndarray
    vectors: np.ndarray
    """Unit vectors of SFace, float32[N, 128]."""
    train: np.ndarray
    held_out: np.ndarray

    @staticmethod
    def read(data: Path) -> Faces:
        records = json.loads((data / "table.json").read_text())
        held = np.array([is_held_out(r) for r in records])
        images = np.load(data / "images.npy", mmap_mode="r")
        mattes = np.load(data / "mattes.npy", mmap_mode="r")
        vectors = np.load(data / "embeddings.npy")
        return Faces(records, images, mattes, vectors, np.flatnonzero(~held), np.flatnonzero(held))

    def held_out_people(self, count: int) -> np.ndarray:
        """Rows of at most so many held-out people, one picture of each."""
        numbers = [self.records[i]["number"] for i in self.held_out]
        _, first = np.unique(numbers, return_index=True)
        people = self.held_out[first]
        return people[:: max(len(people) // count, 1)][:count]

    def alone(self, row: int) -> bool:
        """True of a person of whom there is one picture."""
        number = self.records[row]["number"]
        return sum(r["number"] == number for r in self.records) == 1

    def draw(self, rows, canvas: str, rng) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures [B, 3, H, W] in [0, 1] and landmarks [B, 5, 2] in their pixels.

        In frames, styles and flips as the UNet's latents are (encode_latents.py).
        """
        size, pictures, points = CANVASES[canvas], [], []
        for i in rows:
            record = self.records[i]
            room = can_have_room(head_of(record), size) and rng.random() < 0.6
            made = picture(self.images[i], self.mattes[i], record, size, room, rng)
            image, point = made.image, made.frame.to_canvas(record["points"])
            if rng.random() < 0.5:
                image = image[:, ::-1]
                point = point[RIGHT_LEFT] * [-1, 1] + [size[0] - 1, 0]
            pictures.append(image)
            points.append(point)
        tensor = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        return tensor.contiguous(memory_format=torch.channels_last), torch.tensor(
            np.stack(points), dtype=torch.float32
        )


class Neighbourhood:
    """Latents as the UNet leaves them: noised a little and brought back in one step."""

    def __init__(self, run: Path):
        tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
        models = build(Shape(), tokenizer)
        weights, self.rows = read_weights(run / "average.fp16.safetensors")
        models.load_state_dict(models.state_dict() | weights)
        self.unet = models["unet"].eval().requires_grad_(False)
        with torch.no_grad():
            self.context = models["text"](ids(tokenizer, [""]))[0]
        self.alpha = build_scheduler().alphas_cumprod[T_NEAR]

    @torch.no_grad()
    def __call__(self, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        a = self.alpha
        noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
        context = self.context.expand(len(clean), -1, -1)
        with autocast():
            velocity = self.unet(noisy, T_NEAR, context).sample.float()
        return a.sqrt() * noisy - (1 - a).sqrt() * velocity


def decode(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Pictures [B, 3, H, W], about in [0, 1]."""
    with autocast():
        made = vae.decode(latents.contiguous(memory_format=torch.channels_last)).sample
    return made.float() / 2 + 0.5


@torch.no_grad()
def modes(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """Latents [B, L, h, w] of pictures [B, 3, H, W] in [0, 1]."""
    with autocast():
        return vae.encode(pictures * 2 - 1).latent_dist.mode().float()


def judge(discriminator, pictures: torch.Tensor) -> torch.Tensor:
    """The discriminator's numbers for pictures in [0, 1]."""
    with autocast():
        return discriminator((pictures * 2 - 1).contiguous(memory_format=torch.channels_last))


def gradient_penalty(discriminator, pictures: torch.Tensor) -> torch.Tensor:
    """R1: squared gradient at real pictures, a patch counted as one judgement; in float32."""
    pictures = (pictures * 2 - 1).detach().requires_grad_(True)
    numbers = discriminator(pictures)
    patches = numbers[0].numel()
    (gradient,) = torch.autograd.grad(numbers.sum() / patches**0.5, pictures, create_graph=True)
    return gradient.pow(2).sum((1, 2, 3)).mean()


def adversarial_weight(progress: float) -> float:
    """0 at first, while the discriminator learns; then 0.5, from 60 % on down to 0.15."""
    early = min(max((progress - 0.02) / 0.05, 0.0), 1.0)
    late = min(max((progress - 0.6) / 0.4, 0.0), 1.0)
    return early * (0.5 - 0.35 * late)


@torch.no_grad()
def check(vae, sface, faces: Faces, count: int) -> tuple[str, torch.Tensor]:
    """Held-out reconstructions: PSNR, SFace and fine power in words, and pairs to look at."""
    rows = faces.held_out[:: max(len(faces.held_out) // count, 1)][:count]
    x = torch.from_numpy(np.stack([faces.images[i] for i in rows])).permute(0, 3, 1, 2) / 255
    points = torch.tensor([faces.records[i]["points"] for i in rows], dtype=torch.float32)
    y = torch.cat([decode(vae, modes(vae, some)) for some in x.split(4)]).clamp(0, 1)
    psnr = (-10 * torch.log10((y - x).pow(2).mean((1, 2, 3)))).mean()
    alike = (embed(sface, x, points) * embed(sface, y, points)).sum(-1).mean()
    power = (fine_power(y) / fine_power(x)).median()
    words = f"PSNR {psnr:.2f} dB, SFace {alike:.3f}, fine power {power:.3f} of the photos'"
    return words, torch.cat([x[:6], y[:6]])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True, type=Path, help="diffusers folder to begin with")
    parser.add_argument("--sface", required=True)
    parser.add_argument("--out", required=True, type=Path, help="with the UNet's averaged weights")
    parser.add_argument("--pictures", type=int, default=30_000)
    parser.add_argument("--until", type=int, help="stop after so many, the schedule as it is")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--flat", type=float, default=0.6, help="share of pictures before decay")
    parser.add_argument("--face-weight", type=float, default=0.3)
    parser.add_argument("--feature-weight", type=float, default=0.3)
    parser.add_argument("--penalty", type=float, default=1.0, help="weight of R1")
    parser.add_argument("--save-every", type=float, default=300, help="seconds between states")
    parser.add_argument("--check", type=int, default=48, help="held-out pictures to check by")
    parser.add_argument("--threads", default="auto")
    options = parser.parse_args()
    threads = Threads(options.threads)
    torch.manual_seed(0)
    faces, sface, features = Faces.read(options.data), load_sface(options.sface), Features()
    near = Neighbourhood(options.out)
    vae = widen(load_vae(options.model / "vae"))
    vae.requires_grad_(False)
    learned = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for parameter in learned:
        parameter.requires_grad_(True)
    discriminator = build_discriminator()
    made = [
        torch.optim.Adam(learned, options.lr, betas=(0.5, 0.99)),
        torch.optim.Adam(discriminator.parameters(), options.lr * 1.3, betas=(0.5, 0.99)),
    ]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    average = {k: v.detach().clone() for k, v in vae.state_dict().items()}
    state, weights, step = options.out / "decoder.pt", options.out / "decoder.fp16.safetensors", 0
    if state.exists():
        kept = torch.load(state, weights_only=True)
        vae.load_state_dict(kept["vae"])
        discriminator.load_state_dict(kept["discriminator"])
        for optimizer, values in zip(made, kept["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        average, step = kept["average"], kept["step"]
    elif weights.exists():
        # A new machine: the discriminator begins anew, and so does its time to learn.
        average, pictures = read_weights(weights, "pictures")
        vae.load_state_dict(average)
        average, step = dict(average), pictures // options.batch
    last = vae.decoder.conv_out.weight
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    signal.signal(signal.SIGINT, lambda *_: stop.append(True))
    goal = -(-options.pictures // options.batch)
    end = min(goal, options.until // options.batch) if options.until else goal
    first, means = step, {}
    saved = reported = time.time()

    def keep_state():
        values = [optimizer.state_dict() for optimizer in made]
        save(
            state,
            {"vae": vae.state_dict(), "discriminator": discriminator.state_dict(),
             "optimizers": values, "average": average, "step": step},
        )  # fmt: skip
        write_weights(
            weights, average, step * options.batch, "pictures",
            channels=",".join(map(str, vae.config.block_out_channels)),
        )  # fmt: skip
        smooth = AutoencoderKL.from_config(vae.config).eval()
        smooth.load_state_dict(average)
        words, pairs = check(smooth, sface, faces, options.check)
        print(f"{step * options.batch} pictures, held out: {words}", flush=True)
        sheet(pairs, options.out / "decoder.png", 6)

    while step < end and not stop:
        threads.step()
        progress = step / goal
        set_rate(made, rate(progress, step - first, 50, options.flat))
        rng = np.random.default_rng([1, step])
        canvas = list(CANVASES)[step % len(CANVASES)]
        x, points = faces.draw(rng.choice(faces.train, options.batch, False), canvas, rng)
        z = modes(vae, x)
        half = len(z) // 2
        noise = torch.from_numpy(rng.normal(size=z[:half].shape).astype(np.float32))
        z = torch.cat([near(z[:half], noise), z[half:]])
        y = decode(vae, z)
        terms = picture_terms(y, x, 0.5)
        terms["features"] = options.feature_weight * features.distance(y.clamp(0, 1), x)
        terms["face"] = options.face_weight * face_distance(sface, y, x, points)
        rebuilt, share = sum(terms.values()), adversarial_weight(progress)
        if share:
            fooled = -judge(discriminator, y).float().mean()
            (a,) = torch.autograd.grad(rebuilt, last, retain_graph=True)
            (b,) = torch.autograd.grad(fooled, last, retain_graph=True)
            weight = (a.norm() / (b.norm() + 1e-6)).clamp(0, 1e3)
            terms["fooled"] = share * weight * fooled
        for optimizer in made:
            optimizer.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        made[0].step()
        made[1].zero_grad(set_to_none=True)
        real, false = judge(discriminator, x).float(), judge(discriminator, y.detach()).float()
        told = F.relu(1 - real).mean() + F.relu(1 + false).mean()
        terms["told"] = told
        if step % R1_EVERY == 0:
            told = told + options.penalty / 2 * R1_EVERY * gradient_penalty(discriminator, x[:2])
        told.backward()
        made[1].step()
        keep = min(0.999, (1 + step - first) / (10 + step - first))
        for name, value in vae.state_dict().items():
            average[name].lerp_(value, 1 - keep)
        step += 1
        for name, term in terms.items():
            means[name] = means.get(name, term.item()) * 0.98 + 0.02 * term.item()
        if time.time() - reported > 60:
            reported = time.time()
            words = " ".join(f"{k} {v:.4f}" for k, v in means.items())
            print(f"{step * options.batch} pictures, {words}", flush=True)
        if time.time() - saved > options.save_every:
            keep_state()
            saved = time.time()
    keep_state()


if __name__ == "__main__":
    main()
