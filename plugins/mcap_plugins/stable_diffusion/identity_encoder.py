"""The identity encoder of a model in diffusers' layout: face embeddings -> a row of [V1].

    identity_encoder/config.json         embedding, in_features, hidden_features, out_features,
                                         activation ("silu"), input_scale, row_norm
    identity_encoder/model.safetensors   in.weight, in.bias, out.weight, out.bias

    row = row_norm * unit(out(silu(in(input_scale * e))))

of a perceptron with one hidden layer, where e is the unit face embedding of the network that
``embedding`` names, and row is one of the text encoder's embedding table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.functional import linear, normalize, silu

from mcap.contracts import EncodedIdentity, EncoderInfo
from mcap.errors import MissingResourceError, UsageError
from mcap.runtime.documents import MEBIBYTE, read_json
from mcap.training.recipe import no_identity_encoder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mcap.contracts import Backbone, EncodesIdentity, Portrait

FOLDER = "identity_encoder"

Size = Annotated[int, Field(ge=1, le=65536)]


class EncoderConfig(BaseModel):
    """config.json; keys that are not known here do no harm."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    embedding: str
    """Name of the identity network."""
    in_features: Size
    hidden_features: Size
    out_features: Size
    activation: Literal["silu"]
    input_scale: float
    row_norm: Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class IdentityEncoder:
    config: EncoderConfig
    weights: Mapping[str, torch.Tensor]
    """float32, by the names above."""

    def rows(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return float32[N, W] of ``row_norm`` for unit embeddings float32[N, D]."""
        weights, scaled = self.weights, embeddings.float() * self.config.input_scale
        hidden = silu(linear(scaled, weights["in.weight"], weights["in.bias"]))
        found = linear(hidden, weights["out.weight"], weights["out.bias"])
        return self.config.row_norm * normalize(found, dim=-1)


class WordEncoder:
    """`mcap.contracts.IdentityEncoder` that makes the identity word, by the encoder that the
    backbone brings."""

    name = "word"

    def __init__(self, backbone: Backbone) -> None:
        """`UsageError` for a backbone that brings none."""
        if backbone.info.identity_encoder is None:
            raise UsageError(no_identity_encoder(backbone.info.id))
        self.backbone = cast("EncodesIdentity", backbone)
        self.info = EncoderInfo(reads=backbone.info.identity_encoder)

    def encode(self, person: Sequence[Portrait], style: Sequence[Portrait]) -> EncodedIdentity:
        """Return the rows of the word; the style's pictures have no part in it."""
        found = [each.embedding for each in person if each.embedding is not None]
        return EncodedIdentity(self.backbone.identity_rows(torch.from_numpy(np.stack(found))))


def load_identity_encoder(model: Path, width: int) -> IdentityEncoder | None:
    """Return the encoder in a model's folder; None where there is none.

    ``width`` is that of the text encoder's embedding table. `MissingResourceError` for one that
    does not read or does not fit.
    """
    folder = model / FOLDER
    if not folder.is_dir():
        return None
    try:
        config = EncoderConfig.model_validate(read_json(folder / "config.json", MEBIBYTE))
        weights = {
            name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()
        }
    except (OSError, ValueError, ValidationError, SafetensorError) as error:
        told = " ".join(str(error).split())
        raise MissingResourceError(
            f"The identity encoder in {folder} cannot be read: {told}. Put the model's folder "
            "there whole, or take that folder out of it to do without."
        ) from None
    hidden = config.hidden_features
    wanted = {
        "in.weight": (hidden, config.in_features),
        "in.bias": (hidden,),
        "out.weight": (width, hidden),
        "out.bias": (width,),
    }
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if found != wanted:
        raise MissingResourceError(
            f"The identity encoder in {folder} does not fit the model: its tensors are {found}, "
            f"and {wanted} would. It belongs to another model."
        )
    return IdentityEncoder(config, weights)
