"""The place in a prompt at which SDXL's second text encoder takes its pooled vector.

CLIP is trained to say the whole text at its end token, and AUTOMATIC1111, ComfyUI and sd-scripts
take it there. SDXL's own configuration calls the end token 2, by which transformers takes the
prompt's highest token id: the end token, unless there is an added token, whose id is higher.

Subjects of mcap 0.1 learned with that. Their prompts, and those of files exported of them, are
pooled so where their token is the highest; everything else at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

Pooling = Literal["end", "config"]
"""At the end of the text, or as the text encoder's configuration says."""
METADATA_KEY = "mcap.pooling"
"""In the header of an exported embedding for SDXL."""
HIGHEST = 2
"""The ``eos_token_id`` in a configuration by which transformers takes the highest token id."""

_hooks: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()


def pool_at_end(encoder: Any, tokenizer: Any) -> None:
    """Have a CLIPTextModelWithProjection pool at the tokenizer's end token; its config stays."""
    encoder.text_model.eos_token_id = tokenizer.eos_token_id


def pool_as_configured(encoder: Any, tokenizer: Any, tokens: Iterable[str]) -> None:
    """Pool prompts of which one of ``tokens`` has the highest id at that token, from now on.

    Only where the encoder's configuration would. `forget_pooling` ends it.
    """
    import torch

    ids = torch.tensor(tokenizer.convert_tokens_to_ids(list(tokens)))
    if encoder.config.eos_token_id != HIGHEST or not len(ids):
        return

    def take_highest(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        given = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        highest, places = given.max(dim=-1)
        rows = torch.isin(highest, ids.to(given.device))
        if rows.any():
            hidden = output.last_hidden_state
            taken = hidden[torch.arange(len(hidden), device=hidden.device), places]
            pooled = module.text_projection(taken)
            output.text_embeds = torch.where(rows[:, None], pooled, output.text_embeds)
        return output

    hook = encoder.register_forward_hook(take_highest, with_kwargs=True)
    _hooks.setdefault(encoder, []).append(hook)


def forget_pooling(encoder: Any) -> None:
    """Take back all that `pool_as_configured` did."""
    for hook in _hooks.pop(encoder, []):
        hook.remove()


@contextmanager
def trained_pooling(backbone: Any, tokens: Iterable[str], pooling: Pooling) -> Iterator[None]:
    """Encode a backbone's prompts with ``tokens`` as a run does that pools by ``pooling``."""
    if pooling == "end" or len(backbone.text_encoders) < 2:
        yield
        return
    encoder = backbone.text_encoders[1]
    pool_as_configured(encoder, backbone.tokenizers[1], tokens)
    try:
        yield
    finally:
        forget_pooling(encoder)
