"""Z-Image's classes at a size that two cores train: transformer, Qwen3 and its tokenizer.

The autoencoder is the demo backbone's own, which is of the class that Z-Image's is. Its latents at
256 pixels are 12 x 16 x 16, so the transformer, which takes patches of 2 x 2, sees 64 tokens.

Legend: B rows, T tokens of a prompt, D width of the text encoder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "demo_backbone"))
from captions import IDENTITY as IDENTITY
from captions import caption
from styles import draw_styles
from text import WORD_NORM
from words import corpus

LATENTS = 12
WIDTH = 128
"""D."""
LONGEST = 32
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.content + '<|im_end|>' }}"
    "{%- endfor %}"
)
"""A prompt between two tokens; Qwen3's own template spends ten on roles and lines."""


def build_tokenizer(records: list[dict], size: int = 2048) -> Qwen2Tokenizer:
    """Return Qwen2's byte-level tokenizer with merges learned from captions of these records."""
    rng = np.random.default_rng(0)
    lines = corpus()
    for record in records[:4000]:
        lines.append(caption(record["attributes"], draw_styles(rng), False, rng))
    reference = Qwen2Tokenizer(vocab={SPECIAL[0]: 0}, merges=[]).backend_tokenizer
    learning = Tokenizer(models.BPE())
    learning.normalizer = reference.normalizer
    learning.pre_tokenizer = reference.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    learning.train_from_iterator(lines, trainer)
    learned = json.loads(learning.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].get)
    tokenizer = Qwen2Tokenizer(
        vocab={piece: place for place, piece in enumerate([*pieces, *SPECIAL])},
        merges=[tuple(merge) for merge in learned["merges"]],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        additional_special_tokens=SPECIAL[1:],
        model_max_length=512,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def token_ids(tokenizer: Qwen2Tokenizer, text: str) -> list[int]:
    """Return the tokens of a prompt in the chat template, without its last parts between commas
    where it has more than `LONGEST`: the transformer pads prompts to multiples of that."""
    while True:
        ids: list[int] = tokenizer(
            f"{SPECIAL[1]}{text}{SPECIAL[2]}", add_special_tokens=False
        ).input_ids
        if len(ids) <= LONGEST or "," not in text:
            return ids
        text = text.rpartition(",")[0]


def build_qwen(tokenizer: Qwen2Tokenizer) -> Qwen3ForCausalLM:
    """Return a fresh Qwen3 of two layers, of which Z-Image reads the state behind the first; the
    other is not trained."""
    made = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),  # the identity word's row with it
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    # Rows of one norm: mcap draws a row that it learns to the table's median norm.
    table = made.get_input_embeddings().weight.data
    table.copy_(WORD_NORM * torch.nn.functional.normalize(torch.randn_like(table), dim=1))
    made.model.layers[1].requires_grad_(False)
    made.model.norm.requires_grad_(False)
    return made


def build_transformer() -> ZImageTransformer2DModel:
    """Return a fresh transformer of six layers and a refiner of each kind, 5.1 million values.

    Each block begins as the identity (its gates at 0), and what is predicted as 0.
    """
    made = ZImageTransformer2DModel(
        in_channels=LATENTS,
        dim=192,
        n_layers=6,
        n_refiner_layers=1,
        n_heads=6,
        n_kv_heads=6,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 12, 12],
        axes_lens=[512, 64, 64],
    )
    zeros = [
        layer[-1] if isinstance(layer, torch.nn.Sequential) else layer
        for name, layer in made.named_modules()
        if name.endswith(("adaLN_modulation", "final_layer.2-1.linear"))
    ]
    for layer in zeros:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return made


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


class IdentityWord(torch.nn.Module):
    """Unit face vectors B x 128 of SFace -> rows B x D of the text encoder's table.

    Rows have the norm of a word. One matrix, which begins orthogonal, of what differs from the mean
    of the faces: a perceptron began by sending everybody to a few rows, and after 25,000 rows of
    training nobody had a face of their own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.embed = torch.nn.Linear(128, WIDTH, bias=False)
        torch.nn.init.orthogonal_(self.embed.weight)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        made = self.embed(vectors - self.mean)
        return WORD_NORM * torch.nn.functional.normalize(made, dim=-1)


def build(tokenizer: Qwen2Tokenizer) -> torch.nn.ModuleDict:
    """Return "transformer", "text" and "identity" with fresh weights.

    "identity" makes a face vector into the embedding row of the identity word.
    """
    return torch.nn.ModuleDict(
        {
            "transformer": build_transformer(),
            "text": build_qwen(tokenizer),
            "identity": IdentityWord(),
        }
    )


def prompt_states(
    text: Qwen3ForCausalLM, token: int, rows: torch.Tensor, ids: list[list[int]]
) -> list[torch.Tensor]:
    """Return each prompt's states T x D behind the first layer, the last but one of all.

    ``rows`` B x D stand in the places of ``token``. Padding is at the end, where a causal model's
    states before it do not see it.
    """
    longest = max(len(one) for one in ids)
    padded = torch.tensor([one + [SPECIAL_PAD] * (longest - len(one)) for one in ids])
    table = text.get_input_embeddings()
    embedded = table(padded.clamp(min=0))
    embedded = torch.where((padded == token)[..., None], rows[:, None].to(embedded), embedded)
    model = text.base_model
    places = torch.arange(longest)[None]
    states = model.layers[0](
        embedded,
        attention_mask=causal_mask(longest),
        position_ids=places,
        position_embeddings=model.rotary_emb(embedded, places),
    )
    return [state[: len(one)] for state, one in zip(states, ids, strict=True)]


SPECIAL_PAD = -1


def causal_mask(length: int) -> torch.Tensor:
    """Return float[1, 1, T, T], 0 where a token may look and minus infinity elsewhere."""
    return torch.full((length, length), float("-inf")).triu(1)[None, None]
