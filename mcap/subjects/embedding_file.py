"""Textual-inversion files of other programs: one vector or several, for one text encoder or two.

AUTOMATIC1111 .pt       {"string_to_param": {"*": [n, D]}, ...}; before it a ParameterDict in there
kohya .safetensors      {"emb_params": [n, D]}; SDXL {"clip_l": [n, 768], "clip_g": [n, 1280]}
diffusers               {"<the word>": [D] or [n, D]}
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.diffusion.pipeline_tokens import quiet_libraries, text_encoders
from mcap.diffusion.pooling import METADATA_KEY, Pooling, pool_as_configured
from mcap.errors import UsageError
from mcap.runtime.files import sha256_of
from mcap.runtime.torch_file import load_torch_file
from mcap.subjects.lora_file import BUNDLED, read_tensors
from mcap.weights.model_source import read_header

if TYPE_CHECKING:
    import torch

SUFFIXES = (".safetensors", ".pt", ".bin")
TEXT_ENCODER_KEYS = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"))
"""SDXL's two text encoders in kohya's files, and in those of diffusers' pivotal tuning."""


@dataclass(frozen=True)
class Embedding:
    """A word that stands for vectors in place of a token's."""

    path: Path
    word: str
    sha256: str
    vectors: tuple[torch.Tensor, ...]
    """float32[n, D], one a text encoder (SDXL: clip_l, then clip_g), n the same in all."""
    number: int
    """The file's number in the run, from 1; the tokens are named by it."""
    pooling: Pooling = "end"
    """Files say so where mcap exported a subject that was trained otherwise."""
    bundled: bool = False
    """Comes with a LoRA and need not be used."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """One a vector. Not diffusers' ``<x> <x>_1``: it would put the others in once more."""
        count = self.vectors[0].shape[0]
        return tuple(f"<mcap-extra-{self.number}-{i}>" for i in range(1, count + 1))

    @property
    def pattern(self) -> re.Pattern[str]:
        """The word as people write it: bare, in angle brackets, or after ``embedding:``."""
        word = re.escape(self.word)
        return re.compile(
            rf"<{word}>|(?<![\w-])(?:embedding:)?{word}(?![\w-])", flags=re.IGNORECASE
        )

    def load_into(self, pipeline: Any) -> None:
        """Add the tokens to a pipeline's tokenizers and text encoders.

        `UsageError` where the vectors are for other text encoders.
        """
        pairs = text_encoders(pipeline)
        widths = [encoder.get_input_embeddings().weight.shape[1] for encoder, _ in pairs]
        found = [vectors.shape[1] for vectors in self.vectors]
        if found != widths:
            theirs, ours = (" and ".join(map(str, sizes)) for sizes in (found, widths))
            raise UsageError(
                f"--embedding {self.path}: its vectors have {theirs} values, and this "
                f"backbone's text encoders take {ours}; it is for another kind of model "
                "(SD1.5: 768; SDXL: 768 and 1280)."
            )
        for (encoder, tokenizer), vectors in zip(pairs, self.vectors, strict=True):
            with quiet_libraries():  # all at once, as each call copies the whole table
                pipeline.load_textual_inversion(
                    [{token: row} for token, row in zip(self.tokens, vectors, strict=True)],
                    token=list(self.tokens),
                    text_encoder=encoder,
                    tokenizer=tokenizer,
                )
        if self.pooling == "config" and len(pairs) == 2:
            pool_as_configured(*pairs[1], self.tokens)


def read_embedding_file(path: Path, number: int) -> Embedding:
    """Read a file given with --embedding; its word is its name, as in AUTOMATIC1111 and ComfyUI.

    `mcap.errors.UsageError` for what is not there, not of the three suffixes or not one embedding.
    """

    if not path.is_file():
        raise UsageError(f"--embedding {path}: there is no such file.")
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--embedding {path}: is none of {', '.join(SUFFIXES)}.")
    vectors = embedding_vectors(f"--embedding {path}", read_state(path))
    pooling: Pooling = "end"
    if path.suffix.lower() == ".safetensors":
        config = read_header(path).metadata.get(METADATA_KEY) == "config"
        pooling = "config" if config else "end"
    return Embedding(path, path.stem, sha256_of(path), vectors, number, pooling)


