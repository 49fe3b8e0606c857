"""A model that ``--backbone`` points at, and its kind, without loading anything.

    a folder       in diffusers' layout, with model_index.json
    a file         one .safetensors with everything in it, as A1111 and ComfyUI keep models; of a
                   transformer its weights alone, beside the folder of the other parts
    a hub id       OWNER/NAME, or OWNER/NAME@REVISION for a commit, tag or branch

Four kinds of model are known: ``sd`` has one text encoder (Stable Diffusion 1.5 and 2), ``sdxl``
two, ``klein`` (FLUX.2 klein) and ``zimage`` (Z-Image) a transformer instead of a UNet. Only JSON
and a file's header are read, so this is quick and light.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mcap.contracts import TransformerKind
from mcap.errors import MissingResourceError, UsageError
from mcap.runtime.documents import MEBIBYTE, parse_json, read_text
from mcap.runtime.files import open_to_read

Architecture = Literal["sd", "sdxl"] | TransformerKind

CONFIG_FILES = ("model_index.json", "scheduler/*", "tokenizer*/*", "*/config.json")
"""The files of a hub repository in diffusers' layout beside its weights; a few megabytes."""

PREDICTION_TYPES = ("epsilon", "v_prediction")
"""A model's UNet may predict these: the noise, or the velocity."""

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
LARGEST_JSON = 16 * MEBIBYTE
"""Of a model's configuration or index."""
_LARGEST_HEADER = 100_000_000  # bytes; safetensors itself allows no more


@dataclass(frozen=True)
class ModelSource:
    """The place of a model. ``path`` is None for a hub id, ``repo`` is empty for anything else."""

    kind: Literal["folder", "file", "hub"]
    path: Path | None = None
    repo: str = ""
    revision: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """All that can be told of a model without loading it."""

    architecture: Architecture
    native_size: int | None
    """Side of a training picture in pixels; None where the configuration does not say."""
    distilled: bool = False
    """True of a transformer that was distilled to draw in a few steps."""


def is_place(text: str) -> bool:
    """Return whether ``text`` looks like a folder, file or hub id and not like a name."""
    return (
        "/" in text
        or "\\" in text
        or text.lower().endswith((".safetensors", *PICKLES))
        or Path(text).expanduser().is_dir()
    )


