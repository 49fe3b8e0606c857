"""Measures where each layer of the small transformer looks for a person's word.

    python benchmarks/small_transformer/localisation.py --model FOLDER --data DATA [--count 24]
    python benchmarks/small_transformer/localisation.py --model FOLDER --subject me.mcap
        --photos benchmarks/people/1

Pictures of people that no training saw, noised to s = 0.3, 0.5 and 0.7, under "a photo of a WORD
person" with the identity word's row for that person. Of each layer the map of the word
(`mcap.diffusion.joint_attention`), the mean over its heads, is held against the ellipse in the box
of the face: AUC is the share of pairs of a place in the face and one outside of it of which the
word looks more at the one in the face (0.5: it does not know where the face is); "inside" is the
share of its attention that is in the face, by the face's share of the picture. "own" is the AUC of
the word's share among the prompt's own tokens, without the padding that the layer attends to.

With ``--subject`` it is a word that was learned, with the subject's LoRA, on the person's photos.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from model import IDENTITY
from people import Person, held_out, identity_rows, load_model, put_word
from PIL import Image

from mcap.diffusion.attention import evenly_spread
from mcap.diffusion.joint_attention import JointAttentionRecorder, joint_attention_layers
from mcap.diffusion.latents import encode_image, latent_mask
from mcap.diffusion.rectified_flow import RectifiedFlow
from mcap.registry import registry
from mcap.subjects.subject import read_subject

TIMES = (0.3, 0.5, 0.7)
WORDS = (IDENTITY, " person", " photo", " of")
"""The person's word, the class noun, and two that stand for nothing in a place."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--subject", type=Path, help="a subject that was trained on the model")
    parser.add_argument("--photos", type=Path, help="the person's photos, square")
    parser.add_argument("--count", type=int, default=24, help="people")
    parser.add_argument(
        "--depth", type=float, nargs=2, default=(0.15, 0.5), metavar=("FROM", "TO"),
        help="attention_from and attention_to, whose layers' mean map is measured, too",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_model(options.model)
    pipeline = backbone.pipeline()
    rows: list[torch.Tensor | None]
    if options.subject is not None:
        read_subject(options.subject).load_into(pipeline)
        people = photographed(options.photos)
        rows = [None] * len(people)
    else:
        people = held_out(options.data, options.count)
        rows = list(identity_rows(options.model, people))
    names = list(joint_attention_layers(backbone.unet))
    chosen = [names.index(name) for name in evenly_spread(names, 0, options.depth) or names]
    columns = [*names, "all layers", f"depth {options.depth[0]:g} to {options.depth[1]:g}"]
    found = {word: np.zeros((len(people), len(TIMES), len(columns), 3)) for word in WORDS}
    recorder = JointAttentionRecorder(backbone.unet)
    heads = recorder.layers[names[0]].heads
    noise = torch.Generator().manual_seed(0)
    with recorder.attached(), torch.no_grad():
        for place, row in enumerate(rows):
            if row is not None:
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
                own = (ids != tokenizer.pad_token_id).float()
                everything = together(recorder.maps(own, grid)[0], heads, chosen)
                for word in WORDS:
                    (token,) = tokenizer(word, add_special_tokens=False).input_ids
                    maps = recorder.maps((ids == token).float(), grid)[0]
                    maps = together(maps, heads, chosen)
                    for layer, one in enumerate(maps):
                        among = auc(one / everything[layer], inside)
                        figures = (auc(one, inside), share(one, inside), among)
                        found[word][place, when, layer] = figures
    table = {}
    for word, values in found.items():
        print(f"{word.strip()}: layer, AUC (standard error), inside, own; AUC at s = {TIMES}")
        for layer, name in enumerate(columns):
            own = values[:, :, layer, 0].mean(axis=1)
            error = own.std(ddof=1) / len(own) ** 0.5 if len(own) > 1 else 0.0
            at = values[:, :, layer, 0].mean(axis=0)
            within, among = values[:, :, layer, 1:].mean(axis=(0, 1))
            table[f"{word.strip()} {name}"] = [
                round(float(v), 4) for v in (own.mean(), error, within, among)
            ]
            told = ", ".join(f"{value:.3f}" for value in at)
            print(f"  {name}: {own.mean():.3f} ({error:.3f}), {within:.2f}, {among:.3f}; {told}")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))


def together(maps: torch.Tensor, heads: int, within: list[int]) -> np.ndarray:
    """Return the mean over the heads of float[layers x heads, h, w], and behind the layers the mean
    of all and of those ``within``: float[layers + 2, h, w]."""
    layers = maps.unflatten(0, (-1, heads)).mean(dim=1)
    return torch.cat([layers, layers.mean(0)[None], layers[within].mean(0)[None]]).numpy()


def photographed(folder: Path) -> list[Person]:
    """Return the person of a folder of square photos, each at 256 pixels, without a vector."""
    detector = registry().create("detector", "yunet")
    people = []
    for file in sorted(folder.glob("*.jpg")):
        image = np.array(Image.open(file).convert("RGB").resize((256, 256)))
        left, top, right, bottom = detector.detect(image)[0].box
        people.append(Person(image, np.zeros(0), (left, top, right - left, bottom - top)))
    return people


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
