"""spandrel's networks as restorers.

Legend: B pictures of H x W pixels; s is the network's scale.
"""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from spandrel import (
    MAIN_REGISTRY,
    ArchRegistry,
    ImageModelDescriptor,
    ModelTiling,
    UnsupportedModelError,
    canonicalize_state_dict,
)
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mcap.contracts import Control, RestorerInfo
from mcap.errors import UsageError
from mcap.runtime.torch_file import load_torch_file

FIDELITY = 0.5
"""CodeFormer's own default: half way between best looking and closest to the input."""

DENOISE = 0.5
"""Real-ESRGAN's own default for general-x4v3."""


BUILT_BEYOND = (4, 256 * 2**20)
"""Bytes that building a network may take: so many times its weights', and so many more. Tables of
positions and masks are built that no file holds."""


class SpandrelRestorer:
    """A network that spandrel has read, as a `mcap.contracts.Restorer`."""

    controls: ClassVar[tuple[Control, ...]] = ()

    def __init__(self, descriptor: ImageModelDescriptor) -> None:
        self._descriptor = descriptor.eval()
        for parameter in descriptor.model.parameters():
            parameter.requires_grad_(False)
        needs = descriptor.size_requirements
        faces = descriptor.purpose == "FaceSR"
        reach = reach_of(descriptor)
        self.info = RestorerInfo(
            kind="face" if faces else "image",
            scale=descriptor.scale,
            multiple_of=needs.multiple_of,
            minimum_size=max(1, needs.minimum),
            moves=True,
            half_precision=descriptor.supports_half,
            half_on_cpu=descriptor.architecture.id in BFLOAT16 and descriptor.supports_bfloat16,
            controls=self.controls,
            tileable=descriptor.tiling is not ModelTiling.INTERNAL,
            reach=reach,
            overlap=None if reach is None else 2 * reach,
            bytes_per_pixel=None if faces else bytes_per_pixel(descriptor),
        )
        self._single: dict[str, torch.Tensor] | None = None
        self._keeps: bool | None = None

    @property
    def architecture(self) -> str:
        """spandrel's name for it, e.g. "ESRGAN"."""
        return self._descriptor.architecture.id

    def to(self, device: Any, half: bool = False) -> SpandrelRestorer:
        """Move the network; ``half`` needs ``info.allows_half(device)``.

        On the CPU half precision is bfloat16, with colours last in memory, and is left at single
        where a trial shows that it would not keep `KEPT`.
        """
        model, place = self._descriptor.model, torch.device(device)
        on_cpu = half and place.type == "cpu"
        if on_cpu and self._keeps is None:
            self._keeps = bfloat16_keeps(self._descriptor)
        half = half and (not on_cpu or bool(self._keeps))
        if half and self._single is None:  # the way back is to the weights as they were
            self._single = {
                name: weight.to("cpu", copy=True) for name, weight in model.state_dict().items()
            }
        if not half and self._single is not None:
            model.to(memory_format=torch.contiguous_format).float().load_state_dict(self._single)
            self._single = None
        precision = torch.float32
        if half:
            precision = torch.bfloat16 if on_cpu else torch.float16
        self._descriptor.to(place, precision)
        if half and on_cpu:
            model.to(memory_format=torch.channels_last)
        return self

    @torch.inference_mode()
    def restore(self, image: torch.Tensor) -> torch.Tensor:
        """float32[B, 3, H, W] in [0, 1] RGB -> float32[B, 3, s * H, s * W] in [0, 1]."""
        given = image.to(self._descriptor.dtype)
        if given.dtype == torch.bfloat16:
            given = given.contiguous(memory_format=torch.channels_last)
        # spandrel takes one picture at a time, and clamps what comes out.
        pictures = [self.call(picture[None]) for picture in given]
        return pictures[0].float() if len(pictures) == 1 else torch.cat(pictures).float()

    def call(self, picture: torch.Tensor) -> torch.Tensor:
        """Return the restored picture, both [1, 3, H, W] in [0, 1] and of the network's type."""
        return self._descriptor(picture)


