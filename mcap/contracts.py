"""What plugins meet: the protocols and the data that pass between the stages.

Shapes: H, W are pixels of an upright image; B is a batch; S is a square side in pixels; C x h x w
is a latent. Images are RGB. Points are (x, y) in pixels with the origin at the top left corner of
the top left pixel, so the centre of that pixel is (0.5, 0.5).

This module is light: numpy and torch are named in annotations only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    UInt8Image = NDArray[np.uint8]  # [H, W, 3], RGB
    Float32Array = NDArray[np.float32]


ID_TOKEN = "<mcap-id>"
STYLE_TOKEN = "<mcap-style>"
"""The learned tokens. Lower case in angle brackets: a tokenizer matches an added token without
regard to case, and a bare word also inside other words."""


@dataclass(frozen=True)
class Face:
    """One face in one image.

    ``landmarks`` are float32[5, 2] in the order in which a viewer reads an upright frontal face
    from left to right: the subject's right eye, left eye, nose tip, right mouth corner, left mouth
    corner (the order of YuNet, RetinaFace, SFace's and ArcFace's templates).
    ``mesh`` is float32[N, 2], finer landmarks of the detector's own scheme, or None.
    """

    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels, may reach outside the image
    score: float  # 0 to 1
    landmarks: Float32Array
    mesh: Float32Array | None = None

    @property
    def width(self) -> float:
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        return self.box[3] - self.box[1]

    @property
    def area(self) -> float:
        return max(self.width, 0.0) * max(self.height, 0.0)

    def moved(self, x: float = 0.0, y: float = 0.0, zoom: float = 1.0) -> Face:
        """Return the face in pixels of another frame: enlarged by ``zoom``, then shifted by (x, y).

        In a part of the picture that begins at (left, top) it is ``moved(-left, -top)``.
        """
        import numpy as np

        shift = np.array([x, y], dtype=np.float32)
        x0, y0, x1, y1 = (edge * zoom for edge in self.box)
        return replace(
            self,
            box=(float(x0 + x), float(y0 + y), float(x1 + x), float(y1 + y)),
            landmarks=(self.landmarks * np.float32(zoom) + shift).astype(np.float32),
            mesh=None if self.mesh is None else self.mesh * np.float32(zoom) + shift,
        )


@runtime_checkable
class FaceDetector(Protocol):
    def detect(self, image: UInt8Image) -> list[Face]:
        """All faces of an upright RGB image uint8[H, W, 3], largest first; [] where there is none.

        Coordinates are in pixels of ``image`` whatever size the detector works at.
        """
        ...


@runtime_checkable
class IdentityModel(Protocol):
    """A frozen face-recognition network, differentiable in its input.

    It stays in eval mode and outside every module tree on which somebody calls ``train()``.

    It may also have ``same_person``, the cosine similarity from which two faces are taken for one
    person's (without it `mcap.faces.measure.SAME_PERSON`); ``device``, where ``embed`` wants its input
    (without it the CPU); and ``embed_images(image, face)``, one `Face` of uint8[H, W, 3] ->
    float32[D] of unit length, which is then preferred for measuring. A network that only measures
    is registered with ``differentiable=False``; its ``embed`` raises TypeError.
    """

    name: str
    input_size: int  # S
    template: Float32Array  # float32[5, 2], where the landmarks belong, in pixels of S x S

    def embed(self, faces: torch.Tensor) -> torch.Tensor:
        """float[B, 3, S, S] in [0, 1], RGB, aligned to ``template`` -> float[B, D], unit length."""
        ...

    def to(self, device: Any) -> IdentityModel: ...


@runtime_checkable
class Masker(Protocol):
    def mask(self, image: UInt8Image, face: Face) -> Float32Array:
        """float32[H, W] in [0, 1]: 1 on the face from forehead to chin, soft edge, 0 elsewhere."""
        ...


@runtime_checkable
class Restorer(Protocol):
    """Super-resolution (``kind = "image"``) or face restoration (``kind = "face"``, aligned).

    A face restorer is given one upright face at a time, aligned to five landmarks; it may have
    ``input_size`` (S, the side in pixels) and ``template`` (float32[5, 2] in pixels of S x S).
    Without them it gets FFHQ's framing at 512 (`mcap.enhancement.face_restoration.FFHQ_512`). Its ``scale`` is
    that of its result to S x S.

    It may also have ``fidelity`` (settable, 0: best looking, 1: closest to the input), ``denoise``
    (settable, 0: noise is kept, 1: taken away), and ``to(device, half=False)``, which moves it;
    ``half`` is asked for only where ``half_precision`` is true. Whatever its precision, ``restore``
    takes and gives float32 on the device where it is. One without ``to`` works on the CPU.

    An image restorer is given tiles, and may say of them: ``reach``, how many input pixels away it
    still sees; ``overlap``, how many neighbouring tiles should share; ``tileable``, False where it
    must have the picture whole; ``bytes_per_pixel``, what an input pixel takes in memory while it
    works (see `mcap.enhancement.tiling`).
    """

    kind: Literal["image", "face"]
    scale: int
    multiple_of: int
    minimum_size: int
    half_precision: bool

    def restore(self, image: torch.Tensor) -> torch.Tensor:
        """float[B, 3, H, W] in [0, 1] RGB -> float[B, 3, scale * H, scale * W] in [0, 1]."""
        ...


@runtime_checkable
class Metric(Protocol):
    def measure(
        self, images: Sequence[UInt8Image], references: Sequence[UInt8Image]
    ) -> list[float]:
        """One number for each of ``images``, against ``references`` where the metric needs them."""
        ...


@dataclass(frozen=True)
class BackboneInfo:
    """What a backbone is and how mcap should use it, as data."""

    id: str  # "demo", "sd15", a folder or a hub id
    revision: str  # hub commit, or "local"
    sha256: str  # of the weights: hash over the sorted per-file hashes
    licence: str
    commercial: bool
    native_size: int  # side in pixels of a training picture
    attention_divisor: int  # watched cross-attention maps are native_size / divisor on a side
    prediction_type: str  # "epsilon" or "v_prediction"
    face_height: float = 0.45
    """Fraction of the training crop's side that the detector's face box is high."""
    square_only: bool = False
    """True where other aspects than 1:1 must be cut from a square picture."""
    multiple_of: int = 8
    recipe_overrides: Mapping[str, Any] = field(default_factory=dict)
    """Recipe keys that suit this backbone better than the recipe's own defaults."""
    generate_defaults: Mapping[str, Any] = field(default_factory=dict)
    """``steps``, ``guidance_scale``, ``scheduler``, ``negative_prompt``, where a profile's would
    suit this backbone badly: these go before the profile's, and what a user says before both."""