def find_model(source: str | Path) -> ModelSource:
    """Return the place that ``source`` names.

    `MissingResourceError` where it looks like a path and nothing is there, `UsageError` for a file
    that is no .safetensors: other checkpoints are pickles, which can run code when they are read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return ModelSource("folder", path)
    suffix = path.suffix.lower()
    if suffix in PICKLES or (path.is_file() and suffix != ".safetensors"):
        raise UsageError(
            f"'{source}' is no .safetensors file, and other checkpoints can run code when they are "
            "read. Convert it first (A1111: Checkpoint Merger, one model, save as safetensors)."
        )
    if path.is_file():
        return ModelSource("file", path)
    found = _HUB_ID.fullmatch(str(source)) if not isinstance(source, Path) else None
    if found is None or suffix == ".safetensors" or str(source).startswith("."):
        raise MissingResourceError(
            f"Backbone '{source}': there is no such folder or file, and it is no hub id "
            "(OWNER/NAME or OWNER/NAME@REVISION), nor the name of a backbone (`mcap plugins` lists "
            "them). Give the folder of a model in diffusers' layout, the one that holds "
            "model_index.json, or a .safetensors checkpoint."
        )
    return ModelSource("hub", None, found["repo"], found["revision"])


def pinned(source: str | None, revision: str) -> str | None:
    """Return a hub id at the commit it was trained at; anything else as it is."""
    if source is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        return source
    found = _HUB_ID.fullmatch(source)
    if found is None or Path(source).expanduser().exists():
        return source
    return f"{found['repo']}@{revision}"


def describe(source: ModelSource) -> ModelFacts | None:
    """Return kind and size of a model that lies here; None for a hub id that is not in the cache.

    Raises what `folder_architecture` and `file_architecture` raise.
    """
    if source.kind == "file":
        assert source.path is not None  # only a hub id has none
        architecture = file_architecture(source.path)
        kind = transformer_kind(architecture)
        if kind is None:
            return ModelFacts(architecture, {"sd": 512, "sdxl": 1024}[architecture])
        beside = parts_beside(source.path, kind)
        return ModelFacts(architecture, folder_size(beside), is_distilled(source, beside))
    folder = source.path if source.kind == "folder" else cached_configs(source)
    if folder is None:
        return None
    architecture = folder_architecture(folder)
    distilled = architecture in FLOWS and is_distilled(source, folder)
    return ModelFacts(architecture, folder_size(folder), distilled)


def cached_configs(source: ModelSource) -> Path | None:
    """Return the folder of a hub id's configuration files in the hub's cache, or None: offline."""
    from mcap.weights.hub import hub_snapshot

    try:
        return hub_snapshot(source.repo, source.revision, CONFIG_FILES, offline=True)
    except MissingResourceError:
        return None


def folder_architecture(folder: Path) -> Architecture:
    """Return the kind by model_index.json, which may be absent: then by the folders there are.

    `UsageError` for a model that is of another kind, such as Flux, draws from more than text, or
    was trained on another noise process.
    """
    index = read_json(folder / "model_index.json")
    name = str(index.get("_class_name", ""))
    for architecture, flow in FLOWS.items():
        if name == flow.pipeline:
            require_known_classes(folder, index, flow.classes)
            return architecture
    if "Inpaint" in name or "Pix2Pix" in name or (index and not lists_part(index, "unet")):
        raise UsageError(
            f"'{folder}' is a model of another kind ({name or 'without a UNet'}). mcap trains text "
            "to picture models of the kind of Stable Diffusion 1.5 and SDXL."
        )
    two = lists_part(index, "text_encoder_2") or (folder / "text_encoder_2").is_dir()
    if two and index and not lists_part(index, "text_encoder"):
        raise UsageError(
            f"'{folder}' has only SDXL's second text encoder: a refiner, which cannot be trained "
            "here. Use the base model."
        )
    require_known_classes(folder, index, _CLASSES)
    require_known_process(folder)
    require_text_width(folder, ("text_encoder", "text_encoder_2") if two else ("text_encoder",))
    return "sdxl" if two else "sd"


# Other pipelines that have a UNet, too, are known by the classes of their parts.
_CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModel", "CLIPTextModelWithProjection"),
}


@dataclass(frozen=True)
class Flow:
    """A kind of model whose network is a transformer on a straight path."""

    what: str
    """Its name for people."""
    pipeline: str
    """The pipeline's class in model_index.json; those of its siblings are others."""
    classes: Mapping[str, tuple[str, ...]]
    """Part -> the classes that it may have."""


_EULER = ("FlowMatchEulerDiscreteScheduler",)
FLOWS: Mapping[TransformerKind, Flow] = {
    "klein": Flow(
        "FLUX.2 klein",
        "Flux2KleinPipeline",
        {
            "transformer": ("Flux2Transformer2DModel",),
            "vae": ("AutoencoderKLFlux2",),
            "text_encoder": ("Qwen3ForCausalLM",),
            "scheduler": _EULER,
        },
    ),
    "zimage": Flow(
        "Z-Image",
        "ZImagePipeline",
        {
            "transformer": ("ZImageTransformer2DModel",),
            "vae": ("AutoencoderKL",),
            "text_encoder": ("Qwen3Model", "Qwen3ForCausalLM"),
            "scheduler": _EULER,
        },
    ),
}

TURBO_SHIFT = 3.0
"""Of the scheduler that Z-Image-Turbo comes with; Z-Image's own has 6."""


def transformer_kind(architecture: str | None) -> TransformerKind | None:
    """Return an architecture that is a transformer's, None for any other."""
    return next((kind for kind in FLOWS if kind == architecture), None)


