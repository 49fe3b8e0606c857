"""Identity encoders ``ip-adapter-sd15`` and ``ip-adapter-sdxl``: a person, and a style, as image
prompts that IP-Adapters read.

IP-Adapter (arXiv 2308.06721) gives each cross-attention layer a second pair of projections, to keys
and values of image tokens, whose attention is added to that of the text. The person goes through
"plus face", whose tokens a resampler makes of all of CLIP's patches; the style through the plain
adapter, whose four tokens come of CLIP's one embedding, and on SDXL only through the layers in
which layout and style are (InstantStyle, arXiv 2404.02733). Weights: huggingface.co/h94/IP-Adapter,
Apache-2.0, with CLIP ViT-H/14; no face network has a part in them.

The image encoder runs in training alone. What it made is kept, as the pipelines of diffusers take
``ip_adapter_image_embeds`` with guidance: of each role float16[2, pictures, ...], the unconditional
half first.

Legend: N pictures, S side of a crop in pixels, L CLIP's patches and its class token, D its width, P
of its projection, W the UNet's cross-attention width.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from mcap.contracts import CallArguments, EncodedIdentity, EncoderInfo, Portrait
from mcap.diffusion.pipeline_tokens import quiet_libraries
from mcap.errors import InputRejectedError, MissingResourceError, UsageError
from mcap.runtime.randomness import preserve_rng_state
from mcap.weights.fetch import fetch
from mcap.weights.locate import weight
from mcap.weights.model_source import read_header
from mcap_plugins.shared.portraits import most_typical
from mcap_plugins.shared.pretrained import load_network

if TYPE_CHECKING:
    from mcap.contracts import Backbone, Float32Array, UInt8Image

Role = Literal["identity", "style"]
ROLES: tuple[Role, ...] = ("identity", "style")

MOST_PICTURES = 8
"""Of each role that are encoded: attention goes over all of their tokens, and the photos beyond
tell little that is new."""

MARGIN = 0.1
"""Of the head's longer side, left around it in its picture."""

CLIP_MEAN = (123, 117, 104)
"""The mean colour of CLIP's training pictures, which its normalisation makes 0: what is neither the
person nor the style is filled with it."""

REMEDY = "Fetch it again with 'mcap models pull clip-vit-h'."

STYLE_LAYERS = {"down": {"block_2": 1}, "up": {"block_0": 1}}
"""SDXL's block -> the one of its transformers that an image of style is read in: layout in the
down block, style in the up block (InstantStyle, section 3.3, and diffusers' names of them)."""


@dataclass(frozen=True)
class Adapter:
    """An IP-Adapter's file: where it is had from, and what it is known by."""

    name: str
    sha256: str
    locate: Callable[[], Path]

    @classmethod
    def fetched(cls, name: str) -> Adapter:
        """Return the adapter that is the weight of that name."""
        return cls(name, weight(name).sha256, lambda: fetch(name))


