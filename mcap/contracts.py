"""The contract with plugins: protocols, capabilities as data, and what passes between stages.

A factory makes an object of a protocol (`FaceDetector`, `IdentityModel`, `Masker`, `Restorer`,
`Backbone`, `IdentityEncoder`, `Metric`, `Engine`, `SafetyClassifier`, `Watermark`). What it can do
beyond the protocol's methods it says as data in its ``info``, a frozen dataclass whose defaults fit
a simple plugin: nothing is probed for. `mcap.registry` checks the fields as a plugin registers it,
and the object once the factory has made it.

Shapes: H, W are pixels of an upright image; B is a batch; S is a square side in pixels; C x h x w
is a latent. Images are RGB. Points are (x, y) in pixels with the origin at the top left corner of
the top left pixel, so the centre of that pixel is (0.5, 0.5).

This module is light: numpy and torch are named in annotations only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    UInt8Image = NDArray[np.uint8]  # [H, W, 3], RGB
    Float32Array = NDArray[np.float32]


CONTRACT = 1
"""Version of this contract. A plugin may state the one that it was written for as
``MCAP_CONTRACT = 1`` in the module that its entry point names; one that states another is refused
by name, with what has changed since."""

CHANGES: Mapping[int, str] = MappingProxyType(
    {
        1: "what a detector, identity network, masker, restorer or metric can do is data, the "
        "frozen dataclass 'info' (mcap.contracts.RestorerInfo and so on) on the object and, as "
        "info=..., in the call of register; attributes such as kind, scale and thread_safe, and "
        "metadata of a plugin's own, are no longer read",
    }
)
"""Contract -> what it changed."""

ID_TOKEN = "<mcap-id>"
STYLE_TOKEN = "<mcap-style>"
"""The learned tokens. Lower case in angle brackets: a tokenizer matches an added token without
regard to case, and a bare word also inside other words."""


SubjectKind = Literal["face", "object"]
"""A person, known by the face, or a thing or animal of which nothing is known but its pixels."""


Quantisation = Literal["int8", "nf4"]
"""The form of weights in eight or four bits, beside which LoRA learns in full precision."""

TransformerKind = Literal["klein", "zimage"]
"""FLUX.2 klein or Z-Image: models whose network is a transformer on a straight path."""


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


@dataclass(frozen=True)
class DetectorInfo:
    """The abilities of a face detector."""

    thread_safe: bool = False
    """True where several threads may call ``detect`` at once."""


@runtime_checkable
class FaceDetector(Protocol):
    @property
    def info(self) -> DetectorInfo: ...

    def detect(self, image: UInt8Image) -> list[Face]:
        """All faces of an upright RGB image uint8[H, W, 3], largest first; [] where there is none.

        Coordinates are in pixels of ``image`` whatever size the detector works at.
        """
        ...


@dataclass(frozen=True)
class IdentityInfo:
    """The abilities of an identity network."""

    differentiable: bool = True
    """False for a network that only measures: its ``embed`` raises TypeError."""
    embeds_images: bool = False
    """True where it has ``embed_images`` (`EmbedsImages`), which is then preferred for
    measuring."""
    thread_safe: bool = False
    """True where several threads may measure at once."""
    same_person: float = 0.363
    """Cosine similarity from which two faces are taken for one person's, -1 to 1. The default is
    OpenCV's figure for SFace."""
    dimensions: int | None = None
    """D, the embedding's length; None: not stated."""
    measures_quality: bool = False
    """True where it has ``embed_with_quality`` (`MeasuresQuality`), which is then preferred."""
    face_quality: float | None = None
    """Quality from which what a detector found is a face, by the network's own scale; None: it
    cannot tell."""


