"""What a training step costs: against the bare UNet, against DreamBooth-LoRA, part by part.

    python benchmarks/train_step.py --model sd15 --size 256
    python benchmarks/train_step.py --model sd15 --device cuda --precision bf16 --rounds 20
    python benchmarks/train_step.py --model demo --spans 23

The modules have random weights in the real shapes (random_models.py), so nothing is downloaded.
Every round runs each case once, one after the other, and the ratios are medians over the rounds of
a case to the bare UNet *in the same round*, so that whatever else the machine does hits both. On
the CPU it is the process's own time that counts, not the clock's.

    bare        text encoder and UNet, forward and backward to the learned tokens; no LoRA, no terms
    recording   the same with attention recorded, and Attention Refocusing's loss of it
    step        a phase-2 step as mcap trains: LoRA, all losses, clipping, optimiser
    + identity  with an identity row, its estimate decoded in one of the ways that recipes name
    DreamBooth  a step of LoRA on all attention layers, written from diffusers' and peft's public
                API after diffusers' train_dreambooth_lora.py; as many rows

`span` is the side of the box that the face network looks at, in 1/32 of the picture's side.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from random_models import MODELS, random_backbone, random_tiny_vae

from mcap.diffusion.attention import AttentionRecorder
from mcap.diffusion.joint_attention import recorder_of
from mcap.diffusion.latents import region, vae_factor
from mcap.diffusion.lora import add_lora, remove_lora
from mcap.diffusion.tokens import ID_TOKEN, STYLE_TOKEN, install
from mcap.diffusion.window_decode import FullDecoder, WindowDecoder
from mcap.losses.attention_refocusing import attention_refocusing
from mcap.runtime.device import choose_device
from mcap.runtime.memory import peak_memory_mb
from mcap.style.prompts import COMPOSED_TEMPLATES, fill, reference_prompts, source_prompts
from mcap.training.batches import Example, Row
from mcap.training.identity_guide import IdentityGuide
from mcap.training.optimizer import PhaseOptimizer
from mcap.training.recipe import Layer, recipe
from mcap.training.step import StepModels, StepTerms, training_step

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ROLES = ("source", "reference", "composed", "identity")
PROMPTS = {
    "source": source_prompts("person")[0],
    "reference": reference_prompts("person")[0],
    "composed": fill(COMPOSED_TEMPLATES[0], "person"),
}


def main() -> None:
    given = parse()
    device, dtype = choose_device(given.device), PRECISIONS[given.precision]
    backbone = random_backbone(given.model, device, dtype, given.size)
    size = backbone.info.native_size
    bench = Bench(backbone, size, given)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    print(
        f"{given.model}, {size} pixels, {given.precision}, {device_name(device)}{threads}, torch "
        f"{torch.__version__}, face network {bench.identity.name}, {given.rounds} rounds"
    )
    found = bench.measure(given.rounds)
    print_table(found)
    shares = bench.shares()
    print_shares(shares)
    if given.json:
        given.json.write_text(json.dumps({"cases": found, "shares": shares}, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="sd15")
    parser.add_argument("--size", type=int, help="of the picture, pixels; default: the model's own")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--spans", default="12,16,24,32", help="in 1/32 of the side; empty: none")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--only", default="", help="run only cases with this text in their name")
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    return parser.parse_args()


class Bench:
    """The cases, all on one backbone."""

    def __init__(self, backbone: Any, size: int, given: argparse.Namespace) -> None:
        self.backbone = backbone
        self.given = given
        self.tokens = install(backbone, {ID_TOKEN: "person", STYLE_TOKEN: "photo"})
        self.ids = {kind: self.tokens.encode([text]) for kind, text in PROMPTS.items()}
        self.identity = face_network(backbone.device)
        self.size = size
        self.recipe = recipe(
            "magicapture",
            [
                Layer("backbone", backbone.info.recipe_overrides),
                Layer("benchmark", {"lora_rank": given.rank}),
            ],
        )
        modules = (backbone.unet, backbone.vae)
        for module in modules:
            if given.checkpointing:
                module.enable_gradient_checkpointing()
            if given.channels_last:
                module.to(memory_format=torch.channels_last)

    # what is trained on

    def rows(self, roles: Sequence[str], span: float = 32.0) -> list[Row]:
        """Rows with a face whose template box spans ``span`` / 32 of the side, in the middle."""
        factor = vae_factor(self.backbone.vae)
        side = self.size // factor
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        disc = (torch.hypot(x - side / 2, y - side / 2) < 0.2 * side).float()[None]
        # The box starts on a latent position, so that it covers as few of them as it can.
        width = round(span / 32 * side) * factor
        start = (side - round(span / 32 * side)) // 2 * factor
        points = torch.as_tensor(self.identity.template, dtype=torch.float32)
        points = points / self.identity.input_size * (width - 0.02) + start + 0.01
        generator = torch.Generator().manual_seed(0)
        channels = self.backbone.unet.config.in_channels
        found = []
        for role in roles:
            latent = torch.randn((channels, side, side), generator=generator)
            mask = disc if role == "source" else 1 - disc
            example = Example(role, latent, mask, points, disc)
            kind = "composed" if role == "identity" else role
            found.append(Row(role, example, tuple(ids[0] for ids in self.ids[kind])))
        return found

    def inputs(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        latents = torch.stack([row.example.latent for row in rows])
        ids = [torch.stack(each) for each in zip(*(row.input_ids for row in rows), strict=True)]
        device = self.backbone.device
        timesteps = torch.full((len(rows),), 500, device=device)
        return latents.to(device, self.backbone.dtype), timesteps, ids

    def predict(self, rows: Sequence[Row]) -> torch.Tensor:
        noised, timesteps, ids = self.inputs(rows)
        embedding = self.backbone.encode_prompt([each.to(self.backbone.device) for each in ids])
        added = self.backbone.added_conditions(embedding, (self.size, self.size))
        return self.backbone.unet(
            noised, timesteps, encoder_hidden_states=embedding.hidden, added_cond_kwargs=added
        ).sample

    # the cases

    def bare(self, rows: Sequence[Row]) -> None:
        self.predict(rows).float().square().mean().backward()
        self.forget()

    def recording(self, rows: Sequence[Row], recorder: AttentionRecorder) -> None:
        with recorder.recording():
            prediction = self.predict(rows)
        loss = prediction.float().square().mean()
        ids = torch.stack([row.input_ids[0] for row in rows])
        watched = {"source": (ID_TOKEN,), "reference": (STYLE_TOKEN,)}
        for index, row in enumerate(rows):
            for token in watched.get(row.role, (ID_TOKEN, STYLE_TOKEN)):
                columns = self.tokens.columns(ids[[index]], token)
                mask = row.example.mask[None]
                maps = recorder.maps(columns, tuple(mask.shape[2:]), rows=[index])
                loss = loss + attention_refocusing(maps, region(mask).to(maps))
        recorder.clear()
        loss.backward()
        self.forget()

    def step(
        self,
        rows: Sequence[Row],
        recorder: AttentionRecorder,
        learner: PhaseOptimizer,
        guide: IdentityGuide | None,
    ) -> None:
        terms = StepTerms(identity=1.0 if guide else 0.0)
        models = StepModels(self.backbone, self.tokens, recorder, guide)
        result = training_step(models, rows, terms, torch.Generator().manual_seed(0))
        for value in result.terms.values():
            value.item()
        learner.backward(result.loss)
        learner.update(0)

    def dreambooth(
        self,
        rows: Sequence[Row],
        optimiser: torch.optim.Optimizer,
        scheduler: Any,
        pixels: torch.Tensor | None,
    ) -> None:
        """``pixels``: encoded by the VAE, as the script does each step; None: cached latents."""
        latents, timesteps, ids = self.inputs(rows)
        vae = self.backbone.vae
        if pixels is not None:
            with torch.no_grad():
                latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
        with torch.no_grad():
            embedding = self.backbone.encode_prompt([each.to(latents.device) for each in ids])
        noise = torch.randn_like(latents)
        noised = scheduler.add_noise(latents, noise, timesteps)
        added = self.backbone.added_conditions(embedding, (self.size, self.size))
        prediction = self.backbone.unet(
            noised, timesteps, encoder_hidden_states=embedding.hidden, added_cond_kwargs=added
        ).sample
        torch.nn.functional.mse_loss(prediction.float(), noise.float()).backward()
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    def forget(self) -> None:
        for parameter in self.tokens.parameters():
            parameter.grad = None

    # measuring

    def cases(self) -> Iterator[tuple[str, int, Callable[[], None]]]:
        """(name, rows, what to run); modules change between them, so run each as it comes."""
        plain, whole = self.rows(ROLES[:3]), self.rows(ROLES)
        yield "bare", 3, lambda: self.bare(plain)
        yield "bare", 4, lambda: self.bare(whole)
        with recorder_of(self.backbone, self.recipe.attention_layers).attached() as recorder:
            yield "attention recording", 3, lambda: self.recording(plain, recorder)
        with self.trained() as (learner, recorder):
            yield "step without identity", 3, lambda: self.step(plain, recorder, learner, None)
            for name, span, decoder in self.decoders():
                rows = self.rows(ROLES, span)
                guide = self.guide(decoder)
                yield name, 4, lambda r=rows, g=guide: self.step(r, recorder, learner, g)
        with self.dreamboothed() as (optimiser, scheduler, pixels):
            yield (
                "DreamBooth-LoRA, latents cached", 4,
                lambda: self.dreambooth(whole, optimiser, scheduler, None),
            )  # fmt: skip
            yield (
                "DreamBooth-LoRA", 4,
                lambda: self.dreambooth(whole, optimiser, scheduler, pixels),
            )  # fmt: skip

    def decoders(self) -> Iterator[tuple[str, float, Any]]:
        for span in filter(None, self.given.spans.split(",")):
            yield f"step + identity, window, span {span}", float(span), None
        yield "step + identity, full decode", 32.0, FullDecoder(self.backbone.vae)
        if self.backbone.vae.config.latent_channels == 4:
            if not hasattr(self, "tiny"):
                self.tiny = random_tiny_vae(self.backbone.device, self.backbone.dtype)
            yield "step + identity, tiny autoencoder", 32.0, FullDecoder(self.tiny)

    def guide(self, decoder: Any | None) -> IdentityGuide:
        decoder = decoder or WindowDecoder(self.backbone.vae)
        target = torch.ones(self.width)
        return IdentityGuide(self.identity, target, decoder)

    @property
    def width(self) -> int:
        size = self.identity.input_size
        place = next(iter(self.tokens.parameters())).device
        with torch.no_grad():
            return self.identity.embed(torch.zeros(1, 3, size, size, device=place)).shape[1]

    @contextmanager
    def trained(self) -> Iterator[tuple[PhaseOptimizer, AttentionRecorder]]:
        """LoRA, optimiser with its moments, and an attached recorder, as in phase 2."""
        lora = add_lora(self.backbone.unet, self.recipe.lora_rank)
        groups = {
            "tokens": (self.tokens.parameters(), 1e-5, 0.0),
            "lora": (lora, 1e-4, 0.01),
        }
        learner = PhaseOptimizer(groups, 1000, self.recipe, self.backbone)
        for parameter in learner.parameters:
            parameter.grad = torch.zeros_like(parameter)
        learner.backward(sum(p.sum() for p in learner.parameters) * 0)
        learner.update(0)  # the first one makes the moments, which no later one does
        try:
            with recorder_of(self.backbone, self.recipe.attention_layers).attached() as recorder:
                yield learner, recorder
        finally:
            remove_lora(self.backbone.unet)

    @contextmanager
    def dreamboothed(self) -> Iterator[tuple[Any, Any, torch.Tensor]]:
        from diffusers import DDPMScheduler
        from diffusers.training_utils import cast_training_params
        from peft import LoraConfig

        unet = self.backbone.unet
        targets = ["to_k", "to_q", "to_v", "to_out.0"]
        unet.add_adapter(
            LoraConfig(
                r=self.recipe.lora_rank,
                lora_alpha=self.recipe.lora_rank,
                init_lora_weights="gaussian",
                target_modules=targets,
            )
        )
        cast_training_params([unet])
        parameters = [p for p in unet.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-2)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        optimiser.zero_grad()
        pixels = torch.rand(4, 3, self.size, self.size).to(self.backbone.device) * 2 - 1
        config = self.backbone.scheduler.config
        try:
            yield optimiser, DDPMScheduler.from_config(config), pixels.to(self.backbone.dtype)
        finally:
            remove_lora(unet)

    def measure(self, rounds: int) -> list[dict[str, Any]]:
        seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
        memory: dict[tuple[str, int], float] = {}
        device = self.backbone.device
        for number in range(rounds + 1):
            for name, rows, run in self.cases():
                if name != "bare" and (not number or self.given.only not in name):
                    continue  # the first round only warms up
                reset_peak(device)
                began = now(device)
                run()
                spent = now(device) - began
                if number:
                    seconds[name, rows].append(spent)
                    memory[name, rows] = max(memory.get((name, rows), 0.0), peak(device))
                told = f"{name}, {rows} rows, {spent:.2f} s, {peak(device):.0f} MB"
                print(f"  round {number}: {told}", flush=True)
        found = []
        for (name, rows), times in seconds.items():
            ratios = [
                spent / bare for spent, bare in zip(times, seconds["bare", rows], strict=True)
            ]
            found.append(
                {
                    "case": name,
                    "rows": rows,
                    "seconds": median(times),
                    "ratio": median(ratios),
                    "ratios": [min(ratios), max(ratios)],
                    "memory_mb": memory[name, rows],
                }
            )
        return found

    def shares(self) -> list[dict[str, Any]]:
        """Where a step's time goes, for the window of the first span and for the full decode."""
        found = []
        with self.trained() as (learner, recorder):
            for name, span, decoder in self.decoders():
                if self.given.only not in name:
                    continue
                rows, guide = self.rows(ROLES, span), self.guide(decoder)
                clock = Clock(self.backbone, recorder, guide)
                with clock.watching() as watched:
                    began = now(self.backbone.device)
                    models = StepModels(self.backbone, self.tokens, recorder, watched)
                    generator = torch.Generator().manual_seed(0)
                    result = training_step(models, rows, StepTerms(), generator)
                    forward = now(self.backbone.device)
                    learner.backward(result.loss)
                    backward = now(self.backbone.device)
                    learner.update(0)
                    end = now(self.backbone.device)
                parts = clock.parts(forward, backward)
                parts["optimiser"] = end - backward
                parts["rest"] = end - began - sum(parts.values())
                found.append({"case": name, "parts": parts})
        return found


