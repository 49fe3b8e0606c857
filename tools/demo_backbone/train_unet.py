"""Trains UNet and text encoder together on encoded pictures, by the clock, resumable.

    python tools/demo_backbone/train_unet.py --data DATA --out RUN

v-prediction on standardised latents, min-SNR weights (Hang et al. 2023, gamma 5), captions dropped
from every tenth row for guidance, an exponential moving average of the weights. New parts of
latents (encode_latents.py) are taken up while it runs. Legend: B batch, L latents, h w their side.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from captions import caption
from diffusers import DDIMScheduler, UNet2DConditionModel
from muon import optimizers
from schedule import Clock, rate, save, set_rate
from text import build_text_encoder, ids
from transformers import CLIPTokenizer


def build_scheduler() -> DDIMScheduler:
    """1000 steps, betas 1e-4 to 0.02: the last step is all but pure noise (root of alpha 0.006).

    So a sample's mean brightness is learned and not taken from the noise, without which a plain
    white or dark background stays out of reach.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,  # unused with trailing steps; StableDiffusionPipeline warns about any other
        clip_sample=False,
        set_alpha_to_one=True,
    )


def build_unet(latents: int, side: int, channels, text_width: int) -> UNet2DConditionModel:
    """Cross-attention at the full and the half latent side, plain blocks below."""
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=latents,
        out_channels=latents,
        block_out_channels=channels,
        down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


class Latents:
    """All encoded parts found so far; a row is a latent, its flip, its words, its attributes."""

    def __init__(self, data: Path, run: Path):
        records = json.loads((data / "table.json").read_text())
        self.attributes = [r["attributes"] for r in records]
        self.run, self.parts = run, {}
        self.look()

    def look(self):
        for path in sorted(self.run.glob("latents_?.npz")):
            if path.name not in self.parts:
                with np.load(path) as part:
                    self.parts[path.name] = {k: part[k] for k in part.files}
        whole = {k: np.concatenate([p[k] for p in self.parts.values()]) for k in
                 ("latents", "rows", "flipped", "words")}  # fmt: skip
        self.latents = torch.from_numpy(whole["latents"])
        self.rows, self.flipped, self.words = whole["rows"], whole["flipped"], whole["words"]

    def captions(self, chosen, rng, dropout: float) -> list[str]:
        texts = []
        for k in chosen:
            words = [w for w in str(self.words[k]).split("|") if w]
            text = caption(self.attributes[self.rows[k]], words, bool(self.flipped[k]), rng)
            texts.append("" if rng.random() < dropout else text)
        return texts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seconds", type=float, default=3000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--channels", type=int, nargs=3, default=[64, 96, 128])
    parser.add_argument("--text-width", type=int, default=128)
    parser.add_argument("--text-layers", type=int, default=3)
    parser.add_argument("--muon-lr", type=float, default=0.015)
    parser.add_argument("--adam-lr", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--flat", type=float, default=0.5, help="share of time before decay")
    parser.add_argument("--start", type=Path, help="unet.pt whose averaged weights to begin with")
    options = parser.parse_args()
    torch.manual_seed(0)
    data = Latents(options.data, options.out)
    tokenizer = CLIPTokenizer.from_pretrained(options.out / "tokenizer")
    latents, side = data.latents.shape[1:3]
    shape = [latents, side, list(options.channels), options.text_width]
    models = torch.nn.ModuleDict(
        {
            "unet": build_unet(*shape),
            "text": build_text_encoder(tokenizer, options.text_width, options.text_layers),
        }
    )
    models["unet"].to(memory_format=torch.channels_last)
    made = optimizers(models.named_parameters(), options.muon_lr, options.adam_lr)
    seen = 0
    if options.start:
        earlier = torch.load(options.start, weights_only=True)
        models.load_state_dict(earlier["average"])
        seen = earlier["rows"]
    average = {k: v.detach().clone() for k, v in models.state_dict().items()}
    state, step, spent = options.out / "unet.pt", 0, 0.0
    if state.exists():
        kept = torch.load(state, weights_only=True)
        models.load_state_dict(kept["models"])
        average = kept["average"]
        for optimizer, values in zip(made, kept["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        step, spent = kept["step"], kept["spent"]
    torch.manual_seed(step)
    alphas = build_scheduler().alphas_cumprod
    clock, rng, mean, order = Clock(options.seconds, spent), np.random.default_rng(step), None, []
    saved = reported = clock.spent
    while clock.progress < 1:
        while len(order) < options.batch:
            order.extend(rng.permutation(len(data.rows)).tolist())
        chosen, order = order[: options.batch], order[options.batch :]
        set_rate(made, rate(clock.progress, step, 60, options.flat))
        clean = data.latents[chosen].float()
        noise = torch.randn_like(clean)
        times = torch.randint(0, 1000, (len(clean),))
        a = alphas[times][:, None, None, None]
        noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
        velocity = a.sqrt() * noise - (1 - a).sqrt() * clean
        context = models["text"](ids(tokenizer, data.captions(chosen, rng, 0.1)))[0]
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        guess = models["unet"](noisy, times, context).sample
        snr = a.flatten() / (1 - a.flatten())
        weight = snr.clamp(max=5) / (snr + 1)
        errors = (guess - velocity).pow(2).mean((1, 2, 3))
        loss = (weight * errors).mean() / 0.35
        for optimizer in made:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(models.parameters(), 1.0)
        for optimizer in made:
            optimizer.step()
        step += 1
        keep = min(options.ema, (1 + step) / (10 + step))
        for name, value in models.state_dict().items():
            if value.dtype.is_floating_point:
                average[name].lerp_(value, 1 - keep)
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if clock.spent - reported > 60:
            reported = clock.spent
            rows = step * options.batch
            print(f"{clock.spent:5.0f} s, {rows} rows, loss {mean:.4f}", flush=True)
            if len(data.parts) != len(list(options.out.glob("latents_?.npz"))):
                data.look()
                order = []
                print(f"{len(data.rows)} latents", flush=True)
        if clock.spent - saved > 240 or clock.progress >= 1:
            saved = clock.spent
            values = [optimizer.state_dict() for optimizer in made]
            save(
                state,
                {"models": models.state_dict(), "average": average, "optimizers": values,
                 "step": step, "spent": clock.spent, "rows": seen + step * options.batch,
                 "shape": shape, "text_layers": options.text_layers},
            )  # fmt: skip


if __name__ == "__main__":
    main()
