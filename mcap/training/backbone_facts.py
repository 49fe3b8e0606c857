"""Facts about a backbone that are known without loading it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.errors import MissingResourceError, UsageError
from mcap.weights.model_source import (
    ModelFacts,
    describe,
    file_architecture,
    find_model,
    folder_size,
    parts_beside,
    read_header,
    transformer_kind,
    vae_beside,
)

if TYPE_CHECKING:
    from mcap.contracts import BackboneMemory, BackbonePlan, Quantisation
    from mcap.registry import Entry


@dataclass(frozen=True)
class BackboneFacts:
    name: str  # of the registered entry
    source: str | None  # folder, file or hub id where one was given
    architecture: str | None  # "sd", "sdxl", "klein" or "zimage"; None: none, or not known
    native_size: int
    face_height: float
    recipe_overrides: Mapping[str, Any]
    recipes: Mapping[str, Mapping[str, Any]]  # recipe -> keys of it that suit this backbone
    recipe_from_encoder: Mapping[str, Any]  # on top, where an identity encoder makes the person
    licence: str
    commercial: bool
    memory_mb: float | None  # that training takes, about, measured
    memory: BackboneMemory | None  # the same in parts, counted
    unet_mb: float | None  # the UNet's weights in single precision
    gflop_row: float | None  # one forward pass of the UNet for one row
    decode_rows: float | None  # cost of one decode, in rows
    weights_key: str  # changes where a local model's weights do; "" where there is none
    weights_bytes: int | None  # their size, where they lie in a folder or file here
    identity_encoder: bool | None  # whether it brings one; None: not known before it is loaded
    notice: str  # what to know of its pictures; "" where there is nothing
    quantisations: tuple[Quantisation, ...]  # in which its weights can be loaded
    quantised: Quantisation | None  # the form in which its weights are loaded
    distilled: bool  # to draw in a few steps; False: no, or not known before it is loaded

    @property
    def local(self) -> bool:
        """True where the weights lie in a folder or file here."""
        return self.weights_bytes is not None

    @property
    def given(self) -> str:
        """The name, folder, file or hub id that a user gave."""
        return self.name if self.source is None else self.source


def backbone_facts(
    entry: Entry, source: str | None, quantised: Quantisation | None = None
) -> BackboneFacts:
    """Return the facts of the entry's plan, and of a model's configuration that lies here.

    ``quantised``: the form in which its weights are to be loaded.

    `MissingResourceError` where ``source`` looks like a path and nothing is there, `UsageError`
    where it is no model that can be trained.
    """
    plan: BackbonePlan = entry.info
    local, known = None, None
    if source is not None:
        place = find_model(source)
        local, known = place.path, describe(place)
    elif plan.folder is not None:
        local = plan.folder
        if not local.is_dir():
            raise MissingResourceError(
                f"Backbone '{entry.name}': its weights are not in {local}, where the package "
                f"'{entry.plugin}' should have brought them; install it again, or choose another "
                "one with --backbone."
            )
        known = ModelFacts("sd", folder_size(local))
    size = known.native_size if known is not None else None
    alike_in_kind = known is not None and known.architecture == plan.architecture
    brings = None if local is None else (local / "identity_encoder").is_dir()
    # Another model than the entry's own need not like what suits that one, unless it is of the
    # same architecture.
    recipes = plan.recipes if source is None or alike_in_kind else {}
    if brings:  # its own identity encoder goes before one for all models of the kind
        recipes = {name: keys for name, keys in recipes.items() if "identity_encoder" not in keys}
    elif brings is False:  # nothing to start from but an encoder that the keys name
        recipes = {
            name: {
                key: value
                for key, value in keys.items()
                if key != "identity_start" or "identity_encoder" in keys
            }
            for name, keys in recipes.items()
        }
    # A model of another size than the entry's own costs something else.
    alike = source is None or size == plan.native_size
    return BackboneFacts(
        name=entry.name,
        source=source,
        architecture=plan.architecture,
        native_size=size or plan.native_size or 512,
        face_height=plan.face_height,
        recipe_overrides=plan.recipe_overrides if source is None or alike_in_kind else {},
        recipes=recipes,
        recipe_from_encoder=plan.recipe_from_encoder if source is None or alike_in_kind else {},
        licence=entry.licence if source is None else "the model's own",
        commercial=entry.commercial if source is None else False,
        memory_mb=plan.memory_mb if alike else None,
        memory=plan.memory if alike else None,
        unet_mb=(plan.memory.unet if alike and plan.memory is not None else 0)
        or (unet_mb(local) if local is not None else None),
        gflop_row=plan.gflop_row if alike else None,
        decode_rows=plan.decode_rows if alike else None,
        weights_key=weights_key(local) if local is not None else "",
        weights_bytes=weights_bytes(local) if local is not None else None,
        identity_encoder=brings,
        notice=plan.notice if source is None else "",
        quantisations=plan.quantisations,
        quantised=quantised,
        distilled=known is not None and known.distilled,
    )


def unet_mb(place: Path) -> float | None:
    """Return the MB of a local model's UNet in single precision, by its files' headers; None where
    they do not tell."""
    whole = place.is_dir() or transformer_kind(file_architecture(place)) is not None
    networks = ("unet", "transformer")
    files = sorted(f for name in networks for f in place.glob(f"{name}/*.safetensors"))
    if not place.is_dir():
        files = [place]
    sizes: dict[str, int] = {}  # a variant in half precision has the same names
    for file in files:
        try:
            shapes = read_header(file).shapes
        except UsageError:
            return None
        sizes |= {
            name: math.prod(shape)
            for name, shape in shapes.items()
            if whole or name.startswith("model.diffusion_model.")
        }
    return sum(sizes.values()) * 4 / 2**20 or None


def weights_key(place: Path) -> str:
    """Return a hash that changes with a model's weight files.

    Of their bytes where they are small, else of size and time.
    """
    digest = hashlib.sha256()
    for file in weight_files(place):
        status = file.stat()
        digest.update(f"{file.parent.name}/{file.name} {status.st_size} ".encode())
        if status.st_size < 200e6:
            digest.update(file.read_bytes())
        else:
            digest.update(str(status.st_mtime_ns).encode())
    return digest.hexdigest()


def weights_bytes(place: Path) -> int:
    """Return the size of a model's weight files."""
    return sum(file.stat().st_size for file in weight_files(place))


def weight_files(place: Path) -> list[Path]:
    """Return the weight files of a folder in diffusers' layout, or a single file and its VAE, of a
    transformer its text encoder, too."""
    if place.is_dir():
        return sorted(place.glob("*/*.safetensors"))
    kind = transformer_kind(file_architecture(place))
    if kind is not None:
        beside = parts_beside(place, kind)
        others = ("text_encoder", "vae")
        return [
            place,
            *(f for part in others for f in sorted(beside.glob(f"{part}/*.safetensors"))),
        ]
    return [file for file in (place, vae_beside(place)) if file is not None]
