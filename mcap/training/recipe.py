"""Recipes by name: the parameters that learn, for how long, and from which terms.

``magicapture`` is the paper's, ``released`` its authors' code's, then come its rivals and it
without one of its parts; plugins add others. A recipe is flat data. Later layers override earlier
ones, key by key:

    magicapture < the backbone's recipe_overrides < the keys of the named recipe
        < the backbone's keys for that recipe < the profile's [train] < --set key=value

So a method stays that method on every backbone: what suits a backbone never brings back a phase or
a term that the recipe leaves out.

Sources: MagiCapture (arXiv 2309.06895), sections 3.3 to 4; its released code
(junhahyung/MagiCapture, commit 004c04e) for what that one does otherwise; textual inversion (Gal et
al., arXiv 2208.01618), DreamBooth (Ruiz et al., arXiv 2208.12242), Custom Diffusion (Kumari et al.,
arXiv 2212.04488), pivotal tuning (Roich et al., arXiv 2106.05744).
"""

from __future__ import annotations

import math
import tomllib
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.errors import RenamedKeyWarning, UsageError, did_you_mean

if TYPE_CHECKING:
    from mcap.registry import Failure

Steps = Annotated[int, Field(ge=0, le=1_000_000, strict=True)]
Rate = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1000)]
Switch = Annotated[bool, Field(strict=True)]


