"""Measures where each layer of the small transformer looks for a person's word.

    python benchmarks/small_transformer/localisation.py --model FOLDER --data DATA [--count 24]

Pictures of people that no training saw, noised to s = 0.3, 0.5 and 0.7, under "a photo of a WORD
person" with the identity word's row for that person. Of each layer the map of the word
(`mcap.diffusion.joint_attention`), the mean over its heads, is held against the ellipse in the box
of the face: AUC is the share of pairs of a place in the face and one outside of it of which the
word looks more at the one in the face (0.5: it does not know where the face is); "inside" is the
share of its attention that is in the face, by the face's share of the picture.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from model import IDENTITY
from people import held_out, identity_rows, load_model, put_word

from mcap.diffusion.joint_attention import JointAttentionRecorder, joint_attention_layers
from mcap.diffusion.latents import encode_image, latent_mask
from mcap.diffusion.rectified_flow import RectifiedFlow

TIMES = (0.3, 0.5, 0.7)
WORDS = (IDENTITY, " person", " photo", " of")
"""The person's word, the class noun, and two that stand for nothing in a place."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--count", type=int, default=24, help="people")
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_model(options.model)
    pipeline = backbone.pipeline()
    people = held_out(options.data, options.count)
    names = list(joint_attention_layers(backbone.unet))
    found = {word: np.zeros((len(people), len(TIMES), len(names), 2)) for word in WORDS}
    recorder = JointAttentionRecorder(backbone.unet)
    heads = recorder.layers[names[0]].heads
    noise = torch.Generator().manual_seed(0)
    with recorder.attached(), torch.no_grad():
        for place, row in enumerate(identity_rows(options.model, people)):
            put_word(pipeline, row)
            latent = encode_image(backbone, people[place].image)
            grid = tuple(latent.shape[1:])
            inside = latent_mask(people[place].face(), grid)[0].numpy()
            tokenizer = backbone.tokenizers[0]
            ids = tokenizer(
                [f"a photo of a {IDENTITY} person"], padding="max_length", return_tensors="pt"
            ).input_ids
            embedding = backbone.encode_prompt([ids])
            for when, s in enumerate(TIMES):
                times = torch.tensor([s], dtype=torch.float64)
                eps = torch.randn(latent.shape, generator=noise)
                noised = RectifiedFlow().add_noise(latent[None], eps[None], times)
                with recorder.recording():
                    backbone.velocity(noised, times, embedding)
                for word in WORDS:
                    (token,) = tokenizer(word, add_special_tokens=False).input_ids
                    maps = recorder.maps((ids == token).float(), grid)[0]
                    maps = maps.unflatten(0, (len(names), heads)).mean(dim=1).numpy()
                    for layer, one in enumerate(maps):
                        found[word][place, when, layer] = auc(one, inside), share(one, inside)
    table = {}
    for word, values in found.items():
        print(f"{word.strip()}: layer, AUC (standard error), inside; AUC at s = {TIMES}")
        for layer, name in enumerate(names):
            own = values[:, :, layer, 0].mean(axis=1)
            error = own.std(ddof=1) / len(own) ** 0.5 if len(own) > 1 else 0.0
            at = values[:, :, layer, 0].mean(axis=0)
            within = values[:, :, layer, 1].mean()
            table[f"{word.strip()} {name}"] = [
                round(float(v), 4) for v in (own.mean(), error, within)
            ]
            told = ", ".join(f"{value:.3f}" for value in at)
            print(f"  {name}: {own.mean():.3f} ({error:.3f}), {within:.2f}; {told}")
        mean = values[..., 0].mean()
        print(f"  mean of the layers: {mean:.3f}")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))


def auc(values: np.ndarray, inside: np.ndarray) -> float:
    """Return the area under the ROC curve of float[h, w] for the places of ``inside`` >= 0.5."""
    first, other = values[inside >= 0.5], values[inside < 0.5]
    above = (first[:, None] > other[None]).mean() + 0.5 * (first[:, None] == other[None]).mean()
    return float(above)


def share(values: np.ndarray, inside: np.ndarray) -> float:
    """Return the share of float[h, w] inside, by the share of the places that are inside."""
    return float((values * inside).sum() / values.sum() / inside.mean())


if __name__ == "__main__":
    main()
