"""Schedulers by name: how a picture is got out of noise, and in how many calls of the UNet.

Each has a name for command line and profile, the one that AUTOMATIC1111 shows (pictures' metadata
have that), and diffusers' class with the options that make it that one. A scheduler is made from
the model's own configuration, so that its noise schedule, what it predicts and where its timesteps
lie stay the model's. Light: diffusers is imported when a scheduler is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcap.errors import UsageError, did_you_mean

MODEL = "model"
"""The name of the scheduler that the model came with."""


@dataclass(frozen=True)
class Scheduler:
    """One entry of the table."""

    name: str
    title: str
    class_name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    random: bool = False
    """Adds noise between the steps: more steps give another picture and not a finer one."""


_SIGMAS = ("karras", "exponential", "beta")


def _spaced(kind: str | None) -> dict[str, bool]:
    # All three are said, because a model's configuration may ask for one of them.
    return {f"use_{name}_sigmas": name == kind for name in _SIGMAS}


def _table() -> Iterator[Scheduler]:
    yield Scheduler("ddim", "DDIM", "DDIMScheduler", {"clip_sample": False})
    yield Scheduler("ddpm", "DDPM", "DDPMScheduler", {"clip_sample": False}, random=True)
    yield Scheduler("plms", "PLMS", "PNDMScheduler", {"skip_prk_steps": True})
    yield Scheduler("euler-a", "Euler a", "EulerAncestralDiscreteScheduler", random=True)
    yield Scheduler("lcm", "LCM", "LCMScheduler", {"clip_sample": False}, random=True)
    second = {"solver_order": 2, "lower_order_final": True, "final_sigmas_type": "zero"}
    plain = {**second, "algorithm_type": "dpmsolver++"}
    sde = {**second, "algorithm_type": "sde-dpmsolver++"}
    for name, title, class_name, options, random in (
        ("euler", "Euler", "EulerDiscreteScheduler", {}, False),
        ("heun", "Heun", "HeunDiscreteScheduler", {}, False),
        ("lms", "LMS", "LMSDiscreteScheduler", {}, False),
        ("dpm2", "DPM2", "KDPM2DiscreteScheduler", {}, False),
        ("dpm2-a", "DPM2 a", "KDPM2AncestralDiscreteScheduler", {}, True),
        ("dpm++-2m", "DPM++ 2M", "DPMSolverMultistepScheduler", plain, False),
        ("dpm++-2m-sde", "DPM++ 2M SDE", "DPMSolverMultistepScheduler", sde, True),
        ("dpm++-2s", "DPM++ 2S", "DPMSolverSinglestepScheduler", plain, False),
        ("unipc", "UniPC", "UniPCMultistepScheduler", {}, False),
        ("deis", "DEIS", "DEISMultistepScheduler", {}, False),
    ):
        yield Scheduler(name, title, class_name, {**options, **_spaced(None)}, random)
        yield Scheduler(
            f"{name}-karras",
            f"{title} Karras",
            class_name,
            {**options, **_spaced("karras")},
            random,
        )


SCHEDULERS = {scheduler.name: scheduler for scheduler in sorted(_table(), key=lambda s: s.name)}


def names() -> list[str]:
    """Return every name that `find` takes as it stands, `MODEL` first."""
    return [MODEL, *SCHEDULERS]


def lookup(name: str) -> str | None:
    """Return the name in `names` of a scheduler, None for what is none.

    Also known are AUTOMATIC1111's names ("DPM++ 2M Karras") and diffusers' classes
    ("EulerDiscreteScheduler", "EulerDiscrete"), all without regard to case, spaces and hyphens.
    """
    wanted = bare_name(name)
    if wanted == MODEL:
        return MODEL
    for scheduler in SCHEDULERS.values():
        if wanted in (bare_name(scheduler.name), bare_name(scheduler.title)):
            return scheduler.name
    for scheduler in SCHEDULERS.values():
        # A class has several names; the plain one, without Karras' sigmas or noise, sorts first.
        short = scheduler.class_name.removesuffix("Scheduler")
        if wanted in (bare_name(scheduler.class_name), bare_name(short)):
            return scheduler.name
    return None


def find(name: str) -> str:
    """As `lookup`; `UsageError`, with the names that there are, for what is no scheduler."""
    found = lookup(name)
    if found is None:
        hint = did_you_mean(name.lower(), names())
        raise UsageError(
            f"--scheduler {name}: there is no such scheduler.{hint} There are: "
            f"{', '.join(names())}.",
            details={"scheduler": name, "known": names()},
        )
    return found


def bare_name(name: str) -> str:
    """Return a name in lower case, without spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]", "", name).lower()