class IpAdapterEncoder:
    """`mcap.contracts.IdentityEncoder` that steers the pipeline."""

    def __init__(
        self,
        name: str,
        info: EncoderInfo,
        backbone: Backbone,
        adapters: Mapping[Role, Adapter],
        image_encoder: Callable[[], Path],
    ) -> None:
        """``image_encoder`` returns the folder of a CLIP vision model with projection, in the
        layout of transformers."""
        self.name = name
        self.info = info
        self.backbone = backbone
        self.adapters = adapters
        self.image_encoder = image_encoder
        self.own_processors: dict[str, Any] = {}
        """The UNet's own, while others stand in their place."""

    def encode(self, person: Sequence[Portrait], style: Sequence[Portrait]) -> EncodedIdentity:
        """Return the image prompts of the person's heads, side by side, and of the mean of the
        style's pictures without their faces."""
        heads = [
            head
            for each in most_typical(person, MOST_PICTURES)
            if (head := head_picture(each)) is not None
        ]
        if not heads:
            raise InputRejectedError(
                "None of the crops shows a face or head that the masker sees, so there is nothing "
                "to make an image prompt of: choose other photos, or another --masker."
            )
        pictures: dict[Role, list[UInt8Image]] = {"identity": heads}
        if style:
            pictures["style"] = [without_face(each) for each in style[:MOST_PICTURES]]
        forms = {role: self.form(role) for role in pictures}
        network, processor = self.load_image_encoder(forms)
        tensors: dict[str, torch.Tensor] = {}
        metadata = {"form": "ip-adapter", "architecture": self.info.architecture or ""}
        for role, images in pictures.items():
            embeds = image_embeds(network, processor, images, forms[role].reads_patches)
            if role == "style":
                embeds = embeds.mean(dim=1, keepdim=True)
            tensors[role] = embeds.to("cpu", torch.float16)
            metadata[role] = self.adapters[role].name
            metadata[f"{role}_sha256"] = self.adapters[role].sha256
        if "style" in pictures and self.info.architecture == "sdxl":
            metadata["style_layers"] = json.dumps(style_layers(self.backbone.unet))
        return EncodedIdentity(tensors=tensors, metadata=metadata)

    def attach(
        self, pipeline: Any, encoded: EncodedIdentity, identity_scale: float, style_scale: float
    ) -> CallArguments:
        """Load the adapters whose scale is not 0, each at its scale."""
        scales = {"identity": identity_scale, "style": style_scale}
        used: list[Role] = [role for role in ROLES if role in encoded.tensors and scales[role]]
        for role in used:
            if encoded.metadata.get(f"{role}_sha256") != self.adapters[role].sha256:
                raise UsageError(
                    f"The {role}'s image prompt was made for the adapter "
                    f"'{encoded.metadata.get(role)}' (sha256 "
                    f"{encoded.metadata.get(f'{role}_sha256', '')[:12]}), and this is "
                    f"'{self.adapters[role].name}' ({self.adapters[role].sha256[:12]}): train "
                    "again, which takes seconds."
                )
        if not used:
            return lambda guided: {}
        states = []
        for role in used:
            self.form(role)  # refuses what would fail below with words of diffusers' own
            states.append(split(load_file(self.adapters[role].locate())))
        unet = pipeline.unet
        on_sdxl = self.info.architecture == "sdxl"
        self.own_processors = dict(unet.attn_processors)
        try:
            # New layers are filled from the global random state before they get their weights.
            with quiet_libraries(), preserve_rng_state(self.backbone.device):
                pipeline.load_ip_adapter(
                    states,
                    subfolder="",
                    weight_name=[""] * len(states),
                    image_encoder_folder=None,
                )
            pipeline.set_ip_adapter_scale(
                [
                    style_layers(unet, style_scale) if role == "style" and on_sdxl else scales[role]
                    for role in used
                ]
            )
        except BaseException:
            self.detach(pipeline)
            raise
        place = {"device": unet.device, "dtype": unet.dtype}
        embeds = [encoded.tensors[role].to(**place) for role in used]
        plain = [each[1:] for each in embeds]
        return lambda guided: {"ip_adapter_image_embeds": embeds if guided else plain}

    def detach(self, pipeline: Any) -> None:
        """Unload the adapters, and put the UNet's own attention processors back."""
        if self.own_processors:
            pipeline.unload_ip_adapter()
            pipeline.unet.set_attn_processor(self.own_processors)
            self.own_processors = {}

    def form(self, role: Role) -> AdapterForm:
        """Return the form of a role's adapter, by its file's header.

        `MissingResourceError` for a file that is no IP-Adapter, of a form that mcap does not read,
        or for another backbone.
        """
        adapter = self.adapters[role]
        path = adapter.locate()
        try:
            shapes = dict(read_header(path).shapes)
        except UsageError as error:
            raise MissingResourceError(f"The IP-Adapter '{adapter.name}': {error}") from None
        return adapter_form(shapes, cross_attention(self.backbone.unet), f"{adapter.name} ({path})")

    def load_image_encoder(self, forms: Mapping[Role, AdapterForm]) -> tuple[Any, Any]:
        """Return CLIP's vision model on the backbone's device, and what makes its input of
        pictures.

        `MissingResourceError` where it is not there or of another width than the adapters read.
        """
        folder, backbone = self.image_encoder(), self.backbone
        with preserve_rng_state(backbone.device):
            network = load_network(
                CLIPVisionModelWithProjection, folder, "image encoder of IP-Adapter", REMEDY
            )
        config = network.config
        for role, form in forms.items():
            width = config.hidden_size if form.reads_patches else config.projection_dim
            if width != form.width:
                raise MissingResourceError(
                    f"The image encoder in {folder} gives {width} values, and the IP-Adapter "
                    f"'{self.adapters[role].name}' reads {form.width}: it belongs to another "
                    "image encoder."
                )
        side = config.image_size
        processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side)
        return network.to(backbone.device, backbone.dtype), processor


@dataclass(frozen=True)
class AdapterForm:
    """The form of an IP-Adapter, by what it reads of an image encoder."""

    reads_patches: bool
    """True: the hidden states before the last layer, L x D; False: the projected embedding, P."""
    width: int
    """D or P."""


