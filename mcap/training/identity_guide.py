"""The identity term's way from a clean estimate to an embedding: decode, align, embed.

Legend: C x h x w a latent, D the embedding's length; points are (x, y) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mcap.diffusion.window_decode import Decoder, FullDecoder, WindowDecoder, template_box
from mcap.geometry.align import embed_faces

if TYPE_CHECKING:
    from mcap.contracts import FaceDetector, IdentityEncoder, IdentityModel, SafetyClassifier


@dataclass(frozen=True)
class GuideNetworks:
    """The frozen networks of a run beside its backbone, each where the recipe needs it."""

    identity: IdentityModel | None = None
    """Compares faces; for the identity term, and for early stopping."""
    detector: FaceDetector | None = None
    """Finds faces in previews, and in estimates where the recipe's landmarks are "detected"."""
    tiny_vae: Any | None = None
    """A small autoencoder for the backbone's latents (diffusers' AutoencoderTiny)."""
    safety: SafetyClassifier | None = None
    """Looks at previews before they are written."""
    encoder: IdentityEncoder | None = None
    """Makes the person of the photos; for ``identity_start = "encoder"``."""


def named_decoder(name: str, vae: Any, tiny_vae: Any | None = None) -> Decoder:
    """Return the decoder that the recipe calls "full", "window" or "tiny"."""
    if name == "window":
        return WindowDecoder(vae)
    return FullDecoder(tiny_vae if name == "tiny" else vae)


def decode_and_embed(
    decoder: Decoder, estimate: torch.Tensor, landmarks: torch.Tensor, model: IdentityModel
) -> torch.Tensor:
    """Return the embedding float[1, D] of the face at ``landmarks`` float[5, 2].

    Decodes of the estimate 1 x C x h x w what ``model`` looks at, and aligns it to its template.
    """
    box = template_box(landmarks, torch.as_tensor(model.template), model.input_size)
    decoded = decoder(estimate, box)
    corner = landmarks.new_tensor([decoded.left, decoded.top])
    return embed_faces(model, decoded.image, (landmarks - corner)[None])


@dataclass(frozen=True)
class IdentityGuide:
    """The person that the identity term compares with, and its way from an estimate to a face."""

    model: IdentityModel
    target: torch.Tensor
    """float[D], the mean embedding of the source photos, of any length."""
    decoder: Decoder
    detector: FaceDetector | None = None
    """Finds the landmarks on the decoded estimate each step (the paper); None: the example's own
    landmarks, whose pose the estimate keeps."""

    def __post_init__(self) -> None:
        if self.detector is not None and not self.decoder.whole:
            raise ValueError(
                "a detector needs the whole picture: use the full decode, or the reference "
                "photo's landmarks with the window"
            )

    def embed(self, estimate: torch.Tensor, landmarks: torch.Tensor | None) -> torch.Tensor | None:
        """Return the embedding float[1, D] of an estimate 1 x C x h x w; None without a face.

        ``landmarks`` are the example's. Differentiable in the estimate.
        """
        if self.detector is None:
            if landmarks is None:
                return None
            return decode_and_embed(self.decoder, estimate, landmarks, self.model)
        image = self.decoder(estimate, (0.0, 0.0, 0.0, 0.0)).image
        pixels = (image.detach()[0].clamp(0, 1) * 255).round().to(torch.uint8)
        faces = self.detector.detect(pixels.permute(1, 2, 0).cpu().contiguous().numpy())
        if not faces:
            return None
        return embed_faces(self.model, image, torch.from_numpy(faces[0].landmarks)[None])