@runtime_checkable
class IdentityModel(Protocol):
    """A frozen face-recognition network, differentiable in its input.

    It stays in eval mode and outside every module tree on which somebody calls ``train()``.
    """

    name: str
    input_size: int  # S
    template: Float32Array  # float32[5, 2], where the landmarks belong, in pixels of S x S

    @property
    def info(self) -> IdentityInfo: ...

    def embed(self, faces: torch.Tensor) -> torch.Tensor:
        """float[B, 3, S, S] in [0, 1], RGB, aligned to ``template`` -> float[B, D], unit length.

        ``faces`` may lie on any device: they are brought to the network's own.
        """
        ...

    def to(self, device: Any) -> IdentityModel: ...


class EmbedsImages(Protocol):
    """An identity network with ``info.embeds_images``."""

    def embed_images(self, image: UInt8Image, face: Face) -> Float32Array:
        """One face of a picture uint8[H, W, 3] RGB -> float32[D] of unit length."""
        ...


@runtime_checkable
class MeasuresQuality(Protocol):
    """An identity network with ``info.measures_quality``."""

    def embed_with_quality(self, image: UInt8Image, face: Face) -> tuple[Float32Array, float]:
        """One face of a picture uint8[H, W, 3] RGB -> float32[D] of unit length, and its quality.

        The quality says how much the network makes of what it sees, as the length of the features
        does before they are made unit (Meng et al.: MagFace, CVPR 2021): 0 or more.
        """
        ...


@dataclass(frozen=True)
class MaskerInfo:
    """The abilities of a masker."""

    thread_safe: bool = False
    """True where several threads may call ``mask`` at once."""
    reads_pixels: bool = True
    """False where the picture's size and the face's landmarks are all that ``mask`` looks at."""
    finds_mesh: bool = False
    """True where it has ``mesh`` (`mcap.faces.eyes.MeshFinder`), from which closed eyes are
    told."""
    finds_parts: bool = False
    """True where it has ``parts`` (`mcap.faces.parts.FaceParser`), from which follows how much of a
    face is hidden."""
    finds_objects: bool = False
    """True where it has ``object_mask`` (`ObjectMasker`), for subjects of the kind "object"."""


@runtime_checkable
class Masker(Protocol):
    @property
    def info(self) -> MaskerInfo: ...

    def mask(self, image: UInt8Image, face: Face) -> Float32Array:
        """float32[H, W] in [0, 1]: 1 on the face from forehead to chin, soft edge, 0 elsewhere."""
        ...


class ObjectMasker(Protocol):
    """A masker with ``info.finds_objects``."""

    @property
    def info(self) -> MaskerInfo: ...

    def object_mask(self, image: UInt8Image) -> Float32Array:
        """float32[H, W] in [0, 1]: 1 on the thing that the picture is of, soft edge, 0 elsewhere.

        0 everywhere where it cannot tell.
        """
        ...


@dataclass(frozen=True)
class FaceTools:
    """The three that find a face, tell whose it is and say which pixels it covers."""

    detector: FaceDetector
    identity: IdentityModel
    masker: Masker
    judge: IdentityModel | None = None
    """A network that does not teach: what it makes of the person's photos is kept in the subject,
    so that it can say of pictures whether they are like the person."""
    second_opinion: IdentityModel | None = None
    """The network whose quality says whether a finding is a face; None: ``identity``, where it
    tells (`IdentityInfo.face_quality`)."""
    safety: SafetyClassifier | None = None
    """Looks at what the backbone draws for the training, before it is written."""
    person: Masker | None = None
    """Sees the whole person, or face and hair; with it masks cover the head (`mcap.faces.heads`)
    and not the face alone."""
    encoder: IdentityEncoder | None = None
    """Makes the person of the photos without training."""

    @property
    def quality_network(self) -> IdentityModel:
        """The network whose quality counts."""
        return self.second_opinion or self.identity


@dataclass(frozen=True)
class ObjectTools:
    """The two that look at photos of a subject of the kind "object"."""

    masker: ObjectMasker | None = None
    """None: the whole picture is the thing, unless there is a mask made by hand."""
    detector: FaceDetector | None = None
    """Finds the faces in a style's photos, which are no part of the style."""
    safety: SafetyClassifier | None = None
    """As in `FaceTools`."""


Control = Literal["fidelity", "denoise"]


