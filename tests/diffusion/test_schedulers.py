"""Schedulers by name: found by all their names, right in what they compute, drawn with."""

from __future__ import annotations

import math

import pytest
import torch

from mcap.diffusion import schedulers
from mcap.diffusion.schedulers import MODEL, SCHEDULERS, calls, find, make, names, title
from mcap.errors import UsageError
from tests.support.tiny import sample, stream, tiny_backbone

# diffusers' own, tens of thousands of them.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
DETERMINISTIC = [name for name, entry in SCHEDULERS.items() if not entry.random]
RANDOM = [name for name, entry in SCHEDULERS.items() if entry.random]
# As Stable Diffusion's own, and as the demo backbone's.
MODELS = {
    "sd": {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False,
    },
    "demo": {
        "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": False,
        "prediction_type": "v_prediction", "timestep_spacing": "trailing",
    },
}  # fmt: skip


def own_scheduler(model: str, **config):
    from diffusers import DDIMScheduler

    return DDIMScheduler(**MODELS[model], **config)


def test_every_name_is_found_by_all_it_is_called():
    for name, entry in SCHEDULERS.items():
        for written in (name, name.upper(), entry.title, entry.title.lower().replace(" ", "_")):
            assert find(written) == name
    for written, name in {
        "EulerAncestralDiscreteScheduler": "euler-a",
        "DPMSolverMultistepScheduler": "dpm++-2m",
        "EulerDiscrete": "euler",
        "Euler a": "euler-a",
        "k e u l e r": None,
        "DPM++ 2M SDE Karras": "dpm++-2m-sde-karras",
        "Model": MODEL,
    }.items():
        assert schedulers.lookup(written) == name
    assert len({entry.title for entry in SCHEDULERS.values()}) == len(SCHEDULERS)


def test_an_unknown_name_lists_the_names():
    with pytest.raises(
        UsageError, match=r"--scheduler eulr: .* mean 'euler'.* model, .*unipc"
    ) as e:
        find("eulr")
    assert e.value.details["known"] == names()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", names())
def test_the_models_own_noise_and_prediction_stay(name, model):
    own = own_scheduler(model)
    made = make(name, own)
    assert made is not own
    assert made.config.prediction_type == own.config.prediction_type
    torch.testing.assert_close(made.alphas_cumprod, own.alphas_cumprod)
    assert title(made) == ("DDIM" if name == MODEL else SCHEDULERS[name].title)
    if "timestep_spacing" in MODELS[model] and "timestep_spacing" in made.config:
        assert made.config.timestep_spacing == "trailing"


def test_names_survive_a_models_own_options():
    """A model whose own scheduler has Karras' sigmas: 'euler' has none all the same."""
    from diffusers import EulerDiscreteScheduler

    own = EulerDiscreteScheduler(use_karras_sigmas=True)
    assert title(own) == title(make(MODEL, own)) == "Euler Karras"
    for name in SCHEDULERS:
        assert title(make(name, own)) == SCHEDULERS[name].title


def solve(name: str, model: str, steps: int, deviation: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample latents whose true distribution is N(0, deviation^2), for which the best prediction is
    known: the noise that was started from, and what came out."""
    scheduler = make(name, own_scheduler(model))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 4, 32, 32, generator=generator, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    options = {"generator": generator} if SCHEDULERS[name].random else {}
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t)
        a = _signal(scheduler, t)
        eps = math.sqrt(1 - a) * seen / (a * deviation**2 + 1 - a)
        clean = (seen - math.sqrt(1 - a) * eps) / math.sqrt(a)
        v = math.sqrt(a) * eps - math.sqrt(1 - a) * clean
        output = v if scheduler.config.prediction_type == "v_prediction" else eps
        x = scheduler.step(output, t, x, **options).prev_sample
    return noise, x


def _signal(scheduler, t) -> float:
    """alpha-bar at a timestep, which DPM2 and Karras' sigmas put between whole ones."""
    log = scheduler.alphas_cumprod.double().log()
    low = min(int(t), len(log) - 2)
    return float(torch.lerp(log[low], log[low + 1], float(t) - low).exp())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_solution_of_the_equation_is_found(name, model):
    """Gaussian data: the probability-flow equation takes noise n to deviation * n."""
    deviation = 0.5
    noise, found = solve(name, model, 50, deviation)
    error = (found - deviation * noise).norm() / (deviation * noise).norm()
    assert error < 0.08  # DDIM's and Euler's at 50 steps, 0.06; the others' below 0.05


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", [name for name in RANDOM if name != "lcm"])
def test_the_distribution_is_found(name, model):
    _, found = solve(name, model, 100, 0.5)
    assert abs(found.std().item() / 0.5 - 1) < 0.1


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


@pytest.fixture(scope="module")
def plain(backbone):
    """The picture of seed 6 by the model's own scheduler."""
    return sample(backbone, "a photo", [6], steps=3)[0]


@pytest.mark.parametrize("name", [name for name in names() if not name.endswith("-karras")])
def test_drawing_with_each(backbone, plain, name):
    """Alone or in a batch the same picture, also where noise is added on the way; every call of the
    UNet is told of; attention is recorded."""
    pipeline = backbone.pipeline()
    pipeline.scheduler = make(name, backbone.scheduler)
    told: list[int] = []
    options = {"steps": 3, "pipeline": pipeline}
    both = list(
        stream(backbone, "a photo", [5, 6], on_step=told.append, watch=["photo</w>"], **options)
    )
    (alone,) = stream(backbone, "a photo", [6], **options)
    difference = abs(both[1].image.astype(int) - alone.image.astype(int))
    assert difference.max() <= 1
    assert both[0].image.std() > 1
    assert told == [2] * calls(pipeline.scheduler, 3)
    assert both[0].attention["photo</w>"].min() > 0
    if name not in (MODEL, "ddim"):  # this model's own
        assert abs(plain.astype(int) - alone.image.astype(int)).max() > 1


def test_steps_that_a_scheduler_cannot_take():
    own = own_scheduler("sd")
    assert calls(make("ddim", own), 30) == 30
    assert calls(make("heun", own), 30) == 59
    with pytest.raises(UsageError, match="--steps 60: the scheduler LCM cannot"):
        calls(make("lcm", own), 60)


def test_a_model_that_starts_from_pure_noise():
    own = own_scheduler("demo", rescale_betas_zero_snr=True)
    assert make("euler", own).config.rescale_betas_zero_snr
    with pytest.raises(UsageError, match=r"--scheduler heun: .* pure noise.* use one of .*euler"):
        make("heun", own)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(
    ("spacing", "plain"),
    [("leading", "DDIM"), ("linspace", "Uniform"), ("trailing", "SGM Uniform")],
)
def test_automatic1111s_name_of_the_spacing(name, spacing, plain):
    """Its modules/sd_schedulers.py, 20 steps: leading is every 50th, from 1 on."""
    scheduler = make(name, own_scheduler("sd", timestep_spacing=spacing))
    found = schedulers.schedule_type(scheduler, 20)
    if name.endswith("-karras"):
        assert found == "Karras"
    elif name in ("ddim", "plms", "unipc", "lcm"):
        assert found == "Automatic"
    elif name in ("euler", "euler-a", "heun", "dpm2", "dpm2-a", "lms", "ddpm"):
        assert found == plain
    else:  # diffusers' multistep solvers leave out the last of n + 1 timesteps
        assert found == ("SGM Uniform" if spacing == "linspace" else found)
        assert found in ("DDIM", "Uniform", "SGM Uniform")
