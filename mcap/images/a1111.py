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


def parameters_text(record: Mapping[str, Any]) -> str:
    """A record as AUTOMATIC1111 writes it: prompt, negative prompt, then ``Key: value`` pairs."""
    backbone = record["backbone"]
    pairs = {
        "Steps": record["steps"],
        "Sampler": record["sampler"],
        "CFG scale": f"{record['guidance_scale']:g}",
        "Seed": record["seed"],
        "Size": "{}x{}".format(*record["drawn_size"]),
        "Model hash": backbone["sha256"][:10],
        "Model": backbone["id"],
        "Version": f"mcap {record['mcap']}",
    }
    loras = (f" <lora:{lora['name']}:{lora['weight']:g}>" for lora in record.get("loras", ()))
    lines = [on_one_line(record["prompt"]) + "".join(loras)]
    if record.get("negative_prompt"):
        lines.append(f"Negative prompt: {on_one_line(record['negative_prompt'])}")
    lines.append(", ".join(f"{key}: {quoted(str(value))}" for key, value in pairs.items()))
    return "\n".join(lines)


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