def is_distilled(source: ModelSource, folder: Path) -> bool:
    """Return whether a transformer's folder is of a variant that draws in a few steps.

    FLUX.2 klein's model_index.json says so. No file of Z-Image-Turbo does: it is known by its name,
    in the hub or of its folder, and by the fixed shift of its scheduler.
    """
    index = read_json(folder / "model_index.json")
    if "is_distilled" in index:
        return index["is_distilled"] is True
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    fixed = not scheduler.get("use_dynamic_shifting", False)
    named = "turbo" in (source.repo or (source.path or folder).name).lower()
    is_zimage = index.get("_class_name") == FLOWS["zimage"].pipeline
    return is_zimage and (named or (fixed and scheduler.get("shift") == TURBO_SHIFT))


def require_libraries(kind: TransformerKind) -> None:
    """Raise `MissingResourceError` where the installed diffusers or transformers is too old to know
    a kind of model.

    Imports both, which takes seconds.
    """
    import diffusers
    import transformers

    flow = FLOWS[kind]
    networks = (flow.pipeline, flow.classes["transformer"][0], flow.classes["vae"][0])
    wanted = ((diffusers, networks), (transformers, flow.classes["text_encoder"]))
    for library, names in wanted:
        for name in names:
            if not hasattr(library, name):
                raise MissingResourceError(
                    f"{flow.what} needs a newer {library.__name__} than the one that is installed "
                    f"here, {library.__version__}, which has no {name}. Run: pip install --upgrade "
                    f"{library.__name__}"
                )


def require_known_classes(
    folder: Path, index: Mapping[str, Any], classes: Mapping[str, tuple[str, ...]]
) -> None:
    """Raise `UsageError` where a part is of a class that the kind of model does not have."""
    for part, known in classes.items():
        if lists_part(index, part) and index[part][-1] not in known:
            raise UsageError(
                f"'{folder}' is a model of another kind ({index.get('_class_name', 'unknown')}): "
                f"its {part} is a {index[part][-1]} and not a {known[0]}."
            )


def require_known_process(folder: Path) -> None:
    """Raise `UsageError` for another noise process than alphas with noise or velocity."""
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    name = str(scheduler.get("_class_name", ""))
    prediction = scheduler.get("prediction_type", PREDICTION_TYPES[0])
    if name.startswith(("EDM", "FlowMatch")) or prediction not in PREDICTION_TYPES:
        raise UsageError(
            f"'{folder}': its scheduler is {name} with prediction_type '{prediction}'. mcap trains "
            f"models that predict {' or '.join(PREDICTION_TYPES)} of Stable Diffusion's own noise."
        )
    unet = read_json(folder / "unet" / "config.json")
    for key, what in (
        ("time_cond_proj_dim", "was distilled to draw in a few steps (LCM)"),
        ("class_embed_type", "is also told a class or a picture"),
    ):
        if unet.get(key) is not None:
            raise UsageError(
                f"'{folder}': its UNet {what}, which mcap cannot train ({key} is {unet[key]} in "
                "unet/config.json). Use the model that it was made from."
            )


def require_text_width(folder: Path, encoders: Collection[str]) -> None:
    """Raise `UsageError` where a text encoder is missing, which training would find out late."""
    wanted = read_json(folder / "unet" / "config.json").get("cross_attention_dim")
    widths = [read_json(folder / part / "config.json").get("hidden_size") for part in encoders]
    known = [width for width in widths if isinstance(width, int)]
    if not isinstance(wanted, int) or len(known) < len(widths):
        return  # loading says what is wrong with it
    if sum(known) != wanted:
        raise UsageError(
            f"'{folder}': its UNet reads text of {wanted} values, and {' and '.join(encoders)} "
            f"give {sum(known)}. Either a text encoder is missing or one is of another model; "
            "download or export the model again."
        )


def folder_size(folder: Path) -> int | None:
    """Return the side in pixels of a training picture, from the folder's configuration files."""
    try:
        if (folder / "transformer").is_dir():
            return int(read_json(folder / "vae" / "config.json")["sample_size"])
        unet = read_json(folder / "unet" / "config.json")
        vae = read_json(folder / "vae" / "config.json")
        return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError):
        return None  # loading says what is wrong with it


