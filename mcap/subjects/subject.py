"""The subject folder NAME.mcap: what training writes and everything later reads.

    manifest.json                   written first with state "training", last with "complete"
    adapter.safetensors             LoRA in diffusers' key format
    embeddings/mcap-id.safetensors  one learned token a file, as load_textual_inversion takes them
    embeddings/mcap-style.safetensors
    identity.safetensors            mean source embedding, float32[D], and the network's name
    references/                     the style's photos, where the backbone drew them
    latents/                        encoded photos, while training
    samples/step-000300.jpg         previews
    metrics.jsonl, tensorboard/     every logged step
    checkpoints/step-000600/        see `mcap.training.checkpoint`

Every file is written under a temporary name and renamed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import mcap
from mcap.errors import InputRejectedError, UsageError
from mcap.runtime.files import sha256_of, write_bytes, write_json
from mcap.runtime.safetensors import safetensors_bytes

if TYPE_CHECKING:
    import torch

    from mcap.contracts import Float32Array

SCHEMA = 1
SUFFIX = ".mcap"
MANIFEST = "manifest.json"
ADAPTER = "adapter.safetensors"
IDENTITY = "identity.safetensors"
METRICS = "metrics.jsonl"
FOLDERS = ("embeddings", "samples", "tensorboard", "checkpoints", "references", "latents")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneRecord(_Record):
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


class ProfileRecord(_Record):
    name: str
    title: str = ""
    class_noun: str = "person"
    sha256: str = ""
    """Of everything in the profile that training read."""


class TokenRecord(_Record):
    token: str
    initial: str
    """The words whose mean embedding the token started from."""
    file: str
    """Relative to the subject folder."""


class WeightRecord(_Record):
    kind: str
    name: str
    licence: str = ""
    commercial: bool = True


class RefusedRecord(_Record):
    name: str
    role: Literal["source", "reference"]
    reason: str


class Manifest(_Record):
    """manifest.json. ``inputs`` is what decides whether a run may go on or is done already."""

    schema_version: int = Field(alias="schema")
    state: Literal["training", "complete"]
    mcap: str
    created: str
    finished: str | None = None
    backbone: BackboneRecord
    profile: ProfileRecord
    recipe: dict[str, Any]
    tokens: list[TokenRecord]
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


@dataclass(frozen=True)
class Subject:
    """A complete, verified subject."""

    path: Path
    manifest: Manifest
    adapter: Path | None  # None where the recipe trains no LoRA
    embeddings: Mapping[str, Path]  # token -> file
    identity_embedding: Float32Array  # float32[D], unit length: mean over the source photos
    identity_network: str

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(SUFFIX)

    @property
    def sha256(self) -> str:
        """Over the files that drawing reads, so that a subject trained again is another one."""
        digest = hashlib.sha256()
        for name, sha256 in sorted(self.manifest.files.items()):
            digest.update(f"{sha256}  {name}\n".encode())
        return digest.hexdigest()

    def load_into(
        self,
        pipeline: Any,
        adapter_scale: float = 1.0,
        token_scale: float = 1.0,
        *,
        adapter_name: str = "mcap",
        rename: Mapping[str, str] | None = None,
    ) -> None:
        """Put LoRA and learned tokens into a diffusers pipeline over the same backbone.

        ``adapter_scale`` scales the LoRA. ``token_scale`` goes from the words each token started
        from (0) to what it learned (1), in a straight line, and beyond. A second subject beside
        this one needs an ``adapter_name`` of its own and, with ``rename``, other tokens; its LoRA
        is then the only active one until ``pipeline.set_adapters`` is told otherwise.
        """
        from mcap.runtime.randomness import preserve_rng_state

        # A larger embedding table and new LoRA layers are filled from the global random state
        # before the values that we have are put in.
        with preserve_rng_state(pipeline.device):
            for record in self.manifest.tokens:
                vectors = read_embedding(self.embeddings[record.token])
                token = (rename or {}).get(record.token, record.token)
                _load_token(pipeline, token, record.initial, vectors, token_scale)
            if self.adapter is not None and adapter_scale != 0:
                with quiet_libraries():
                    pipeline.load_lora_weights(
                        str(self.path), weight_name=self.adapter.name, adapter_name=adapter_name
                    )
                pipeline.set_adapters(adapter_name, adapter_weights=adapter_scale)

    def unload_from(self, pipeline: Any) -> None:
        """Take out again what `load_into` put in, all of it or the part that it came to."""
        unload(pipeline, [record.token for record in self.manifest.tokens])


def read_subject(path: Path | str) -> Subject:
    """The subject in a folder.

    Raises `UsageError` for what is no subject folder or of an unknown schema, `InputRejectedError` for
    one that is not complete or of which a file is missing or altered.
    """
    from safetensors import safe_open

    path = Path(path)
    manifest = read_manifest(path)
    if manifest.state != "complete":
        raise InputRejectedError(
            f"{path}: training has not finished (state '{manifest.state}'); go on with the same "
            f"`mcap train` command and --resume."
        )
    for name, expected in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise InputRejectedError(f"{file}: is missing; the manifest lists it. Train again.")
        if sha256_of(file) != expected:
            raise InputRejectedError(
                f"{file}: is not the file that training wrote (its sha256 differs from the "
                "manifest's). Restore it or train again."
            )
    required = [IDENTITY, *(record.file for record in manifest.tokens)]
    for name in required:
        if name not in manifest.files:
            raise InputRejectedError(f"{path / MANIFEST}: key 'files' does not list {name}.")
    with safe_open(path / IDENTITY, framework="numpy") as file:
        embedding = file.get_tensor("embedding")
        network = (file.metadata() or {}).get("network", "")
    return Subject(
        path=path,
        manifest=manifest,
        adapter=path / ADAPTER if ADAPTER in manifest.files else None,
        embeddings={record.token: path / record.file for record in manifest.tokens},
        identity_embedding=embedding,
        identity_network=network,
    )


def read_manifest(path: Path) -> Manifest:
    """manifest.json of a subject folder in whatever state; `UsageError` where it is none."""
    file = path / MANIFEST
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{path}: is not a subject folder (it has no {MANIFEST}); `mcap train` writes one."
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{file}: cannot be read: {error}.") from None
    found = data.get("schema") if isinstance(data, dict) else None
    if found != SCHEMA:
        raise UsageError(
            f"{file}: has schema {found!r}, and this mcap {mcap.__version__} reads schema "
            f"{SCHEMA}; use the mcap that wrote it ({_writer(data)}), or train again."
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        keys = ", ".join(".".join(str(part) for part in item["loc"]) for item in error.errors())
        raise UsageError(f"{file}: wrong or missing keys: {keys}.") from None


def read_embedding(path: Path) -> list[torch.Tensor]:
    """A learned token's vectors, float32[D], one a text encoder (SDXL: clip_l, then clip_g)."""
    from safetensors.torch import load_file

    state = load_file(path)
    if set(state) == {"clip_l", "clip_g"}:
        return [state["clip_l"].reshape(-1), state["clip_g"].reshape(-1)]
    if len(state) != 1:
        raise InputRejectedError(
            f"{path}: holds {len(state)} tensors, and a token's file holds one."
        )
    return [tensor.reshape(-1) for tensor in state.values()]