@dataclass(frozen=True)
class RestorerInfo:
    """The task of a restorer, its abilities, and the input that it needs.

    An image restorer (super-resolution) is given tiles of a picture. A face restorer is given one
    upright face at a time, aligned to five landmarks in a frame of ``input_size``; its ``scale`` is
    that of its result to the frame.
    """

    kind: Literal["image", "face"]
    scale: int
    multiple_of: int = 1
    """Height and width that it is given are multiples of this, in pixels ..."""
    minimum_size: int = 1
    """... and no smaller than this."""
    moves: bool = False
    """True where it has ``to(device, half=False)`` (`MovesToDevice`); others work on the CPU."""
    half_precision: bool = False
    """True where ``to`` takes ``half=True`` on a GPU ..."""
    half_on_cpu: bool = False
    """... and on a CPU, where its result keeps 45 dB of what it is in single precision."""
    controls: tuple[Control, ...] = ()
    """Which of these are attributes of it that may be set, float in [0, 1]: ``fidelity`` (0: best
    looking, 1: closest to the input), ``denoise`` (0: noise is kept, 1: taken away)."""
    tileable: bool = True
    """False where it must have the picture whole."""
    reach: int | None = None
    """How many input pixels away it still sees; None: not known."""
    overlap: int | None = None
    """Input pixels that neighbouring tiles share; None: `mcap.enhancement.tiling.OVERLAP`."""
    bytes_per_pixel: float | None = None
    """What an input pixel takes in memory while it works, in single precision; None: not known."""
    input_size: int = 512
    """Side in pixels of the frame that a face restorer works in."""
    template: tuple[tuple[float, float], ...] | None = None
    """Where the five landmarks belong in that frame, (x, y) in pixels; None: where FFHQ has
    them (`mcap.enhancement.face_restoration.FFHQ_512`)."""
    drawn_by: tuple[str, ...] = ()
    """Ids of the backbones whose pictures it was trained for: a picture whose record names none of
    them is not given to it, unless the user asks for it by name. (): any picture."""
    masked: bool = True
    """False where a face restorer was trained on whole heads: what it changes of hair and outline
    is taken, too, in all of its frame that is not nearer to another face. True: what lies within
    the masker's mask of the face."""

    def allows_half(self, device: torch.device | str) -> bool:
        """Return True where half precision may be asked for on a device."""
        return self.half_on_cpu if str(device).startswith("cpu") else self.half_precision


@runtime_checkable
class Restorer(Protocol):
    @property
    def info(self) -> RestorerInfo: ...

    def restore(self, image: torch.Tensor) -> torch.Tensor:
        """float32[B, 3, H, W] in [0, 1] RGB -> float32[B, 3, scale * H, scale * W] in [0, 1].

        The result is float32 on the input's device, whatever the restorer's precision.
        """
        ...


class MovesToDevice(Protocol):
    """A restorer with ``info.moves``."""

    def to(self, device: Any, half: bool = False) -> Any:
        """Move the network; half precision is asked for only where ``info.half_precision``, on a
        CPU where ``info.half_on_cpu``."""
        ...


MetricNeed = Literal[
    "identity", "photos", "references", "prompt", "profile", "strangers", "training"
]


@dataclass(frozen=True)
class MetricInfo:
    """The meaning of a metric's numbers, and what it must be given."""

    better: Literal["higher", "lower", "neither"] = "higher"
    range: tuple[float, float] = (-math.inf, math.inf)
    unit: str = ""
    each: Literal["picture", "subject"] = "picture"
    """One number for each picture, or one for all pictures of a subject together."""
    needs: tuple[MetricNeed, ...] = ()
    """The parts of `MetricInput` without which it cannot be computed; it is then left out by name.
    ``identity`` stands for the pictures' embeddings."""
    model: str = ""
    """The network that it runs itself; one that needs ``identity`` measures by that network."""
    licence: str = ""
    """Of that model's weights."""


