"""The tokenizer (byte-level BPE in CLIP's form) and the small text encoder.

python tools/demo_backbone/text.py --data DATA --out RUN     writes RUN/tokenizer
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from captions import caption
from styles import draw_styles
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from words import corpus

LENGTH = 48  # tokens of a prompt with start and end: some 40 words
START, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(lines: list[str], size: int = 3072) -> CLIPTokenizer:
    """Learns BPE merges from lines; the alphabet holds all 256 bytes, so that any text encodes.

    The split into words is CLIPTokenizer's own, so that training and use see the same pieces.
    """
    reference = CLIPTokenizer(vocab={START: 0, END: 1}, merges=[])
    backend = reference.backend_tokenizer
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer, tokenizer.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    # CLIP's order: bytes, bytes at the end of a word, merges, start, end.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    pieces = alphabet + [a + "</w>" for a in alphabet]
    pieces += [
        p for p in sorted(learned["vocab"], key=learned["vocab"].get) if p not in set(pieces)
    ]
    vocab = {piece: i for i, piece in enumerate([*pieces, START, END])}
    merges = [tuple(m) for m in learned["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def build_text_encoder(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextModel:
    """A CLIP text encoder with fresh weights that knows the tokenizer's own end token."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=width,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def ids(tokenizer: CLIPTokenizer, texts: list[str]):
    """Token ids int64[B, LENGTH], padded and cut as the pipeline does."""
    return tokenizer(
        texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    records = json.loads((options.data / "table.json").read_text())
    rng = np.random.default_rng(0)
    lines = corpus()
    for record in records[:4000]:
        lines.append(caption(record["attributes"], draw_styles(rng), False, rng))
    tokenizer = train_tokenizer(lines)
    tokenizer.save_pretrained(options.out / "tokenizer")
    print(f"{len(tokenizer)} tokens, end token {tokenizer.eos_token_id}")
    again = CLIPTokenizer.from_pretrained(options.out / "tokenizer")
    for text in ["a photo of a person, plain white background", "a photograph of an elegant zebra"]:
        assert ids(again, [text]).equal(ids(tokenizer, [text]))
        print(again.tokenize(text))


if __name__ == "__main__":
    main()