class Recipe(BaseModel):
    """One training run. The defaults are the paper's form."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = "magicapture"

    # How long, how fast.
    phase1_steps: Steps = 1200
    phase1_token_lr: Rate = 5e-4
    phase2_steps: Steps = 1500
    phase2_lora_lr: Rate = 1e-4
    """Of the LoRA, or of whatever else of the UNet ``learns`` says."""
    phase2_text_lr: Rate = 1e-5
    """Of the text encoder, where ``text_encoder`` lets it learn."""
    phase2_token_lr: Rate = 1e-5
    lr_schedule: Literal["linear", "constant"] = "linear"
    """``linear`` falls to 0 over each phase."""
    photos_for_all_steps: Annotated[int, Field(ge=1, strict=True)] = 6
    """With fewer source photos both phases shrink in proportion, ..."""
    least_steps: Annotated[float, Field(gt=0, le=1)] = 0.5
    """... but not below this fraction."""
    batch: Annotated[int, Field(ge=1, le=64, strict=True)] = 1
    """Photos of each kind a step; a step has this many rows of each kind."""

    # What learns.
    tokens: Switch = True
    """False: no new words are learned; ``id_words`` and ``style_words`` themselves stand in the
    prompts, as DreamBooth's rare words do, and nothing learns in phase 1."""
    id_words: Annotated[str, Field(max_length=100)] = ""
    """The words whose mean embedding the identity token starts from; empty: the class noun."""
    word_place: Literal["input", "output"] = "input"
    """Where a word is learned. ``input``: its row in the text encoder's table. ``output``, of a
    rectified flow alone: what it adds to the encoder's state at its own place, from the initial
    words on; each prompt is then embedded once, and the encoder keeps nothing for a gradient."""
    identity_start: Literal["words", "encoder"] = "words"
    """``encoder``: the person comes from ``identity_encoder`` and the photos, for training to start
    from where that makes the identity token, and without steps as it is."""
    identity_encoder: Annotated[str, Field(min_length=1, max_length=100)] = "word"
    """A registered identity encoder. ``word``: the one that the backbone brings, which puts the
    identity token where the faces on the photos say."""
    identity_scale: Annotated[float, Field(ge=0, le=2)] = 0.7
    """How much an image prompt of the person counts, where the encoder makes one ..."""
    style_scale: Annotated[float, Field(ge=0, le=2)] = 0.6
    """... and one of the style's photos; 0: the style comes from words alone."""
    style_words: Annotated[str, Field(min_length=1, max_length=100)] = "photo"
    learns: Literal["lora", "unet", "key-value"] = "lora"
    """Of the UNet, in phase 2: LoRA layers beside it; all of its weights, as in DreamBooth; the
    projections to keys and values of every cross-attention, as in Custom Diffusion."""
    lora_rank: Annotated[int, Field(ge=1, le=1024, strict=True)] = 8
    """Alpha is always the rank."""
    lora_targets: Literal["cross-attention", "attention", "released"] = "cross-attention"
    """``attention``: of self-attention, too, as in diffusers' DreamBooth scripts. ``released``:
    that and the feed-forward layers' first projection."""
    text_encoder: Switch = False
    """The text encoder learns in phase 2 as the UNet does: with LoRA, or all of its weights."""
    token_weight_decay: Rate = 0.0
    lora_weight_decay: Rate = 0.01
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients of everything that learns are scaled down to this norm together; 0: never."""

    # From which terms.
    subject_region: Literal["face", "head"] = "face"
    """What is learned of the person, and left out of the style: the face, as in the paper, or the
    whole head, with its hair (mcap.faces.heads)."""
    masks: Switch = True
    """False: every pixel counts, as in textual inversion and DreamBooth."""
    composed: Switch = True
    identity: Switch = True
    attention: Switch = True
    token_norms: Switch = True
    shape_weight: Weight = 0.0
    """How strongly the subject under the composed prompt keeps the shape that the backbone gives it
    for these words before phase 2: while a row is little but noise, its prediction there; 0: the
    paper, in which nothing but the identity network says what the face there looks like ..."""
    shape_from: Annotated[float, Field(ge=0, lt=1)] = 0.6
    """... from this fraction of the scheduler's timesteps on."""
    tone_weight: Weight = 0.0
    """The same of the tone, its local brightness and colour: at all timesteps, or at those below
    where the shape is kept ..."""
    tone_windows: Annotated[float, Field(ge=1, le=100)] = 4.5
    """... where local is what fits so often into the picture's height. With more, finer detail is
    held, which the identity term then cannot change."""
    composed_weight: Weight = 1.0
    identity_weight: Weight = 1.0
    attention_weight: Weight = 2.5
    attention_min_range: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Attention maps of a smaller range are scaled by this, so that fading does not pay; 0: the
    paper's form."""
    mask_form: Literal["area", "weighted"] = "area"
    """``weighted``: (M + 0.01) / max multiplied into both sides, not normalised by the area."""
    early_style_weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Weight of the reference and composed rows in the first half of each phase."""

    # That strangers stay strangers.
    prior: Literal["none", "images", "outputs"] = "none"
    """Prior preservation, a further row in each step of phase 2 under a prompt of the class noun
    alone. ``images``: it reconstructs pictures that the untouched backbone drew of it.
    ``outputs``: on a photo, the prediction is drawn to that of the untouched backbone."""
    prior_weight: Weight = 1.0
    prior_images: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 100
    """Pictures for ``images``; drawn once for each backbone and noun, and kept."""

    # Timesteps and the identity term.
    timestep_limit: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Timesteps of phase 2 are drawn below this fraction of the scheduler's."""
    identity_limit: Annotated[float, Field(gt=0, le=1)] = 0.4
    """T' / T of the identity row."""
    identity_from: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Where the identity row's timesteps begin, over T; 0: the paper. With little noise the face is
    there already, which invites adversarial texture; with much it is still to be formed."""
    flow_mean: Annotated[float, Field(ge=-3, le=3)] = 0.0
    """Of a rectified flow (klein, Z-Image), whose times s are logit-normal: the mean of
    log(s / (1 - s)), more for later times. A model that is drawn with at times shifted by a factor
    is trained so, too, with its logarithm ..."""
    flow_std: Annotated[float, Field(ge=0.25, le=5)] = 1.0
    """... and the standard deviation."""
    identity_every: Annotated[int, Field(ge=1, le=1000, strict=True)] = 1
    """The identity row is drawn every k-th step, its weight times k."""
    identity_rows: Literal["own", "data"] = "own"
    """``own``: a row of its own at a small timestep. ``data``: the estimates of the source and
    composed rows, as in the released code (which predicts them a second time)."""
    identity_decode: Literal["auto", "full", "window", "tiny"] = "auto"
    """The whole latent; the window of it that the face network looks at; the whole latent by a tiny
    autoencoder. ``auto``: the cheapest of them that shows the network what the whole one would,
    measured when phase 2 begins (mcap.training.decoder_choice)."""
    attention_layers: Annotated[int, Field(ge=0, le=1000, strict=True)] = 0
    """How many of the layers whose maps have the right size attention refocusing watches, evenly
    spread over the network; 0: all of them."""
    attention_from: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the network's depth, counted in these layers, the part that attention refocusing watches
    begins here ..."""
    attention_to: Annotated[float, Field(gt=0, le=1)] = 1.0
    """... and ends here."""
    attention_among: Literal["text", "prompt"] = "text"
    """The tokens over which a place's attention adds up to 1: all that the layer attends to, or the
    prompt's own, without its padding."""
    identity_landmarks: Literal["detected", "reference"] = "reference"
    """On each decoded estimate (the paper), or once on the reference photo, whose pose it keeps."""

    # When to end early.
    patience: Annotated[int, Field(ge=0, le=1000, strict=True)] = 0
    """Phase 2 ends, with the weights of the best evaluation, after this many evaluations without a
    rise of the previews' mean similarity to the person; 0: never."""
    eval_every: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] = 100
    """Steps between two evaluations, each of which draws a preview."""
    min_delta: Rate = 0.01
    """Rise of the mean similarity that counts as one. A guess, not measured."""

    # How it is computed.
    batching: Literal["joint", "sequential", "alternating"] = "joint"
    """``joint``: one UNet call a step for all rows. ``sequential``: a call for each row, the same
    gradients in less memory. ``alternating``: a step has one kind of row, as in the released
    code."""
    reference_framing: Literal["square", "profile"] = "square"
    """``profile``: the style's photos are cropped at the profile's aspect, the head where its
    ``[framing]`` wants it, so that the composed prompt learns the framing; a profile without
    framing has squares. The person's photos are always square."""
    crops: Annotated[int, Field(ge=1, le=64, strict=True)] = 4
    """Crops of each photo, a little apart in zoom, place and tilt, as augmentation."""
    flip: Switch = False
    """Mirror half of the pictures. A face is not symmetric, so the default keeps it as it is."""
    gradient_checkpointing: Switch = False
    offload_text: Switch = False
    """On a GPU the text encoders are on it only while prompts are embedded: in each step where a
    word learns, and there twice, as its gradient is computed from the start. A transformer's are as
    large as itself. Where nothing in them learns they are away in any case."""
    optimiser: Literal["adamw", "adamw-8bit"] = "adamw"
    """``adamw-8bit`` keeps the moments in eight bits; it needs bitsandbytes."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """The memory layout of the UNet's and the decoder's convolutions; ``auto``: on a CUDA GPU in
    half precision, where it is the faster one."""
    compile: Switch = False
    """Compile the UNet's transformer blocks with torch.compile: minutes once for each phase."""

    @model_validator(mode="before")
    @classmethod
    def _earlier_names(cls, values: Any) -> Any:
        return with_current_names(values)[0] if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _detector_sees_the_whole_picture(self) -> Recipe:
        if self.identity_decode == "window" and self.identity_landmarks == "detected":
            raise ValueError(
                "identity_decode 'window' cannot go with identity_landmarks 'detected': a detector "
                "needs the whole picture; set one of the two otherwise"
            )
        return self

    @model_validator(mode="after")
    def _identity_has_timesteps(self) -> Recipe:
        if self.identity_from >= self.identity_limit:
            raise ValueError(
                f"identity_from {self.identity_from:g} must be below identity_limit "
                f"{self.identity_limit:g}: the identity row's timesteps lie between them"
            )
        return self

    @model_validator(mode="after")
    def _attention_has_layers(self) -> Recipe:
        if self.attention_from >= self.attention_to:
            raise ValueError(
                f"attention_from {self.attention_from:g} must be below attention_to "
                f"{self.attention_to:g}: the layers that are watched lie between them"
            )
        return self

    @model_validator(mode="after")
    def _words_that_are_not_learned(self) -> Recipe:
        if self.tokens:
            return self
        if not self.id_words:
            raise ValueError("tokens false needs id_words, which then stand for the person")
        if self.phase1_steps:
            raise ValueError("tokens false needs phase1_steps 0: in phase 1 the tokens learn alone")
        if self.attention:
            raise ValueError(
                "tokens false needs attention false: Attention Refocusing follows a learned token"
            )
        return self

    @model_validator(mode="after")
    def _text_encoder_learns_as_the_unet(self) -> Recipe:
        if self.text_encoder and self.learns == "key-value":
            raise ValueError("text_encoder goes with learns 'lora' or 'unet', not with 'key-value'")
        if self.text_encoder and self.learns == "unet" and self.tokens:
            raise ValueError(
                "text_encoder with learns 'unet' needs tokens false: a text encoder that is kept "
                "whole holds the plain words alone"
            )
        return self

    @model_validator(mode="after")
    def _words_behind_an_encoder_that_stays(self) -> Recipe:
        if self.word_place == "output" and (self.text_encoder or self.encodes):
            raise ValueError(
                "word_place 'output' needs text_encoder false and identity_start 'words': it is "
                "added to what a text encoder makes that does not change"
            )
        return self

    @model_validator(mode="after")
    def _text_encoder_that_learns_stays(self) -> Recipe:
        if self.offload_text and self.text_encoder:
            raise ValueError(
                "offload_text needs text_encoder false: what learns in a text encoder stays on the "
                "device"
            )
        return self

    def for_photos(self, count: int) -> Recipe:
        """Return the recipe with its steps scaled to ``count`` source photos, at most its own."""
        part = min(1.0, max(self.least_steps, count / self.photos_for_all_steps))
        return self.model_copy(
            update={
                "phase1_steps": math.ceil(self.phase1_steps * part),
                "phase2_steps": math.ceil(self.phase2_steps * part),
            }
        )

    def scaling_note(self, count: int, given: Container[str] = ()) -> str | None:
        """Return a sentence on steps among the keys ``given`` that `for_photos` changed; None
        where there are none."""
        scaled = self.for_photos(count)
        changed = [
            f"{key}={getattr(self, key)} became {getattr(scaled, key)}"
            for key in ("phase1_steps", "phase2_steps")
            if key in given and getattr(self, key) != getattr(scaled, key)
        ]
        if not changed:
            return None
        return (
            f"{' and '.join(changed)}, because steps are scaled to the number of photos ({count}, "
            f"and all steps from {self.photos_for_all_steps} on); for the number as it was given "
            "add --set photos_for_all_steps=1."
        )

    @property
    def steps(self) -> int:
        """Number of steps of both phases."""
        return self.phase1_steps + self.phase2_steps

    def steps_of(self, phase: int) -> int:
        """Number of steps of phase 1 or 2."""
        return self.phase1_steps if phase == 1 else self.phase2_steps

    def photo_rows(self, phase: int) -> float:
        """Return the rows of a step that show a photo, on average: all but the prior's."""
        if self.batching == "alternating":
            return float(self.batch)
        rows = 2.0
        if phase == 2:
            rows += self.composed
            if self.identity and self.identity_rows == "own":
                rows += 1 / self.identity_every
        return rows * self.batch

    @property
    def attention_depth(self) -> tuple[float, float]:
        """The part of the network's depth whose layers attention refocusing watches."""
        return self.attention_from, self.attention_to

    @property
    def words(self) -> dict[str, str]:
        """Token -> the word of the vocabulary that stands for it; {} where the tokens learn."""
        if self.tokens:
            return {}
        return {ID_TOKEN: self.id_words, STYLE_TOKEN: self.style_words}

    @property
    def embeds_once(self) -> bool:
        """True where nothing that learns changes a prompt's embedding."""
        learns = self.phase1_steps > 0 or self.phase2_token_lr > 0
        moves = self.tokens and self.word_place == "input" and learns
        return not moves and not self.text_encoder

    @property
    def encodes(self) -> bool:
        """True where the person comes from an identity encoder."""
        return self.identity_start == "encoder"

    @property
    def has_prior(self) -> bool:
        """True where some step has a row for prior preservation."""
        return self.prior != "none" and self.prior_weight > 0 and self.phase2_steps > 0

    @property
    def keeps_head(self) -> bool:
        """True where some step compares the shape or the tone of its composed row."""
        kept = self.tone_weight > 0 or self.shape_weight > 0
        return self.composed and self.masks and kept and self.phase2_steps > 0

    @property
    def needs_untouched(self) -> bool:
        """True where some step asks what the backbone predicts with all that learned off."""
        return self.keeps_head or (self.has_prior and self.prior == "outputs")

    @property
    def class_pictures(self) -> int:
        """Number of pictures of the class noun that training reads."""
        return self.prior_images if self.has_prior and self.prior == "images" else 0


