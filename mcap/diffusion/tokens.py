"""Learned tokens: new words whose embedding rows are trained (textual inversion, arXiv 2208.01618).

Or, at the other end of a text encoder, what a word adds to the encoder's state at its own place:
its row stays where it began, so that the encoder runs once for each prompt and keeps nothing for a
gradient. It is less than a row, which all words behind it see.

While installed, a wrapper stands where the text encoder's token embedding was: the frozen table
and, beside it, float32 rows for the new tokens. `LearnedTokens.remove` puts the original module
and tokenizer back; do that before a text encoder is saved or given to
``load_textual_inversion``. Nothing is resized, so no random number is drawn and no table copied.

Legend: B prompts, L tokens of a padded prompt, D the embedding's width, W the width of what the
network reads of a token, K learned tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.diffusion.prompt_length import require_fit, token_limit

if TYPE_CHECKING:
    from mcap.contracts import PromptEmbedding

__all__ = [
    "ID_TOKEN",
    "STYLE_TOKEN",
    "LearnedTokens",
    "OutputRows",
    "TokenEmbedding",
    "install",
    "own_tokens",
]


class TokenEmbedding(nn.Module):
    """A frozen embedding table with K trainable rows beside it, and what they add behind the text
    encoder (`OutputRows`), where they do."""

    outputs: OutputRows | None

    def __init__(
        self,
        table: nn.Embedding,
        token_ids: Sequence[int],
        rows: torch.Tensor,
        outputs: OutputRows | None = None,
    ) -> None:
        super().__init__()
        self.table = table
        # In a module after the table: transformers takes the precision of a model from its first
        # parameter, and pipelines draw latents in that of the text encoder.
        self.learned = nn.ParameterList([nn.Parameter(rows)])
        self.token_ids: torch.Tensor
        self.register_buffer("token_ids", torch.tensor(list(token_ids)), persistent=False)
        self.outputs = outputs

    @property
    def rows(self) -> nn.Parameter:
        """The trainable rows, float32[K, D]."""
        found: nn.Parameter = self.learned[0]
        return found

    @property
    def weight(self) -> torch.Tensor:
        """The frozen table, where transformers looks for an embedding's dtype and device."""
        return self.table.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embed int64[B, L]: float[B, L, D] in the table's precision."""
        matches = input_ids[..., None] == self.token_ids.to(input_ids.device)
        learned = matches.any(dim=-1)
        plain = self.table(input_ids.masked_fill(learned, 0))
        rows = self.rows.to(plain.dtype)[matches.to(torch.uint8).argmax(dim=-1)]
        return torch.where(learned[..., None], rows, plain)

    def add_outputs(self, input_ids: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Return the text encoder's states B x L x W for int64[B, L] with what the tokens add."""
        if self.outputs is None or not self.outputs.on:
            return states
        ids = input_ids.to(states.device)
        matches = ids[..., None] == self.token_ids.to(states.device)
        return states + matches.to(states.dtype) @ self.outputs.vectors().to(states)


class OutputRows(nn.Module):
    """Additions of K learned tokens to a text encoder's states, in parts of ``unit``.

    With the states' size over that of the table's rows as unit, a learning rate moves a word here
    about as much as its row.
    """

    def __init__(self, rows: torch.Tensor, unit: float = 1.0) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)
        self.unit = unit
        self.on = True
        """False: nothing is added."""

    def vectors(self) -> torch.Tensor:
        """Return what is added, float[K, W]."""
        return self.unit * self.rows


