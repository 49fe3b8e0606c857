"""An edit of a prompt: which words of the new text stand for which words of the old one.

A prompt is a sequence of words (a learned token in angle brackets is one, a run of punctuation
another). An edit gives for each word of the new text the words of the old one that it stands for:
itself where it was kept, what was there before where it was exchanged, nothing where it is new.
Edits follow one another; what a word stands for is always said in words of the first text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mcap.errors import UsageError

_WORD = re.compile(r"<[^<>\s]+>|[^\W_]+(?:['\u2019-][^\W_]+)*|(?:[^\w\s<]|_|<(?![^<>\s]+>))+")


@dataclass(frozen=True)
class Word:
    text: str
    start: int
    """Where it begins in its prompt."""
    end: int

    @property
    def key(self) -> str:
        """The word for comparison: case makes no difference to CLIP's tokenizer."""
        return self.text.casefold()


def words(prompt: str) -> list[Word]:
    """Return the words of a prompt in their order."""
    return [Word(found[0], found.start(), found.end()) for found in _WORD.finditer(prompt)]


@dataclass(frozen=True)
class PromptEdit:
    """``source`` -> ``target``; ``origins[j]`` are the source's words that target word j is for."""

    source: str
    target: str
    origins: tuple[frozenset[int], ...]

    @property
    def changed_target(self) -> frozenset[int]:
        """The target's words that were not there."""
        old, new = words(self.source), words(self.target)
        return frozenset(
            index
            for index, origin in enumerate(self.origins)
            if {old[i].key for i in origin} != {new[index].key}
        )

    @property
    def changed_source(self) -> frozenset[int]:
        """The source's words that are no longer there."""
        old, new = words(self.source), words(self.target)
        kept = {
            i
            for index, origin in enumerate(self.origins)
            for i in origin
            if old[i].key == new[index].key
        }
        return frozenset(range(len(old))) - kept


def unchanged(prompt: str) -> PromptEdit:
    """The edit that does nothing yet."""
    return PromptEdit(
        prompt, prompt, tuple(frozenset({index}) for index in range(len(words(prompt))))
    )


def replace_words(edit: PromptEdit, old: str, new: str, flag: str = "--replace") -> PromptEdit:
    """Put ``new`` where ``old``, whole words without regard to case, is in the edit's target.

    As many words for as many stand for each other one by one; otherwise each of the new words
    stands for all of the old. An empty ``new`` takes the words out. `UsageError` where ``old`` is
    empty or not there.
    """
    text, there = edit.target, words(edit.target)
    phrase_words(text, old, flag)  # says what is wrong
    places = find_words(text, old)
    count = len(words(old))
    pieces: list[str] = []
    origins: list[frozenset[int]] = []
    at = position = 0  # word and letter up to which the target has been taken over
    for place in places:
        origins += edit.origins[at:place]
        taken = edit.origins[place : place + count]
        put = words(new)
        if len(put) == count:
            origins += taken
        else:
            origins += [frozenset().union(*taken)] * len(put)
        pieces += [text[position : there[place].start], new]
        at, position = place + count, there[place + count - 1].end
    origins += edit.origins[at:]
    pieces.append(text[position:])
    target = "".join(pieces)
    if not new.strip():
        target = _tidy(target)
    found = PromptEdit(edit.source, target, tuple(origins))
    if len(words(target)) != len(origins):
        # Punctuation that now touches other punctuation is one word: align anew.
        return rewrite(edit, target)
    return found


def _tidy(text: str) -> str:
    """Without the double blanks that a word leaves which is taken out."""
    return re.sub(r"\s+([,.;:])", r"\1", re.sub(r"[ \t]{2,}", " ", text)).strip()


def rewrite(edit: PromptEdit, target: str) -> PromptEdit:
    """Put a whole new text in the place of the edit's target.

    Words in common keep what they stand for. Where as many words were put for as many, they stand
    for each other one by one; other words are new and stand for nothing.
    """
    old, new = words(edit.target), words(target)
    matcher = difflib.SequenceMatcher(
        None, [word.key for word in old], [word.key for word in new], autojunk=False
    )
    origins: list[frozenset[int]] = []
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        if kind == "equal" or (kind == "replace" and i2 - i1 == j2 - j1):
            origins += edit.origins[i1:i2]
        else:
            origins += [frozenset()] * (j2 - j1)
    return PromptEdit(edit.source, target, tuple(origins))


def append(edit: PromptEdit, text: str, flag: str = "--add") -> PromptEdit:
    """Put ``text`` at the end of the edit's target, after a comma.

    Its words are new and stand for nothing. `UsageError` where there are none.
    """
    if not words(text):
        raise UsageError(f"{flag} '{text}': holds no word.")
    return rewrite(edit, f"{edit.target.rstrip(' ,')}, {text.strip(' ,')}")


def find_words(prompt: str, phrase: str) -> list[int]:
    """Return at which words of a prompt a phrase begins, each time that it is there."""
    wanted = [word.key for word in words(phrase)]
    there = [word.key for word in words(prompt)]
    places: list[int] = []
    for index in range(len(there) - len(wanted) + 1) if wanted else ():
        free = not places or index >= places[-1] + len(wanted)
        if free and there[index : index + len(wanted)] == wanted:
            places.append(index)
    return places


def locate(prompt: str, phrase: str) -> frozenset[int]:
    """Return all words of a prompt that belong to a phrase, wherever it is; none where it is not
    there."""
    count = len(words(phrase))
    return frozenset(
        index + offset for index in find_words(prompt, phrase) for offset in range(count)
    )


def phrase_words(prompt: str, phrase: str, flag: str) -> frozenset[int]:
    """As `locate`; `UsageError`, which begins with ``flag``, where the phrase is not there."""
    if not words(phrase):
        raise UsageError(f"{flag} '{phrase}': names no word of the prompt.")
    found = locate(prompt, phrase)
    if not found:
        raise UsageError(f"{flag} '{phrase}': is not in the prompt '{prompt}'.")
    return found


def token_words(prompt: str, offsets: Sequence[tuple[int, int]]) -> list[int | None]:
    """Return for each token the word of the prompt that it belongs to.

    ``offsets`` are where tokens begin and end in the prompt; None for those that are no part of
    it: start, end and padding, whose offsets are empty.
    """
    spans = words(prompt)
    found: list[int | None] = []
    for start, end in offsets:
        middle = (start + end) / 2
        inside = (i for i, word in enumerate(spans) if word.start <= middle < word.end)
        found.append(next(inside, None) if end > start else None)
    return found