SAME_ROWS = "same rows"
"""In `RECIPES`, of a phase: as many steps as it takes to show the photos as often as magicapture
does on the same backbone, both phases together."""

_PLAIN: Mapping[str, Any] = {
    "masks": False,
    "composed": False,
    "identity": False,
    "attention": False,
}
"""Reconstruction of whole pictures and nothing else; person and style are two concepts."""

_RARE_WORDS: Mapping[str, Any] = {
    "tokens": False,
    "id_words": "sks",
    "style_words": "ktn",
    "phase1_steps": 0,
    "phase2_steps": SAME_ROWS,
    "prior": "images",
    # diffusers' scripts have as many of the prior's rows as photos, and the mean of each.
    "prior_weight": 2.0,
}

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "magicapture": {},
    "textual-inversion": {
        **_PLAIN,
        "token_norms": False,
        "phase1_steps": SAME_ROWS,
        "phase2_steps": 0,
    },
    "dreambooth": {**_PLAIN, **_RARE_WORDS, "learns": "unet", "phase2_lora_lr": 5e-6},
    "dreambooth-lora": {**_PLAIN, **_RARE_WORDS, "learns": "lora", "lora_targets": "attention"},
    # The rate, the decay of the words and what they start from are those of diffusers' script. So
    # is the weight: it adds a photo's error up over the latent's four channels, and takes the
    # prior's mean.
    "custom-diffusion": {
        **_PLAIN,
        "learns": "key-value",
        "id_words": "ktn",
        "style_words": "pll",
        "phase1_steps": 0,
        "phase2_steps": SAME_ROWS,
        "phase2_lora_lr": 1e-5,
        "phase2_token_lr": 1e-5,
        "token_weight_decay": 0.01,
        "prior": "images",
        "prior_weight": 0.5,
        "prior_images": 200,
    },
    "pivotal-tuning": {**_PLAIN, "learns": "lora", "phase2_steps": SAME_ROWS},
    # magicapture without one of its parts, step for step.
    "no-refocusing": {"attention": False},
    "no-composed": {"composed": False},
    "no-identity": {"identity": False},
    "no-masks": {"masks": False},
    # Learning rates are the README's times the 4 of its --scale_lr, where that flag reaches.
    "released": {
        "phase1_token_lr": 4 * 5e-4,
        "phase2_lora_lr": 4 * 1e-4,
        "phase2_text_lr": 4 * 1e-5,
        "phase2_token_lr": 1e-4,
        "lora_rank": 4,
        "lora_targets": "released",
        "text_encoder": True,
        "lora_weight_decay": 1e-3,
        "mask_form": "weighted",
        "early_style_weight": 2.0,
        "timestep_limit": 0.8,
        "identity_limit": 0.8,
        "identity_rows": "data",
        "identity_weight": 0.25,
        "identity_landmarks": "detected",
        "batching": "alternating",
        "reference_framing": "square",
    },
    # No step is trained: the person is what an identity encoder makes of the photos.
    "instant": {"identity_start": "encoder", "phase1_steps": 0, "phase2_steps": 0},
}


