"""AUTOMATIC1111's text on how a picture was generated, as its web UI writes and reads it.

In PNG it is the chunk ``parameters``, in JPEG and WebP EXIF's UserComment; ComfyUI, Civitai and
most viewers of generated pictures read it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image

UNICODE = b"UNICODE\0"
"""EXIF 2.32, section 4.6.5, UserComment: eight bytes name the character code. The text is UTF-16,
big endian, as AUTOMATIC1111 (through piexif) writes and reads it."""

SUBSTITUTES = {"DDPM": ("Euler a", None), "DEIS": ("LMS", None), "DPM++ 2S": ("DPM++ 2S a", 0)}
"""Samplers that AUTOMATIC1111 does not have, and takes for DPM++ 2M -> (the one of its own that
steps as they do, its Eta).

DDPM's posterior in sigmas, from t to s, has mean x0 + (s/t)^2 (x - x0) and variance
s^2 (t^2 - s^2) / t^2, which is k-diffusion's ancestral Euler step. DEIS (arXiv 2204.13902) is
Adams-Bashforth on the noise over sigma, as LMS is. DPM++ 2S is its ancestral form with Eta 0.
"""
EMPHASIS = re.compile(r"[()\[\]\\]")
"""What weighs words in AUTOMATIC1111's prompts, and its escape; mcap takes them as they stand."""


def parameters_text(record: Mapping[str, Any]) -> str:
    """Return a record as AUTOMATIC1111 writes it: prompt, negative prompt, ``Key: value`` pairs.

    Read there ("send to txt2img"), it draws the same person with what ``mcap export`` wrote, where
    the record has ``other_programs``: the words of the subjects' tokens, their LoRAs and the
    spacing of the steps. The line of the negative prompt is there without one too, because
    ComfyUI's importer makes nothing of a text that does not have it.
    """
    backbone = record["backbone"]
    others = record.get("other_programs", {})
    title, karras = re.subn(r" Karras$", "", record["sampler"])
    sampler, eta = SUBSTITUTES.get(title, (title, None))
    spacing = "Karras" if karras else others.get("schedule_type")
    pairs = {
        "Steps": record["steps"],
        # With the spacing behind it as well: ComfyUI, and AUTOMATIC1111 before 1.9, look there.
        "Sampler": f"{sampler} Karras" if karras else sampler,
        **({"Schedule type": spacing} if spacing else {}),
        "CFG scale": f"{record['guidance_scale']:g}",
        "Seed": record["seed"],
        "Size": "{}x{}".format(*record["drawn_size"]),
        "Model hash": backbone["sha256"][:10],
        "Model": backbone["id"],
        **({} if eta is None else {"Eta": eta}),
        # diffusers draws each picture's noise on the CPU, as AUTOMATIC1111 does with this.
        "RNG": "CPU",
        **({} if sampler == title else {"mcap sampler": record["sampler"]}),
        "Version": f"mcap {record['mcap']}",
    }
    networks = (*others.get("loras", ()), *record.get("loras", ()))
    loras = (f" <lora:{lora['name']}:{lora['weight']:g}>" for lora in networks)
    prompt, negative = (
        prompt_text(record.get(key) or "", record) for key in ("prompt", "negative_prompt")
    )
    pair_texts = (f"{key}: {quoted(str(value))}" for key, value in pairs.items())
    return "\n".join(
        (prompt + "".join(loras), f"Negative prompt: {negative}", ", ".join(pair_texts))
    )


def prompt_text(text: str, record: Mapping[str, Any]) -> str:
    """Return a record's prompt for AUTOMATIC1111: its words for tokens, brackets escaped."""
    for token, word in record.get("other_programs", {}).get("words", {}).items():
        text = text.replace(token, word)
    for embedding in record.get("embeddings", ()):
        word = re.escape(embedding["word"])
        pattern = rf"<({word})>|(?<![\w-])embedding:({word})(?![\w-])"
        text = re.sub(pattern, lambda match: match[1] or match[2], text, flags=re.IGNORECASE)
    return EMPHASIS.sub(r"\\\g<0>", on_one_line(text))


def on_one_line(text: str) -> str:
    """Return a prompt with every run of white space as one blank."""
    return re.sub(r"\s+", " ", text).strip()


def quoted(text: str) -> str:
    """Return a value in quotes where it holds what divides the pairs."""
    return json.dumps(text) if re.search(r'[,:\n"]', text) else text


def put_user_comment(exif: Image.Exif, text: str) -> None:
    """Put the text into EXIF's UserComment."""
    comment = UNICODE + text.encode("utf-16-be")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment


def user_comment(exif: Image.Exif) -> str | None:
    """Return the text of EXIF's UserComment; None where there is none."""
    value = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if not isinstance(value, bytes) or len(value) <= 8:
        return None
    code, text = value[:8], value[8:]
    if code == UNICODE:
        return text.decode("utf-16-be", errors="replace").rstrip("\0") or None
    return text.decode("utf-8", errors="replace").strip("\0 ") or None