def adapter_form(
    shapes: Mapping[str, Sequence[int]], layers: Sequence[tuple[int, int]], what: str
) -> AdapterForm:
    """Return the form of an IP-Adapter by the names and shapes of its tensors.

    ``layers`` are the (width, text width) of the UNet's cross-attention layers in its order,
    ``what`` names the file in errors. `MissingResourceError` as `IpAdapterEncoder.form`.
    """
    numbers = sorted(int(key[1]) for name in shapes if (key := KEYS.fullmatch(name)))
    if not numbers or not any(name.startswith("image_proj.") for name in shapes):
        raise MissingResourceError(
            f"{what}: is no IP-Adapter (it has no image_proj.* and ip_adapter.N.to_k_ip.weight)."
        )
    if "image_proj.latents" in shapes and "image_proj.proj_in.weight" in shapes:
        form = AdapterForm(True, shapes["image_proj.proj_in.weight"][1])
    elif "image_proj.proj.weight" in shapes:
        form = AdapterForm(False, shapes["image_proj.proj.weight"][1])
    else:
        raise MissingResourceError(
            f"{what}: is an IP-Adapter of another form than plain and plus; the FaceID forms read "
            "the embeddings of a face network that may not be used commercially, and need an "
            "identity encoder of their own (docs/plugins.md)."
        )
    # One of the two for each attention layer of the UNet: the odd ones are cross-attention.
    found = [tuple(shapes[f"ip_adapter.{number}.to_k_ip.weight"]) for number in numbers]
    wanted = [tuple(layer) for layer in layers]
    if found != wanted or numbers != list(range(1, 2 * len(layers), 2)):
        text, own = found[0][1], wanted[0][1]
        told = f"{len(found)} layers for texts of width {text}"
        raise MissingResourceError(
            f"{what}: is an IP-Adapter for another kind of model ({told}; this backbone has "
            f"{len(wanted)} of {own}). SD1.5's and SDXL's are not the same file."
        )
    return form


KEYS = re.compile(r"ip_adapter\.(\d+)\.to_k_ip\.weight")


def cross_attention(unet: Any) -> list[tuple[int, int]]:
    """Return (width, text width W) of each cross-attention layer, in the order of diffusers'
    ``attn_processors``, by which IP-Adapters number them."""
    ending = ".processor"
    names = [name.removesuffix(ending) for name in unet.attn_processors]
    modules = [unet.get_submodule(name) for name in names if name.endswith("attn2")]
    return [(module.to_k.out_features, module.to_k.in_features) for module in modules]


def split(state: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Return a file's tensors in the two groups that diffusers takes, without their prefixes."""
    return {
        group: {
            name.removeprefix(f"{group}."): tensor
            for name, tensor in state.items()
            if name.startswith(f"{group}.")
        }
        for group in ("image_proj", "ip_adapter")
    }


def style_layers(unet: Any, scale: float = 1.0) -> dict[str, dict[str, list[float]]]:
    """Return `STYLE_LAYERS` at ``scale`` and all else at 0, as ``set_ip_adapter_scale`` takes
    it."""
    count = {"down": unet.config.layers_per_block, "up": unet.config.layers_per_block + 1}
    return {
        way: {
            block: [scale if number == chosen else 0.0 for number in range(count[way])]
            for block, chosen in blocks.items()
        }
        for way, blocks in STYLE_LAYERS.items()
    }


def head_picture(portrait: Portrait) -> UInt8Image | None:
    """Return the square around a portrait's head, uint8[S, S, 3], all else `CLIP_MEAN`.

    None where its mask is empty.
    """
    rows, columns = np.nonzero(portrait.mask >= 0.5)
    if not len(rows):
        return None
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    side = round((1 + 2 * MARGIN) * max(bottom - top, right - left))
    y, x = (top + bottom - side) // 2, (left + right - side) // 2
    filled = blend(portrait.image, portrait.mask)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = CLIP_MEAN
    height, width = filled.shape[:2]
    y0, y1, x0, x1 = max(0, y), min(height, y + side), max(0, x), min(width, x + side)
    square[y0 - y : y1 - y, x0 - x : x1 - x] = filled[y0:y1, x0:x1]
    return square


def without_face(portrait: Portrait) -> UInt8Image:
    """Return a style's picture uint8[H, W, 3] with `CLIP_MEAN` where the face is, which is no part
    of the style."""
    return blend(portrait.image, 1 - portrait.mask)


def blend(image: UInt8Image, mask: Float32Array) -> UInt8Image:
    """Return an image where ``mask`` is 1, and `CLIP_MEAN` where it is 0."""
    share = np.clip(mask, 0, 1)[..., None]
    mixed = share * image + (1 - share) * np.array(CLIP_MEAN, np.float32)
    return np.rint(mixed).astype(np.uint8)


@torch.no_grad()
def image_embeds(
    network: Any, processor: Any, images: Sequence[UInt8Image], patches: bool
) -> torch.Tensor:
    """Return float[2, N, L, D] with ``patches``, else float[2, N, P]; the unconditional half first.

    As diffusers' ``encode_image`` makes them: for an adapter that reads patches, "no picture" is
    what the network sees in a picture of zeros; for the plain one it is zeros.
    """
    ready = processor(images=[Image.fromarray(image) for image in images], return_tensors="pt")
    pixels = ready.pixel_values.to(network.device, network.dtype)

    def seen(batch: torch.Tensor) -> torch.Tensor:
        output = network(batch, output_hidden_states=patches)
        found: torch.Tensor = output.hidden_states[-2] if patches else output.image_embeds
        return found

    given = torch.cat([seen(picture) for picture in pixels.split(1)])
    if not patches:
        return torch.stack([torch.zeros_like(given), given])
    empty = seen(torch.zeros_like(pixels[:1]))
    return torch.stack([empty.expand_as(given), given])