@dataclass(frozen=True)
class SeenPicture:
    """A picture, and what was found in it."""

    image: UInt8Image
    faces: Sequence[Face] = ()  # largest first
    embedding: Float32Array | None = None
    """float32[D], unit length, of the largest face by the network that measures; None where there
    is no face or no such network."""
    prompt: str = ""
    """The text that it was drawn from, with plain words in place of the learned ones."""

    @property
    def face(self) -> Face | None:
        """The largest face."""
        return self.faces[0] if self.faces else None


@dataclass(frozen=True)
class MetricInput:
    """All that is known of one subject's pictures; what is not known is empty or None."""

    pictures: Sequence[SeenPicture]
    photos: Sequence[SeenPicture] = ()
    """The person's own, each with a face."""
    references: Sequence[SeenPicture] = ()
    """The style's photos, each with a face."""
    strangers: Sequence[SeenPicture] = ()
    """Drawn by the trained model without the identity word ..."""
    untouched: Sequence[SeenPicture] = ()
    """... and from the same seeds by the model as it was before training."""
    profile: Any = None
    """`mcap.style.profile.StyleProfile` that the pictures were drawn in."""
    training: Mapping[str, float] = field(default_factory=dict)
    """Cost of the training: ``seconds``, ``memory_mb``, ``bytes``."""


@runtime_checkable
class Metric(Protocol):
    @property
    def info(self) -> MetricInfo: ...

    def measure(self, given: MetricInput) -> Sequence[float | None]:
        """A number for each of ``given.pictures``, or one in all, as ``info.each`` says.

        None where there is nothing to measure, in a picture without a face for example.
        """
        ...


@dataclass(frozen=True)
class SafetyInfo:
    """The abilities of a safety classifier."""

    threshold: float = 0.5
    """Score from which a picture is withheld, 0 to 1."""
    finds: str = "nudity"
    """What it looks for, in a word or two, for messages."""


@runtime_checkable
class SafetyClassifier(Protocol):
    """Looks at a picture that a backbone drew, before it is written."""

    name: str

    @property
    def info(self) -> SafetyInfo: ...

    def score(self, image: UInt8Image) -> float:
        """Return how sure it is that a picture uint8[H, W, 3] RGB must not be written, 0 to 1."""
        ...


@dataclass(frozen=True)
class WatermarkInfo:
    """The figures of a watermark that the commands go by."""

    threshold: float = 0.5
    """Score from which a picture is said to carry it."""
    kept: float = 1.0
    """Times the threshold from which a picture that is to be marked is left as it is, because it
    carries the mark already."""
    smallest_side: int = 1
    """Pixels of the shorter side that a picture needs to hold it; smaller ones are left alone."""


@runtime_checkable
class Watermark(Protocol):
    """A mark in the pixels, which no eye sees, that a picture was made or altered by a machine.

    It says nothing else: no person, no machine and no time.
    """

    @property
    def info(self) -> WatermarkInfo: ...

    def embed(self, pixels: NDArray[Any]) -> None:
        """Mark uint8 or uint16 [H, W, 3], RGB, in place; the same input gives the same output.

        A picture that carries the mark, or is too small for it, is left as it is. ``pixels`` may
        be a numpy.memmap that is larger than the memory.
        """
        ...

    def score(self, image: UInt8Image) -> float:
        """Return how sure it is that uint8[H, W, 3] carries the mark; `WatermarkInfo.threshold`
        and more mean that it does."""
        ...


@dataclass(frozen=True)
class BackboneMemory:
    """Memory that a backbone takes at its native size in single precision, MB (of 2^20 bytes).

    Counted on the architecture by benchmarks/count_memory.py. "Kept" is what autograd holds for the
    backward pass.
    """

    weights: float  # UNet, or transformer, and text encoders
    decoder: float  # of the VAE: its weights
    row: float  # kept of one row through text encoders and UNet
    row_checkpointed: float  # the same with gradient checkpointing
    row_block: float  # kept of one row by the block that is run again
    decode: float  # kept of one whole decode
    decode_checkpointed: float
    decode_block: float
    unet: float = 0.0  # the UNet's part of ``weights``; 0: not stated
    kept: float = 0.0  # the part of ``weights`` that is never quantised


