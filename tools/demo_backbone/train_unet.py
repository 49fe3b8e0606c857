"""Trains UNet, text encoder and identity word on encoded pictures, by rows, resumable to the row.

    python tools/demo_backbone/train_unet.py --data DATA --out RUN --rows 1000000

v-prediction on standardised latents, min-SNR weights (Hang et al. 2023, gamma 5), captions dropped
from every tenth row for guidance, an exponential moving average of the weights.

What a step sees follows from its number alone: the order of the pictures, the captions and the
noise. New parts of latents (encode_latents.py) are taken up at fixed steps while it runs, and
RUN/taken.jsonl says which at which step; so a run that was killed and goes on from its last state
does again exactly what was lost. Legend: B batch, L latents, h w their sides, D text width.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from canvases import CANVASES
from captions import IDENTITY, caption
from diffusers import DDIMScheduler, UNet2DConditionModel
from muon import optimizers
from safetensors import safe_open
from safetensors.torch import save_file
from schedule import Threads, autocast, average_keep, quick_dtype, rate, save, set_rate
from text import IdentityWord, build_text_encoder, identities, ids
from transformers import CLIPTokenizer

LOOK_EVERY = 100  # steps between looks for new parts
IDENTITY_NOISE = 0.03
WITH_IDENTITY = 0.7
"""Share of captions with the identity word; 0.5 until row 201,648."""


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


@dataclass(frozen=True)
class Shape:
    """Numbers that decide the shapes of the networks."""

    latents: int = 12
    side: int = 16
    channels: tuple[int, int, int] = (96, 128, 192)
    text_width: int = 128
    text_layers: int = 3


def build(shape: Shape, tokenizer: CLIPTokenizer) -> torch.nn.ModuleDict:
    """ "unet", "text" and "identity", with fresh weights."""
    unet = build_unet(shape.latents, shape.side, shape.channels, shape.text_width)
    return torch.nn.ModuleDict(
        {
            "unet": unet.to(memory_format=torch.channels_last),
            "text": build_text_encoder(tokenizer, shape.text_width, shape.text_layers),
            "identity": IdentityWord(width=shape.text_width),
        }
    )


class Latents:
    """Encoded pictures by canvas, and what captions are made of."""

    def __init__(self, data: Path, run: Path):
        records = json.loads((data / "table.json").read_text())
        self.attributes = [r["attributes"] for r in records]
        vectors = np.load(data / "embeddings.npy")
        self.vectors = torch.from_numpy(vectors)
        self.other = other_pictures(records)
        self.run, self.parts = run, {}
        self.columns: dict[str, dict[str, np.ndarray]] = {}

    def there(self) -> list[str]:
        """Names of the parts that lie in the folder."""
        return sorted(path.name for path in self.run.glob("latents_*.npz"))

    def take(self, names: list[str]):
        """Has these parts and no others from now on."""
        for name in names:
            if name not in self.parts:
                with np.load(self.run / name) as part:
                    self.parts[name] = {k: part[k] for k in part.files}
        self.parts = {name: self.parts[name] for name in names}
        self.columns = {
            canvas: {
                column: np.concatenate([p[f"{canvas}_{column}"] for p in self.parts.values()])
                for column in ("latents", "row", "flipped", "styles", "frame")
            }
            for canvas in CANVASES
        }

    def count(self, canvas: str) -> int:
        return len(self.columns[canvas]["row"])


def other_pictures(records: list[dict]) -> np.ndarray:
    """int[N]: a row with another picture of the same person; the row itself where there is none."""
    same: dict[int, list[int]] = {}
    for i, record in enumerate(records):
        same.setdefault(record["number"], []).append(i)
    other = np.arange(len(records))
    for rows in same.values():
        for here, there in zip(rows, rows[1:] + rows[:1], strict=True):
            other[here] = there
    return other


@dataclass(frozen=True)
class Batch:
    clean: torch.Tensor
    """Latents float32[B, L, h, w]."""
    noise: torch.Tensor
    times: torch.Tensor
    """int64[B], 0 to 999."""
    tokens: torch.Tensor
    """Captions, int64[B, T]."""
    vectors: torch.Tensor
    """Face vectors float32[B, 128] of another picture of each person, with a little noise."""

    def to(self, device: str) -> Batch:
        if device == "cpu":
            return self
        moved = (
            getattr(self, f.name).pin_memory().to(device, non_blocking=True) for f in fields(self)
        )
        return Batch(*moved)


def pick(data: Latents, step: int, since: int, size: int, seed: int) -> tuple[str, np.ndarray]:
    """Canvas and positions int[size] of a step.

    Square and portrait take turns; each goes through a permutation of its pictures, a new one every
    time round, counted from the step since when the present parts have been there.
    """
    canvas = list(CANVASES)[step % len(CANVASES)]
    count = data.count(canvas)
    first = (step // len(CANVASES) - since // len(CANVASES)) * size
    places = np.arange(first, first + size)
    chosen = np.empty(size, np.int64)
    for turn in np.unique(places // count):
        order = np.random.default_rng([seed, since, int(turn), len(canvas)]).permutation(count)
        mine = places // count == turn
        chosen[mine] = order[places[mine] % count]
    return canvas, chosen


def draw_batch(data: Latents, tokenizer, step: int, since: int, size: int, seed=0) -> Batch:
    """The batch of a step, from its number alone."""
    canvas, chosen = pick(data, step, since, size, seed)
    columns = data.columns[canvas]
    rng = np.random.default_rng([seed, step])
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    clean = torch.from_numpy(columns["latents"][chosen]).float()
    texts = []
    for k in chosen:
        words = [w for w in str(columns["styles"][k]).split("|") if w]
        text = caption(
            data.attributes[columns["row"][k]], words, bool(columns["flipped"][k]), rng,
            frame=str(columns["frame"][k]), identity=rng.random() < WITH_IDENTITY,
        )  # fmt: skip
        texts.append("" if rng.random() < 0.1 else text)
    vectors = data.vectors[data.other[columns["row"][chosen]]]
    vectors = vectors + IDENTITY_NOISE * torch.randn(vectors.shape, generator=noise)
    return Batch(
        clean,
        torch.randn(clean.shape, generator=noise),
        torch.randint(0, 1000, (size,), generator=noise),
        ids(tokenizer, texts),
        vectors,
    )


def loss_of(models, token: int, alphas, batch: Batch) -> torch.Tensor:
    """Weighted squared error of the velocity, about 1 for a model that knows nothing.

    token: the identity word's id; alphas float32[1000], the scheduler's products.
    """
    a = alphas[batch.times][:, None, None, None]
    noisy = a.sqrt() * batch.clean + (1 - a).sqrt() * batch.noise
    velocity = a.sqrt() * batch.noise - (1 - a).sqrt() * batch.clean
    with identities(models["text"], token, models["identity"](batch.vectors)):
        context = models["text"](batch.tokens)[0]
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    with autocast(noisy.device.type):
        guess = models["unet"](noisy, batch.times, context).sample
    snr = a.flatten() / (1 - a.flatten())
    weight = snr.clamp(max=5) / (snr + 1)
    errors = (guess.float() - velocity).pow(2).mean((1, 2, 3))
    return (weight * errors).mean() / 0.35


def write_weights(path: Path, average: dict, count: int, unit: str = "rows", **more: str):
    """Averaged weights in half precision, and how many rows (unit) they saw, in safetensors."""
    half = {k: v.half().contiguous() for k, v in average.items() if v.dtype.is_floating_point}
    temporary = path.with_suffix(".part")
    save_file(half, temporary, metadata={unit: str(count), **more})
    os.replace(temporary, path)


def read_weights(path: Path, unit: str = "rows") -> tuple[dict[str, torch.Tensor], int]:
    """Weights in float32 and the rows they saw, of write_weights."""
    with safe_open(path, "pt") as file:
        count = int((file.metadata() or {}).get(unit, 0))
        return {k: file.get_tensor(k).float() for k in file.keys()}, count  # noqa: SIM118


def parts_for(data: Latents, record: Path, step: int, take_new: bool) -> int:
    """Takes the parts of a step; the step since when they are what they are.

    record: taken.jsonl, a line a change. With take_new, parts that came meanwhile are taken from
    this step on, unless a run before this one already wrote down what it took from here on. A part
    that somebody removed is done without from this step on, and what was written down after it
    no longer holds.
    """
    written = record.read_text().splitlines() if record.exists() else []
    lines = [json.loads(line) for line in written]
    known = [line for line in lines if line["step"] <= step]
    there = data.there()
    if not there:
        raise SystemExit(f"no latents in '{data.run}': encode_latents.py makes them")
    gone = bool(known) and not set(known[-1]["parts"]) <= set(there)
    decided = len(lines) > len(known) or (known and known[-1]["step"] == step)
    if not known or gone or (take_new and not decided and there != known[-1]["parts"]):
        known.append({"step": step, "parts": there})
        text = "".join(json.dumps(line) + "\n" for line in known)
        temporary = record.with_suffix(".part")
        temporary.write_text(text)
        os.replace(temporary, record)
    if list(data.parts) != known[-1]["parts"]:
        data.take(known[-1]["parts"])
        counts = ", ".join(f"{data.count(c)} {c}" for c in CANVASES)
        print(f"step {step}: {len(data.parts)} parts, {counts}", flush=True)
    return known[-1]["step"]


class Training:
    """Networks, their optimizers and their moving average, at a step of a given batch size."""

    def __init__(self, shape: Shape, tokenizer, size: int, rates: tuple[float, float], device: str):
        """rates: of Muon and AdamW."""
        self.shape, self.size, self.device = shape, size, device
        self.models = build(shape, tokenizer).to(device)
        self.optimizers = optimizers(
            self.models.named_parameters(), *rates, dtype=quick_dtype(device)
        )
        self.alphas = build_scheduler().alphas_cumprod.to(device)
        self.token = tokenizer.convert_tokens_to_ids(IDENTITY)
        # The step at which the optimizers began, with nothing behind them.
        self.step = self.began = 0
        self.average = self.copy()

    def copy(self) -> dict[str, torch.Tensor]:
        return {k: v.detach().clone() for k, v in self.models.state_dict().items()}

    def begin(self, path: Path):
        """Takes weights of write_weights, and goes on at the row that they had come to."""
        weights, rows = read_weights(path)
        known = {k: v.to(self.device) for k, v in weights.items()}
        self.models.load_state_dict(self.models.state_dict() | known)
        self.step = self.began = rows // self.size
        self.average = self.copy()

    def load(self, path: Path):
        """Takes back all of what keep wrote."""
        kept = torch.load(path, weights_only=True, map_location=self.device)
        if kept["step"] * self.size != kept["rows"]:
            raise SystemExit(f"'{path}' is of another batch size than {self.size}")
        self.models.load_state_dict(kept["models"])
        self.average, self.step, self.began = kept["average"], kept["step"], kept["began"]
        for optimizer, values in zip(self.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(values)

    def keep(self, path: Path, weights: Path):
        """Writes all there is to go on with, and the averaged weights by themselves."""
        save(
            path,
            {"models": self.models.state_dict(), "average": self.average,
             "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
             "step": self.step, "began": self.began, "rows": self.step * self.size},
        )  # fmt: skip
        write_weights(weights, self.average, self.step * self.size)

    def update(self, batch: Batch, progress: float, flat: float, keep=0.9995) -> torch.Tensor:
        """One step at progress (0 to 1) of the schedule; its loss, not yet read.

        keep: share of the moving average that a step keeps at the end of the schedule.
        """
        # Without a state the optimizers begin anew, and so does the warm-up.
        since = self.step - self.began
        set_rate(self.optimizers, rate(progress, since, 100, flat))
        loss = loss_of(self.models, self.token, self.alphas, batch.to(self.device))
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.models.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        live = self.models.state_dict()
        names = [k for k, v in live.items() if v.dtype.is_floating_point]
        smooth, live = [self.average[k] for k in names], [live[k] for k in names]
        torch._foreach_lerp_(smooth, live, 1 - average_keep(progress, since, keep))
        self.step += 1
        return loss.detach()


class Batches:
    """The batch of each step; beside an accelerator the next one is drawn while it works."""

    def __init__(self, data: Latents, tokenizer, size: int, ahead: bool):
        self.fixed = (data, tokenizer, size)
        self.pool = ThreadPoolExecutor(1) if ahead else None
        self.next: tuple[tuple[int, int], Future] | None = None

    def __call__(self, step: int, since: int) -> Batch:
        data, tokenizer, size = self.fixed
        if self.next and self.next[0] == (step, since):
            batch = self.next[1].result()
        else:
            batch = draw_batch(data, tokenizer, step, since, size)
        # Parts are taken between blocks of steps: nothing is drawn ahead across their border.
        self.next = None
        if self.pool and (step + 1) % LOOK_EVERY:
            coming = self.pool.submit(draw_batch, data, tokenizer, step + 1, since, size)
            self.next = ((step + 1, since), coming)
        return batch


class Log:
    """A line a minute: rows, rows a second, and a running mean of the loss."""

    def __init__(self, step: int, size: int, read_every: int):
        self.size, self.read_every, self.mean = size, read_every, None
        self.time, self.step = time.time(), step

    def add(self, step: int, loss: torch.Tensor):
        """Reads a loss now and then: reading waits for the device. A loss that is no number ends
        the run, before its weights are written over good ones."""
        if step % self.read_every:
            return
        value = loss.item()
        if not math.isfinite(value):
            raise SystemExit(f"step {step}: the loss is {value}; the last state is as it was")
        self.mean = value if self.mean is None else 0.98 * self.mean + 0.02 * value
        now = time.time()
        if now - self.time > 60:
            speed = (step - self.step) * self.size / (now - self.time)
            threads = torch.get_num_threads()
            print(f"{step * self.size} rows, {speed:.1f} rows/s, loss {self.mean:.4f}, "
                  f"{threads} thread(s)", flush=True)  # fmt: skip
            self.time, self.step = now, step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--until", type=int, help="stop after so many rows, the schedule as it is")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--channels", type=int, nargs=3, default=[96, 128, 192])
    parser.add_argument("--muon-lr", type=float, default=0.012)
    parser.add_argument("--adam-lr", type=float, default=1.6e-3)
    parser.add_argument("--flat", type=float, default=0.7, help="share of rows before decay")
    parser.add_argument("--keep", type=float, default=0.9995, help="of the average, at the end")
    parser.add_argument("--start", type=Path, help="weights in safetensors to begin with")
    parser.add_argument("--save-every", type=float, default=240, help="seconds between states")
    parser.add_argument("--seconds", type=float, help="the schedule ends by then at the latest")
    parser.add_argument("--gone", type=float, default=0.0, help="share of it that --seconds lack")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", default="auto", help="a number, or auto: the quicker one")
    options = parser.parse_args()
    torch.manual_seed(0)
    threads, on_cpu = Threads(options.threads), options.device == "cpu"
    tokenizer = CLIPTokenizer.from_pretrained(options.out / "tokenizer")
    training = Training(
        Shape(channels=tuple(options.channels)), tokenizer, options.batch,
        (options.muon_lr, options.adam_lr), options.device,
    )  # fmt: skip
    state, average = options.out / "unet.pt", options.out / "average.fp16.safetensors"
    if state.exists():
        training.load(state)
    elif options.start:
        training.begin(options.start)
    if options.compile:
        training.models["unet"].compile()
    data, record = Latents(options.data, options.out), options.out / "taken.jsonl"
    since = parts_for(data, record, training.step, take_new=False)
    batches = Batches(data, tokenizer, options.batch, ahead=not on_cpu)
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    signal.signal(signal.SIGINT, lambda *_: stop.append(True))
    end = min(options.rows, options.until or options.rows) // options.batch
    log = Log(training.step, options.batch, 1 if on_cpu else 50)
    started = saved = time.time()
    while training.step < end and not stop:
        threads.step()
        if training.step % LOOK_EVERY == 0:
            since = parts_for(data, record, training.step, take_new=True)
        progress = training.step * options.batch / options.rows
        if options.seconds:
            spent = (time.time() - started) / options.seconds
            progress = max(progress, options.gone + (1 - options.gone) * spent)
            if progress >= 1:
                break
        loss = training.update(batches(training.step, since), progress, options.flat, options.keep)
        log.add(training.step, loss)
        if time.time() - saved > options.save_every:
            training.keep(state, average)
            saved = time.time()
    training.keep(state, average)
    print(f"{training.step * options.batch} rows: state kept", flush=True)


if __name__ == "__main__":
    main()
