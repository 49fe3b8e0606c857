"""What the words of an edited prompt stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcap.errors import UsageError
from mcap.generation.editing.word_alignment import (
    PromptEdit,
    append,
    find_words,
    phrase_words,
    replace_words,
    rewrite,
    token_words,
    unchanged,
    words,
)

PROMPT = "a photo of a <mcap-id> person, smiling, plain white background"


def stands_for(edit: PromptEdit) -> list[tuple[str, list[str]]]:
    """(word of the target, words of the source) of all words."""
    old = [word.text for word in words(edit.source)]
    new = [word.text for word in words(edit.target)]
    assert len(new) == len(edit.origins)
    return [
        (text, [old[i] for i in sorted(origin)])
        for text, origin in zip(new, edit.origins, strict=True)
    ]


def changes(edit: PromptEdit) -> list[tuple[str, list[str]]]:
    return [(text, origin) for text, origin in stands_for(edit) if origin != [text]]


def test_words():
    text = "A <mcap-id> person's close-up, (20 years)... naïve_x < 3"
    found = [word.text for word in words(text)]
    assert found == [
        "A", "<mcap-id>", "person's", "close-up", ",", "(", "20", "years", ")...", "naïve", "_",
        "x", "<", "3",
    ]  # fmt: skip
    assert all(text[word.start : word.end] == word.text for word in words(text))


@pytest.mark.parametrize(
    ("old", "new", "target", "changed"),
    [
        ("smiling", "serious", "{}, serious, plain white background", [("serious", ["smiling"])]),
        ("SMILING", "Serious", "{}, Serious, plain white background", [("Serious", ["smiling"])]),
        (
            "plain white", "dark blue", "{}, smiling, dark blue background",
            [("dark", ["plain"]), ("blue", ["white"])],
        ),
        (
            "smiling", "very serious", "{}, very serious, plain white background",
            [("very", ["smiling"]), ("serious", ["smiling"])],
        ),
        (
            "plain white background", "garden", "{}, smiling, garden",
            [("garden", ["plain", "white", "background"])],
        ),
        ("plain", "", "{}, smiling, white background", []),
    ],
)  # fmt: skip
def test_replacing(old, new, target, changed):
    found = replace_words(unchanged(PROMPT), old, new)
    assert found.target == target.format("a photo of a <mcap-id> person")
    assert changes(found) == changed


def test_replacing_every_place_and_what_is_left_over():
    found = replace_words(unchanged("red hat, red scarf"), "red", "dark green")
    assert found.target == "dark green hat, dark green scarf"
    assert [origin for _, origin in changes(found)] == [["red"]] * 4
    assert {min(origin) for origin in found.origins[:2]} == {0}
    assert {min(origin) for origin in found.origins[4:6]} == {3}
    gone = replace_words(unchanged(PROMPT), ", smiling", "")
    assert gone.target == "a photo of a <mcap-id> person, plain white background"
    assert not changes(gone)
    old = words(PROMPT)
    assert {old[i].text for i in gone.changed_source} == {",", "smiling"}


def test_words_that_are_not_there_are_named():
    with pytest.raises(UsageError, match=r"--replace 'laughing': is not in the prompt 'a photo"):
        replace_words(unchanged(PROMPT), "laughing", "x")
    with pytest.raises(UsageError, match=r"--weigh ' ': names no word"):
        phrase_words(PROMPT, " ", "--weigh")
    assert find_words("a a a", "a a") == [0]  # they do not overlap
    assert phrase_words("a b a b", "a b", "--weigh") == frozenset(range(4))
    with pytest.raises(UsageError):
        phrase_words("smiling", "smil", "--weigh")  # part of a word is none
    assert find_words("smiling", "smil") == []


def test_words_at_the_end():
    added = append(unchanged(PROMPT), "black and white")
    assert added.target == f"{PROMPT}, black and white"
    assert stands_for(added)[-4:] == [(",", []), ("black", []), ("and", []), ("white", [])]
    assert not added.changed_source
    assert append(unchanged("a photo,"), " , dark").target == "a photo, dark"
    with pytest.raises(UsageError, match=r"--add ' ': holds no word"):
        append(unchanged(PROMPT), " ")


@pytest.mark.parametrize(
    ("target", "changed"),
    [
        (PROMPT.replace("smiling", "serious"), [("serious", ["smiling"])]),
        (PROMPT + ", with glasses", [(",", []), ("with", []), ("glasses", [])]),
        (PROMPT.replace(", smiling", ""), []),
        (
            PROMPT.replace("smiling", "very very serious"),
            [("very", []), ("very", []), ("serious", [])],
        ),
    ],
)
def test_a_whole_new_text(target, changed):
    found = rewrite(unchanged(PROMPT), target)
    assert found.target == target
    assert changes(found) == changed


def test_edits_follow_one_another():
    """Whatever an edit makes of an edit, words stand for words of the first text."""
    first = replace_words(unchanged(PROMPT), "plain white", "green")
    second = replace_words(first, "green background", "dark garden")
    assert second.source == PROMPT
    assert changes(second) == [("dark", ["plain", "white"]), ("garden", ["background"])]
    third = rewrite(second, second.target + " at night")
    assert changes(third)[-2:] == [("at", []), ("night", [])]
    back = replace_words(replace_words(unchanged(PROMPT), "smiling", "sad"), "sad", "smiling")
    assert back == unchanged(PROMPT)
    assert not back.changed_source and not back.changed_target


WORDS = st.sampled_from(["a", "photo", "of", "smiling", "<mcap-id>", ",", "white", "hat"])
TEXTS = st.lists(WORDS, min_size=1, max_size=8).map(" ".join)


@given(TEXTS, TEXTS)
def test_whatever_is_rewritten(source, target):
    found = rewrite(unchanged(source), target)
    stands_for(found)
    old = [word.key for word in words(source)]
    new = [word.key for word in words(target)]
    kept = [i for i, origin in enumerate(found.origins) if {old[o] for o in origin} == {new[i]}]
    assert set(kept).isdisjoint(found.changed_target)
    assert set(kept) | found.changed_target == set(range(len(new)))
    places = [min(found.origins[i]) for i in kept]
    assert places == sorted(places)  # nothing is moved past anything


@given(TEXTS, WORDS, TEXTS | st.just(""))
def test_whatever_is_replaced(source, old, new):
    there = [word.key for word in words(source)]
    wanted = [word.key for word in words(old)]
    if wanted[0] not in there:
        with pytest.raises(UsageError):
            replace_words(unchanged(source), old, new)
        return
    found = replace_words(unchanged(source), old, new)
    stands_for(found)
    assert all(0 <= i < len(there) for origin in found.origins for i in origin)
    if wanted[0] not in [word.key for word in words(new)] and old != ",":
        assert wanted[0] not in [word.key for word in words(found.target)]


def test_tokens_belong_to_words():
    #           0123456789012
    offsets = [(0, 1), (2, 5), (5, 7), (7, 8), (0, 0), (0, 0)]
    assert token_words("a photos,", offsets) == [0, 1, 1, 1, None, None]
