"""CLIP's tokenizer (arXiv 2103.00020), for checkpoints that come without one.

The vocabulary follows from the merges: the 256 bytes as printable letters, the same at the end of
a word, one piece for each merge in its order, start and end of text. 49408 pieces.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

MERGES = Path(__file__).parent / "merges.txt.gz"
LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(pad_token: str = END) -> Any:
    """transformers' CLIPTokenizer; SDXL's second one pads with "!" and not with the end of text."""
    from transformers import CLIPTokenizer

    merges = gzip.decompress(MERGES.read_bytes()).decode()
    config = {"model_max_length": LENGTH, "pad_token": pad_token, "unk_token": END}
    with tempfile.TemporaryDirectory() as folder:  # the one way that every transformers reads
        place = Path(folder)
        (place / "vocab.json").write_text(json.dumps(vocabulary(merges)), encoding="utf-8")
        (place / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
        (place / "tokenizer_config.json").write_text(
            json.dumps({**config, "bos_token": START, "eos_token": END})
        )
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def vocabulary(merges: str) -> dict[str, int]:
    """Return the number of each piece, in the order of the module's first lines."""
    letters = byte_letters()
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += ["".join(line.split()) for line in merges.splitlines()]
    return {piece: number for number, piece in enumerate([*pieces, START, END])}


def byte_letters() -> list[str]:
    """The 256 bytes as letters: first those that print, then the rest from U+0100 on."""
    printing = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printing] + [chr(0x100 + i) for i in range(256 - len(printing))]
