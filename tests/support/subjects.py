"""A complete subject of the tiny model without any training, and a profile to draw it in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from mcap.contracts import DetectorInfo, Face
from mcap.diffusion.lora import add_lora, add_text_lora, lora_state, remove_lora
from mcap.generation.settings import GenerationModels
from mcap.images.palette import Palette
from mcap.style.profile import StyleProfile
from mcap.subjects.manifest import TokenRecord, token_file
from mcap.subjects.subject import Subject, read_subject
from mcap.subjects.writer import SubjectWriter
from tests.support.tiny import SIZE, tiny_backbone, tiny_identity
from tests.support.tiny_run import tiny_manifest, tiny_recipe
from tests.support.tiny_transformers import tiny_klein, tiny_zimage_backbone

LANDMARKS = np.array([[24, 26], [40, 26], [32, 34], [26, 42], [38, 42]], np.float32)


class FixedDetector:
    """Finds a face in the middle of every picture that is not darker than ``darkest``."""

    info = DetectorInfo()

    def __init__(self, darkest: float = -1.0) -> None:
        self.darkest = darkest
        self.calls = 0

    def detect(self, image):
        self.calls += 1
        if image.mean() < self.darkest:
            return []
        height, width = image.shape[:2]
        shift = np.array([(width - SIZE) / 2, (height - SIZE) / 2], np.float32)
        box = np.array([16, 14, 48, 52], np.float32) + np.tile(shift, 2)
        return [Face(tuple(float(value) for value in box), 0.9, LANDMARKS + shift)]


def models(backbone, detector=None, identity=None) -> GenerationModels:
    return GenerationModels(backbone, identity or tiny_identity(), detector or FixedDetector())


def make_profile(name: str = "test", **keys) -> StyleProfile:
    values = {
        "schema": 1,
        "name": name,
        "aspect": "4:5",
        "prompts": {"composed": ["a photo of a {id} {noun} in the {style} style"]},
        "generate": {"steps": 2, "count": 3},
    }
    return StyleProfile.model_validate(values | keys)


def make_subject(
    folder: Path,
    *,
    scale: float = 0.3,
    complete: bool = True,
    seed: int = 7,
    kind: str = "sd",
    text: bool = False,
    alpha: float | None = None,
    palette: Palette | None = None,
) -> Subject:
    """LoRA and tokens drawn from ``seed``, strong enough to be seen in a picture.

    ``kind`` is that of the tiny model, "klein" or "zimage" a transformer; ``text`` adds LoRA to its
    text encoders, ``alpha`` is written instead of the rank. With ``palette`` the subject is a thing
    of these colours.
    """
    made = {"klein": tiny_klein, "zimage": tiny_zimage_backbone}
    backbone = made[kind]() if kind in made else tiny_backbone(kind=kind)
    manifest = tiny_manifest(backbone, tiny_recipe()).model_copy(
        update={
            "recipe": {},
            "subject_kind": "face" if palette is None else "object",
            "tokens": [
                TokenRecord(token=token, initial=words, file=token_file(token))
                for token, words in (("<mcap-id>", "person"), ("<mcap-style>", "style"))
            ],
            "threads": 1,
        }
    )
    writer = SubjectWriter.create(folder, manifest)
    random = torch.Generator().manual_seed(seed)
    parameters = add_lora(backbone.unet, rank=2)
    for encoder in backbone.text_encoders if text else ():
        parameters += add_text_lora(encoder, rank=2)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(scale * torch.randn(parameter.shape, generator=random))
    tensors, metadata = lora_state(backbone)
    if alpha is not None:
        config = json.loads(metadata["lora_adapter_metadata"])
        config |= {key: alpha for key in config if key.endswith(".lora_alpha")}
        metadata["lora_adapter_metadata"] = json.dumps(config)
    writer.write_adapter(tensors, metadata)
    for module in (backbone.unet, *backbone.text_encoders):
        remove_lora(module)
    widths = [e.get_input_embeddings().weight.shape[1] for e in backbone.text_encoders]
    for record in manifest.tokens:
        vectors = [torch.randn(width, generator=random) for width in widths]
        writer.write_embedding(record.token, vectors)
    embedding = torch.nn.functional.normalize(torch.randn(32, generator=random), dim=0)
    if palette is None:
        writer.write_identity(embedding, tiny_identity().name)
    else:
        writer.write_palette(palette)
    if complete:
        writer.complete({})
        return read_subject(folder)
    return None