@dataclass(frozen=True)
class FileHeader:
    """The header of a .safetensors file."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]


def read_header(path: Path) -> FileHeader:
    """Read names, shapes and metadata of a .safetensors file, without its tensors.

    `UsageError` where the file is none, or damaged.
    """
    try:
        with open_to_read(path) as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LARGEST_HEADER:
                raise ValueError("its header cannot be that long")
            header = parse_json(file.read(length))
            metadata = header.pop("__metadata__", None) or {}
            if not all(isinstance(value, str) for value in metadata.values()):
                raise ValueError("its metadata is no text")
            shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
            if not all(type(size) is int for shape in shapes.values() for size in shape):
                raise ValueError("a shape in it is no list of whole numbers")
    except (ValueError, struct.error, AttributeError, KeyError, TypeError) as error:
        raise UsageError(
            f"'{path}' is not a whole .safetensors file ({error}). Download it again."
        ) from None
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror}.") from None
    return FileHeader(shapes, metadata)


def vae_beside(path: Path) -> Path | None:
    """Return NAME.vae.safetensors beside NAME.safetensors, which A1111 takes for the model's VAE.

    It goes before the one that the model brings, as there.
    """
    beside = path.with_suffix(".vae.safetensors")
    return beside if beside.is_file() else None


def parts_beside(path: Path, kind: TransformerKind) -> Path:
    """Return the folder with the other parts of a transformer in a single file.

    That is the one the file lies in, where its makers put both, or one with the file's name without
    its ending; `MissingResourceError` where neither is a model of the kind in diffusers' layout.
    """
    flow = FLOWS[kind]
    for folder in (path.with_suffix(""), path.parent):
        if read_json(folder / "model_index.json").get("_class_name") == flow.pipeline:
            require_known_classes(folder, read_json(folder / "model_index.json"), flow.classes)
            return folder
    raise MissingResourceError(
        f"'{path}' holds the transformer of {flow.what} alone. Put it into the folder of such a "
        f"model in diffusers' layout, or that folder beside it as {path.with_suffix('').name}: "
        "model_index.json, scheduler, text_encoder, tokenizer, vae, and of the transformer its "
        "config.json."
    )


# Names that only one kind of checkpoint has.
_FLOW_FILES: Mapping[TransformerKind, str] = {
    "klein": r"(model\.diffusion_model\.)?single_stream_modulation\.lin(ear)?\.weight",
    "zimage": r"(model\.diffusion_model\.)?layers\.0\.adaLN_modulation\.0\.weight",
}
_NOT_KLEIN = r"(model\.diffusion_model\.)?(guidance_in|time_guidance_embed\.guidance)"
"""Its large sibling is told the guidance."""
_QUANTISED = r".*(scale_weight|weight_scale|scale_input|input_scale|comfy_quant|\.absmax)"
_SDXL = "conditioner.embedders.1."
_REFINER = "conditioner.embedders.0.model."
_SD2 = "cond_stage_model.model."
_SD1 = "cond_stage_model."
_UNET = "model.diffusion_model."
UNET_INPUT = "model.diffusion_model.input_blocks.0.0.weight"
_VAE = "first_stage_model."

_ANOTHER_KIND = {
    r"(model\.diffusion_model\.)?joint_blocks\.": "Stable Diffusion 3",
    r"(model\.diffusion_model\.)?double_blocks\.": "Flux or one of its relatives",
    r"(model\.diffusion_model\.)?double_layers\.": "AuraFlow",
    r"clip_txt_mapper\.": "Stable Cascade",
    r"edm_": "a noise process of its own (EDM: Playground v2.5, CosXL)",
}
_PARTS = {
    r"lora_|.*\.lora_|.*\.hada_|.*\.lokr_": (
        "is a LoRA, not a model",
        "Give the model that it was made for; mcap generate takes it with --lora.",
    ),
    r"control_model\.": ("is a ControlNet, not a model", "Give the model that it was made for."),
    r"(encoder|decoder)\.conv_in\.": (
        "is an autoencoder (VAE), not a model",
        "Give the model, and put the VAE beside it as NAME.vae.safetensors.",
    ),
    r"(down_blocks\.\d+|mid_block)\.": (
        "is one part of a model in diffusers' layout",
        "Give the folder that holds model_index.json.",
    ),
    r"(text_model\.)?encoder\.layers\.": (
        "is a text encoder, not a model",
        "Give the whole model.",
    ),
}
"""Pattern of a tensor's name -> what a file without a UNet is, and what to do."""