@dataclass(frozen=True)
class BackbonePlan:
    """A registered backbone as it is known before it is loaded: ``mcap train`` plans by it."""

    architecture: Literal["sd", "sdxl"] | TransformerKind | None = None
    """The kind of model (`mcap.weights.model_source`) that the entry loads from elsewhere, too."""
    native_size: int | None = None
    """Side in pixels of a training picture; None: as the model in ``folder`` has it, else 512."""
    face_height: float = 0.45
    """Fraction of the training crop's side that the detector's face box is high."""
    recipe_overrides: Mapping[str, Any] = field(default_factory=dict)
    """Recipe keys that suit this backbone better than magicapture's own; what a named recipe says
    itself goes before them."""
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Recipe's name -> keys that suit this backbone better than that recipe's own."""
    recipe_from_encoder: Mapping[str, Any] = field(default_factory=dict)
    """Keys on top of both where the person starts from an identity encoder."""
    folder: Path | None = None
    """Where its package keeps the weights, in diffusers' layout; None: they are fetched."""
    memory: BackboneMemory | None = None
    memory_mb: float | None = None
    """What training takes, about, MB; measured, where ``memory`` was not counted."""
    gflop_row: float | None = None
    """One forward pass of the UNet for one row, GFLOP."""
    decode_rows: float | None = None
    """Cost of one decode, in rows."""
    quantisations: tuple[Quantisation, ...] = ()
    """The forms in which its weights can be loaded, too: its factory then takes ``quantised``, one
    of these or None."""
    takes_turns: bool = False
    """Its factory takes ``in_turns``, as in `BackboneInfo`."""
    notice: str = ""
    """What to know of its pictures, in a sentence or two, for plans; "" where there is nothing."""
    needs_safety: bool = True
    """False only for a model that cannot draw what a safety classifier looks for: pictures of all
    others are looked at before they are written."""


@dataclass(frozen=True)
class BackboneInfo:
    """The identity of a loaded backbone, and how mcap should use it."""

    id: str  # "demo", "sd15", a folder or a hub id
    revision: str  # hub commit, or "local"
    sha256: str  # of the weights: hash over the sorted per-file hashes
    licence: str
    commercial: bool
    native_size: int  # side in pixels of a training picture
    attention_divisor: int  # watched cross-attention maps are native_size / divisor on a side
    prediction_type: str  # "epsilon", "v_prediction" or "rectified_flow" (`PredictsVelocity`)
    face_height: float = 0.45
    """Fraction of the training crop's side that the detector's face box is high."""
    square_only: bool = False
    """True where other aspects than 1:1 must be cut from a square picture."""
    trained_sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) in pixels of the pictures that the model was trained on, where it draws none
    of another size well; (): any sides of about the native area do."""
    multiple_of: int = 8
    distilled: bool = False
    """True where it was distilled to draw in a few steps: it is drawn with, and not trained."""
    quantised: Quantisation | None = None
    """The form of its weights, where they are not as they were published."""
    in_turns: bool = False
    """True where its large networks are on the device one at a time, to draw with less memory."""
    identity_encoder: str | None = None
    """Name of the identity network whose embeddings its identity encoder reads, where it has one
    (`EncodesIdentity`)."""
    recipe_overrides: Mapping[str, Any] = field(default_factory=dict)
    """Recipe keys that suit this backbone better than the recipe's own defaults."""
    generate_defaults: Mapping[str, Any] = field(default_factory=dict)
    """``steps``, ``guidance_scale``, ``scheduler``, ``negative_prompt``, where a profile's would
    suit this backbone badly: these go before the profile's, and what a user says before both."""
    strangers: Path | None = None
    """A file of `mcap.generation.judge.write_strangers`: people that it draws, by whom likeness is
    calibrated."""
    notice: str = ""
    """As in `BackbonePlan`, for sheets and reports."""
    needs_safety: bool = True
    """As in `BackbonePlan`."""

    @property
    def is_rectified_flow(self) -> bool:
        """True for a transformer on a straight path (`PredictsVelocity`), False for a UNet."""
        return self.prediction_type == "rectified_flow"


