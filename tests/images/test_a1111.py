"""The text that other programs read."""

from __future__ import annotations

import re

import pytest

from mcap.diffusion.schedulers import SCHEDULERS
from mcap.images import a1111
from tests.support.pictures import GENERATED

# modules/sd_samplers_*.py and sd_schedulers.py of AUTOMATIC1111 1.10; for any other name it takes
# the first of its own, DPM++ 2M, without a word.
SAMPLERS = {
    "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE",
    "Euler a", "Euler", "LMS", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart",
    "DDIM", "DDIM CFG++", "PLMS", "UniPC", "LCM",
}  # fmt: skip
SCHEDULE_TYPES = {
    "Automatic", "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform", "KL Optimal",
    "Align Your Steps", "Simple", "Normal", "DDIM", "Beta",
}  # fmt: skip
OTHERS = {
    "words": {"<mcap-id>": "jurgen-id", "<mcap-style>": "jurgen-style"},
    "loras": [{"name": "jurgen", "weight": 0.75}],
    "schedule_type": "DDIM",
}


def read_by_a1111(text: str) -> dict[str, str]:
    """``parse_generation_parameters`` of its infotext_utils.py: the last line is pairs."""
    *lines, last = text.strip().split("\n")
    prompt, negative, in_negative = "", "", False
    for line in lines:
        if line.startswith("Negative prompt:"):
            in_negative, line = True, line[16:].strip()
        prompt, negative = (prompt, negative + line) if in_negative else (prompt + line, negative)
    found = {"Prompt": prompt, "Negative prompt": negative, "RNG": "GPU"}
    pairs = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last)
    found |= dict(pairs)
    found.setdefault("Schedule type", "Automatic")
    return found


def sampler_of(found: dict[str, str]) -> tuple[str, str]:
    """``get_sampler_and_scheduler`` of its sd_samplers.py."""
    sampler, schedule = found["Sampler"], found["Schedule type"]
    for name in SCHEDULE_TYPES:
        if sampler.endswith(f" {name}"):
            sampler, schedule = sampler.removesuffix(f" {name}"), name
    return (sampler if sampler in SAMPLERS else "DPM++ 2M"), schedule


def weights_of(prompt: str) -> tuple[str, bool]:
    """Its prompt_parser.py: the words without the escapes, and whether any is weighed."""
    plain = re.sub(r"\\([()\[\]\\])", "", prompt)
    return re.sub(r"\\([()\[\]\\])", r"\1", prompt), bool(re.search(r"[()\[\]]", plain))


def test_the_text_is_automatic1111s():
    assert a1111.parameters_text(GENERATED) == (
        "a photo of a <mcap-id> person, white & bright 日本\n"
        "Negative prompt: hat, sunglasses\n"
        "Steps: 20, Sampler: DPM++ 2M Karras, Schedule type: Karras, CFG scale: 7, Seed: 42, "
        "Size: 256x256, Model hash: abcdef0123, Model: demo, RNG: CPU, Version: mcap 0.1.0"
    )
    odd = {**GENERATED, "backbone": {**GENERATED["backbone"], "id": "a, b: c"}}
    assert 'Model: "a, b: c"' in a1111.parameters_text(odd)


@pytest.mark.parametrize("title", sorted({entry.title for entry in SCHEDULERS.values()}))
def test_every_sampler_is_one_that_automatic1111_has(title):
    record = {**GENERATED, "sampler": title, "other_programs": OTHERS}
    found = read_by_a1111(a1111.parameters_text(record))
    plain = title.removesuffix(" Karras")
    ours = {"DDPM": "Euler a", "DEIS": "LMS", "DPM++ 2S": "DPM++ 2S a"}.get(plain, plain)
    assert sampler_of(found) == (ours, "Karras" if plain != title else "DDIM")
    assert found.get("mcap sampler", plain) == (title if ours != plain else plain)
    assert found.get("Eta") == ("0" if plain == "DPM++ 2S" else None)
    assert found["RNG"] == "CPU"  # where there is none it takes the device's noise


def test_sent_to_txt2img_it_draws_the_person_and_not_a_stranger():
    record = {
        **GENERATED,
        "prompt": "a <mcap-id> person with <film> and embedding:glow, <mcap-style> style",
        "negative_prompt": "embedding:bad",
        "loras": [{"name": "detail", "weight": 0.5}],
        "embeddings": [{"word": "film"}, {"word": "glow"}, {"word": "bad"}],
        "other_programs": OTHERS,
    }
    found = read_by_a1111(a1111.parameters_text(record))
    assert found["Prompt"] == (
        "a jurgen-id person with film and glow, jurgen-style style "
        "<lora:jurgen:0.75> <lora:detail:0.5>"
    )
    assert found["Negative prompt"] == "bad"


def test_brackets_in_words_are_words_and_no_weights():
    words = r"a [photo] (close: 1.5), C:\new"
    record = {**GENERATED, "prompt": words, "negative_prompt": "[dark]"}
    found = read_by_a1111(a1111.parameters_text(record))
    assert weights_of(found["Prompt"]) == (words, False)
    assert weights_of(found["Negative prompt"]) == ("[dark]", False)


def test_comfyui_makes_nodes_without_a_negative_prompt_too():
    """Its ``importA1111`` (pnginfo.js) goes by the last line that begins so, before the pairs."""
    for negative in ("", None):
        text = a1111.parameters_text({**GENERATED, "negative_prompt": negative})
        end = text.rindex("\nSteps:")
        start = text.rindex("\nNegative prompt:", 0, end)
        assert text[:start].startswith("a photo") and text[start + 18 : end].strip() == ""
        assert read_by_a1111(text)["Negative prompt"] == ""
