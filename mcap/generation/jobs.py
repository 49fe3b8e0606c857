"""Plan of a run: for each style and seed the prompt, the scheduler and the record to be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mcap
from mcap.diffusion import schedulers
from mcap.diffusion.sampling import GUIDANCE_SCALE, STEPS
from mcap.framing.crop import sampling_size
from mcap.images import provenance
from mcap.style import prompts

if TYPE_CHECKING:
    from mcap.contracts import BackboneInfo
    from mcap.generation.extra_networks import ExtraNetworks
    from mcap.generation.settings import GenerateSettings, GenerationModels
    from mcap.style.profile import StyleProfile
    from mcap.subjects.subject import Subject


@dataclass(frozen=True)
class GenerationJob:
    """One picture to be."""

    profile: StyleProfile
    seed: int
    record: dict[str, Any]
    """Its metadata, without what is known only once the picture is there."""
    scheduler: Any
    """diffusers' own."""
    path: Path | None = None
    """Where it lies already and is generated again."""

    @property
    def stem(self) -> str:
        return f"{self.profile.name}-{self.seed:06d}"


def plan_jobs(
    subject: Subject,
    profiles: Sequence[StyleProfile],
    models: GenerationModels,
    settings: GenerateSettings,
    extra_networks: ExtraNetworks,
) -> Iterator[GenerationJob]:
    """Yield the jobs of each profile, seed by seed.

    Raises `UsageError` for a prompt without a person, for an unknown scheduler and for a number of
    steps that the scheduler refuses.
    """
    backbone = models.backbone
    info = backbone.info
    for profile in profiles:
        noun = profile.class_noun
        if settings.prompts:
            templates = [prompts.personal_prompt(text, noun) for text in settings.prompts]
        else:
            templates = prompts.generation_templates(profile)
            templates = templates if settings.all_prompts else templates[:1]
        sampling, scheduler = sampling_record(profile, settings, info, backbone.scheduler)
        # What decides about the picture and is not, or not as exactly, in the record itself.
        unseen = {
            # diffusers' own keys begin with an underscore and come in any order.
            "scheduler": {
                key: str(value)
                for key, value in sorted(scheduler.config.items())
                if not key.startswith("_")
            },
            "aspect": profile.aspect,
            "size_mm": profile.size_mm,
            "framing": profile.framing.model_dump(exclude={"draw_border"}),
            "quality": settings.quality,
            "metadata": settings.metadata,
        }
        if profile.framing.draw_border:  # pictures of before there were borders stay known
            unseen["draw_border"] = True
        for index in range(settings.count or profile.generate.count):
            record: dict[str, Any] = {
                "schema": 1,
                "kind": "generate",
                "mcap": mcap.__version__,
                "subject": subject_record(subject),
                "trained": trained(subject),
                "profile": profile.name,
                **sampling,
                "adapter_scale": settings.adapter_scale,
                "token_scale": settings.token_scale,
                "precision": info.quantised or str(backbone.dtype).removeprefix("torch."),
                "backbone": {
                    "id": provenance.public_name(info.id),
                    "revision": info.revision,
                    "sha256": info.sha256,
                },
                "drawn_size": list(sampling_size(info, profile.aspect_ratio)),
                "identity": models.identity.name if models.identity is not None else "",
                **extra_networks.record(),
                "other_programs": {
                    **extra_networks.other_programs(subject, settings.adapter_scale),
                    "schedule_type": schedulers.schedule_type(scheduler, sampling["steps"]),
                },
                "prompt": prompts.fill(templates[index % len(templates)], noun),
                "seed": settings.seed + index,
            }
            record["settings_sha256"] = settings_sha256(record, unseen)
            yield GenerationJob(profile, record["seed"], record, scheduler)


def subject_record(subject: Subject) -> dict[str, str]:
    """Return what a record says of a subject; that it is a thing only where it is one."""
    a_thing = {"kind": "object"} if subject.manifest.subject_kind == "object" else {}
    return {"name": subject.name, "sha256": subject.sha256, **a_thing}


def sampling_record(
    profile: StyleProfile, settings: GenerateSettings, info: BackboneInfo, own_scheduler: Any
) -> tuple[dict[str, Any], Any]:
    """Return how a profile's pictures are sampled, as a record has it, and the scheduler for it.

    ``own_scheduler`` is the model's, from which the scheduler is made.

    What the user says goes first. A backbone states values of its own only where others suit it
    badly, so it goes before the profile, which is written for no model in particular.
    """
    styled = profile.generate

    def choose(key: str, given: Any, of_profile: Any, default: Any) -> Any:
        values = (given, info.generate_defaults.get(key), of_profile, default)
        return next(value for value in values if value is not None)

    steps = int(choose("steps", settings.steps, styled.steps, STEPS))
    guidance = choose(
        "guidance_scale", settings.guidance_scale, styled.guidance_scale, GUIDANCE_SCALE
    )
    name = schedulers.find(
        choose("scheduler", settings.scheduler, styled.scheduler, schedulers.MODEL)
    )
    scheduler = schedulers.make(name, own_scheduler)
    schedulers.calls(scheduler, steps)  # refused now and not when sampling has begun
    negative = settings.negative
    if negative is None:
        negative = prompts.negative_prompt_of(info, profile)
    return {
        "negative_prompt": negative,
        "steps": steps,
        "guidance_scale": float(guidance),
        "scheduler": name,
        "sampler": schedulers.title(scheduler),
    }, scheduler


def trained(subject: Subject) -> dict[str, Any]:
    """Return how the subject was trained, as far as a recipe of its version has the keys."""
    recipe = subject.manifest.recipe
    keys = ("name", "subject_region", "reference_framing", "identity_start")
    return {key: recipe[key] for key in keys if key in recipe}


def settings_sha256(record: Mapping[str, Any], unseen: dict[str, Any]) -> str:
    """Return the hash by which a picture of the same settings is known.

    Over the record and ``unseen``, what else decides about the picture. The version is left out: a
    new mcap that gives the same picture need not generate it again. And the scheduler's name, which
    can be another for the same one ("model"), and what follows from the rest.
    """
    told = ("mcap", "scheduler", "other_programs", "trained")
    hashed = {key: value for key, value in record.items() if key not in told} | unseen
    text = json.dumps(hashed, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
