"""Compares where a word may be learned: at the text encoder's input, or in what comes out of it.

    python benchmarks/small_transformer/words.py --model FOLDER --data DATA [--people 4]

    input   the word's row of the embedding table, as ``mcap train`` learns it
    output  the encoder's state at the word's place alone, as with ``--set word_place=output``; the
            encoder runs once
    behind  the states of the word's place and of all behind it, which see it

One person at a time, of whom the model has seen nothing, from one picture, with the transformer as
it is: the squared error of the velocity in the face, logit-normal times, Adam at a rate of
``--rate`` times the root mean square of what it learns. Told are, beside the class noun as it is
before ("before"), the mean error in the face on another picture of the person, and the cosine of
SFace between that picture and what is drawn.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from model import IDENTITY
from people import PROMPT, Person, load_model

from mcap.contracts import ID_TOKEN, PromptEmbedding
from mcap.diffusion.latents import encode_image, latent_mask
from mcap.diffusion.rectified_flow import RectifiedFlow
from mcap.diffusion.sampling import decode_images
from mcap.diffusion.tokens import install
from mcap.faces.measure import embed
from mcap.registry import registry

KINDS = ("before", "input", "output", "behind")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=0.03)
    parser.add_argument("--pictures", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    detector = registry().create("detector", "yunet")
    network = registry().create("identity", "sface")
    found: dict[str, list] = {kind: [] for kind in KINDS}
    for first, second in pairs(options.data, options.people):
        faces = detector.detect(second.image)
        target = unit(embed(network, second.image, faces[0]))
        for kind in KINDS:
            word = Word(load_model(options.model), kind)
            began = time.process_time()
            if kind != "before":
                word.learn(first, options.steps, options.batch, options.rate)
            took = time.process_time() - began
            likeness = []
            for image in word.draw(options.pictures):
                seen = detector.detect(image)
                if seen:
                    likeness.append(float(unit(embed(network, image, seen[0])) @ target))
            found[kind].append((word.error(second, 64), np.mean(likeness or [np.nan]), took))
            print(kind, *(f"{value:.4f}" for value in found[kind][-1]), flush=True)
    for kind, values in found.items():
        error, likeness, took = np.nanmean(np.array(values), axis=0)
        print(f"{kind}: error {error:.4f}, likeness {likeness:.3f}, {took:.1f} s")


class Word:
    """The person's word in a model, learned at one of the places of `KINDS`."""

    def __init__(self, backbone, kind: str) -> None:
        self.backbone, self.kind = backbone, kind
        self.tokens = install(backbone, {ID_TOKEN: "person"})
        self.ids = self.tokens.encode([PROMPT.replace(IDENTITY, ID_TOKEN)])
        with torch.no_grad():
            self.plain = backbone.encode_prompt(self.ids)
        place = int((self.tokens.columns(self.ids[0], ID_TOKEN)[0] == 1).nonzero()[0])
        end = int(self.plain.lengths[0]) if kind == "behind" else place + 1
        self.places = slice(place, end)
        self.states = self.plain.hidden[:, self.places].clone().requires_grad_()
        (self.row,) = self.tokens.parameters()

    def embedding(self, rows: int) -> PromptEmbedding:
        if self.kind in ("before", "input"):
            made = self.backbone.encode_prompt(self.ids)
        else:
            hidden = self.plain.hidden
            parts = (hidden[:, : self.places.start], self.states, hidden[:, self.places.stop :])
            made = PromptEmbedding(torch.cat(parts, dim=1), lengths=self.plain.lengths)
        hidden, lengths = made.hidden, made.lengths
        return PromptEmbedding(hidden.expand(rows, -1, -1), lengths=lengths.expand(rows))

    def errors(self, person: Person, batch: int, noise: torch.Generator) -> torch.Tensor:
        """Return the mean squared error of the velocity in the face, for times of ``noise``."""
        latent = encode_image(self.backbone, person.image)
        inside = latent_mask(person.face(), tuple(latent.shape[1:]))
        times = torch.randn(batch, generator=noise, dtype=torch.float64).sigmoid()
        eps = torch.randn((batch, *latent.shape), generator=noise)
        path = RectifiedFlow()
        latents = latent.expand(batch, -1, -1, -1)
        guess = self.backbone.velocity(
            path.add_noise(latents, eps, times), times, self.embedding(batch)
        )
        errors = (guess - path.target(latents, eps, times)).square()
        return (errors * inside).sum() / (inside.sum() * latent.shape[0] * batch)

    def learn(self, person: Person, steps: int, batch: int, rate: float) -> None:
        learned = self.row if self.kind == "input" else self.states
        size = float(learned.detach().square().mean().sqrt())
        optimiser = torch.optim.Adam([learned], lr=rate * size)
        noise = torch.Generator().manual_seed(0)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = rate * size * (1 - step / steps)
            optimiser.zero_grad()
            self.errors(person, batch, noise).backward()
            optimiser.step()

    @torch.no_grad()
    def error(self, person: Person, draws: int) -> float:
        noise = torch.Generator().manual_seed(1)
        return float(np.mean([self.errors(person, 16, noise) for _ in range(draws // 16)]))

    @torch.no_grad()
    def draw(self, count: int) -> list[np.ndarray]:
        pipeline = self.backbone.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        made = self.embedding(count)
        prompts = [row[:n] for row, n in zip(made.hidden, made.lengths.tolist(), strict=True)]
        latents = pipeline(
            prompt_embeds=prompts,
            negative_prompt_embeds=pipeline._encode_prompt([""] * count),
            num_inference_steps=25,
            guidance_scale=2.0,
            width=256,
            height=256,
            generator=[torch.Generator().manual_seed(seed) for seed in range(count)],
            output_type="latent",
        ).images
        return decode_images(self.backbone.vae, latents)


def pairs(data: Path, count: int) -> list[tuple[Person, Person]]:
    """Return two pictures each of the first people that no training saw and that have two."""
    records = json.loads((data / "table.json").read_text())
    numbers = [record["number"] for record in records]
    twice = {n for n in numbers if n % 20 == 0 and numbers.count(n) > 1}
    images = np.load(data / "images.npy", mmap_mode="r")
    vectors = np.load(data / "embeddings.npy")
    found: dict[int, list[Person]] = {}
    for place, record in enumerate(records):
        if record["number"] in twice:
            one = Person(np.array(images[place]), vectors[place], tuple(record["box"]))
            found.setdefault(record["number"], []).append(one)
    return [(own[0], own[1]) for own in list(found.values())[:count]]


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


if __name__ == "__main__":
    main()
