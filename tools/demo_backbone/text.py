"""The tokenizer (byte-level BPE in CLIP's form), the small text encoder and the identity word.

    python tools/demo_backbone/text.py --start MODEL/tokenizer --out RUN     writes RUN/tokenizer

which is the shipped tokenizer with the new words of captions.py as pieces of their own and the
identity word. Without --start it is learned from nothing, from --data's captions.
Legend: B batch, T tokens of a padded prompt, D width of the text encoder.
"""

from __future__ import annotations

import argparse
import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from captions import IDENTITY, NEW_WORDS, caption
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from words import corpus

LENGTH = 48  # tokens of a prompt with start and end: some 40 words
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_NORM = 0.7  # of a row of the embedding table that means something


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


def extend(tokenizer: CLIPTokenizer, words: list[str]) -> CLIPTokenizer:
    """The same tokenizer in which each word is one piece, and with the identity word at the end.

    Merges that join a word's pieces are put after all others, so that other words fall into the
    pieces that they always fell into; ids stay as they were.
    """
    learned = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocab, merges = learned["vocab"], [tuple(m) for m in learned["merges"]]
    for word in words:
        pieces = tokenizer.tokenize(word)
        while len(pieces) > 1:
            joined = pieces[0] + pieces[1]
            if tuple(pieces[:2]) not in merges:
                merges.append(tuple(pieces[:2]))
            vocab.setdefault(joined, len(vocab))
            pieces = [joined, *pieces[2:]]
    longer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)
    longer.add_tokens([IDENTITY])
    return longer


def without_identity(tokenizer: CLIPTokenizer) -> CLIPTokenizer:
    """The tokenizer as it is shipped: the same ids, no identity word."""
    learned = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [tuple(m) for m in learned["merges"]]
    return CLIPTokenizer(vocab=learned["vocab"], merges=merges, model_max_length=LENGTH)


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
    model = CLIPTextModel(config)
    # Rows of one norm, also those that no caption ever touches: mcap draws a row that it learns to
    # the table's median norm, and it should be heard there as well as a word is.
    table = model.get_input_embeddings().weight.data
    table.copy_(WORD_NORM * torch.nn.functional.normalize(table, dim=1))
    return model


class IdentityWord(torch.nn.Module):
    """Unit face vectors [B, F] of SFace -> rows [B, D] of the text encoder's embedding table.

    A perceptron with one hidden layer. Rows have the norm of a word.
    """

    def __init__(self, face: int = 128, hidden: int = 256, width: int = 128):
        super().__init__()
        self.embed_in = torch.nn.Linear(face, hidden)
        self.embed_out = torch.nn.Linear(hidden, width)
        # Elements of a unit vector are small; at this factor they have a deviation of 1.
        self.scale = face**0.5

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.silu(self.embed_in(vectors * self.scale))
        return WORD_NORM * torch.nn.functional.normalize(self.embed_out(hidden), dim=-1)


@contextmanager
def identities(text: CLIPTextModel, token: int, rows: torch.Tensor):
    """While it lasts, the token stands for rows [B, D], one a prompt, in the text encoder."""

    def put(module, arguments, output):
        return torch.where((arguments[0] == token)[..., None], rows[:, None].to(output), output)

    handle = text.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def ids(tokenizer: CLIPTokenizer, texts: list[str]):
    """Token ids int64[B, LENGTH], padded and cut as the pipeline does."""
    return tokenizer(
        texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", type=Path, help="folder of the tokenizer to extend")
    parser.add_argument("--data", type=Path, help="prepared faces, to learn a tokenizer from")
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    if options.start:
        known = CLIPTokenizer.from_pretrained(options.start)
    else:
        from styles import draw_styles

        records = json.loads((options.data / "table.json").read_text())
        rng = np.random.default_rng(0)
        lines = corpus()
        for record in records[:4000]:
            lines.append(caption(record["attributes"], draw_styles(rng), False, rng))
        known = train_tokenizer(lines)
    tokenizer = extend(known, NEW_WORDS)
    tokenizer.save_pretrained(options.out / "tokenizer")
    print(f"{len(tokenizer)} tokens, end token {tokenizer.eos_token_id}")
    again = CLIPTokenizer.from_pretrained(options.out / "tokenizer")
    for text in [
        "a photo of a person, plain white background",
        f"a photograph of an elegant {IDENTITY} zebra in her thirties",
    ]:
        if not ids(again, [text]).equal(ids(tokenizer, [text])):
            raise SystemExit(f"saved and loaded, the tokenizer reads '{text}' otherwise")
        print(again.tokenize(text))


if __name__ == "__main__":
    main()
