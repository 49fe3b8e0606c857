"""Identity encoder ``klein-references``: the person's photos as the pictures that FLUX.2 klein is
given to look at.

Its transformer sees the tokens of reference pictures beside those of the picture that is drawn, at
places of their own, so that nothing is encoded beforehand and nothing is put into the network: what
is kept of the person are some of the crops themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from mcap.contracts import CallArguments, EncodedIdentity, EncoderInfo, Portrait
from mcap.errors import InputRejectedError, UsageError
from mcap_plugins.shared.portraits import most_typical

FORM = "references"
MOST_PICTURES = 4
"""Each is `SIDE` / 16 tokens on a side more, of which attention goes over all."""
SIDE = 512
"""Pixels of a picture's longer side that are kept."""


class ReferencePictures:
    """`mcap.contracts.IdentityEncoder` that steers the pipeline."""

    def __init__(self, name: str, info: EncoderInfo) -> None:
        self.name = name
        self.info = info

    def encode(self, person: Sequence[Portrait], style: Sequence[Portrait]) -> EncodedIdentity:
        """Return the crops of the person's most typical photos, uint8[H, W, 3] each; the style is
        told by words alone."""
        if not person:
            raise InputRejectedError("There is no photo of the person to refer to.")
        tensors = {}
        for number, portrait in enumerate(most_typical(person, MOST_PICTURES)):
            picture = Image.fromarray(portrait.image)
            picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            tensors[f"picture_{number}"] = torch.from_numpy(np.array(picture))
        return EncodedIdentity(
            tensors=tensors, metadata={"form": FORM, "architecture": self.info.architecture or ""}
        )

    def attach(
        self, pipeline: object, encoded: EncodedIdentity, identity_scale: float, style_scale: float
    ) -> CallArguments:
        """Return the pictures for each call: all of them, or at scale 0 none.

        There is no amount in between: the transformer looks at them or does not.
        """
        if encoded.metadata.get("form") != FORM:
            raise UsageError(
                f"The subject is not of reference pictures, which '{self.name}' draws with; use "
                "the backbone that it was made for."
            )
        if not identity_scale:
            return lambda guided: {}
        pictures = [
            Image.fromarray(encoded.tensors[name].numpy()) for name in sorted(encoded.tensors)
        ]
        return lambda guided: {"image": pictures}

    def detach(self, pipeline: object) -> None:
        """Nothing is in the networks."""