class Clock:
    """Times the parts of one step from outside: calls going forward, gradients coming back."""

    def __init__(self, backbone: Any, recorder: Any, guide: IdentityGuide) -> None:
        self.backbone, self.recorder, self.guide = backbone, recorder, guide
        self.forward: dict[str, float] = defaultdict(float)
        self.arrived: dict[str, float] = {}  # what -> when its gradient was complete

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = now(self.backbone.device)
            result = call(*args, **kwargs)
            self.forward[name] += now(self.backbone.device) - began
            return result

        return run

    def mark(self, name: str, tensor: torch.Tensor) -> None:
        def arrive(_gradient: torch.Tensor) -> None:
            self.arrived[name] = now(self.backbone.device)

        tensor.register_hook(arrive)

    @contextmanager
    def watching(self) -> Iterator[IdentityGuide]:
        """The backbone and the recorder are watched inside; the guide to use is handed out."""
        backbone, recorder, guide = self.backbone, self.recorder, self.guide
        encode, maps = backbone.encode_prompt, recorder.maps
        unet_forward = backbone.unet.forward

        def encode_prompt(ids: Any) -> Any:
            found = self.timed("text encoder", encode)(ids)
            self.mark("prompt", found.hidden)
            return found

        def decoder(latent: torch.Tensor, box: Any) -> Any:
            self.mark("estimate", latent)
            found = self.timed("decode", guide.decoder)(latent, box)
            self.mark("picture", found.image)
            return found

        model = SimpleNamespace(
            template=guide.model.template,
            input_size=guide.model.input_size,
            embed=self.timed("identity network", guide.model.embed),
        )
        backbone.encode_prompt = encode_prompt
        backbone.unet.forward = self.timed("UNet", unet_forward)
        recorder.maps = self.timed("attention maps", maps)
        decoder.whole = guide.decoder.whole
        try:
            yield IdentityGuide(model, guide.target, decoder)
        finally:
            del backbone.encode_prompt, backbone.unet.forward, recorder.maps

    def parts(self, forward: float, backward: float) -> dict[str, float]:
        """Seconds by part; ``forward`` and ``backward``: when each of them ended."""
        at = self.arrived
        found = {f"{name}, forward": seconds for name, seconds in self.forward.items()}
        found["identity network, backward"] = at["picture"] - forward
        found["decode, backward"] = at["estimate"] - at["picture"]
        found["UNet and attention maps, backward"] = at["prompt"] - at["estimate"]
        found["text encoder, backward"] = backward - at["prompt"]
        return found


