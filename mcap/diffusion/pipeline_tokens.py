"""Learned tokens and LoRA layers of a diffusers pipeline: put in, and taken out again."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcap.errors import UsageError

if TYPE_CHECKING:
    import torch


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


def pool_at_end(pipeline: Any, tokens: Sequence[str]) -> None:
    """Take SDXL's pooled vector at the text's end where the highest token is one of ``tokens``.

    Its second text encoder (``eos_token_id`` 2) pools at a prompt's highest token id, which would
    be an embedding's; ComfyUI and AUTOMATIC1111 pool at the end token. A subject's own tokens,
    higher still, are pooled at as in training. `unload` takes the hook out again.
    """
    import torch

    if getattr(pipeline, "text_encoder_2", None) is None or not tokens:
        return
    encoder, tokenizer = pipeline.text_encoder_2, pipeline.tokenizer_2
    known = torch.tensor(tokenizer.convert_tokens_to_ids(list(tokens)))

    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        rows = torch.isin(ids.max(dim=-1).values, known.to(ids.device))
        if rows.any():
            end = (ids == tokenizer.eos_token_id).int().argmax(dim=-1)
            hidden = output.last_hidden_state
            pooled = module.text_projection(hidden[torch.arange(len(ids), device=ids.device), end])
            output.text_embeds = torch.where(rows[:, None], pooled, output.text_embeds)
        return output

    encoder.mcap_pooling = encoder.register_forward_hook(hook, with_kwargs=True)


def unload(pipeline: Any, tokens: Sequence[str]) -> None:
    """Remove every LoRA layer, and those of ``tokens`` that a pipeline has."""
    encoders = text_encoders(pipeline)
    if any(getattr(m, "peft_config", None) for m in (pipeline.unet, *(e for e, _ in encoders))):
        pipeline.unload_lora_weights()
    for encoder, tokenizer in encoders:
        pooling = encoder.__dict__.pop("mcap_pooling", None)
        if pooling is not None:
            pooling.remove()
        there = [token for token in tokens if token in tokenizer.get_added_vocab()]
        if there:
            pipeline.unload_textual_inversion(there, tokenizer=tokenizer, text_encoder=encoder)


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
