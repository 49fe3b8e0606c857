"""Learned tokens, weights and LoRA layers of a diffusers pipeline: put in, and taken out again."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mcap.diffusion.pooling import forget_pooling
from mcap.diffusion.steering import release
from mcap.errors import UsageError

if TYPE_CHECKING:
    import torch

_ORIGINALS: WeakKeyDictionary[Any, dict[str, torch.Tensor]] = WeakKeyDictionary()
"""Network -> its own weights, on the CPU, while others stand in their place."""


def text_encoders(pipeline: Any) -> list[tuple[Any, Any]]:
    """Return a pipeline's (text encoder, tokenizer) pairs: one for SD1.5, two for SDXL."""
    pairs = [(pipeline.text_encoder, pipeline.tokenizer)]
    if getattr(pipeline, "text_encoder_2", None) is not None:
        pairs.append((pipeline.text_encoder_2, pipeline.tokenizer_2))
    return pairs


def load_token(
    pipeline: Any, token: str, initial: str, vectors: list[torch.Tensor], scale: float
) -> None:
    """Add ``token`` to every tokenizer and its vector float32[D] to every text encoder.

    ``scale`` goes in a straight line from the mean embedding of the words ``initial`` (0) to the
    learned vector (1), and beyond. `UsageError` where the vectors are for other text encoders.
    """
    pairs = text_encoders(pipeline)
    if len(pairs) != len(vectors):
        raise UsageError(
            f"Token {token} was learned for {len(vectors)} text encoder(s), and this "
            f"backbone has {len(pairs)}; use the backbone that the subject was trained on."
        )
    for (encoder, tokenizer), learned in zip(pairs, vectors, strict=True):
        table = encoder.get_input_embeddings().weight
        if table.shape[1] != learned.shape[0]:
            raise UsageError(
                f"Token {token} has {learned.shape[0]} values, and this backbone's text "
                f"encoder takes {table.shape[1]}; use the backbone that the subject was trained on."
            )
        if scale != 1:
            ids = tokenizer(initial, add_special_tokens=False).input_ids
            start = table[ids].detach().float().mean(dim=0).cpu()
            learned = start + scale * (learned - start)
        with quiet_libraries():  # about how the rows begin that are overwritten next
            pipeline.load_textual_inversion(
                {token: learned},
                token=token,
                text_encoder=encoder,
                tokenizer=tokenizer,
            )


def load_output(
    pipeline: Any, token: str, initial: str, vector: torch.Tensor, scale: float
) -> None:
    """Add ``token`` to the tokenizer as the mean of the words ``initial``, to whose state behind
    the text encoder ``scale`` times ``vector`` float32[W] is added.

    `UsageError` where the pipeline is none of a transformer's, or of another one's.
    """
    takes = hasattr(pipeline, "put_words")  # a `QwenPipeline`
    if takes:
        config = pipeline.transformer.config
        width = config.get("joint_attention_dim") or config.get("cap_feat_dim")
        takes = width in (None, len(vector))
    if not takes:
        raise UsageError(
            f"Token {token} was learned behind the text encoder of another model; use the backbone "
            "that the subject was trained on."
        )
    ((encoder, tokenizer),) = text_encoders(pipeline)
    table = encoder.get_input_embeddings().weight
    ids = tokenizer(initial, add_special_tokens=False).input_ids
    pipeline.load_textual_inversion(
        {token: table[ids].detach().float().mean(dim=0)},
        outputs={token: scale * vector},
        text_encoder=encoder,
        tokenizer=tokenizer,
    )


def load_weights(module: Any, weights: Mapping[str, torch.Tensor], scale: float) -> None:
    """Put ``weights`` in the place of a network's own of these names, until `restore_weights`.

    ``scale`` goes in a straight line from its own (0) to those (1), and beyond. `UsageError` where
    they are of another kind of model; ValueError where others are in place already.
    """
    import torch

    if module in _ORIGINALS:
        raise ValueError("other weights are in place already; take them out first")
    own = module.state_dict()
    for name, weight in weights.items():
        if name not in own or own[name].shape != weight.shape:
            raise UsageError(
                f"The subject's weight {name} has no place in this backbone; use the backbone that "
                "the subject was trained on."
            )
    _ORIGINALS[module] = {name: own[name].to("cpu", copy=True) for name in weights}
    with torch.no_grad():
        for name, weight in weights.items():
            if scale == 1:
                own[name].copy_(weight)
            else:
                start = _ORIGINALS[module][name].float()
                own[name].copy_(start + scale * (weight.float() - start))


def restore_weights(module: Any) -> None:
    """Put a network's own weights back; without others in their place, do nothing."""
    import torch

    originals = _ORIGINALS.pop(module, {})
    own = module.state_dict() if originals else {}
    with torch.no_grad():
        for name, weight in originals.items():
            own[name].copy_(weight)


def unload(pipeline: Any, tokens: Sequence[str]) -> None:
    """Remove every LoRA layer, those of ``tokens`` that a pipeline has, their pooling, others'
    weights, and what steers it."""
    encoders = text_encoders(pipeline)
    if any(getattr(m, "peft_config", None) for m in (pipeline.unet, *(e for e, _ in encoders))):
        pipeline.unload_lora_weights()
    for encoder, tokenizer in encoders:
        forget_pooling(encoder)
        there = [token for token in tokens if token in tokenizer.get_added_vocab()]
        if there:
            pipeline.unload_textual_inversion(there, tokenizer=tokenizer, text_encoder=encoder)
            # Its table has its own size again; peft would take it for one that was enlarged.
            encoder.config.vocab_size = encoder.get_input_embeddings().weight.shape[0]
    for module in (pipeline.unet, *(encoder for encoder, _ in encoders)):
        restore_weights(module)
    release(pipeline)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence warnings while weights are loaded; errors stay.

    diffusers warns of each LoRA without a text part, transformers of new embedding rows, peft of a
    second adapter.
    """
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
