"""Record the joint attention of a transformer: how much each image token looks at a text token.

A transformer of text and image tokens (MMDiT, arXiv 2403.03206) has no cross-attention: both kinds
attend to both in one softmax. A token's map is here the attention of the image queries over the
text keys alone, as if the image's own keys, which would swamp it, were not there:

    A_k = softmax_k( q_image . k_text / sqrt(d) )

The text keys are all that a layer attends to, the padding of a prompt among them, or the prompt's
own alone.

Queries and keys are kept behind their norms by forward hooks, turned by the layer's own rotary
embedding, and multiplied afterwards for this block of the attention matrix alone. Processors, fused
kernels and peft's LoRA wrappers stay as they are.

Known are diffusers' Flux2Transformer2DModel, whose layers see text before image (in the
double-stream blocks by projections of their own, in the single-stream ones by one for q, k, v and
MLP), and ZImageTransformer2DModel, whose layers see image before text.

Legend: B rows, L tokens of a padded prompt, N heads and layers together, h x w the token grid, d a
head's width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad

from mcap.diffusion.attention import (
    WHOLE,
    AttentionRecorder,
    attention_column,
    evenly_spread,
    spread_layers,
)
from mcap.diffusion.latents import vae_factor

if TYPE_CHECKING:
    from mcap.contracts import Backbone

PATCH = 2
"""Side in latents of the patch that is one of Z-Image's tokens."""
PADDED_TO = 32
"""Z-Image pads its text and its image to multiples of this many tokens each."""


def joint_attention_layers(transformer: Any) -> dict[str, Any]:
    """Return the attention modules that see text and image: name -> module, in their order.

    TypeError for a network of another class than the two that are known. Z-Image's refiners, which
    see one of the two alone, are left out.
    """
    from diffusers import Flux2Transformer2DModel, ZImageTransformer2DModel

    network: Any = transformer  # diffusers' types know no parts of these classes
    if isinstance(transformer, Flux2Transformer2DModel):
        double, single = network.transformer_blocks, network.single_transformer_blocks
        return {
            **{f"transformer_blocks.{i}.attn": block.attn for i, block in enumerate(double)},
            **{f"single_transformer_blocks.{i}.attn": block.attn for i, block in enumerate(single)},
        }
    if isinstance(transformer, ZImageTransformer2DModel):
        return {f"layers.{i}.attention": block.attention for i, block in enumerate(network.layers)}
    raise TypeError(f"the joint attention of {type(transformer).__name__} is not known")


