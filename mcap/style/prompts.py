"""Prompt templates for the three kinds of row, and for generation (MagiCapture, section 4).

One table of frames ("a photo of {subject}") serves all three kinds, so that the source prompt
c_s, the reference prompt c_r and the composed prompt c_c differ in nothing but who and how:

    c_s  a photo of a <mcap-id> person
    c_r  a photo of a person in the <mcap-style> style
    c_c  a photo of a <mcap-id> person in the <mcap-style> style

Slots in a template: ``{id}`` the identity token, ``{style}`` the style token, ``{noun}`` the
profile's class noun. The tokens are lower case in angle brackets because a tokenizer's match of
an added token ignores case, and a bare word would also match inside other words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from string import Formatter
from typing import TYPE_CHECKING, Protocol

from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.errors import UsageError

if TYPE_CHECKING:
    from mcap.contracts import BackboneInfo

SLOTS = ("id", "style", "noun")

# Frames say "photo" and nothing about light, framing, colour or mood: whatever a frame says of
# those is said of every style, and the style token could no longer learn it. The first one is the
# paper's and the one that generation falls back to.
FRAMES = (
    "a photo of {subject}",
    "a photograph of {subject}",
    "a picture of {subject}",
    "an image of {subject}",
    "a portrait of {subject}",
    "a portrait photo of {subject}",
    "a portrait photograph of {subject}",
    "a portrait picture of {subject}",
    "a good photo of {subject}",
    "a good picture of {subject}",
    "a nice photo of {subject}",
    "a clear photo of {subject}",
    "a clear picture of {subject}",
    "a clear portrait of {subject}",
    "a clean photo of {subject}",
    "a sharp photo of {subject}",
    "a sharp portrait of {subject}",
    "a detailed photo of {subject}",
    "a detailed portrait of {subject}",
    "a high quality photo of {subject}",
    "a high quality portrait of {subject}",
    "a high resolution photo of {subject}",
    "a realistic photo of {subject}",
    "a realistic portrait of {subject}",
    "a recent photo of {subject}",
    "a new photo of {subject}",
    "a beautiful photo of {subject}",
    "one photo of {subject}",
    "photo of {subject}",
    "portrait of {subject}",
)
SOURCE_SUBJECT = "a {id} {noun}"
REFERENCE_SUBJECT = "a {noun} in the {style} style"
COMPOSED_SUBJECT = "a {id} {noun} in the {style} style"

SOURCE_TEMPLATES = tuple(frame.format(subject=SOURCE_SUBJECT) for frame in FRAMES)
REFERENCE_TEMPLATES = tuple(frame.format(subject=REFERENCE_SUBJECT) for frame in FRAMES)
CLASS_TEMPLATES = tuple(frame.format(subject="a {noun}") for frame in FRAMES)
COMPOSED_TEMPLATES = tuple(frame.format(subject=COMPOSED_SUBJECT) for frame in FRAMES)


class PromptTable(Protocol):
    """The table ``[prompts]`` of a profile."""

    @property
    def composed(self) -> Sequence[str]: ...
    @property
    def replace(self) -> bool: ...
    @property
    def negative(self) -> str: ...


class PromptWords(Protocol):
    """The part of `mcap.style.profile.StyleProfile` that prompts are made of."""

    @property
    def class_noun(self) -> str: ...
    @property
    def prompts(self) -> PromptTable: ...


def slots(template: str) -> set[str]:
    """Return the names of a template's slots; ValueError with the reason where it is malformed."""
    found = set()
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"unbalanced braces in '{template}' ({error})") from None
    for _, name, spec, conversion in pieces:
        if name is None:
            continue
        if name not in SLOTS or spec or conversion:
            shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise ValueError(
                f"unknown slot '{{{shown}}}' in '{template}'; the slots are {{id}}, {{style}} "
                "and {noun}"
            )
        found.add(name)
    return found


def check_template(
    template: str, *, allowed: Iterable[str] = SLOTS, required: Iterable[str] = ()
) -> str:
    """Return the template; ValueError where a slot is unknown, out of place or missing."""
    if not template.strip():
        raise ValueError("an empty prompt")
    found = slots(template)
    allowed = tuple(allowed)
    for name in sorted(found - set(allowed)):
        may = ", ".join(f"{{{slot}}}" for slot in allowed) or "no slots"
        raise ValueError(f"slot '{{{name}}}' has no place in '{template}' (allowed: {may})")
    for name in required:
        if name not in found:
            raise ValueError(f"slot '{{{name}}}' is missing in '{template}'")
    return template