@dataclass(frozen=True)
class PromptEmbedding:
    hidden: torch.Tensor  # B x L x D, what cross-attention reads
    pooled: torch.Tensor | None = None  # B x P, SDXL only
    lengths: torch.Tensor | None = None
    """int64[B]: of ``hidden``, how many tokens are a prompt's own, the first ones; for networks
    that must not see padding (Z-Image)."""


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
    unet: Any  # the denoising network: a UNet, or the transformer of a rectified flow
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


class PredictsVelocity(Protocol):
    """A backbone with ``info.is_rectified_flow``: its network is a transformer that is called in a
    way of its own."""

    def velocity(
        self, noised: torch.Tensor, times: torch.Tensor, embedding: PromptEmbedding
    ) -> torch.Tensor:
        """Return v = eps - x_0 for x_s, both B x C x h x w, at times s float[B] in [0, 1].

        Of that sign whatever the network's own is (`mcap.diffusion.rectified_flow`).
        """
        ...


class EncodesIdentity(Protocol):
    """A backbone with ``info.identity_encoder``: it knows a person by their face alone."""

    def identity_rows(self, embeddings: torch.Tensor) -> list[torch.Tensor]:
        """Face embeddings of one person's photos, float32[N, D] of unit length -> the row of the
        identity token in each text encoder's embedding table, float32[W]."""
        ...


@dataclass(frozen=True)
class EncoderInfo:
    """The abilities of an identity encoder, and its cost."""

    steers: bool = False
    """True where it has ``attach`` and ``detach`` (`SteersPipeline`): what it makes is an image
    prompt, put into the pipeline that draws. False: it makes rows of the identity word."""
    architecture: Literal["sd", "sdxl"] | TransformerKind | None = None
    """The kind of backbone that it is for; None: any."""
    reads: str | None = None
    """Name of the identity network whose embeddings it reads; None: whichever there is, or none."""
    reads_style: bool = False
    """True where it looks at the style's photos, too."""
    draws_with: tuple[str, ...] = ()
    """Those of the entry's ``needs`` without which no picture is drawn; the others are for
    ``encode`` alone."""
    encode_mb: float = 0.0
    """Memory that ``encode`` takes beside the backbone's, MB in single precision ..."""
    draw_mb: float = 0.0
    """... and what ``attach`` adds to the backbone's."""
    gflop_picture: float = 0.0
    """One picture through ``encode``, GFLOP."""


class Portrait(Protocol):
    """A crop of a photo, upright, H x W pixels."""

    @property
    def image(self) -> UInt8Image: ...

    @property
    def mask(self) -> Float32Array:
        """float32[H, W] in [0, 1]: 1 on the face, or head, that the photo shows."""
        ...

    @property
    def landmarks(self) -> Float32Array | None:
        """float32[5, 2] as of `Face`, in pixels of the crop."""
        ...

    @property
    def embedding(self) -> Float32Array | None:
        """float32[D] of unit length, by the identity network of the run."""
        ...


@dataclass(frozen=True)
class EncodedIdentity:
    """A person, and perhaps a style, as an identity encoder made them."""

    rows: Sequence[torch.Tensor] = ()
    """float32[W], the row of the identity token in each text encoder's embedding table; (): it
    makes none."""
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What is put into the pipeline, by names of the encoder's own; kept in the subject ..."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """... with this, which says what they belong to."""


@runtime_checkable
class IdentityEncoder(Protocol):
    """Makes a subject of a person's photos without any training."""

    name: str

    @property
    def info(self) -> EncoderInfo: ...

    def encode(self, person: Sequence[Portrait], style: Sequence[Portrait]) -> EncodedIdentity:
        """One crop of each of the person's photos, at least one, and of the style's, perhaps none
        -> the person.

        Raises `mcap.errors.InputRejectedError` where no crop shows a face,
        `mcap.errors.MissingResourceError` where its weights are missing or of another kind.
        """
        ...