RENAMED_KEYS: Mapping[str, str] = {
    "rows": "batching",
    "look_every": "eval_every",
    "least_rise": "min_delta",
    "attention_least_span": "attention_min_range",
    "lora_text_encoder": "text_encoder",
}
"""Recipe key of version 0.1.0 -> its present name."""

RENAMED_VALUES: Mapping[str, Mapping[Any, str]] = {
    "batching": {"together": "joint", "apart": "sequential", "in-turn": "alternating"},
}
"""Recipe key -> value of version 0.1.0 -> its present name."""


def no_identity_encoder(backbone: str) -> str:
    """Return the sentence that refuses ``identity_start = "encoder"`` on a backbone without one."""
    return (
        f"Backbone '{backbone}' brings no identity encoder, so the person cannot be started from "
        "one: leave out --recipe instant or identity_start=encoder, or use a backbone that has one "
        "(sd15, sdxl and klein have it for --recipe instant; a model's folder may bring "
        "identity_encoder)."
    )


def makes_no_word(encoder: str) -> str:
    """Return the sentence that refuses steps after an encoder that makes an image prompt."""
    return (
        f"The identity encoder '{encoder}' makes an image prompt and no word, so that there is "
        "nothing to train on from it: use --recipe instant as it is, without steps, or another "
        "recipe without identity_start=encoder."
    )


