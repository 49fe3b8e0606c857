"""A request to train: photos, style, backbone and recipe, and what lies in its folder already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mcap.errors import UsageError
from mcap.images.find import find_photos
from mcap.subjects.manifest import is_subject_folder, read_manifest
from mcap.subjects.writer import is_free
from mcap.training.fingerprint import differing, hash_file, hash_files, hash_of
from mcap.training.recipe import RECIPES, Layer, decided_by, low_memory, parse_override, recipe
from mcap.weights.model_source import transformer_kind

if TYPE_CHECKING:
    import torch

    from mcap.contracts import SubjectKind
    from mcap.masking.records import MaskSettings
    from mcap.registry import Entry
    from mcap.style.profile import StyleProfile
    from mcap.training.backbone_facts import BackboneFacts
    from mcap.training.recipe import Recipe


OF_FACES_OFF: Mapping[str, Any] = {"identity": False, "patience": 0}
"""Recipe keys of what compares faces, switched off."""

OF_PEOPLE = ("identity_start", "subject_region")
"""Recipe keys that a thing, which has neither face nor head, does not take from its backbone."""


@dataclass(frozen=True)
class RequestedPhotos:
    """The files of a request."""

    sources: Sequence[Path]
    references: Sequence[Path]
    """None of them: the backbone draws some from the profile's prompts."""
    subject: Path | None = None
    """A photo of the subject alone, where several people recur in the sources."""
    masks: Path | None = None
    """Folder of masks that win over the masker's."""
    left_out: tuple[Path, ...] = ()
    """Files of mcap's own in the folders of ``sources``, which are none of its photos."""


@dataclass(frozen=True)
class TrainingRequest:
    """Everything that was asked for, with every name looked up and nothing heavy done."""

    photos: RequestedPhotos
    profile: StyleProfile
    backbone: BackboneFacts
    recipe: Recipe  # with its full number of steps
    entries: Mapping[str, Entry]
    """detector, identity, masker, backbone; "second opinion" where another network than identity
    says what a face is; person where the subject's region is the head and the masker does not see
    it; encoder where the person comes from one. Of a thing no identity, and a masker only where one
    finds things."""
    masking: MaskSettings
    out: Path
    device: torch.device
    dtype: torch.dtype
    seed: int = 0
    given_keys: frozenset[str] = frozenset()
    """The recipe's keys that the user gave: with ``--set`` and in the style profile."""

    @property
    def style_photos(self) -> Sequence[Path]:
        """The style's photos that are looked at: none where nothing is trained and the identity
        encoder, as that of words, does not see them."""
        encoder = self.entries.get("encoder")
        reads = encoder is not None and encoder.info.reads_style and self.recipe.style_scale > 0
        return self.photos.references if self.recipe.steps or reads else ()

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The manifest's ``inputs``: name -> text, number or table of file hashes of everything
        that the trained subject depends on."""
        photos, profile, masking = self.photos, self.profile, self.masking
        style = profile.model_dump(mode="json", by_alias=True, include={"class_noun", "prompts"})
        return {
            "source photos": hash_files(photos.sources),
            "reference photos": hash_files(photos.references),
            "reference prompts": [] if photos.references else list(profile.references.prompts),
            "masks": hash_files(sorted(photos.masks.glob("*.png"))) if photos.masks else {},
            "subject photo": hash_file(photos.subject) if photos.subject else "",
            "style": hash_of(style),
            "backbone": self.backbone.given,
            "backbone weights": self.backbone.weights_key,
            "recipe": self.recipe.model_dump(mode="json"),
            **{
                kind: self.entries[kind].name
                for kind in ("detector", "identity", "masker", "person", "encoder")
                if kind in self.entries
            },
            **({"subject kind": "object"} if masking.subject_kind == "object" else {}),
            "photo settings": hash_of(
                [masking.photos.model_dump(mode="json"), masking.faces.model_dump(mode="json")]
            ),
            "seed": self.seed,
        }


def find_requested_photos(
    source: Sequence[str],
    reference: Sequence[str],
    profile: StyleProfile,
    subject: Path | None = None,
    masks: Path | None = None,
) -> RequestedPhotos:
    """Return the photos in these files and folders; without ``reference`` the profile's own.

    Raises `UsageError` where there is no such folder of masks, or no way to have references.
    """
    if masks is not None and not masks.is_dir():
        raise UsageError(f"--masks {masks}: there is no such folder.")
    # `mcap mask --out DIR` writes them to DIR/masks.
    if masks is not None and (masks / "masks").is_dir():
        masks = masks / "masks"
    left_out: list[Path] = []
    sources = find_photos(source, left_out=left_out)
    references = find_photos(reference, results=True) if reference else profile.reference_paths()
    if not references and not profile.references.prompts:
        raise UsageError(
            f"Style '{profile.name}' has neither reference photos nor prompts to draw some; give "
            "--reference DIR."
        )
    return RequestedPhotos(sources, references, subject, masks, tuple(left_out))


def requested_recipe(
    name: str,
    profile: StyleProfile,
    backbone: BackboneFacts,
    overrides: Sequence[str] = (),
    fits: Callable[[Recipe], bool] | None = None,
    subject_kind: SubjectKind = "face",
) -> Recipe:
    """Return the named recipe over the backbone's keys, with the profile's and the user's on top.

    For a thing without what compares faces: `UsageError` where the user asks for that. With
    ``fits``, the test whether a recipe fits into memory (``--low-memory``), keys that need
    less of it go below the user's.
    """
    own = Layer(f"backbone {backbone.name}", backbone.recipe_overrides)
    suited = dict(backbone.recipes.get(name, {}))
    if subject_kind == "object":
        for key in OF_PEOPLE:
            suited.pop(key, None)
    # A style may say how long a phase is, and not bring back one that the method has not.
    absent = absent_steps(RECIPES.get(name, {}))
    layers = [Layer(f"backbone {backbone.name}, recipe '{name}'", suited)]
    given = [Layer(f"--set {text}", dict([parse_override(text)])) for text in overrides]
    start = recipe(name, layers, own).identity_start
    for asked in (profile.train, *(layer.values for layer in given)):
        start = asked.get("identity_start", start)
    if start == "encoder":
        origin = f"backbone {backbone.name}, from its identity encoder"
        layers.append(Layer(origin, backbone.recipe_from_encoder))
        absent |= absent_steps(backbone.recipe_from_encoder)
    styled = {key: value for key, value in profile.train.items() if key not in absent}
    layers.append(Layer(f"style profile '{profile.name}', table [train]", styled))
    if subject_kind == "object":
        layers.append(Layer("--subject-kind object", OF_FACES_OFF))
    for layer in given if subject_kind == "object" else []:
        for key, value in layer.values.items():
            if key in (*OF_FACES_OFF, "identity_weight") and value:
                raise UsageError(
                    f"{layer.origin}: compares faces, and --subject-kind object has none; leave "
                    "it out, or train a person (--subject-kind face)."
                )
    if fits is not None:
        keys = low_memory(recipe(name, [*layers, *given], own), fits)
        layers.append(Layer("--low-memory", keys))
    return recipe(name, [*layers, *given], own)


def absent_steps(keys: Mapping[str, Any]) -> set[str]:
    """Return those of a recipe's keys that say that a phase has no steps."""
    return {key for key, value in keys.items() if "steps" in key and value == 0}