class SubjectWriter:
    """Writes one subject folder, from the first manifest to the last."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._files: dict[str, str] = {}

    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> SubjectWriter:
        """Start a new folder; what an earlier run left there is taken away."""
        if manifest.state != "training":
            raise ValueError("a subject starts in state 'training'")
        if (path / MANIFEST).exists():
            # First the manifest, so that a kill in between leaves nothing that looks complete.
            (path / MANIFEST).unlink()
            for name in FOLDERS:
                shutil.rmtree(path / name, ignore_errors=True)
            for name in (ADAPTER, IDENTITY, METRICS):
                (path / name).unlink(missing_ok=True)
        path.mkdir(parents=True, exist_ok=True)
        writer = cls(path, manifest)
        writer._write_manifest()
        return writer

    def amend(self, **fields: Any) -> None:
        """Change what the manifest says while training goes on, such as what was refused."""
        self.manifest = self.manifest.model_copy(update=fields)
        self._write_manifest()

    @classmethod
    def reopen(cls, path: Path) -> SubjectWriter:
        """Go on with the folder of an interrupted run."""
        return cls(path, read_manifest(path))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def latents(self) -> Path:
        return self.path / "latents"

    @property
    def references(self) -> Path:
        return self.path / "references"

    def sample_path(self, step: int) -> Path:
        return self.path / "samples" / f"step-{step:06d}.jpg"

    def log(self, record: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl."""
        line = json.dumps(dict(record), ensure_ascii=False, allow_nan=False) + "\n"
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(line)

    def cut_metrics(self, step: int) -> None:
        """Drop what was logged after ``step``, and a line that a kill left unfinished."""
        file = self.path / METRICS
        if not file.exists():
            return
        kept = []
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                logged = json.loads(line)["step"]
            except json.JSONDecodeError:
                break  # only the last line can be cut short
            if logged <= step:
                kept.append(line + "\n")
        write_bytes(file, "".join(kept).encode())

    def write_adapter(
        self, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
    ) -> None:
        """``tensors`` and ``metadata`` as `mcap.diffusion.lora.lora_state` gives them."""
        header = {"format": "pt", **metadata}
        self._write(ADAPTER, safetensors_bytes(tensors, header))

    def write_embedding(self, token: str, vectors: Sequence[torch.Tensor]) -> None:
        """One learned token: a vector float[D] for each text encoder, saved in float32."""
        vectors = [vector.detach().float().reshape(-1) for vector in vectors]
        if len(vectors) == 1:
            tensors = {token: vectors[0]}
        elif len(vectors) == 2:
            tensors = {"clip_l": vectors[0], "clip_g": vectors[1]}
        else:
            raise ValueError(f"a token has one vector or two, not {len(vectors)}")
        self._write(embedding_file(token), safetensors_bytes(tensors, {"format": "pt"}))

    def write_identity(self, embedding: torch.Tensor, network: str) -> None:
        """The mean source embedding float[D], and which network it comes from."""
        tensors = {"embedding": embedding.detach().float().reshape(-1)}
        self._write(IDENTITY, safetensors_bytes(tensors, {"format": "pt", "network": network}))

    def complete(self, metrics: Mapping[str, Any]) -> Manifest:
        """The last file of all: the manifest with state "complete" and every file's hash."""
        # They decode to the photos, which nobody expects in a folder that may be passed on.
        shutil.rmtree(self.latents, ignore_errors=True)
        self.manifest = self.manifest.model_copy(
            update={
                "state": "complete",
                "finished": now(),
                "metrics": dict(metrics),
                "files": dict(sorted(self._files.items())),
            }
        )
        self._write_manifest()
        return self.manifest

    def _write(self, name: str, data: bytes) -> None:
        write_bytes(self.path / name, data)
        self._files[name] = sha256_of(self.path / name)

    def _write_manifest(self) -> None:
        write_json(self.path / MANIFEST, self.manifest.model_dump(mode="json", by_alias=True))