def file_architecture(path: Path) -> Architecture:
    """Return the kind of model that a single file holds, by the names in its header.

    `UsageError` that says what the file is instead: a LoRA, an embedding, a VAE, a refiner, an
    inpainting model, a model of another kind, a UNet without text encoders.
    """
    header = read_header(path)
    names = header.shapes.keys()

    def refuse(what: str, remedy: str) -> UsageError:
        return UsageError(f"'{path}' {what}. {remedy}")

    for flow_kind, pattern in _FLOW_FILES.items():
        if not matches(names, pattern) or matches(names, _NOT_KLEIN):
            continue
        if matches(names, _QUANTISED):
            raise refuse(
                "holds quantised weights, which nothing can be learned on here",
                "Use the file in bfloat16.",
            )
        return flow_kind
    for pattern, kind in _ANOTHER_KIND.items():
        if matches(names, pattern):
            raise refuse(
                f"is a model of another kind: {kind}",
                "mcap trains models of the kinds of Stable Diffusion 1.5, SDXL, FLUX.2 klein and "
                "Z-Image.",
            )
    if not begins(names, _UNET):
        for pattern, words in _PARTS.items():
            if matches(names, pattern):
                raise refuse(*words)
        whole = "A checkpoint has the UNet, the VAE and the text encoders in one file."
        if len(names) < 4:
            raise refuse("is an embedding, not a model", whole)
        raise refuse("has no UNet of Stable Diffusion's kind in it", whole)
    channels = header.shapes.get(UNET_INPUT, (0, 0))[1]
    if channels not in (0, 4):
        raise refuse(
            f"takes {channels} channels (an inpainting or editing model) and not 4",
            "Use the text to picture model that it was made from.",
        )
    found: Architecture
    if begins(names, _SDXL):
        found = "sdxl"
    elif begins(names, _REFINER):
        raise refuse("is SDXL's refiner, which cannot be trained here", "Use the base model.")
    elif begins(names, _SD2):
        raise refuse(
            "is of Stable Diffusion 2's kind, which is read from a diffusers folder only",
            "Convert it with diffusers, or use a model of Stable Diffusion 1.5's or SDXL's kind.",
        )
    elif begins(names, _SD1):
        found = "sd"
    else:
        raise refuse(
            "has a UNet and no text encoder that mcap knows",
            "Use the whole checkpoint, not a pruned one or a model of another kind.",
        )
    if not begins(names, _VAE) and vae_beside(path) is None:
        raise refuse(
            "has no autoencoder (VAE) in it",
            f"Put its VAE beside it as {path.with_suffix('.vae.safetensors').name}, as A1111 has "
            "it (a pickled .vae.pt must be converted first), or use the whole checkpoint.",
        )
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, empty where there is no such file; `UsageError` for a damaged one."""
    try:
        found = parse_json(read_text(path, LARGEST_JSON))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"'{path}' cannot be read: {error}. Download it again.") from None
    return found if isinstance(found, dict) else {}


def begins(names: Collection[str], prefix: str) -> bool:
    """Return whether some name begins with ``prefix``."""
    return any(name.startswith(prefix) for name in names)


def matches(names: Collection[str], pattern: str) -> bool:
    """Return whether some name begins as ``pattern`` says."""
    found = re.compile(pattern)
    return any(found.match(name) for name in names)


def lists_part(index: Mapping[str, Any], part: str) -> bool:
    """Return whether model_index.json lists the part, and not as [null, null]."""
    entry = index.get(part)
    return isinstance(entry, list) and len(entry) > 0 and entry[0] is not None