def default_out(source: Sequence[str], profile: StyleProfile) -> Path:
    """Return FOLDER-PROFILE.mcap, after the first folder of photos."""
    first = Path(source[0])
    stem = first.resolve().name if first.is_dir() else "subject"
    return Path(f"{stem}-{profile.name}.mcap")


def state_at_out(
    request: TrainingRequest, *, resume: bool, force: bool
) -> Literal["new", "training", "complete"]:
    """Return what lies at ``out``: nothing in the way, this run interrupted, or this run done.

    `UsageError` for anything else, which is never overwritten without ``force``.
    """
    out = request.out
    if is_free(out):
        if resume:
            raise UsageError(f"--resume: there is no interrupted run at {out}; leave --resume out.")
        return "new"
    if not is_subject_folder(out):
        raise UsageError(f"--out {out}: is there already and is no subject folder; name another.")
    if force:
        return "new"
    manifest = read_manifest(out)
    changed = differing(with_deciding_keys(manifest.inputs), with_deciding_keys(request.inputs))
    if not changed:
        return manifest.state
    what = "complete" if manifest.state == "complete" else "interrupted"
    raise UsageError(
        f"--out {out}: holds a subject ({what}) that was trained on other inputs: "
        f"{'; '.join(changed)} changed. Name another folder with --out, put the inputs back, or "
        "start over with --force.",
        details={"changed": changed, "state": manifest.state},
    )


def require_undistilled(request: TrainingRequest) -> None:
    """Raise `UsageError` for a backbone that is known to be distilled, before it is fetched."""
    if request.backbone.distilled and request.recipe.steps:
        raise distilled_model(request.backbone.given)


def distilled_model(name: str) -> UsageError:
    """Return the error of a model that was distilled and is to be trained."""
    return UsageError(
        f"Backbone '{name}' was distilled to draw in a few steps, which training would undo: train "
        "on the model that it was made from (its Base variant), or train it all the same with "
        "--force."
    )


def require_suited(request: TrainingRequest) -> None:
    """Raise `UsageError` for a recipe that the backbone's kind, where it is known, cannot be
    trained with, before anything is fetched or drawn."""
    architecture = request.backbone.architecture
    if architecture is None:
        return
    flow = transformer_kind(architecture) is not None
    unsuited = unsuited_recipe(request.recipe, request.backbone.given, flow=flow)
    if unsuited is not None:
        raise unsuited


def unsuited_recipe(recipe: Recipe, name: str, *, flow: bool) -> UsageError | None:
    """Return the error of a recipe with keys that are not for the backbone ``name``, whether that
    is a rectified flow or not; None where all are."""
    if flow and (recipe.learns != "lora" or recipe.text_encoder):
        return UsageError(
            f"Backbone '{name}' is a transformer, of which mcap trains words and LoRA alone: set "
            "learns=lora and text_encoder=false, or use another recipe."
        )
    if not flow and recipe.tokens and recipe.word_place == "output":
        return UsageError(
            f"Backbone '{name}' is no rectified flow, and its words are learned at the text "
            "encoder's input alone: set word_place=input."
        )
    if not flow and (recipe.flow_mean, recipe.flow_std) != (0.0, 1.0):
        return UsageError(
            f"Backbone '{name}' is no rectified flow, for which flow_mean and flow_std are: leave "
            "them out."
        )
    return None


def with_deciding_keys(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs without the recipe's keys that only say how a result is computed.

    A run that ran out of memory goes on with --low-memory.
    """
    try:
        return {**inputs, "recipe": decided_by(inputs["recipe"])}
    except (KeyError, ValueError):  # of a version whose recipes had other keys
        return dict(inputs)
