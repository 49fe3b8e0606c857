"""Tiny random transformers of the classes of FLUX.2 klein and Z-Image, made in seconds."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

from tests.support.tiny import WORDS, _tiny_vae

TOKENS = 16
"""Width of a text token of the tiny Qwen3."""


def tiny_flux2(seed: int = 0, dtype: torch.dtype = torch.float32):
    """Flux2Transformer2DModel of klein's form, two blocks of each kind; tokens of 16 channels."""
    from diffusers import Flux2Transformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Flux2Transformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * TOKENS,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
    return made.to(dtype).eval().requires_grad_(False)


def tiny_zimage(seed: int = 0, dtype: torch.dtype = torch.float32):
    """ZImageTransformer2DModel of two layers and a refiner of each kind; latents of 4 channels."""
    from diffusers import ZImageTransformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=TOKENS,
            axes_dims=[4, 6, 6],
            axes_lens=[128, 16, 16],
        )
    return made.to(dtype).eval().requires_grad_(False)


SIZE = 64  # pixels of a picture
LATENT = 8  # positions on its side: the autoencoder halves twice, and a patch is 2 x 2

# Qwen3's, without its parts for tools: a turn of the user, and the empty thought of a model that is
# told not to think.
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content"
    " + '<|im_end|>' + '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)


def tiny_klein_folder(seed: int = 0) -> Path:
    """A Flux2KleinPipeline of tiny random parts as it is saved; do not write into it."""
    return _made("klein", seed)


def tiny_zimage_folder(seed: int = 0) -> Path:
    """The same of a ZImagePipeline."""
    return _made("zimage", seed)


@lru_cache(maxsize=4)
def _made(kind: str, seed: int) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, ZImagePipeline

    folder = Path(tempfile.mkdtemp(prefix=f"mcap-tiny-{kind}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tokenizer = tiny_qwen_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "zimage":
            ZImagePipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
                vae=_tiny_vae(scaling_factor=0.3611, shift_factor=0.1159),
                text_encoder=_tiny_qwen(tokenizer, layers=3).model,
                tokenizer=tokenizer,
                transformer=tiny_zimage(seed),
            ).save_pretrained(folder)
            return folder
        Flux2KleinPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=_tiny_flux2_vae(),
            text_encoder=_tiny_qwen(tokenizer),
            tokenizer=tokenizer,
            transformer=tiny_flux2(seed),
            is_distilled=False,
        ).save_pretrained(folder)
    return folder


def tiny_klein(seed: int = 0, dtype: torch.dtype = torch.float32):
    """A fresh `KleinBackbone` of those parts on every call."""
    from mcap_plugins.klein.load import load

    facts = {"id": "tiny-klein", "licence": "none", "commercial": True, "needs_safety": False}
    return load("cpu", dtype, tiny_klein_folder(seed), **facts)


def tiny_zimage_backbone(seed: int = 0, dtype: torch.dtype = torch.float32):
    """A fresh `ZImageBackbone` on every call; its latents are twice as fine as its tokens."""
    from mcap_plugins.zimage.load import load

    facts = {"id": "tiny-zimage", "licence": "none", "commercial": True, "needs_safety": False}
    return load("cpu", dtype, tiny_zimage_folder(seed), **facts)


def tiny_qwen_tokenizer():
    """Qwen2's byte-level tokenizer with whole words for `WORDS`, and Qwen3's special tokens."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocabulary = sorted(ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = ["\u0120", *word]  # byte-level's space
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
                vocabulary.append("".join(pair))
            pieces[:2] = ["".join(pair)]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = [*dict.fromkeys(vocabulary), *special]
    tokenizer = Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(vocabulary)},
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=131072,
    )
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _tiny_qwen(tokenizer, layers: int = 28):
    """Klein reads the states behind the 27th layer, before the last norm."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer) + 5,  # as Qwen3's own table has rows to spare
        hidden_size=TOKENS,
        intermediate_size=2 * TOKENS,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.1,
    )
    return Qwen3ForCausalLM(config)


def _tiny_flux2_vae():
    from diffusers import AutoencoderKLFlux2

    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIZE,
    )
    vae.bn.running_mean.copy_(0.1 * torch.randn(16))
    vae.bn.running_var.copy_(0.5 + torch.rand(16))
    return vae
