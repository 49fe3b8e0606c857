"""A trained subject: read and verified from its folder, put into a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mcap.diffusion.key_value import plain_names
from mcap.diffusion.pipeline_tokens import (
    load_output,
    load_token,
    load_weights,
    quiet_libraries,
    text_encoders,
    unload,
)
from mcap.diffusion.pooling import pool_as_configured
from mcap.diffusion.steering import steer
from mcap.errors import InputRejectedError
from mcap.images.palette import Palette
from mcap.runtime.documents import read_json
from mcap.runtime.files import is_inside, sha256_of
from mcap.subjects.manifest import (
    ADAPTER,
    ATTENTION,
    COLOURS,
    ENCODED,
    IDENTITY,
    MANIFEST,
    MEASURED,
    MODULES,
    SUFFIX,
    Manifest,
    read_manifest,
)

if TYPE_CHECKING:
    import torch

    from mcap.contracts import EncodedIdentity, Float32Array, SteersPipeline, TransformerKind

SD2_TEXT_WIDTH = 1024
SDXL_CROSS_ATTENTION = 2048


@dataclass(frozen=True)
class Subject:
    """A complete, verified subject."""

    path: Path
    manifest: Manifest
    adapter: Path | None  # None where the recipe trains no LoRA
    attention: Path | None  # keys and values of cross-attention, where they learned
    modules: Mapping[str, Path]  # "unet", "text_encoder" -> folder of a network that learned whole
    embeddings: Mapping[str, Path]  # token -> file
    identity_embedding: Float32Array | None
    """float32[D], unit length: mean over the source photos; None where the subject is a thing."""
    identity_network: str
    """"" where the subject is a thing."""
    measured: Mapping[str, Float32Array] = field(default_factory=dict)
    """The same by networks that did not teach, by name; {} where none was there in training."""
    palette: Palette | None = None
    """The colours of a thing; None where the subject is a person."""
    encoded: Path | None = None
    """What the manifest's ``encoder`` made of the photos; None where no encoder draws it."""

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(SUFFIX)

    @property
    def sha256(self) -> str:
        """Over the files that generation reads; see `Manifest.sha256`."""
        return self.manifest.sha256

    @property
    def has_weights(self) -> bool:
        """True where weights of its own take the place of the backbone's."""
        return self.attention is not None or bool(self.modules)

    @property
    def words_are_outputs(self) -> bool:
        """True where its words are what they add behind the text encoder (`OutputRows`)."""
        return self.manifest.recipe.get("word_place") == "output"

    @property
    def transformer(self) -> TransformerKind | None:
        """The transformer that it was trained on, by the layers of its LoRA or, without one, by the
        backbone's name; None where it was a UNet."""
        from safetensors import safe_open

        if self.adapter is None:
            by_name: dict[str, TransformerKind] = {"klein": "klein", "zimage": "zimage"}
            return by_name.get(self.manifest.backbone.name)
        with safe_open(self.adapter, framework="numpy") as file:
            names = set(file.keys())
        if any(name.startswith("transformer.layers.") for name in names):
            return "zimage"
        return "klein" if any(name.startswith("transformer.") for name in names) else None

    def load_into(
        self,
        pipeline: Any,
        adapter_scale: float = 1.0,
        token_scale: float = 1.0,
        *,
        adapter_name: str = "mcap",
        rename: Mapping[str, str] | None = None,
    ) -> None:
        """Put all that was learned into a diffusers pipeline over the same backbone.

        ``adapter_scale`` scales the LoRA, or how far weights go from the backbone's own (0) to the
        learned ones (1). ``token_scale`` goes from the words each token started from (0) to what it
        learned (1), in a straight line, and beyond. A second subject beside this one needs an
        ``adapter_name`` of its own and, with ``rename``, other tokens; its LoRA is then the only
        active one until ``pipeline.set_adapters`` is told otherwise.
        """
        self.load_weights_into(pipeline, adapter_scale)
        self.load_words_into(
            pipeline, adapter_scale, token_scale, adapter_name=adapter_name, rename=rename
        )

    def load_weights_into(self, pipeline: Any, scale: float = 1.0) -> None:
        """Put the first half in: weights in the place of the backbone's own, before any LoRA."""
        from safetensors.torch import load_file

        from mcap.runtime.randomness import preserve_rng_state

        if scale == 0:
            return
        for name, folder in self.modules.items():
            module = getattr(pipeline, name)
            with preserve_rng_state(pipeline.device):
                learned = type(module).from_pretrained(folder, local_files_only=True)
            load_weights(module, learned.state_dict(), scale)
        if self.attention is not None:
            load_weights(pipeline.unet, plain_names(load_file(self.attention)), scale)

    def load_words_into(
        self,
        pipeline: Any,
        adapter_scale: float = 1.0,
        token_scale: float = 1.0,
        *,
        adapter_name: str = "mcap",
        rename: Mapping[str, str] | None = None,
    ) -> None:
        """Put the second half in: learned tokens and the LoRA; see `load_into`."""
        from mcap.runtime.randomness import preserve_rng_state

        # A larger embedding table and new LoRA layers are filled from the global random state
        # before the values that we have are put in.
        with preserve_rng_state(pipeline.device):
            own = [record.token for record in self.manifest.tokens]
            names = {token: (rename or {}).get(token, token) for token in own}
            for record in self.manifest.tokens:
                vectors = read_token_vectors(self.embeddings[record.token])
                given = (pipeline, names[record.token], record.initial)
                if self.words_are_outputs:
                    load_output(*given, vectors[0], token_scale)
                else:
                    load_token(*given, vectors, token_scale)
            encoders = text_encoders(pipeline)
            if self.manifest.pooling == "config" and len(encoders) == 2:
                pool_as_configured(*encoders[1], names.values())
            if self.adapter is not None and adapter_scale != 0:
                with quiet_libraries():
                    pipeline.load_lora_weights(
                        str(self.path), weight_name=self.adapter.name, adapter_name=adapter_name
                    )
                pipeline.set_adapters(adapter_name, adapter_weights=adapter_scale)

    def read_encoded(self) -> EncodedIdentity:
        """Return what the identity encoder made. ValueError of a subject that has nothing."""
        from safetensors import safe_open

        from mcap.contracts import EncodedIdentity

        if self.encoded is None:
            raise ValueError(f"{self.path}: no identity encoder made this subject")
        with safe_open(self.encoded, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return EncodedIdentity(tensors=tensors, metadata=file.metadata() or {})

    def steer(self, pipeline: Any, encoder: SteersPipeline, scale: float = 1.0) -> None:
        """Let the encoder put what it made into a pipeline, before any LoRA, until `unload_from`.

        ``scale`` is times the recipe's own scale of the person. Apart from `load_into`: it is in
        every picture, whatever the prompt says, and so none of what the model has learned.
        """
        recipe = self.manifest.recipe
        scales = (scale * recipe["identity_scale"], recipe["style_scale"])
        arguments = encoder.attach(pipeline, self.read_encoded(), *scales)
        steer(pipeline, arguments, encoder.detach)

    def unload_from(self, pipeline: Any) -> None:
        """Take out again what `load_into` put in, all of it or the part that it came to."""
        unload(pipeline, [record.token for record in self.manifest.tokens])


def read_subject(path: Path | str) -> Subject:
    """Read and verify the subject in a folder.

    Raises `mcap.errors.UsageError` for what is no subject folder or of an unknown schema,
    `InputRejectedError` for one that is not complete or has a file missing or altered.
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
        if not is_inside(path, name):
            raise InputRejectedError(
                f"{path / MANIFEST}: key 'files': {name} leads outside the subject's own folder. "
                "Get the subject anew from where it came from, or train again."
            )
        if not file.is_file():
            raise InputRejectedError(f"{file}: is missing; the manifest lists it. Train again.")
        if sha256_of(file) != expected:
            raise InputRejectedError(
                f"{file}: is not the file that training wrote (its sha256 differs from the "
                "manifest's). Restore it or train again."
            )
        if file.suffix == ".safetensors":
            require_tensors(file)
    a_thing = manifest.subject_kind == "object"
    known_by = COLOURS if a_thing else IDENTITY
    required = [known_by, *(record.file for record in manifest.tokens)]
    required += [] if manifest.encoder is None else [ENCODED]
    for name in required:
        if name not in manifest.files:
            raise InputRejectedError(f"{path / MANIFEST}: key 'files' does not list {name}.")
    embedding, network, palette, measured = None, "", None, {}
    needed = {"histogram", "share"} if a_thing else {"embedding"}
    with safe_open(path / known_by, framework="numpy") as file:
        if not needed.issubset(file.keys()):
            raise InputRejectedError(f"{path / known_by}: has no {' and no '.join(needed)}.")
        if a_thing:
            palette = Palette(file.get_tensor("histogram"), float(file.get_tensor("share")[0]))
        else:
            embedding = file.get_tensor("embedding")
            network = (file.metadata() or {}).get("network", "")
            measured = {
                name.removeprefix(MEASURED): file.get_tensor(name)
                for name in sorted(file.keys())
                if name.startswith(MEASURED)
            }
    return Subject(
        path=path,
        manifest=manifest,
        adapter=path / ADAPTER if ADAPTER in manifest.files else None,
        attention=path / ATTENTION if ATTENTION in manifest.files else None,
        modules={
            name: path / name
            for name in MODULES
            if any(file.startswith(f"{name}/") for file in manifest.files)
        },
        embeddings={record.token: path / record.file for record in manifest.tokens},
        identity_embedding=embedding,
        identity_network=network,
        measured=measured,
        palette=palette,
        encoded=path / ENCODED if ENCODED in manifest.files else None,
    )


def require_tensors(path: Path) -> None:
    """Raise `InputRejectedError` for what is no whole .safetensors file, whatever its hash."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise InputRejectedError(f"{path}: cannot be read as .safetensors ({error}).") from None


def read_token_vectors(path: Path) -> list[torch.Tensor]:
    """Read a learned token: float32[D] for each text encoder (SDXL: clip_l, then clip_g)."""
    from safetensors.torch import load_file

    state = load_file(path)
    if set(state) == {"clip_l", "clip_g"}:
        return [state["clip_l"].reshape(-1), state["clip_g"].reshape(-1)]
    if len(state) != 1:
        raise InputRejectedError(
            f"{path}: holds {len(state)} tensors, and a token's file holds one."
        )
    return [tensor.reshape(-1) for tensor in state.values()]


def model_version(subject: Subject) -> Literal["SD1", "SD2", "SDXL"]:
    """Return the kind of Stable Diffusion that a subject was trained on, read off its files.

    An image prompt's file says it; a learned word by its text encoders (768 values: SD1, 1024: SD2,
    two of them: SDXL), a whole UNet by its configuration; a subject with neither by its LoRA, which
    does not tell SD2 from SD1.
    """
    from safetensors import safe_open

    if subject.encoded is not None:
        return "SDXL" if subject.read_encoded().metadata.get("architecture") == "sdxl" else "SD1"
    for path in subject.embeddings.values():
        vectors = read_token_vectors(path)
        if len(vectors) == 2:
            return "SDXL"
        return "SD2" if vectors[0].shape[0] == SD2_TEXT_WIDTH else "SD1"
    if "unet" in subject.modules:
        config = read_json(subject.modules["unet"] / "config.json")
        if config.get("addition_embed_type") == "text_time":
            return "SDXL"
        return "SD2" if config.get("cross_attention_dim") == SD2_TEXT_WIDTH else "SD1"
    if subject.adapter is None:
        return "SD1"
    with safe_open(subject.adapter, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (no mapping)
            if key.startswith("text_encoder_2.") or (
                key.endswith("attn2.to_k.lora_A.weight")
                and file.get_slice(key).get_shape()[1] == SDXL_CROSS_ATTENTION
            ):
                return "SDXL"
    return "SD1"
