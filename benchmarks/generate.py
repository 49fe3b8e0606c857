"""What a picture costs: pictures a second, memory and shares, against the plain diffusers pipeline.

    python benchmarks/generate.py --model sd15 --size 256 --steps 4
    python benchmarks/generate.py --model sdxl --device cuda --precision bf16 --steps 30 --rounds 5
    python benchmarks/generate.py --model demo --pictures 4

The modules have random weights in the real shapes (random_models.py), so nothing is downloaded; the
demo backbone has its own. Every round draws each case once, one after the other, and the ratios are
medians over the rounds of a case to the plain pipeline *in the same round*, so that whatever else
the machine does hits both. On the CPU it is the process's own time that counts, not the clock's.

    plain      diffusers' pipeline called by hand: same prompts, steps, guidance, scheduler, batch
    mcap       mcap.diffusion.sampling, as mcap generate calls it
    maps       ... with the attention of two words recorded (--attention-maps)
    edit       mcap.generation.editing.redraw: a word exchanged; the picture it starts from, too
    local      ... and only where the changed words look

Prints Markdown. Memory is the device's peak in a case; on the CPU it is the process's so far, which
only grows. The shares are those of mcap's own case.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from random_models import MODELS, random_backbone

from mcap.diffusion import schedulers
from mcap.diffusion.sampling import SamplingSettings, default_batch, stream_images
from mcap.generation.editing.redraw import AttentionControl, Edit, redraw
from mcap.generation.editing.word_alignment import replace_words, unchanged
from mcap.runtime.device import choose_device
from mcap.runtime.memory import peak_memory_mb

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PROMPT = "a photo of a person, white background"
NEGATIVE = "dark"
WATCHED = ("person</w>", "white</w>")


def main() -> None:
    given = parse()
    device, dtype = choose_device(given.device), PRECISIONS[given.precision]
    backbone = random_backbone(given.model, device, dtype, given.size)
    bench = Bench(backbone, given)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    size = backbone.info.native_size
    print(
        f"{given.model}, {size} x {size} pixels, {given.steps} guided steps of {given.scheduler}, "
        f"{given.pictures} pictures in batches of {bench.batch}, {given.precision}, "
        f"{name}{threads}, torch {torch.__version__}, {given.rounds} rounds"
    )
    found = bench.measure(given.rounds)
    print("\n| case | seconds a picture | pictures a second | of plain | peak memory, MB |")
    print("| --- | --- | --- | --- | --- |")
    for case, row in found.items():
        print(
            f"| {case} | {row['seconds']:.3f} | {1 / row['seconds']:.2f} | {row['ratio']:.3f} | "
            f"{row['memory_mb']:.0f} |"
        )
    shares = bench.shares()
    print("\n| part | share |\n| --- | --- |")
    for part, share in shares.items():
        print(f"| {part} | {100 * share:.1f} % |")
    if given.json:
        given.json.write_text(json.dumps({"cases": found, "shares": shares}, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="sd15")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="fp32")
    parser.add_argument("--size", type=int, help="side in pixels; default: the model's own")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scheduler", default="ddim")
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--batch", type=int, help="default: mcap's own")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


CASES = ("plain", "mcap", "maps", "edit", "local")


class Bench:
    def __init__(self, backbone: Any, given: argparse.Namespace) -> None:
        self.backbone, self.given = backbone, given
        self.size = backbone.info.native_size
        self.batch = given.batch or min(given.pictures, default_batch(self.size**2))
        self.pipeline = backbone.pipeline()
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.scheduler = schedulers.make(given.scheduler, backbone.scheduler)
        self.seeds = list(range(given.pictures))
        self.settings = SamplingSettings(
            steps=given.steps,
            guidance_scale=7.0,
            size=(self.size, self.size),
            negative_prompt=NEGATIVE,
            batch_size=self.batch,
        )

    def measure(self, rounds: int) -> dict[str, dict[str, float]]:
        """case -> median seconds a picture, median ratio to plain, peak memory."""
        cases: dict[str, Callable[[], None]] = {
            case: getattr(self, case) for case in CASES if case in {"plain", *self.given.cases}
        }
        seconds: dict[str, list[float]] = defaultdict(list)
        memory: dict[str, float] = {}
        for number in range(rounds + 1):
            for case, run in cases.items():
                self.reset_peak()
                start = self.now()
                run()
                spent = (self.now() - start) / len(self.seeds)
                memory[case] = max(memory.get(case, 0.0), peak_memory_mb(self.backbone.device))
                if number:  # the first round warms up
                    seconds[case].append(spent)
        return {
            case: {
                "seconds": median(times),
                "ratio": median(t / p for t, p in zip(times, seconds["plain"], strict=True)),
                "memory_mb": memory[case],
            }
            for case, times in seconds.items()
        }

    def now(self) -> float:
        if self.backbone.device.type == "cuda":
            torch.cuda.synchronize(self.backbone.device)
            return time.perf_counter()
        return time.process_time()

    def reset_peak(self) -> None:
        if self.backbone.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.backbone.device)

    def plain(self) -> None:
        for first in range(0, len(self.seeds), self.batch):
            seeds = self.seeds[first : first + self.batch]
            self.pipeline(
                prompt=[PROMPT] * len(seeds),
                negative_prompt=[NEGATIVE] * len(seeds),
                num_inference_steps=self.given.steps,
                guidance_scale=7.0,
                height=self.size,
                width=self.size,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                output_type="pil",
            )

    def mcap(self, watch: tuple[str, ...] = ()) -> None:
        for _ in stream_images(
            self.backbone, PROMPT, self.seeds, self.settings, pipeline=self.pipeline, watch=watch
        ):
            pass

    def maps(self) -> None:
        self.mcap(WATCHED)

    def edit(self, local: bool = False) -> None:
        change = replace_words(unchanged(PROMPT), "white", "black")
        edits = [Edit(change, seed) for seed in self.seeds]
        settings = replace(self.settings, batch_size=max(1, self.batch // 2))
        control = AttentionControl(local=local)
        for _ in redraw(self.backbone, self.pipeline, edits, settings, control):
            pass

    def local(self) -> None:
        self.edit(local=True)

    def shares(self) -> dict[str, float]:
        """Share of each part in one batch of mcap's drawing."""
        spent: dict[str, float] = defaultdict(float)
        parts = [("text encoder", encoder) for encoder in self.backbone.text_encoders]
        parts.append(("UNet", self.backbone.unet))
        # The VAE is called by its method, which hooks do not see; its decoder is a module.
        parts.append(("decoder", self.backbone.vae.decoder))
        start = self.now()
        with timed(parts, spent, self.now):
            self.mcap()
        total = self.now() - start
        spent["everything else"] = total - sum(spent.values())
        return {part: seconds / total for part, seconds in spent.items()}


@contextmanager
def timed(
    parts: list[tuple[str, Any]], spent: dict[str, float], now: Callable[[], float]
) -> Iterator[None]:
    """Adds up the time spent in the modules' forward."""
    started: list[float] = []
    handles = []
    for name, module in parts:

        def before(_module: Any, _args: Any) -> None:
            started.append(now())

        def after(_module: Any, _args: Any, _output: Any, name: str = name) -> None:
            spent[name] += now() - started.pop()

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


if __name__ == "__main__":
    main()
