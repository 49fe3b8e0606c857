"""Tiny random models for tests: a Stable Diffusion folder and a face network, made in seconds.

`tiny_backbone` goes through the same loader as a real model. 64 x 64 pixels, latents 4 x 16 x 16,
cross-attention at 16 x 16 and 8 x 8; random weights, so its pictures are noise.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

SIZE = 64  # pixels
LATENT = 16

_TEXT = (
    "a an the of in on and with photo photograph picture image portrait person man woman face "
    "style good nice clear clean sharp detailed high quality resolution realistic recent new "
    "beautiful one plain white background black studio passport business light dark"
)
WORDS = _TEXT.split()


def tiny_folder(prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """A model in diffusers' layout, made once a session; do not write into it."""
    return _made(prediction_type, seed)


def tiny_backbone(
    tmp_path: Path | None = None,
    prediction_type: str = "epsilon",
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
):
    """A fresh backbone on every call; with ``tmp_path``, from a copy of the folder in there."""
    from mcap_plugins.sd_backbone import load

    folder = tiny_folder(prediction_type, seed)
    if tmp_path is not None:
        folder = Path(shutil.copytree(folder, Path(tmp_path) / "tiny"))
    return load(device, dtype, folder, id="tiny", licence="none", commercial=True)


@lru_cache(maxsize=8)
def _made(prediction_type: str, seed: int) -> Path:
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = Path(tempfile.mkdtemp(prefix="mcap-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=LATENT,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=SIZE,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=77,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                initializer_factor=5.0,
            )
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def tiny_tokenizer():
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
    )


class TinyIdentity:
    """A random network that meets `mcap.contracts.IdentityModel`; smooth, so that finite
    differences of it mean something."""

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
