"""Tiny random models for tests: Stable Diffusion folders and a face network, made in seconds.

`tiny_backbone` goes through the same loader as a real model. 64 x 64 pixels, latents 4 x 16 x 16,
random weights, so its pictures are noise. Of SD1.5's kind it has cross-attention at 16 x 16 and
8 x 8; of SDXL's kind (``kind="sdxl"``) at 8 x 8 and 4 x 4, two text encoders of different widths,
and in its configuration files what SDXL's have: end of text 2, padding "!", the Euler scheduler.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from mcap.contracts import DetectorInfo, Face, IdentityInfo

SIZE = 64  # pixels
LATENT = 16

_TEXT = (
    "a an the of in on and with photo photograph picture image portrait person man woman face "
    "style good nice clear clean sharp detailed high quality resolution realistic recent new "
    "beautiful one plain white background black studio passport business light dark"
)
WORDS = _TEXT.split()


def tiny_folder(prediction_type: str = "epsilon", seed: int = 0, kind: str = "sd") -> Path:
    """A model in diffusers' layout, made once a session; do not write into it."""
    return _made(prediction_type, seed, kind)


def tiny_backbone(
    tmp_path: Path | None = None,
    prediction_type: str = "epsilon",
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    kind: str = "sd",
    needs_safety: bool = False,
):
    """A fresh backbone on every call; with ``tmp_path``, from a copy of the folder in there.

    Its pictures are noise, so that no classifier need look at them unless ``needs_safety``.
    """
    from mcap_plugins.stable_diffusion.load import load

    folder = tiny_folder(prediction_type, seed, kind)
    if tmp_path is not None:
        folder = Path(shutil.copytree(folder, Path(tmp_path) / "tiny"))
    facts = {"id": "tiny", "licence": "none", "commercial": True, "needs_safety": needs_safety}
    return load(device, dtype, folder, **facts)


@lru_cache(maxsize=8)
def _made(prediction_type: str, seed: int, kind: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="mcap-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        make = {"sd": _tiny_sd, "sd-shallow": _tiny_sd_shallow, "sdxl": _tiny_sdxl}[kind]
        make(prediction_type).save_pretrained(folder)
    return folder


def _tiny_sd_shallow(prediction_type: str):
    """Half the layers: for whoever runs a whole training again and again."""
    return _tiny_sd(prediction_type, widths=(8,))


def _tiny_sd(prediction_type: str, widths: tuple[int, ...] = (8, 16)):
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    tokenizer = tiny_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=LATENT,
        block_out_channels=widths,
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D",) * len(widths),
        up_block_types=("CrossAttnUpBlock2D",) * len(widths),
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    vae = _tiny_vae()
    text_encoder = CLIPTextModel(_text_config(tokenizer, 16, eos_token_id=tokenizer.eos_token_id))
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(
            **_BETAS,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _tiny_sdxl(prediction_type: str):
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    first, second = tiny_tokenizer(), tiny_tokenizer(pad_token="!")
    narrow, wide, pooled, sizes = 16, 24, 20, 8
    unet = UNet2DConditionModel(
        sample_size=LATENT,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(2, 2, 4),
        cross_attention_dim=narrow + wide,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=sizes,
        projection_class_embeddings_input_dim=6 * sizes + pooled,
    )
    vae = _tiny_vae(scaling_factor=0.13025)
    text_encoder = CLIPTextModel(_text_config(first, narrow, eos_token_id=2))
    text_encoder_2 = CLIPTextModelWithProjection(
        _text_config(second, wide, eos_token_id=2, hidden_act="gelu", projection_dim=pooled)
    )
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=first,
        tokenizer_2=second,
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            **_BETAS,
            steps_offset=1,
            timestep_spacing="leading",
            prediction_type=prediction_type,
        ),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _tiny_vae(**config):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIZE,
        **config,
    )


def _text_config(tokenizer, width: int, **config):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_factor=5.0,
        **config,
    )


def tiny_tokenizer(**options):
    """CLIP's tokenizer with whole words for `WORDS` and single letters for all the rest.

    As in CLIP's own vocabulary the last two ids are the start and the end, so the end is not 2.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    vocabulary = letters + [f"{letter}</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
                vocabulary.append("".join(pair))
            pieces[:2] = ["".join(pair)]
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: index for index, piece in enumerate(vocabulary)},
        merges=merges,
        model_max_length=77,
        **options,
    )


class MiddleFaceDetector:
    """Finds one face in the middle of every picture whose corner is not black."""

    info = DetectorInfo()

    def detect(self, image: np.ndarray) -> list[Face]:
        if image[:4, :4].max() < 8:
            return []
        height, width = image.shape[:2]
        landmarks = np.array([[0.4, 0.42], [0.6, 0.42], [0.5, 0.52], [0.42, 0.62], [0.58, 0.62]])
        box = (0.3 * width, 0.25 * height, 0.7 * width, 0.75 * height)
        return [Face(box, 0.95, (landmarks * (width, height)).astype(np.float32))]


class TinyIdentity:
    """A random network that meets `mcap.contracts.IdentityModel`; smooth, so that finite
    differences of it mean something."""

    info = IdentityInfo()
    name = "tiny"
    input_size = 16
    template = np.array([[5, 6], [11, 6], [8, 9], [6, 12], [10, 12]], dtype=np.float32)

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():  # the layers' own initial values draw from it
            net = torch.nn.Sequential(
                torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
                torch.nn.Tanh(),
                torch.nn.Conv2d(8, 16, 3, stride=2, padding=1),
                torch.nn.Tanh(),
                torch.nn.Flatten(),
                torch.nn.Linear(256, 32),
            )
        with torch.no_grad():
            for parameter in net.parameters():
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
                values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(values / fan_in**0.5)
        self.net = net.to(dtype).eval().requires_grad_(False)

    def embed(self, faces: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.net(2 * faces - 1), dim=1)

    def to(self, *args, **kwargs) -> TinyIdentity:
        self.net.to(*args, **kwargs)
        return self


def tiny_identity(seed: int = 0, dtype: torch.dtype = torch.float32) -> TinyIdentity:
    return TinyIdentity(seed, dtype)


def sample(backbone, prompts, seeds, *, pipeline=None, on_step=None, **settings) -> list:
    """`generate_images` with its settings as keywords."""
    from mcap.diffusion.sampling import SamplingSettings, generate_images

    chosen = SamplingSettings.for_backbone(backbone.info, **settings)
    return generate_images(backbone, prompts, seeds, chosen, pipeline=pipeline, on_step=on_step)


def stream(backbone, prompts, seeds, *, pipeline=None, watch=(), on_step=None, **settings):
    """`stream_images` with its settings as keywords."""
    from mcap.diffusion.sampling import SamplingSettings, stream_images

    chosen = SamplingSettings.for_backbone(backbone.info, **settings)
    return stream_images(
        backbone, prompts, seeds, chosen, pipeline=pipeline, watch=watch, on_step=on_step
    )