def embedding_file(token: str) -> str:
    """Relative path of a token's file: ``<mcap-id>`` -> ``embeddings/mcap-id.safetensors``."""
    bare = token.strip("<>")
    if token != f"<{bare}>" or not bare.replace("-", "").isalnum() or bare != bare.lower():
        raise ValueError(f"a learned token is lower case in angle brackets, not '{token}'")
    return f"embeddings/{bare}.safetensors"


def now() -> str:
    """The time in UTC, as manifests have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def is_subject_folder(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def is_free(path: Path) -> bool:
    """Whether a new subject may be written there: nothing is there, or an empty folder."""
    if not path.exists():
        return True
    return path.is_dir() and not os.listdir(path)


def _writer(data: Any) -> str:
    version = data.get("mcap") if isinstance(data, dict) else None
    return f"mcap {version}" if version else "of unknown version"


def text_encoders(pipeline: Any) -> list[tuple[Any, Any]]:
    """(text encoder, tokenizer) pairs of a pipeline: one for SD1.5, two for SDXL."""
    pairs = [(pipeline.text_encoder, pipeline.tokenizer)]
    if getattr(pipeline, "text_encoder_2", None) is not None:
        pairs.append((pipeline.text_encoder_2, pipeline.tokenizer_2))
    return pairs


def unload(pipeline: Any, tokens: Sequence[str]) -> None:
    """Take every LoRA layer and these tokens out of a pipeline; those that it has."""
    encoders = text_encoders(pipeline)
    if any(getattr(m, "peft_config", None) for m in (pipeline.unet, *(e for e, _ in encoders))):
        pipeline.unload_lora_weights()
    for encoder, tokenizer in encoders:
        there = [token for token in tokens if token in tokenizer.get_added_vocab()]
        if there:
            pipeline.unload_textual_inversion(there, tokenizer=tokenizer, text_encoder=encoder)


def _load_token(
    pipeline: Any, token: str, initial: str, vectors: list[torch.Tensor], scale: float
) -> None:
    pairs = text_encoders(pipeline)
    if len(pairs) != len(vectors):
        raise UsageError(
            f"Token {token} was learned for {len(vectors)} text encoder(s), and this "
            f"backbone has {len(pairs)}; use the backbone that the subject was trained on."
        )
    for (encoder, tokenizer), learned in zip(pairs, vectors, strict=True):
        table = encoder.get_input_embeddings().weight
        if table.shape[1] != learned.shape[0]:
            raise UsageError(
                f"Token {token} has {learned.shape[0]} values, and this backbone's text "
                f"encoder takes {table.shape[1]}; use the backbone that the subject was trained on."
            )
        if scale != 1:
            ids = tokenizer(initial, add_special_tokens=False).input_ids
            start = table[ids].detach().float().mean(dim=0).cpu()
            learned = start + scale * (learned - start)
        with quiet_libraries():  # about how the rows begin that are overwritten next
            pipeline.load_textual_inversion(
                {token: learned},
                token=token,
                text_encoder=encoder,
                tokenizer=tokenizer,
            )


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Errors only: diffusers warns of each LoRA without a text part, transformers of new rows,
    peft of a second adapter."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