CallArguments = Callable[[bool], Mapping[str, Any]]
"""Guided or not -> further keyword arguments of each call of a diffusers pipeline."""


class SteersPipeline(Protocol):
    """An identity encoder with ``info.steers``."""

    def attach(
        self, pipeline: Any, encoded: EncodedIdentity, identity_scale: float, style_scale: float
    ) -> CallArguments:
        """Put what was encoded into a diffusers pipeline over the backbone; return what its calls
        need.

        The scales go from 0, no trace of it, to 1 and beyond. Raises as ``encode``, and
        `mcap.errors.UsageError` for what was encoded for another backbone.
        """
        ...

    def detach(self, pipeline: Any) -> None:
        """Take out again what ``attach`` put into the pipeline's networks."""
        ...


@dataclass(frozen=True)
class EngineInfo:
    """The abilities of an engine, which gives the jobs of ``mcap batch`` to workers."""

    machines: bool = False
    """True where workers may run on other machines than the scheduler's."""
    has_address: bool = False
    """True where ``WorkerPlan.address`` says where its machines are found."""


@dataclass(frozen=True)
class WorkerPlan:
    """The workers that an engine is to start."""

    runner: str
    """``module:name`` of a callable without arguments, called once a worker. It returns the
    function that does jobs: JSON-serialisable order in, JSON-serialisable outcome out."""
    studio: Path
    """The output folder, absolute."""
    sources: Sequence[Path] = ()
    """Folders and files, absolute, that the orders name as their ``source``."""
    workers: int | None = None
    """None: one for each GPU or, without one, as many as the engine finds right."""
    gpus: tuple[str, ...] | None = None
    """As CUDA_VISIBLE_DEVICES names them; None: all, (): none."""
    per_gpu: int = 1
    """Workers that share a GPU."""
    threads: int | None = None
    """Of the CPU, for each worker; None: the processors, divided among the workers."""
    address: str | None = None
    """Of the cluster; None: this machine's own."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """That a machine of the cluster must have."""
    files: Literal["auto", "shared", "copied"] = "auto"
    """``shared``: workers elsewhere see the same folders; ``copied``: photos and results travel;
    ``auto``: found out for each worker."""


@dataclass(frozen=True)
class Workforce:
    """The workers of an engine, by name, and how many threads of the CPU each has."""

    workers: tuple[str, ...]
    threads: int


@dataclass(frozen=True)
class WorkerEvent:
    """A worker is ready, has finished a job, is gone, or has something to tell."""

    worker: str
    kind: Literal["ready", "finished", "died", "note"]
    outcome: Mapping[str, Any] | None = None
    """Of a job that has finished: what the runner returned."""
    text: str = ""
    """``died``: why, as far as it is known; ``note``: a sentence for people."""
    seconds: float = 0.0
    """``ready``: what starting the worker took."""


@runtime_checkable
class Engine(Protocol):
    """Starts workers, hands them jobs one at a time, and starts another for one that died."""

    @property
    def info(self) -> EngineInfo: ...

    def start(self, plan: WorkerPlan) -> Workforce:
        """Begin to start the workers.

        A worker takes orders after its `WorkerEvent` ``ready``, which follows a ``died`` again
        where another one has taken its place. Raises `mcap.errors.McapError` where no worker can
        be had.
        """
        ...

    def submit(self, worker: str, order: Mapping[str, Any]) -> None:
        """Let a worker that is ready and idle do a job; returns at once."""
        ...

    def wait(self, seconds: float) -> list[WorkerEvent]:
        """Return what has happened, at the latest after ``seconds``, perhaps nothing."""
        ...

    def interrupt(self) -> None:
        """Ask all workers to save what they have and end their jobs, as Ctrl-C does a command."""
        ...

    def close(self) -> None:
        """End all workers, those with a job too, and give back what was taken."""
        ...