class JointAttentionRecorder(AttentionRecorder):
    """An `AttentionRecorder` of a transformer.

    ``layers`` restricts it to some names out of `joint_attention_layers`. Of Z-Image the prompts'
    embeddings are taken to be the first tokens of the padded prompts, as its pipeline makes them.

    Recorded is the first call since recording began or `clear`: with guidance klein's pipeline
    calls the network twice a step, first with the prompts and then with what is led away from,
    and Z-Image's once, the prompts' rows first.
    """

    prompts_first = True

    def __init__(self, transformer: Any, layers: Sequence[str] | None = None) -> None:
        self.transformer = transformer
        self.layers = joint_attention_layers(transformer)
        self.restrict_to(layers)
        self.text_first = is_text_first(self.layers)
        self._rotary: dict[str, Any] = {}
        self._texts: list[int] = []
        """Text tokens of each row."""
        self._images: list[int] = []
        """Image tokens of each row, without padding; of Z-Image alone."""
        self._begin()

    def sources(self, name: str) -> tuple[Any, Any]:
        """Return the norms that queries and keys come out of, B x tokens x heads x d.

        Of a double-stream block those of the image's queries and of the text's keys. ValueError for
        a transformer without such norms.
        """
        module = self.layers[name]
        double = self.text_first and not name.startswith("single_")
        query, key = module.norm_q, module.norm_added_k if double else module.norm_k
        if query is None or key is None:
            raise ValueError(f"{name} does not normalise its queries and keys, which is needed")
        return query, key

    def attach(self) -> None:
        """Put the hooks on, those of the token counts and of the rotary embeddings too."""
        super().attach()
        self._handles.append(
            self.transformer.register_forward_pre_hook(self._count_tokens, with_kwargs=True)
        )
        for name, module in self.layers.items():
            self._handles.append(
                module.register_forward_pre_hook(self.keep_rotary(name), with_kwargs=True)
            )

    def _count_tokens(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if self._recording and not self._texts:
            self._texts, self._images = token_counts(args, kwargs, text_first=self.text_first)

    def keep_output(self, name: str, store: dict[str, torch.Tensor]) -> Any:
        """Return a hook as `AttentionRecorder.keep_output`, which leaves what is there."""

        def hook(_module: Any, _args: Any, output: torch.Tensor) -> None:
            if self._recording:
                store.setdefault(name, output)

        return hook

    def keep_rotary(self, name: str) -> Callable[..., None]:
        """Return a pre-hook that keeps a layer's rotary embedding while recording."""
        argument = "image_rotary_emb" if self.text_first else "freqs_cis"

        def hook(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
            if self._recording:
                self._rotary.setdefault(name, kwargs[argument])

        return hook

    def clear(self) -> None:
        """Forget what was recorded, and with it its hold on the graph."""
        super().clear()
        self._rotary.clear()
        self._texts, self._images = [], []

    def maps(
        self,
        columns: torch.Tensor,
        size: tuple[int, int],
        rows: Sequence[int] | None = None,
        among: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return a token's attention over the text alone, float32[B, N, h, w] or better.

        Arguments as of `AttentionRecorder.maps`; ``size`` is the token grid, or of Z-Image, whose
        tokens are patches of latents, the latent grid. Pictures that were given as references
        beside the one that is drawn have no maps. Without ``among`` the columns of one row add up
        to 1 over all text tokens that the layer attends to, padding among them.
        """
        self.require_recorded()
        chosen = range(len(self._texts)) if rows is None else rows
        found = []
        for place, row in enumerate(chosen):
            positions = size[0] * size[1] if self.text_first else self._images[row]
            layers = []
            for name, module in self.layers.items():
                query, key = self.block(name, row, positions)
                text, fill = self._texts[row], (0, key.shape[1] - self._texts[row])
                column = pad(columns[place : place + 1, :text], fill)
                own = None if among is None else pad(among[place : place + 1, :text], fill)
                maps = attention_column(
                    query.flatten(2), key.flatten(2), module.heads, column, size, own
                )
                layers.append(maps)
            found.append(torch.cat(layers, dim=1))
        return torch.cat(found)

    def block(self, name: str, row: int, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first image queries and the text keys of one row, turned by their place:
        1 x positions x heads x d and 1 x text tokens x heads x d."""
        from diffusers.models import embeddings

        turn: Any = embeddings.apply_rotary_emb  # whose types leave out what it is given here
        query, key = self._queries[name][row : row + 1], self._keys[name][row : row + 1]
        text = self._texts[row]
        if self.text_first:
            cos, sin = self._rotary[name]
            if name.startswith("single_"):
                query, key = query[:, text:], key[:, :text]
            query = query[:, :positions]
            image = slice(text, text + positions)
            query = turn(query, (cos[image], sin[image]), sequence_dim=1)
            return query, turn(key, (cos[:text], sin[:text]), sequence_dim=1)
        turns = self._rotary[name][row : row + 1]
        start = padded(self._images[row])
        texts = slice(start, start + padded(text))
        query = turn(query[:, :positions], turns[:, :positions], use_real=False)
        return query, turn(key[:, texts], turns[:, texts], use_real=False)


def recorder_of(
    backbone: Backbone, count: int, depth: tuple[float, float] = WHOLE
) -> AttentionRecorder:
    """Return a recorder of at most ``count`` layers with maps of the backbone's size, evenly
    spread between two fractions of the network's ``depth``; 0: of all that lie there.

    To be made after LoRA layers, whose wrappers its hooks must sit on.
    """
    network = backbone.unet
    if backbone.info.is_rectified_flow:
        names = list(joint_attention_layers(network))
        return JointAttentionRecorder(network, evenly_spread(names, count, depth))
    stride = max(1, backbone.info.attention_divisor // vae_factor(backbone.vae))
    return AttentionRecorder(network, stride, spread_layers(network, stride, count, depth))


def is_text_first(layers: Mapping[str, Any]) -> bool:
    """Return True where the text's tokens come before the image's in these layers: FLUX.2's."""
    return not any(name.startswith("layers.") for name in layers)


def token_counts(
    args: Sequence[Any], kwargs: Mapping[str, Any], *, text_first: bool
) -> tuple[list[int], list[int]]:
    """Return the text tokens of each row of a call, and of Z-Image (not ``text_first``) the image
    tokens, without padding."""
    if text_first:
        text = kwargs["encoder_hidden_states"] if len(args) < 2 else args[1]
        return [text.shape[1]] * text.shape[0], []
    given = {**dict(zip(("x", "t", "cap_feats"), args, strict=False)), **kwargs}
    images = [(image.shape[-2] // PATCH) * (image.shape[-1] // PATCH) for image in given["x"]]
    return [len(caption) for caption in given["cap_feats"]], images


def padded(tokens: int) -> int:
    """Return the number of tokens that Z-Image pads so many to."""
    return tokens + -tokens % PADDED_TO