@dataclass(frozen=True)
class PromptEmbedding:
    hidden: torch.Tensor  # B x L x D, what cross-attention reads
    pooled: torch.Tensor | None = None  # B x P, SDXL only


@runtime_checkable
class Backbone(Protocol):
    """A loaded latent diffusion model in diffusers' and transformers' own classes.

    ``tokenizers`` and ``text_encoders`` have one member (SD1.5, demo) or two (SDXL), in the same
    order. All modules are frozen and in eval mode when the backbone is handed over.
    """

    info: BackboneInfo
    tokenizers: list[Any]
    text_encoders: list[Any]
    vae: Any
    unet: Any
    scheduler: Any  # as configured for sampling; training reads alphas_cumprod and config from it
    device: torch.device
    dtype: torch.dtype

    def encode_prompt(self, input_ids: Sequence[torch.Tensor]) -> PromptEmbedding:
        """Token ids int64[B, L], one tensor a text encoder -> what the UNet is conditioned on.

        Differentiable in the text encoders' embedding rows.
        """
        ...

    def added_conditions(
        self, embedding: PromptEmbedding, size: tuple[int, int]
    ) -> dict[str, torch.Tensor] | None:
        """SDXL's time ids and pooled text for pictures of (height, width) pixels; else None."""
        ...

    def pipeline(self) -> Any:
        """A diffusers text-to-image pipeline over these very modules: no copy, no filter."""
        ...