class InterpolatedRestorer(SpandrelRestorer):
    """Real-ESRGAN's general-x4v3, between its two sets of weights.

    Deep network interpolation (Wang et al., CVPR 2019, eq. 1): each weight is ``denoise`` times
    that of ``strong``, plus the rest of that of ``weak``, which leaves the noise where it is.
    """

    controls = ("denoise",)

    def __init__(self, strong: dict[str, torch.Tensor], weak: dict[str, torch.Tensor]) -> None:
        different = sorted(
            name
            for name in strong.keys() | weak.keys()
            if name not in strong or name not in weak or strong[name].shape != weak[name].shape
        )
        if different:
            raise UsageError(
                f"The two files are not of one network: they differ in {different[0]} and "
                f"{len(different) - 1} more."
            )
        super().__init__(describe(strong, MAIN_REGISTRY, "The file"))
        self._strong, self._weak = strong, weak
        self.denoise = DENOISE

    @property
    def denoise(self) -> float:
        """0: noise is kept, 1: taken away."""
        return self._denoise

    @denoise.setter
    def denoise(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise UsageError(f"denoise must lie between 0 and 1, not {value}.")
        self._denoise = value
        mixed = {
            name: torch.lerp(self._weak[name].float(), weight.float(), value)
            for name, weight in self._strong.items()
        }
        self._descriptor.model.load_state_dict(mixed)
        if self._single is not None:
            self._single = mixed


class GfpganRestorer(SpandrelRestorer):
    """GFPGAN's "clean" network, 512 x 512, FFHQ's framing.

    It takes and gives [-1, 1], which spandrel leaves to its caller. Its noise inputs are those of
    the weight file: with new ones at each call, as its own program has them, a picture could not be
    made twice.
    """

    def call(self, picture: torch.Tensor) -> torch.Tensor:
        made = self._descriptor.model(picture * 2 - 1, return_rgb=False, randomize_noise=False)[0]
        return made.add_(1).div_(2).clamp_(0, 1)


class CodeFormerRestorer(SpandrelRestorer):
    """CodeFormer, 512 x 512, FFHQ's framing; it takes and gives [-1, 1]."""

    controls = ("fidelity",)

    def __init__(self, descriptor: ImageModelDescriptor) -> None:
        super().__init__(descriptor)
        self.fidelity = FIDELITY

    @property
    def fidelity(self) -> float:
        """0: best looking, 1: closest to the input; the w of the paper's eq. 4."""
        return self._fidelity

    @fidelity.setter
    def fidelity(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise UsageError(f"fidelity must lie between 0 and 1, not {value}.")
        self._fidelity = value

    def call(self, picture: torch.Tensor) -> torch.Tensor:
        made = self._descriptor.model(picture * 2 - 1, weight=self.fidelity)[0]
        return made.add_(1).div_(2).clamp_(0, 1)


_OWN_CALL: dict[str, type[SpandrelRestorer]] = {
    "GFPGAN": GfpganRestorer,
    "CodeFormer": CodeFormerRestorer,
}


def load(path: Path, architectures: ArchRegistry = MAIN_REGISTRY) -> SpandrelRestorer:
    """The restorer in a .safetensors or .pth file, on the CPU.

    Raises `UsageError` where the file is damaged, holds more than weights, or is no network that
    takes and gives one colour picture.
    """
    descriptor = describe(read_weights(path), architectures, str(path))
    return _OWN_CALL.get(descriptor.architecture.id, SpandrelRestorer)(descriptor)


def load_interpolated(strong: Path, weak: Path) -> InterpolatedRestorer:
    """general-x4v3 and its twin that leaves noise; see `InterpolatedRestorer`."""
    return InterpolatedRestorer(read_weights(strong), read_weights(weak))


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Name -> tensor, under the names that spandrel looks for. No code of the file is run."""
    if not path.is_file():
        raise UsageError(f"--restorer {path}: there is no such file.")
    suffix = path.suffix.lower()
    try:
        if suffix == ".safetensors":
            found: Any = load_file(path)
        elif suffix == ".pth":
            found = load_torch_file(path)
        else:
            raise UsageError(f"--restorer {path}: a network is a .safetensors or .pth file.")
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"--restorer {path} is refused: it is damaged, or holds more than weights, which could "
            "run as a program. Convert it to .safetensors where you trust it."
        ) from error
    except (SafetensorError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"--restorer {path} cannot be read: {reason}.") from error
    weights = canonicalize_state_dict(found) if isinstance(found, dict) else {}
    if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UsageError(f"--restorer {path} does not hold the weights of a network.")
    return weights


class MemoryLimit(TorchDispatchMode):
    """Raise MemoryError where tensors of more than ``limit`` bytes in all are made inside.

    How large a network is built is read off names and shapes, and a small file can have any.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.left = limit

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func._schema.name in MAKERS:
            # arange and linspace, which have no size, are at most as long as a picture's side.
            shape = args[0] if args and isinstance(args[0], list | tuple) else ()
            self.left -= 4 * math.prod(shape)
            if self.left < 0:
                raise MemoryError("it asks for more memory than its size justifies")
        return func(*args, **(kwargs or {}))


MAKERS = frozenset(f"aten::{name}" for name in ("empty", "full", "ones", "rand", "randn", "zeros"))


def require_plausible_names(weights: dict[str, torch.Tensor]) -> None:
    """Raise ValueError where a name counts layers that the file cannot have.

    Layers without weights are counted in between, hardly ever more than one.
    """
    most = 4 * len(weights) + 64
    for name in weights:
        if any(part.isdigit() and int(part[:9]) > most for part in name.split(".")):
            raise ValueError(f"tensor {name[:80]} is of a layer beyond all that are there")


def describe(
    weights: dict[str, torch.Tensor], architectures: ArchRegistry, shown: str
) -> ImageModelDescriptor:
    """Return the network that spandrel builds of weights; ``shown`` is how errors call them.

    Raises `UsageError` where they are of no network that takes and gives one colour picture.
    """
    given = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    times, more = BUILT_BEYOND
    try:
        require_plausible_names(weights)
        with MemoryLimit(times * given + more):
            descriptor = architectures.load(weights)
    except UnsupportedModelError as error:
        raise UsageError(
            f"{shown} is of no network that spandrel knows; see the list of architectures in its "
            "documentation."
        ) from error
    except Exception as error:  # an architecture that was recognised by some of its names
        raise UsageError(
            f"{shown} looks like a network that spandrel knows, and cannot be read as one: "
            f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}."
        ) from error
    if not isinstance(descriptor, ImageModelDescriptor):
        raise UsageError(
            f"{shown} is a network for filling holes ({descriptor.architecture.id}), no restorer."
        )
    channels = (descriptor.input_channels, descriptor.output_channels)
    if channels != (3, 3):
        raise UsageError(
            f"{shown} takes {channels[0]} and gives {channels[1]} channels; a restorer of photos "
            "takes and gives 3."
        )
    return descriptor


def reach_of(descriptor: ImageModelDescriptor) -> int | None:
    """Half the side of the square of input pixels that one place depends on, less its middle.

    Counted for SRVGGNetCompact, a plain chain of convolutions at the input's size. Real-ESRGAN's
    large network reaches some 350 pixels by the same count, of which all but a few weigh nothing.
    """
    if descriptor.architecture.id != "Compact":
        return None
    layers = [layer for layer in descriptor.model.modules() if isinstance(layer, nn.Conv2d)]
    return sum(layer.kernel_size[0] // 2 for layer in layers)


BFLOAT16 = frozenset({"ESRGAN"})
"""Architectures that a CPU with instructions for it computes faster in bfloat16: Real-ESRGAN's
large networks in 0.4 of the time, at 53 dB of single precision (docs/enhance.md)."""
KEPT = 45.0
"""dB: the least peak signal-to-noise ratio of bfloat16's result to single precision's."""


@torch.inference_mode()
def bfloat16_keeps(descriptor: ImageModelDescriptor) -> bool:
    """Return True where the network keeps `KEPT` in bfloat16, on a small drawn picture."""
    side = max(TRIAL, descriptor.size_requirements.minimum)
    side += -side % descriptor.size_requirements.multiple_of
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    waves = [torch.sin(rows / (3 + 4 * n)) * torch.cos(columns / (9 - 3 * n)) for n in range(3)]
    edges = ((rows // 16 + columns // 16) % 2) * 0.3
    drawn = (0.35 + 0.3 * torch.stack(waves) + edges).clamp(0, 1)[None]
    single = copy.deepcopy(descriptor.model).to("cpu", torch.float32)
    expected = single(drawn).clamp(0, 1)
    found = single.to(torch.bfloat16)(drawn.to(torch.bfloat16)).float().clamp(0, 1)
    error = (found - expected).square().mean().item()
    return bool(error <= 10 ** (-KEPT / 10))  # False for what is no number


TRIAL = 64
"""Side in pixels of the pictures that networks are tried on."""

WORKSPACE = 1.75
"""Peak memory by the largest layer's input and output. Measured on the CPU, one thread: 1.72 and
1.59 with Real-ESRGAN's upper layers on 160 and 224 pixels, 1.58 with SRVGGNetCompact on 512."""


@torch.no_grad()
def bytes_per_pixel(descriptor: ImageModelDescriptor) -> float | None:
    """The largest layer's input and output in bytes, per pixel of the picture, with `WORKSPACE`.

    Counted on the meta device. None where an architecture cannot run there.
    """
    largest = 0

    def count(layer: nn.Module, given: Any, made: Any) -> None:
        nonlocal largest
        tensors = [tensor for tensor in (*given, made) if isinstance(tensor, torch.Tensor)]
        largest = max(largest, sum(tensor.numel() * 4 for tensor in tensors))

    model = copy.deepcopy(descriptor.model).to(device="meta", dtype=torch.float32)
    for layer in model.modules():
        if not any(layer.children()):
            layer.register_forward_hook(count)
    side = max(TRIAL, descriptor.size_requirements.minimum)
    side += -side % descriptor.size_requirements.multiple_of
    try:
        model(torch.empty(1, 3, side, side, device="meta"))
    except (NotImplementedError, RuntimeError):
        return None
    return WORKSPACE * largest / side**2 if largest else None