def bundled_embeddings(path: Path, first: int) -> list[Embedding]:
    """Read the embeddings in a LoRA file, numbered from ``first``; [] where it has none.

    AUTOMATIC1111 (its networks.py) reads ``bundle_emb.WORD.KEY``: what comes behind the word is the
    content of an embedding file.
    """
    try:
        names = [name for name in read_header(path).shapes if name.startswith(BUNDLED)]
    except UsageError:
        return []  # said when the layers are read
    if not names:
        return []
    tensors = read_tensors("--lora", path)
    groups: dict[str, dict[str, Any]] = {}
    for name in names:
        word, _, key = name.removeprefix(BUNDLED).partition(".")
        groups.setdefault(word, {})[key] = tensors[name]
    sha256 = sha256_of(path)
    return [
        Embedding(
            path,
            word,
            sha256,
            embedding_vectors(f"--lora {path}: {BUNDLED}{word}", state),
            number,
            bundled=True,
        )
        for number, (word, state) in enumerate(groups.items(), start=first)
    ]


def embedding_vectors(where: str, state: Any) -> tuple[torch.Tensor, ...]:
    """Return the rows float32[n, D] of an embedding's content, one tensor a text encoder.

    `UsageError`, which begins with ``where``, for what is not one embedding.
    """
    import torch

    if isinstance(state, dict) and "string_to_param" in state:
        state = state["string_to_param"]
        if isinstance(state, torch.nn.ParameterDict):  # whose keys torch 1.11 kept otherwise
            state = dict(state._parameters)
    keys = set(state) if isinstance(state, dict) else set()
    both = next((pair for pair in TEXT_ENCODER_KEYS if keys == set(pair)), ())
    if both:
        found = [state[key] for key in both]
    elif len(keys) == 1:
        found = list(state.values())
    else:
        names = ", ".join(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise UsageError(f"{where}: is not one embedding (it holds {names[:200]}).")
    if not all(isinstance(item, torch.Tensor) and item.ndim in (1, 2) for item in found):
        raise UsageError(f"{where}: is not one embedding (its tensor has no rows).")
    vectors = tuple(item.detach().float().reshape(-1, item.shape[-1]) for item in found)
    if len({item.shape[0] for item in vectors}) != 1:
        raise UsageError(f"{where}: has unlike numbers of vectors for the two text encoders.")
    return vectors


def read_state(path: Path) -> Any:
    """Return what a textual-inversion file holds, without running any code in it.

    `UsageError` where that cannot be done safely.
    """
    if path.suffix.lower() == ".safetensors":
        return read_tensors("--embedding", path)
    import torch

    try:
        return load_torch_file(path, [torch.nn.ParameterDict, *numpy_globals()])
    except (pickle.UnpicklingError, OSError, ValueError) as error:
        unsafe = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = "it is damaged or of another kind"
        if unsafe:
            reason = f"it holds {unsafe[1]}, which could run anything"
        raise UsageError(
            f"--embedding {path}: cannot be read safely; convert it to .safetensors ({reason})."
        ) from None


def numpy_globals() -> list[Any]:
    """Return what numpy's numbers and arrays are pickled as, which makes nothing but those.

    Trainers put a step or a loss beside the vectors as they have it. Under numpy 1's names too.
    """
    import numpy as np
    from numpy._core import multiarray

    makers = [
        (maker, f"numpy.{core}.multiarray.{maker.__name__}")
        for core in ("core", "_core")
        for maker in (multiarray.scalar, multiarray._reconstruct)
    ]
    kinds = [type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"]
    return [*makers, np.dtype, np.ndarray, *kinds]
