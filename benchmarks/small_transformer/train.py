"""Trains a small Z-Image on the demo backbone's latents and captions; resumable to the step.

    python benchmarks/small_transformer/train.py --data DATA --latents LATENTS --out RUN

DATA: of tools/demo_backbone/prepare.py; LATENTS: a folder with the parts of its encode_latents.py.
Rectified flow: the straight path between latent and noise, the squared error of the velocity,
logit-normal times, a caption in ten dropped for guidance, an exponential moving average.

What a step sees follows from its number alone, so a run that was killed does again what was lost.
Legend: B batch, C x h x w latents.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from pathlib import Path

import torch
from model import build, build_tokenizer, prompt_states, token_ids

from captions import IDENTITY, caption  # isort: skip  # in the folder that model.py adds
from muon import optimizers  # isort: skip
from schedule import autocast, average_keep, quick_dtype, rate, save, set_rate  # isort: skip
from train_unet import (  # isort: skip
    IDENTITY_NOISE,
    Latents,
    Log,
    pick,
    read_weights,
    write_weights,
)
import numpy as np
from transformers import Qwen2Tokenizer

SKIP = ("embed", "adaLN", "final", "pad_token")
"""What AdamW trains beside vectors; Muon takes the other matrices."""

WITH_IDENTITY = 0.9
"""Share of captions with the identity word."""
STYLES = (
    "",
    "blurred background",
    "plain white background",
    "plain light grey background",
    "black and white",
)


class Training:
    """Networks, their optimizers and their average, at a step of a given batch size."""

    def __init__(self, tokenizer: Qwen2Tokenizer, size: int, rates: tuple[float, float]) -> None:
        """``rates``: of Muon and of AdamW."""
        self.tokenizer, self.size = tokenizer, size
        # The step at which the optimizers began, with nothing behind them.
        self.step = self.began = 0
        self.token = tokenizer.convert_tokens_to_ids(IDENTITY)
        self.models = build(tokenizer)
        trained = [(k, v) for k, v in self.models.named_parameters() if v.requires_grad]
        self.optimizers = optimizers(trained, *rates, skip=SKIP, dtype=quick_dtype("cpu"))
        self.parameters = [v for _, v in trained]
        self.average = {k: v.detach().clone() for k, v in self.models.state_dict().items()}

    def loss(self, data: Latents, since: int, seed: int = 0) -> torch.Tensor:
        """Return the mean squared error of the velocity for the batch of this step."""
        canvas, chosen = pick(data, self.step, since, self.size, seed)
        columns, rng = data.columns[canvas], np.random.default_rng([seed, self.step])
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        clean = torch.from_numpy(columns["latents"][chosen]).float()
        texts = [token_ids(self.tokenizer, caption_of(data, columns, k, rng)) for k in chosen]
        vectors = data.vectors[data.other[columns["row"][chosen]]]
        vectors = vectors + IDENTITY_NOISE * torch.randn(vectors.shape, generator=noise)
        eps = torch.randn(clean.shape, generator=noise)
        times = torch.randn(self.size, generator=noise).sigmoid()
        s = times[:, None, None, None]
        with autocast():
            states = prompt_states(
                self.models["text"],
                self.token,
                self.models["identity"](vectors),
                texts,
            )
            noised = ((1 - s) * clean + s * eps).unsqueeze(2)
            guess = self.models["transformer"](list(noised), 1 - times, states, return_dict=False)
        velocity = -torch.stack(guess[0]).squeeze(2).float()
        return (velocity - (eps - clean)).square().mean()

    def update(self, data: Latents, since: int, progress: float, flat: float) -> torch.Tensor:
        """Take one step at ``progress`` (0 to 1) of the schedule; return its loss."""
        after = self.step - self.began
        set_rate(self.optimizers, rate(progress, after, 50, flat))
        loss = self.loss(data, since)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        live = self.models.state_dict()
        keep = average_keep(progress, after, end=0.998)
        torch._foreach_lerp_(list(self.average.values()), list(live.values()), 1 - keep)
        self.step += 1
        return loss.detach()

    def begin(self, path: Path) -> None:
        """Take the weights of `write_weights` that fit, at the row that they had come to."""
        weights, rows = read_weights(path)
        own = self.models.state_dict()
        fitting = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
        self.models.load_state_dict(own | fitting)
        self.step = self.began = rows // self.size
        self.average = {k: v.detach().clone() for k, v in self.models.state_dict().items()}

    def load(self, path: Path) -> None:
        """Take back all of what `keep` wrote."""
        kept = torch.load(path, weights_only=True)
        self.models.load_state_dict(kept["models"])
        self.average, self.step, self.began = kept["average"], kept["step"], kept["began"]
        for optimizer, values in zip(self.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(values)

    def keep(self, path: Path) -> None:
        """Write all there is to go on with, and the averaged weights by themselves."""
        state = {
            "models": self.models.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "began": self.began,
        }
        save(path, state)
        weights = path.with_name("average.fp16.safetensors")
        write_weights(weights, self.average, self.step * self.size)


def word_tokenizer(run: Path) -> Qwen2Tokenizer:
    """Return the tokenizer of a run with the identity word, which is not in its folder: mcap puts a
    learned word in that place."""
    tokenizer = Qwen2Tokenizer.from_pretrained(run / "tokenizer")
    tokenizer.add_tokens([IDENTITY])
    return tokenizer


def caption_of(data: Latents, columns: dict, k: int, rng: np.random.Generator) -> str:
    """Return a caption of a picture, one in ten empty."""
    words = [word for word in str(columns["styles"][k]).split("|") if word]
    text = caption(
        data.attributes[columns["row"][k]],
        words,
        bool(columns["flipped"][k]),
        rng,
        frame=str(columns["frame"][k]),
        identity=rng.random() < WITH_IDENTITY,
    )
    return "" if rng.random() < 0.1 else text


def keep_simple(data: Latents) -> None:
    """Leave out made styles but the plainest, and of the squares those with room around the head:
    what is left of a small budget is for faces."""
    for canvas, columns in data.columns.items():
        chosen = np.isin(columns["styles"], STYLES)
        if canvas == "square":
            chosen &= columns["frame"] != "room"
        data.columns[canvas] = {name: values[chosen] for name, values in columns.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--latents", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=120_000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=2e-3)
    parser.add_argument("--flat", type=float, default=0.5, help="share of rows before the decay")
    parser.add_argument("--start", type=Path, help="averaged weights to begin with")
    parser.add_argument("--save-every", type=float, default=240, help="seconds between states")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    folder = options.out / "tokenizer"
    if not folder.exists():
        records = json.loads((options.data / "table.json").read_text())
        part = folder.with_suffix(".part")
        build_tokenizer(records).save_pretrained(part)
        os.replace(part, folder)
    tokenizer = word_tokenizer(options.out)
    training = Training(tokenizer, options.batch, (options.muon_lr, options.adam_lr))
    state = options.out / "state.pt"
    if state.exists():
        training.load(state)
    elif options.start:
        training.begin(options.start)
    data = Latents(options.data, options.latents)
    data.take(data.there())
    keep_simple(data)
    training.models["identity"].mean.copy_(data.vectors.mean(dim=0))
    training.average["identity.mean"].copy_(data.vectors.mean(dim=0))
    for name, network in training.models.items():
        print(f"{name}: {sum(v.numel() for v in network.parameters()):,} values", flush=True)
    print("pictures:", {canvas: data.count(canvas) for canvas in data.columns}, flush=True)
    stop: list[bool] = []
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.append(True))
    log = Log(training.step, options.batch, 1)
    saved = time.time()
    while training.step * options.batch < options.rows and not stop:
        progress = training.step * options.batch / options.rows
        loss = training.update(data, 0, progress, options.flat)
        log.add(training.step, loss)
        if time.time() - saved > options.save_every:
            training.keep(state)
            saved = time.time()
    training.keep(state)
    print(f"{training.step * options.batch} rows: state kept", flush=True)


if __name__ == "__main__":
    main()
