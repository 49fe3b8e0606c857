"""Checks of `mcap profiles check` beyond the TOML, and what `mcap profiles new` writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from mcap.diffusion.prompt_length import too_long
from mcap.errors import InputRejectedError, McapError, MissingResourceError
from mcap.images.open import PhotoSettings
from mcap.images.photo import read_photo
from mcap.style.prompts import composed_prompts, fill, reference_prompts, source_prompts

if TYPE_CHECKING:
    from mcap.style.profile import StyleProfile

SMALLEST_REFERENCE = 512  # pixels of the shorter side
FEWEST_REFERENCES = 4


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong ("error") or could be better ("warning")."""

    level: Literal["error", "warning"]
    kind: Literal["profile", "references", "prompts", "train"]
    message: str


def check_references(profile: StyleProfile, settings: PhotoSettings) -> Iterator[Finding]:
    """Do the reference photos open, and are they large enough?"""
    paths = profile.reference_paths()
    directory = profile.references.directory
    if not paths:
        where = f"'{directory}' holds no pictures" if directory else "no directory is given"
        if profile.references.prompts:
            message = f"{where}; references will be drawn from references.prompts."
        else:
            message = f"{where}, and there are no references.prompts: train needs --reference DIR."
        yield Finding("warning", "references", message)
        return
    for path in paths:
        try:
            photo = read_photo(path, settings)
        except InputRejectedError as error:
            yield Finding("error", "references", str(error))
            continue
        if min(photo.width, photo.height) < SMALLEST_REFERENCE:
            yield Finding(
                "error",
                "references",
                f"{path}: {photo.width} x {photo.height} pixels; the shorter side must have "
                f"{SMALLEST_REFERENCE} or more.",
            )
    if len(paths) < FEWEST_REFERENCES:
        yield Finding(
            "warning",
            "references",
            f"{len(paths)} reference photos; a style is learned better from "
            f"{FEWEST_REFERENCES} or more, of different people.",
        )


@dataclass(frozen=True)
class PromptReaders:
    """The parts of a backbone that say how long a prompt may be."""

    backbone: str
    tokenizers: Sequence[Any]
    text_encoders: Sequence[Any]
    """Or anything else that has their ``config``."""


def prompt_readers(given: str) -> PromptReaders:
    """Return those of a backbone's name, folder, file or hub id.

    A model in diffusers' layout that lies here has them in small files of their own; any other is
    loaded. `MissingResourceError` where it is not here, and nothing is fetched.
    """
    from mcap.cli.backbone import choose_backbone
    from mcap.registry import registry
    from mcap.weights.locate import local_path, require_here
    from mcap.weights.model_source import cached_configs, find_model

    entry, source = choose_backbone(given)
    folder = entry.info.folder
    if source is not None:
        place = find_model(source)
        folder = place.path if place.kind != "hub" else cached_configs(place)
        if folder is None:
            raise MissingResourceError(
                f"{source}: its tokenizer is not here; 'mcap train --backbone {source} --dry-run' "
                "fetches it."
            )
    elif folder is None:
        require_here(entry.needs)
        folder = next(filter(None, map(local_path, entry.needs)), None)
    if folder is not None and (folder / "tokenizer" / "tokenizer_config.json").is_file():
        return PromptReaders(given, *read_tokenizers(folder))
    import torch

    backbone = registry().create("backbone", entry.name, "cpu", torch.float32, source=source)
    return PromptReaders(given, backbone.tokenizers, backbone.text_encoders)


def read_tokenizers(folder: Path) -> tuple[list[Any], list[Any]]:
    """Return the tokenizers of a model in diffusers' layout, and its text encoders' ``config``s."""
    from transformers import AutoTokenizer, CLIPTextConfig

    names = [name for name in ("", "_2") if (folder / f"tokenizer{name}").is_dir()]
    tokenizers = [
        AutoTokenizer.from_pretrained(folder / f"tokenizer{name}", local_files_only=True)
        for name in names
    ]
    configs = [
        CLIPTextConfig.from_pretrained(folder / f"text_encoder{name}", local_files_only=True)
        for name in names
    ]
    return tokenizers, [SimpleNamespace(config=config) for config in configs]


def check_prompts(profile: StyleProfile, readers: PromptReaders) -> Iterator[Finding]:
    """Does every prompt that training and drawing use fit the backbone's tokenizers?"""
    noun = profile.class_noun
    texts = [
        *source_prompts(noun),
        *reference_prompts(noun),
        *composed_prompts(profile),
        *(fill(text, noun) for text in profile.references.prompts),
        profile.prompts.negative,
    ]
    for found in too_long(dict.fromkeys(texts), readers.tokenizers, readers.text_encoders):
        yield Finding("error", "prompts", f"{found} in backbone '{readers.backbone}'.")


def check_train(profile: StyleProfile) -> Iterator[Finding]:
    """Does the recipe know the keys of ``[train]``?"""
    if not profile.train:
        return
    from mcap.training.recipe import Layer, recipe

    try:
        recipe("magicapture", [Layer(f"{profile.path}: [train]", profile.train)])
    except McapError as error:
        yield Finding("error", "train", str(error))


TEMPLATE = """\
# A style profile of mcap. `mcap profiles check {name}` checks it; lines that begin with # are
# optional keys, shown with an example.
schema = 1
name = "{name}"                    # the file's own name, without .toml
title = "{title}"
description = ""
class_noun = "person"              # what the prompts call the subject: person, woman, man, ...
aspect = "1:1"                     # width:height of the finished picture, such as "35:45"
# size_mm = [35, 45]               # print size; of the same aspect
# notice = "Shown to whoever uses this style."

# Where the photos of the style come from; the first that exists wins.
[references]
directory = "refs/{name}"          # beside this file, and never outside its folder
prompts = ["a portrait photo of a {{noun}}"]   # drawn with the backbone where there are no photos

# {{id}} is the person, {{style}} the style, {{noun}} the class noun. Both tokens must be in it.
[prompts]
composed = ["a photo of a {{id}} {{noun}} in the {{style}} style"]
# replace = true                   # train on these alone, without mcap's own templates
negative = ""

# As [smallest, largest] fractions of the finished picture.
[framing]
# head_height = [0.70, 0.80]       # crown to chin, of the height
# eye_line = [0.55, 0.65]          # the eyes above the bottom edge, of the height
# head_center_x = [0.45, 0.55]     # of the width
# draw_border = true               # mcap generate draws the room that a picture lacks for that

# What `mcap enhance --profile` puts behind the person.
[background]
# color = "#f5f5f5"

[generate]
count = 8
# steps = 30
# guidance_scale = 7.0
# scheduler = "dpm++-2m-karras"   # left out: the model's own

# Keys of the recipe that suit this style better.
[train]
# identity_weight = 1.0
"""


def new_profile(name: str) -> str:
    """The commented TOML of a profile to start from; `mcap profiles check` accepts it as it is."""
    return TEMPLATE.format(name=name, title=name.replace("-", " ").capitalize())