def make(name: str, own: Any) -> Any:
    """Return a new scheduler of that name, for the model whose own scheduler is ``own``.

    `UsageError` for an unknown name, and where the model starts from pure noise (zero signal at
    the last timestep, arXiv 2305.08891) and the scheduler cannot.
    """
    name = find(name)
    if name == MODEL:
        return type(own).from_config(own.config)
    if is_straight(own):
        raise UsageError(
            f"--scheduler {name}: this model is drawn along a straight path, for which it has a "
            f"scheduler of its own; leave --scheduler out, or say {MODEL}."
        )
    import diffusers

    scheduler = SCHEDULERS[name]
    made = getattr(diffusers, scheduler.class_name)
    if own.config.get("rescale_betas_zero_snr") and not supports_zero_snr(made):
        able = [
            entry.name
            for entry in SCHEDULERS.values()
            if supports_zero_snr(getattr(diffusers, entry.class_name))
        ]
        raise UsageError(
            f"--scheduler {name}: this model starts from pure noise (zero signal at its last "
            f"timestep), which this scheduler cannot; use one of {', '.join(able)}."
        )
    return made.from_config(own.config, **scheduler.options)


def is_straight(scheduler: Any) -> bool:
    """Return True for a scheduler of a rectified flow (`mcap.diffusion.rectified_flow`)."""
    return "FlowMatch" in type(scheduler).__name__


def supports_zero_snr(made: Any) -> bool:
    """Return True where a diffusers class can start from pure noise (zero terminal SNR)."""
    import inspect

    return "rescale_betas_zero_snr" in inspect.signature(made.__init__).parameters


def calls(scheduler: Any, steps: int) -> int:
    """Return the calls of the UNet for ``steps`` steps: about twice as many for Heun and DPM2.

    The scheduler itself is left alone. `UsageError` for a number of steps that it refuses.
    """
    if is_straight(scheduler) and steps > 0:
        return steps  # where they lie depends on the size of the picture
    trial = type(scheduler).from_config(scheduler.config)
    try:
        trial.set_timesteps(steps)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise UsageError(
            f"--steps {steps}: the scheduler {title(scheduler)} cannot take so many ({error})."
        ) from error
    return len(trial.timesteps)


def schedule_type(scheduler: Any, steps: int) -> str:
    """Return AUTOMATIC1111's name of where a scheduler's timesteps lie, the nearest that it has.

    "Automatic" for the samplers that have one spacing of their own there. The formulas are those of
    its ``modules/sd_schedulers.py`` over T training timesteps; "DDIM" is every (T // steps)-th.
    """
    config = scheduler.config
    for kind in _SIGMAS:
        if config.get(f"use_{kind}_sigmas"):
            return kind.capitalize()
    if title(scheduler) in ("DDIM", "PLMS", "UniPC", "LCM") or is_straight(scheduler):
        return "Automatic"
    trial = type(scheduler).from_config(config)
    trial.set_timesteps(steps)
    last = config["num_train_timesteps"] - 1
    found = {float(step) for step in trial.timesteps}  # of DPM2 those between two steps as well
    spacings = {
        "Uniform": [last - last * i / max(1, steps - 1) for i in range(steps)],
        "SGM Uniform": [last - last * i / steps for i in range(steps)],
        "DDIM": list(range(1, last + 1, max(1, (last + 1) // steps))),
    }
    return min(
        spacings,
        key=lambda name: sum(min(abs(a - b) for b in found) for a in spacings[name]),
    )


def title(scheduler: Any) -> str:
    """Return AUTOMATIC1111's name of a diffusers scheduler; its class's where it has none."""
    class_name = type(scheduler).__name__
    config = getattr(scheduler, "config", {})

    def fits(entry: Scheduler) -> bool:
        said = ("use_karras_sigmas", "algorithm_type")
        return entry.class_name == class_name and all(
            config.get(key, entry.options[key]) == entry.options[key]
            for key in said
            if key in entry.options
        )

    found = next((entry.title for entry in SCHEDULERS.values() if fits(entry)), None)
    return found or class_name.removesuffix("Scheduler")
