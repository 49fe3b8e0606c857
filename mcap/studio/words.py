"""Sentences of the commands in words of the page: buttons in place of a terminal's options."""

from __future__ import annotations

import re

IN_PAGE_WORDS: tuple[tuple[str, str], ...] = (
    (r"--backbone (\w+)", r"the model \1"),
    (r"(?<![\w/.-])backbone(?![\w/-])", "model"),
    (r"--recipe instant", "“Without training”"),
    (r"--recipe (\w+)", r"the recipe \1"),
    (
        r"[Ss]ay who (?:it|the subject) is (?:with --subject PHOTO|\(--subject PHOTO\))",
        "press “This is the person” at a photo",
    ),
    (r"--subject PHOTO says who", "“This is the person”, at a photo, says who"),
    (r" ?\(--subject PHOTO\)", ", with “This is the person” below it"),
    (r"[Gg]ive --subject a photo", "choose a photo"),
    (r"start (?:over|again) with --force", "train again from the start"),
    (r" \(--(?:seed|prompt|count)\)", ""),
    (r"--replace(?= )", "These words:"),
    (r"--add(?= )", "Add at the end:"),
    (r"--document ", "the document "),
    (r"--prompt(?= )", "Other words:"),
    (
        r" ?For a pet or a thing add --subject-kind object\.",
        " Pets and things are learned in a terminal alone.",
    ),
    (
        r"; a pet or a thing is learned with --subject-kind object",
        "; pets and things are learned in a terminal alone",
    ),
)
"""Pattern -> what stands in its place."""

PLAN = {"backbone": "Model", "recipe": "How"}
"""What the lines of a plan are called, where the page has another name."""

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
ELSEWHERE = " (What begins with -- is for the command in a terminal: it stands under Commands.)"


def on_the_page(sentence: str) -> str:
    """Return a command's sentence as the page says it.

    Of an option that the page has no field for, it says where that can be given.
    """
    for pattern, words in IN_PAGE_WORDS:
        sentence = re.sub(pattern, words, sentence)
    return sentence + ELSEWHERE if OPTION.search(sentence) else sentence
