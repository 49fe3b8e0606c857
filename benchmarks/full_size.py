"""How much memory and time a full-size model takes: SD1.5's shape with random weights.

    python benchmarks/full_size.py --device cuda --precision bf16 --steps 20
    python benchmarks/full_size.py --device cpu --steps 2

What a step costs does not depend on the values of the weights, so nothing is downloaded: the
modules are made from SD1.5's published configuration and go through mcap's own training loop and
drawing. Prints a Markdown row for each measurement. The face network is a random one of a few
layers; SFace adds under 1 % to a step at 512 pixels.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from mcap.contracts import BackboneInfo
from mcap.crops import TrainingCrop
from mcap.drawing import draw
from mcap.prompts import COMPOSED_TEMPLATES, fill, reference_prompts, source_prompts
from mcap.subject import SubjectWriter
from mcap.training.device import choose_device, peak_memory_mb
from mcap.training.draw import Prompts
from mcap.training.events import PhaseStarted, StepEvent
from mcap.training.loop import Options, TrainingData, train
from mcap.training.recipe import Layer, low_memory, recipe
from mcap_plugins.sd_backbone import StableDiffusionBackbone

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import tiny_identity, tiny_tokenizer
from tiny_run import tiny_manifest

SIZE = 512
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COMPOSED = [fill(template, "person") for template in COMPOSED_TEMPLATES]


def main() -> None:
    options = parse()
    device = choose_device(options.device)
    dtype = PRECISIONS[options.precision]
    backbone = random_sd15(device, dtype)
    print(
        f"device: {device_name(device)}, precision {options.precision}, torch {torch.__version__}"
    )
    print("| what | seconds each | peak memory, MB |")
    print("| --- | --- | --- |")
    # The smaller first: on the CPU the peak is the process's and only grows.
    for low in (True, False):
        for phase, seconds, memory in measure_training(backbone, options.steps, low):
            what = f"training step, phase {phase}" + (", --low-memory" if low else "")
            print(f"| {what} | {seconds:.2f} | {memory:.0f} |", flush=True)
    reset_peak(device)
    start = time.perf_counter()
    prompt = "a photo of a person"
    draw(backbone, prompt, list(range(options.pictures)), steps=options.sampling_steps)
    synchronise(device)
    seconds = (time.perf_counter() - start) / options.pictures
    what = f"picture of {options.sampling_steps} guided steps"
    print(f"| {what} | {seconds:.2f} | {peak_memory_mb(device):.0f} |")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="fp32")
    parser.add_argument("--steps", type=int, default=10, help="of each phase")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--sampling-steps", type=int, default=30)
    return parser.parse_args()


def random_sd15(device: torch.device, dtype: torch.dtype) -> StableDiffusionBackbone:
    """SD1.5's modules with random weights (config.json of its unet, vae and text_encoder)."""
    tokenizer = tiny_tokenizer()
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=512,
            scaling_factor=0.18215,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                projection_dim=768,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
        clip_sample=False, set_alpha_to_one=False,
    )  # fmt: skip
    info = BackboneInfo(
        id="sd15-random",
        revision="local",
        sha256="0" * 64,
        licence="none",
        commercial=True,
        native_size=SIZE,
        attention_divisor=32,
        prediction_type="epsilon",
    )
    return StableDiffusionBackbone(
        info,
        tokenizer=tokenizer,
        text_encoder=text_encoder.to(dtype),
        vae=vae.to(dtype),
        unet=unet.to(dtype),
        scheduler=scheduler,
        device=device,
        dtype=dtype,
    )


def measure_training(
    backbone: StableDiffusionBackbone, steps: int, low: bool
) -> list[tuple[int, float, float]]:
    """(phase, median seconds a step, peak MB) of both phases; the first step is not counted."""
    few = {"phase1_steps": steps, "phase2_steps": steps}
    found = recipe("magicapture", [Layer("benchmark", few)])
    if low:
        found = recipe("magicapture", [Layer("benchmark", few | low_memory(found))])
    data = TrainingData(
        [crop(f"source-{i}", i) for i in range(2)],
        [crop(f"reference-{i}", 10 + i) for i in range(2)],
        Prompts(source_prompts("person"), reference_prompts("person"), COMPOSED),
        np.eye(32, dtype=np.float32)[0],
    )
    seconds: dict[int, list[float]] = {1: [], 2: []}
    memory: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        writer = SubjectWriter.create(Path(folder) / "x.mcap", tiny_manifest(backbone, found))
        run = train(
            data, found, backbone, writer, identity=tiny_identity(),
            options=Options(checkpoint_every=10**6),
        )  # fmt: skip
        with contextlib.closing(run):
            for event in run:
                if isinstance(event, PhaseStarted):
                    reset_peak(backbone.device)
                if isinstance(event, StepEvent):
                    seconds[event.phase].append(event.seconds)
                    memory[event.phase] = event.memory_mb
    return [
        (phase, float(np.median(found[1:] or found)), memory[phase])
        for phase, found in seconds.items()
    ]


def crop(name: str, seed: int) -> TrainingCrop:
    """Noise with a disc for a face in the middle."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    points = [[0.4, 0.42], [0.6, 0.42], [0.5, 0.52], [0.42, 0.62], [0.58, 0.62]]
    return TrainingCrop(
        name=name,
        image=random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8),
        mask=(np.hypot(x - SIZE / 2, y - SIZE / 2) < SIZE * 0.2).astype(np.float32),
        landmarks=np.array(points, np.float32) * SIZE,
        embedding=np.eye(32, dtype=np.float32)[0],
        sha256=f"{seed:064x}",
    )


def reset_peak(device: torch.device) -> None:
    """Where it can be: the CPU's is the process's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
