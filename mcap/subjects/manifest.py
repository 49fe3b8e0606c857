"""The files of a subject folder NAME.mcap, and the records of its manifest.json.

    manifest.json                   written first with state "training", last with "complete"
    adapter.safetensors             LoRA in diffusers' key format
    unet/                           instead of it: a whole UNet in diffusers' layout, and
    text_encoder/                   the text encoders where they learned with it
    pytorch_custom_diffusion_weights.safetensors
                                    instead of it: keys and values of cross-attention, as diffusers'
                                    load_attn_procs takes them
    embeddings/mcap-id.safetensors  one learned token a file, as load_textual_inversion takes them
    embeddings/mcap-style.safetensors
    identity.safetensors            mean source embedding, float32[D], and the network's name
    colours.safetensors             instead of it where the subject is a thing: `Palette`
    encoded.safetensors             what an identity encoder made of the photos, to be put into the
                                    pipeline; its metadata says what it belongs to
    references/                     the style's photos, where the backbone drew them
    latents/                        encoded photos, while training
    samples/step-000300.jpg         previews
    metrics.jsonl, tensorboard/     every logged step
    checkpoints/step-000600/        see `mcap.training.checkpoint`

Every file is written under a temporary name and renamed.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

import mcap
from mcap.contracts import SubjectKind
from mcap.diffusion.pooling import Pooling
from mcap.errors import UsageError
from mcap.runtime.documents import read_json

SCHEMA = 1
SUFFIX = ".mcap"
MANIFEST = "manifest.json"
ADAPTER = "adapter.safetensors"
ATTENTION = "pytorch_custom_diffusion_weights.safetensors"
MODULES = ("unet", "text_encoder", "text_encoder_2")
"""Networks that are kept whole, under diffusers' names."""
IDENTITY = "identity.safetensors"
MEASURED = "measured."
"""Begins the names of tensors in `IDENTITY` by networks that did not teach."""
COLOURS = "colours.safetensors"
ENCODED = "encoded.safetensors"
LEARNED = (ADAPTER, ATTENTION, IDENTITY, COLOURS, ENCODED)
"""Files of what was learned of the subject, beside `OF_RESULT`."""
METRICS = "metrics.jsonl"
OF_TRAINING = ("checkpoints", "latents", "references", "samples", "tensorboard")
"""Folders that training fills as it goes."""
OF_RESULT = ("embeddings", *MODULES)
"""Folders that it fills at its end."""
FOLDERS = (*OF_TRAINING, *OF_RESULT)


class Record(BaseModel):
    """A part of the manifest: frozen, and no key but its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneRecord(Record):
    """The model that was trained on; generation must load this one again."""

    name: str
    """As given to ``--backbone``: a registered name, or the entry that reads ``source``."""
    source: str | None = None
    """The local folder or hub id where one was given."""
    id: str
    revision: str
    sha256: str
    licence: str
    commercial: bool


class ProfileRecord(Record):
    """The style profile as training read it."""

    name: str
    title: str = ""
    class_noun: str = "person"
    sha256: str = ""
    """Over everything in the profile that training read."""


class TokenRecord(Record):
    """One learned token."""

    token: str
    initial: str
    """The words whose mean embedding the token started from."""
    file: str
    """Relative to the subject folder."""

    @field_validator("token")
    @classmethod
    def names_a_file(cls, token: str) -> str:
        """Refuse what is no token: other programs' files are named after it."""
        token_file(token)
        return token


class WeightRecord(Record):
    """A network other than the backbone that training used, and its licence."""

    kind: str
    name: str
    licence: str = ""
    commercial: bool = True


class RefusedRecord(Record):
    """A photo that training did not use."""

    name: str
    role: Literal["source", "reference"]
    reason: str


class ConsentRecord(Record):
    """The sentence on whose face may be learned, as it was said when training began."""

    at: str
    """UTC, ISO 8601."""
    words: str


class Manifest(Record):
    """manifest.json. ``inputs`` decides whether a run may go on or is done already."""

    schema_version: int = Field(alias="schema")
    state: Literal["training", "complete"]
    mcap: str
    created: str
    finished: str | None = None
    consent: ConsentRecord | None = None
    """None of a thing, and of subjects of before 0.1.1."""
    subject_kind: SubjectKind = "face"
    """Subjects of before 0.1.1 do not say it: they are people."""
    backbone: BackboneRecord
    profile: ProfileRecord
    recipe: dict[str, Any]
    tokens: list[TokenRecord]
    pooling: Pooling = "config"
    """How SDXL's pooled vector was taken in training; manifests of before do not say."""
    words: dict[str, str] = {}
    """Token -> the word of the vocabulary that stands for it, where none was learned."""
    encoder: str | None = None
    """The identity encoder that draws the subject; None of one that was trained, or whose word is
    all that an encoder made."""
    seed: int
    device: str
    precision: str
    threads: int
    inputs: dict[str, Any]
    refused: list[RefusedRecord] = []
    metrics: dict[str, Any] = {}
    licences: list[WeightRecord] = []
    files: dict[str, str] = {}
    """Relative path -> sha256 of the files that generation reads; filled on completion."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @property
    def sha256(self) -> str:
        """Over the files that generation reads: a subject that is trained again has another."""
        digest = hashlib.sha256()
        for name, sha256 in sorted(self.files.items()):
            digest.update(f"{sha256}  {name}\n".encode())
        return digest.hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Return manifest.json of a subject folder in whatever state; `UsageError` where it is none."""
    file = path / MANIFEST
    try:
        data = read_json(file)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{path}: is not a subject folder (it has no {MANIFEST}); `mcap train` writes one."
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read: {error}.") from None
    found = data.get("schema") if isinstance(data, dict) else None
    if found != SCHEMA:
        version = data.get("mcap") if isinstance(data, dict) else None
        writer = f"mcap {version}" if version else "of unknown version"
        raise UsageError(
            f"{file}: has schema {found!r}, and this mcap {mcap.__version__} reads schema "
            f"{SCHEMA}; use the mcap that wrote it ({writer}), or train again."
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        keys = ", ".join(".".join(str(part) for part in item["loc"]) for item in error.errors())
        raise UsageError(f"{file}: wrong or missing keys: {keys}.") from None


def is_subject_folder(path: Path) -> bool:
    """Return True for a folder with a manifest, in whatever state."""
    return (path / MANIFEST).is_file()


def token_file(token: str) -> str:
    """Return the path of a token's file in the subject folder.

    ``<mcap-id>`` -> ``embeddings/mcap-id.safetensors``. ValueError for what is no token.
    """
    bare = token.strip("<>")
    if token != f"<{bare}>" or not bare.replace("-", "").isalnum() or bare != bare.lower():
        raise ValueError(f"a learned token is lower case in angle brackets, not '{token}'")
    return f"embeddings/{bare}.safetensors"


def now() -> str:
    """Return the time in UTC as manifests have it, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