class LearnedTokens:
    """The tokens of a subject, installed in every text encoder of a backbone. See `install`."""

    def __init__(
        self, backbone: Any, words: Mapping[str, str], place: Literal["input", "output"] = "input"
    ) -> None:
        self.tokens = tuple(words)
        self.place = place
        self.backbone = backbone
        self.embeddings: list[TokenEmbedding] = []
        self.installed = False
        if not words:
            return
        for token in words:
            # Added tokens are matched without regard to case, and a bare word inside others.
            if token != token.lower() or not (token.startswith("<") and token.endswith(">")):
                raise ValueError(f"the token '{token}' must be lower case in angle brackets")
        self._originals = [
            (tokenizer, encoder.get_input_embeddings())
            for tokenizer, encoder in zip(backbone.tokenizers, backbone.text_encoders, strict=True)
        ]
        extended = [
            _extend(tokenizer, table, words, encoder)
            for (tokenizer, table), encoder in zip(
                self._originals, backbone.text_encoders, strict=True
            )
        ]
        self.embeddings = [embedding for _, embedding in extended]
        self._medians = [
            table.weight.detach().float().norm(dim=1).median().item()
            for _, table in self._originals
        ]
        for index, (tokenizer, embedding) in enumerate(extended):
            backbone.tokenizers[index] = tokenizer
            backbone.text_encoders[index].set_input_embeddings(embedding)
        self.installed = True
        if place == "output":
            self._start_outputs()

    @torch.no_grad()
    def _start_outputs(self) -> None:
        """Let the tokens learn behind the text encoder, of which there is one; they add 0 yet."""
        (embedding,) = self.embeddings
        ids = self.encode([" ".join(self.tokens)])
        states = self.backbone.encode_prompt(ids).hidden
        place = torch.isin(ids[0], embedding.token_ids.cpu()).to(states.device)
        rows = embedding.rows.requires_grad_(False)
        unit = states[place].float().square().mean().sqrt() / rows.square().mean().sqrt()
        zeros = torch.zeros(len(self.tokens), states.shape[-1], device=rows.device)
        embedding.outputs = OutputRows(zeros, unit.item())

    def parameters(self) -> list[nn.Parameter]:
        """Return one parameter a text encoder, float32[K, D], rows in the order of `tokens`; or
        what they add to the states of the one there is, float32[K, W]."""
        return [
            embedding.rows if embedding.outputs is None else embedding.outputs.rows
            for embedding in self.embeddings
        ]

    @contextmanager
    def without_outputs(self) -> Iterator[None]:
        """Let the tokens add nothing to the text encoder's states for a while."""
        outputs = [each.outputs for each in self.embeddings if each.outputs is not None]
        for each in outputs:
            each.on = False
        try:
            yield
        finally:
            for each in outputs:
                each.on = True

    def with_outputs(self, embedding: PromptEmbedding, input_ids: torch.Tensor) -> PromptEmbedding:
        """Return an embedding that was made without outputs with those of its ids int64[B, L]."""
        (table,) = self.embeddings
        return replace(embedding, hidden=table.add_outputs(input_ids, embedding.hidden))

    def encode(self, prompts: Sequence[str]) -> tuple[torch.Tensor, ...]:
        """Return padded token ids int64[B, L] on the CPU, one tensor a text encoder.

        Raises `mcap.errors.UsageError` for a prompt that is too long: what does not fit would be
        ignored without a word, and a learned token may stand there.
        """
        require_fit(prompts, self.backbone.tokenizers, self.backbone.text_encoders)
        return tuple(
            tokenizer(
                list(prompts),
                padding="max_length",
                max_length=token_limit(tokenizer, encoder),
                truncation=True,
                return_tensors="pt",
            ).input_ids
            for tokenizer, encoder in zip(
                self.backbone.tokenizers, self.backbone.text_encoders, strict=True
            )
        )

    def columns(self, input_ids: torch.Tensor, token: str) -> torch.Tensor:
        """Return float32[B, L]: 1 where ids of the first encoder, int64[B, L], are ``token``."""
        token_id = self.backbone.tokenizers[0].convert_tokens_to_ids(token)
        return (input_ids == token_id).float()

    def own(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return `own_tokens` of the first encoder's ids, int64[B, L]."""
        return own_tokens(input_ids, self.backbone.tokenizers[0])

    def vectors(self) -> dict[str, list[torch.Tensor]]:
        """Return token -> its vectors float32[D] on the CPU, a copy, one a text encoder; or what it
        adds to its states, float32[W]."""
        learned = [
            each.rows if each.outputs is None else each.outputs.vectors()
            for each in self.embeddings
        ]
        return {
            token: [rows[index].detach().float().cpu().clone() for rows in learned]
            for index, token in enumerate(self.tokens)
        }

    @torch.no_grad()
    def assign(self, token: str, vectors: Sequence[torch.Tensor]) -> None:
        """Put ``vectors``, float[D], one a text encoder, in a token's place."""
        index = self.tokens.index(token)
        for rows, vector in zip(self.parameters(), vectors, strict=True):
            rows[index].copy_(vector)

    def state(self) -> dict[str, torch.Tensor]:
        """Return a checkpoint's tensors: ``rows.0`` (and ``rows.1``), float32[K, D] on the CPU."""
        return {
            f"rows.{i}": rows.detach().cpu().clone() for i, rows in enumerate(self.parameters())
        }

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` gave, exactly. ValueError where it is of other tokens."""
        expected = {f"rows.{i}": tuple(rows.shape) for i, rows in enumerate(self.parameters())}
        found = {key: tuple(value.shape) for key, value in state.items()}
        if found != expected:
            raise ValueError(f"these learned tokens are {found}, expected {expected}")
        with torch.no_grad():
            for index, rows in enumerate(self.parameters()):
                rows.copy_(state[f"rows.{index}"])

    @torch.no_grad()
    def regularise_norms(self, lr: float) -> None:
        """Move each norm n towards the vocabulary's median m: n + min(1, 100 lr) (m - n)."""
        rate = min(1.0, 100.0 * lr)
        for rows, median in zip(self.parameters(), self._medians, strict=True):
            norm = rows.norm(dim=1, keepdim=True)
            scale = torch.where(norm > 0, 1 + rate * (median / norm - 1), 1.0)
            rows.mul_(scale)

    def remove(self) -> None:
        """Put the original embeddings and tokenizers back; a second call does nothing."""
        if not self.installed:
            return
        for index, (tokenizer, table) in enumerate(self._originals):
            self.backbone.tokenizers[index] = tokenizer
            self.backbone.text_encoders[index].set_input_embeddings(table)
        self.installed = False


def install(
    backbone: Any, words: Mapping[str, str], place: Literal["input", "output"] = "input"
) -> LearnedTokens:
    """Add learned tokens to every text encoder: token -> words whose mean embedding starts it.

    ``place`` "output": they learn behind the encoder, of which there must be one (`OutputRows`).

    >>> tokens = install(backbone, {"<mcap-id>": "person", "<mcap-style>": "photo style"})

    The backbone's own modules and tokenizers are changed until `LearnedTokens.remove`; without
    ``words`` nothing is changed and nothing learns. ValueError
    for a token that the tokenizer knows already, that is not lower case in angle brackets, or
    whose initial words are empty.
    """
    return LearnedTokens(backbone, words, place if words else "input")


def own_tokens(input_ids: torch.Tensor, tokenizer: Any) -> torch.Tensor:
    """Return float32[B, L]: 1 where ids int64[B, L] are a prompt's own, 0 where they are padding.

    A tokenizer that pads with its token for the end, as CLIP's does, has that one left out, too.
    """
    return (input_ids != tokenizer.pad_token_id).float()


def _extend(
    tokenizer: Any, table: Any, words: Mapping[str, str], encoder: Any
) -> tuple[Any, TokenEmbedding]:
    if not isinstance(table, nn.Embedding):
        raise ValueError("this text encoder has learned tokens already; remove them first")
    tokenizer = copy.deepcopy(tokenizer)
    initial = [_mean_embedding(tokenizer, table, text, token) for token, text in words.items()]
    known = [token for token in words if token in tokenizer.get_vocab()]
    if known:
        raise ValueError(f"the tokenizer knows {', '.join(known)} already")
    tokenizer.add_tokens(list(words))
    embedding = TokenEmbedding(
        table, tokenizer.convert_tokens_to_ids(list(words)), torch.stack(initial)
    )
    embedding.train(encoder.training)
    return tokenizer, embedding


def _mean_embedding(tokenizer: Any, table: nn.Embedding, text: str, token: str) -> torch.Tensor:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if not ids:
        raise ValueError(f"the token '{token}' needs at least one initial word")
    rows = table.weight.detach()[torch.tensor(ids, device=table.weight.device)]
    return rows.to(torch.promote_types(rows.dtype, torch.float32)).mean(dim=0)
