"""A face parser and masker from a SegFormer (Xie et al., arXiv 2105.15203) of transformers.

Shapes: S is the side in pixels of the upright frame around a face, L the number of the network's
classes, P that of `mcap.faces.parts.Part`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

from mcap.errors import MissingResourceError
from mcap.faces.masks import LandmarkMasker
from mcap.faces.parts import FaceParts, Part, class_map, parts_mask
from mcap.geometry.ffhq import FFHQ_FACE_HEIGHT, ffhq_alignment
from mcap.geometry.resample import resample
from mcap_plugins.parsing import INFO
from mcap_plugins.shared.pretrained import load_pretrained

if TYPE_CHECKING:
    from mcap.contracts import Face, Float32Array, UInt8Image

SIDE = 512
"""S. The frame is that of FFHQ, which CelebAMask-HQ's pictures come close to."""


class ParsingMasker:
    """`mcap.contracts.Masker` and `mcap.faces.parts.FaceParser` over one SegFormer.

    Which class is skin, a brow and so on is read from the model's own ``id2label``. Where the
    network sees no face at the landmarks, their oval stands in for the mask. A SegFormer-B5 (84.6
    million parameters) takes 3.8 seconds of one CPU core a face, and 2.2 GB of memory.
    """

    info = INFO

    def __init__(self, folder: Path | str, *, hair: bool = False) -> None:
        """``folder`` holds config.json, preprocessor_config.json and model.safetensors.

        Raises `MissingResourceError` where one of them is not there or does not fit, or where no
        class of the model is skin.
        """
        self.hair = hair
        self._model, self._processor = load_pretrained(
            SegformerForSemanticSegmentation,
            SegformerImageProcessor,
            Path(folder),
            "face parser",
            "Fetch it again with 'mcap models pull face-parsing'.",
        )
        try:
            classes = class_map(self._model.config.id2label)
        except ValueError as error:
            raise MissingResourceError(
                f"The model in {folder} is no face parser: {error}. Give a SegFormer that was "
                "trained on CelebAMask-HQ or a similar set."
            ) from error
        self._groups = torch.zeros(len(Part), self._model.config.num_labels)
        for number, part in classes.items():
            self._groups[part, number] = 1.0
        self._plain = LandmarkMasker()
        self._last: tuple[UInt8Image, Float32Array] | None = None

    def mask(self, image: UInt8Image, face: Face) -> Float32Array:
        """float32[H, W] in [0, 1] for a picture uint8[H, W, 3] and one face in it."""
        seen = self.parts(image, face)
        mask = parts_mask(seen, face.landmarks, image.shape[:2], hair=self.hair)
        return self._plain.mask(image, face) if mask is None else mask

    def parts(self, image: UInt8Image, face: Face) -> FaceParts:
        """Return the parts that the network sees in the upright frame around the face.

        The last answer is kept: the occlusion and the mask of a photo are asked for one after the
        other, and one look takes seconds on a CPU.
        """
        to_frame = ffhq_alignment(face.landmarks, SIDE, FFHQ_FACE_HEIGHT)
        # Edge pixels repeated: a mirrored surrounding could show the parser a second face.
        frame = resample(image, to_frame, SIDE, cv2.BORDER_REPLICATE)
        if self._last is None or not np.array_equal(self._last[0], frame):
            self._last = frame, self._scores(frame)
        return FaceParts(self._last[1], to_frame)

    @torch.inference_mode()
    def _scores(self, frame: UInt8Image) -> Float32Array:
        """uint8[S, S, 3] -> float32[P, S, S], the classes' probabilities summed by part."""
        inputs = self._processor(images=frame, return_tensors="pt")
        logits = self._model(pixel_values=inputs["pixel_values"]).logits  # 1 x L x h x w
        parts = torch.einsum("pl,blhw->bphw", self._groups, logits.softmax(dim=1))
        # Probabilities are enlarged and not logits: P planes instead of L, and they stay sums of 1.
        size = (SIDE, SIDE)
        return torch.nn.functional.interpolate(parts, size, mode="bilinear")[0].numpy()