def face_network(device: torch.device) -> Any:
    """SFace where its weights are here, else a random MobileNetV2, which costs about as much."""
    from mcap.registry import registry
    from mcap.weights.locate import local_path

    if local_path("sface") is not None:
        return registry().create("identity", "sface").to(device)
    from torchvision.models import mobilenet_v2

    from mcap_plugins.shared.arcface_template import INPUT_SIZE, TEMPLATE

    network = mobilenet_v2(num_classes=128).to(device).eval().requires_grad_(False)
    return SimpleNamespace(
        name="a random MobileNetV2", template=TEMPLATE, input_size=INPUT_SIZE,
        embed=lambda faces: torch.nn.functional.normalize(network(faces), dim=1),
    )  # fmt: skip


def now(device: torch.device) -> float:
    """Seconds: of the process on the CPU, of the clock once a GPU has done what it was given."""
    if device.type == "cpu":
        return time.process_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (file := Path("/proc/self/clear_refs")).exists():
        file.write_text("5")  # Linux: the process's peak starts again from what it has now


def peak(device: torch.device) -> float:
    """Peak since `reset_peak`, in MiB; where it cannot be reset, of the process so far."""
    if device.type == "cpu" and (file := Path("/proc/self/status")).exists():
        line = next(line for line in file.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return peak_memory_mb(device)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def print_table(found: Sequence[dict[str, Any]]) -> None:
    print("\n| case | rows | seconds | to the bare UNet (range) | peak memory, MB |")
    print("| --- | --- | --- | --- | --- |")
    for line in found:
        low, high = line["ratios"]
        print(
            f"| {line['case']} | {line['rows']} | {line['seconds']:.2f} | "
            f"**{line['ratio']:.3f}** ({low:.3f} to {high:.3f}) | {line['memory_mb']:.0f} |"
        )


def print_shares(shares: Sequence[dict[str, Any]]) -> None:
    if not shares:
        return
    names = list(dict.fromkeys(name for line in shares for name in line["parts"]))
    print("\n| part of the step | " + " | ".join(line["case"] for line in shares) + " |")
    print("| --- |" + " --- |" * len(shares))
    for name in names:
        cells = []
        for line in shares:
            total = sum(line["parts"].values())
            cells.append(f"{line['parts'].get(name, 0.0) / total:.1%}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