def with_current_names(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return keys and values under their present names, and ``{"rows=apart": "batching=..."}``.

    The second mapping names every key or value that was given under an earlier name. A key that is
    given under both names keeps the value of the present one.
    """
    current: dict[str, Any] = {}
    renamed: dict[str, str] = {}
    for key, value in values.items():
        name = RENAMED_KEYS.get(key, key)
        choices = RENAMED_VALUES.get(name, {})
        known = choices.get(value, value) if isinstance(value, str) else value
        if name != key or known is not value:
            renamed[f"{key}={value}"] = f"{name}={known}"
        if name == key or name not in values:
            current[name] = known
    return current, renamed


class Layer(NamedTuple):
    """Recipe keys and where they were given, for the error message."""

    origin: str
    values: Mapping[str, Any]


def recipe(
    name: str = "magicapture", layers: Sequence[Layer] = (), backbone: Layer | None = None
) -> Recipe:
    """Return the named recipe with each layer's keys on top, the last one winning.

    ``name`` is one of `RECIPES`, or a recipe of a plugin (`mcap.hookspecs.register_recipes`).
    ``backbone`` holds the keys that suit a backbone: they lie below the named recipe's. Raises
    `UsageError` that names the layer, the key, and what is allowed there.
    """
    stack = [backbone] if backbone is not None else []
    if name not in RECIPES:
        stack.append(plugin_recipe(name))
    elif RECIPES[name]:
        below = Recipe.model_validate(_checked({}, stack))
        stack.append(Layer(f"recipe '{name}'", named_keys(name, below)))
    return Recipe.model_validate(_checked({"name": name}, [*stack, *layers]))


def named_keys(name: str, below: Recipe) -> dict[str, Any]:
    """Return the keys of one of `RECIPES`, its steps counted out over ``below``: magicapture with
    what suits the backbone."""
    keys = dict(RECIPES[name])
    counted = [phase for phase in (1, 2) if keys.get(f"phase{phase}_steps") == SAME_ROWS]
    for phase in counted:
        del keys[f"phase{phase}_steps"]
        itself = below.model_copy(update=keys)
        other = 3 - phase
        rows = sum(below.steps_of(each) * below.photo_rows(each) for each in (1, 2))
        rows -= itself.steps_of(other) * itself.photo_rows(other)
        keys[f"phase{phase}_steps"] = math.ceil(rows / itself.photo_rows(phase))
    return keys


def _checked(values: dict[str, Any], layers: Sequence[Layer]) -> dict[str, Any]:
    """Return ``values`` with the layers' keys on top, each layer checked as it is laid.

    A rule about two keys must hold for all layers together only: each may bring one of the two.
    """
    broken: UsageError | None = None
    for layer in layers:
        if "name" in layer.values:
            raise UsageError(f"{layer.origin}: key 'name': a recipe is chosen with --recipe.")
        given, renamed = with_current_names(layer.values)
        for before, now in renamed.items():
            warnings.warn(
                f"{layer.origin}: {before} is called {now} now", RenamedKeyWarning, stacklevel=3
            )
        values = {**values, **given}
        try:  # after each layer, so that the error names the one that is to blame
            Recipe.model_validate(values)
        except ValidationError as error:
            if any(item["loc"] for item in error.errors()):
                raise _usage_error(layer.origin, error) from None
            broken = broken or _usage_error(layer.origin, error, values.get("name"))
        else:
            broken = None
    if broken is not None:
        raise broken
    return values


def plugin_recipe(name: str) -> Layer:
    """Return the keys that a plugin registered under ``name``; `UsageError` where none did."""
    from mcap.registry import registry

    found = registry()
    if name not in found.recipes:
        known = recipe_names()
        failed = "; ".join(map(str, found.failures))
        hint = did_you_mean(name, known)
        hint += f" These plugins could not be loaded: {failed}." if failed else ""
        raise UsageError(
            f"Recipe '{name}' is unknown; there are: {', '.join(known)}.{hint}",
            details={"recipe": name, "known": known},
        )
    registered = found.recipes[name]
    return Layer(f"recipe '{name}' of the plugin '{registered.plugin}'", registered.keys)


def recipe_names() -> list[str]:
    """Return the names that `recipe` knows: mcap's own, then those of plugins."""
    from mcap.registry import registry

    return [*RECIPES, *sorted(registry().recipes.keys() - RECIPES.keys())]


def refused_recipes() -> list[Failure]:
    """Return the recipes of plugins that nobody can train with, each with the reason."""
    from mcap.registry import Failure, registry

    failures = []
    for name, registered in registry().recipes.items():
        if name in RECIPES:
            taken = f"recipe '{name}' is already registered by 'mcap'"
            failures.append(Failure(registered.plugin, taken))
            continue
        try:
            recipe(name)
        except UsageError as error:
            failures.append(Failure(registered.plugin, str(error)))
    return failures


COMPUTED = ("identity_decode", "gradient_checkpointing", "offload_text", "channels_last", "compile")
"""Keys that say how a result is computed and not, beyond rounding and the identity decode's
closeness, which one: an interrupted run may go on with others."""


def decided_by(found: Recipe | Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe's keys without those that only say how it is computed.

    Keys that a recipe of an earlier version lacks have their defaults.
    """
    keys = (found if isinstance(found, Recipe) else Recipe.model_validate(found)).model_dump()
    keys["batching"] = "alternating" if keys["batching"] == "alternating" else "of every kind"
    return {key: value for key, value in keys.items() if key not in COMPUTED}


def low_memory(found: Recipe, fits: Callable[[Recipe], bool] | None = None) -> dict[str, Any]:
    """Return the keys with which ``found`` needs less memory, as many as it takes to ``fit``.

    In the order of what they cost in time: a window decoded for the identity term, which saves
    time; one row at a time; gradient checkpointing, which runs the forward pass twice. None of them
    changes what is learned. Without ``fits``, or where nothing does, all of them.
    """
    measures: list[dict[str, Any]] = []
    if (
        found.identity
        and found.identity_decode in ("auto", "full")
        and found.identity_landmarks == "reference"  # a detector cannot search a window
    ):
        measures.append({"identity_decode": "window"})
    if found.batching == "joint":
        measures.append({"batching": "sequential"})
    if not found.gradient_checkpointing:
        measures.append({"gradient_checkpointing": True})
    keys: dict[str, Any] = {}
    for measure in measures:
        if fits is not None and fits(found.model_copy(update=keys)):
            break
        keys |= measure
    return keys


def parse_override(text: str) -> tuple[str, Any]:
    """Return key and value of ``--set key=value``, the value read as TOML, a bare word as text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text}: must be key=value, such as identity_weight=0.5.")
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a bare word is text
    return key.strip(), parsed


def _usage_error(origin: str, error: ValidationError, recipe: str | None = None) -> UsageError:
    problems, keys = [], []
    for item in error.errors():
        if not item["loc"]:  # a rule about two keys: one was given, the other is the recipe's
            of = f" (recipe '{recipe}')" if recipe else ""
            problems.append(item["msg"].removeprefix("Value error, ") + of)
            continue
        key = str(item["loc"][0])
        keys.append(key)
        if item["type"] == "extra_forbidden":
            known = [name for name in Recipe.model_fields if name != "name"]
            hint = did_you_mean(key, known)
            problems.append(f"key '{key}' is unknown.{hint} Allowed are {', '.join(known)}")
            continue
        allowed = allowed_values(key)
        problems.append(f"key '{key}': {item['input']!r} is not allowed; allowed: {allowed}")
    return UsageError(f"{origin}: {'; '.join(problems)}.", details={"keys": keys})


def allowed_values(key: str) -> str:
    """Return the allowed values in words: "full, window, tiny", "a whole number from 1 to 64"."""
    field = Recipe.model_fields[key]
    choices = get_args(field.annotation)
    if choices:
        return ", ".join(map(str, choices))
    if field.annotation is bool:
        return "true, false"
    limits = {}
    for item in field.metadata:
        for name in ("ge", "gt", "le", "min_length", "max_length"):
            value = getattr(item, name, None)
            if value is not None:
                limits[name] = value
    if field.annotation is str:
        return f"text of {limits.get('min_length', 0)} to {limits.get('max_length')} letters"
    kind = "a whole number" if field.annotation is int else "a number"
    low = f"from {limits['ge']}" if "ge" in limits else f"above {limits.get('gt')}"
    high = f" to {limits['le']}" if "le" in limits else ""
    return f"{kind} {low}{high}"