def fill(
    template: str,
    noun: str,
    *,
    id_token: str = ID_TOKEN,
    style_token: str = STYLE_TOKEN,
) -> str:
    """Fill the slots of a template: "a {noun}" becomes "an actor" where the noun asks for it.

    Raises `mcap.errors.UsageError` for an unknown slot.
    """
    try:
        slots(template)
    except ValueError as error:
        raise UsageError(f"Prompt: {error}.") from None
    if noun[:1].lower() in tuple("aeiou"):
        template = re.sub(r"\b([Aa]) (?=\{noun\})", r"\1n ", template)
    return template.format(id=id_token, style=style_token, noun=noun)


def source_prompts(noun: str, *, id_token: str = ID_TOKEN) -> list[str]:
    """Return c_s: "a photo of a <mcap-id> person" and its variants, as many as there are frames."""
    return [fill(template, noun, id_token=id_token) for template in SOURCE_TEMPLATES]


def reference_prompts(noun: str, *, style_token: str = STYLE_TOKEN) -> list[str]:
    """Return c_r: "a photo of a person in the <mcap-style> style" and its variants."""
    return [fill(template, noun, style_token=style_token) for template in REFERENCE_TEMPLATES]


def class_prompts(noun: str) -> list[str]:
    """Return "a photo of a person" and its variants: nobody in particular, in no style."""
    return [fill(template, noun) for template in CLASS_TEMPLATES]


def in_words(prompt: str, words: Mapping[str, str]) -> str:
    """Return a filled prompt with a word of the vocabulary in the place of each token in ``words``.

    So a text encoder reads it where a subject has no learned tokens (`Recipe.words`).
    """
    for token, word in words.items():
        prompt = prompt.replace(token, word)
    return prompt


def composed_prompts(
    profile: PromptWords, *, id_token: str = ID_TOKEN, style_token: str = STYLE_TOKEN
) -> list[str]:
    """Return c_c for training: mcap's templates and after them the profile's own, without repeats.

    A profile with ``[prompts] replace = true`` trains on its own composed prompts alone.
    """
    own = tuple(profile.prompts.composed)
    templates = own if profile.prompts.replace and own else (*COMPOSED_TEMPLATES, *own)
    return [
        fill(template, profile.class_noun, id_token=id_token, style_token=style_token)
        for template in dict.fromkeys(templates)
    ]


def generation_templates(profile: PromptWords) -> list[str]:
    """Return unfilled templates to generate from: the profile's composed ones, else c_c's first."""
    return list(profile.prompts.composed) or [COMPOSED_TEMPLATES[0]]


def personal_prompt(text: str, noun: str, *, id_token: str = ID_TOKEN) -> str:
    """Turn a prompt as a user types it into a template that names the person.

    "a person on a beach" becomes "a {id} person on a beach"; a text that has ``{id}`` or the token
    itself stays as it is. Raises `UsageError` where there is nobody to put the token to.
    """
    if not text.strip():
        raise UsageError("--prompt: an empty prompt.")
    try:
        found_slots = slots(text)
    except ValueError as error:
        raise UsageError(f"--prompt: {error}.") from None
    if "id" in found_slots or id_token in text:
        return text
    if "{noun}" in text:
        return text.replace("{noun}", "{id} {noun}", 1)
    found = re.search(rf"(?:\b(an?) )?\b{re.escape(noun)}\b", text, flags=re.IGNORECASE)
    if found is None:
        raise UsageError(
            f"--prompt '{text}': says nothing about the person; write {{id}} where the person "
            f"belongs, or use the word '{noun}', as in 'a {{id}} {noun} on a beach'."
        )
    # "an actor" is "a <mcap-id> actor": the article belongs to the word that now follows it.
    article = f"{found[1][0]} " if found[1] else ""
    named = f"{article}{{id}} {found[0].split(' ', 1)[1] if found[1] else found[0]}"
    return text[: found.start()] + named + text[found.end() :]


def negative_prompt_of(info: BackboneInfo, profile: PromptWords) -> str:
    """Return the backbone's own negative prompt where it has one, else the profile's."""
    return info.generate_defaults.get("negative_prompt", profile.prompts.negative)
