"""Names in every script: each character from a font that has it, and what none has is escaped."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from mcap.results.contact_sheet import Tile, contact_sheet
from mcap.results.typeface import Typeface, clusters, plain_characters, split_by_font

NAMES = {
    "Müller é ß.jpg": ["NotoSans"],
    "Łódź Şişli.jpg": ["NotoSans"],
    "Жанна Ωμέγα ảnh.jpg": ["NotoSans"],
    "自拍 2024 夏.jpg": ["NotoSansCJK-VF.otf.ttc 2", "NotoSans"],
    "自撮り.jpg": ["NotoSansCJK-VF.otf.ttc 0", "NotoSans"],
    "한국 셀카.jpg": ["NotoSansCJK-VF.otf.ttc 1", "NotoSans"],
    "صورة من-الشاطئ.jpg": ["NotoSansArabic", "NotoSans"],
    "שלום עולם.jpg": ["NotoSansHebrew", "NotoSans"],
    "ภาพถ่ายน้ำ": ["NotoSansThai"],
    "हिन्दी क्षत्रिय": ["NotoSansDevanagari", "NotoSans", "NotoSansDevanagari"],
    "😀🏖️👩‍💻1️⃣🇩🇪": ["NotoEmoji"],
}


def fonts_of(text: str) -> list[str | None]:
    return [
        font and font.path.name.partition("[")[0] + (f" {font.face}" if "CJK" in str(font) else "")
        for _, font in split_by_font(text)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_each_part_is_drawn_with_a_font_that_has_it(name):
    found = fonts_of(name)
    if NAMES[name][0].startswith("NotoSansCJK"):  # blanks and digits between are Latin
        assert set(found) == set(NAMES[name]) and found[0] == NAMES[name][0]
    else:
        assert found == NAMES[name]
    assert "".join(part for part, _ in split_by_font(name)) == name, "nothing is escaped"
    for part, font in split_by_font(name):
        assert font is not None and font.has(part)


def ink(text: str, size: float = 24) -> np.ndarray:
    """The pixels of a line, as they are drawn."""
    paper = Image.new("RGB", (600, 60), "white")
    Typeface(size).draw(ImageDraw.Draw(paper), (4, 4), text, (0, 0, 0))
    return np.asarray(paper)


def test_no_two_characters_look_alike_as_boxes_would():
    letters = "üŁЖΩ自夏か한صשภहক😀★"
    pictures = {letter: ink(letter) for letter in letters}
    assert len({picture.tobytes() for picture in pictures.values()}) == len(letters)
    assert all((picture < 128).sum() > 20 for picture in pictures.values())


def test_a_line_is_as_wide_as_its_ink():
    for name in (*NAMES, "plain.jpg"):
        columns = np.flatnonzero((ink(name) < 200).any(axis=(0, 2)))
        assert columns[-1] - 4 == pytest.approx(Typeface(24).length(name), abs=6), name


def test_what_no_font_has_is_escaped_and_readable():
    for text, shown in {
        "བོ.jpg": "\\u0f56\\u0f7c.jpg",
        "\U000f0000x": "\\uf0000x",
        "bad\udcfc.jpg": "bad\\xfc.jpg",
        "a\x1b[31m\u202eb\n\tc": "a\\x1b[31m\\u202eb  c",
    }.items():
        assert "".join(part for part, _ in split_by_font(text)) == shown
    assert ink("བོ.jpg").tobytes() != ink(".jpg").tobytes()


def test_letters_that_came_apart_are_put_together():
    """macOS hands out names with the marks behind their letters."""
    assert split_by_font("Mu\u0308ller") == split_by_font("Müller")
    assert list(clusters("e\u0301a👩\u200d💻b")) == ["e\u0301", "a", "👩\u200d💻", "b"]


def test_words_from_right_to_left_stay_in_one_part():
    """Parts follow each other from left to right, which would turn the words round."""
    assert [part for part, _ in split_by_font("صورة من-الشاطئ 2.jpg")] == [
        "صورة من-الشاطئ",
        " 2.jpg",
    ]


def test_without_the_library_that_shapes_text_joiners_are_left_out(monkeypatch):
    monkeypatch.setattr("mcap.results.typeface.features.check", lambda name: False)
    assert [part for part, _ in split_by_font("👩\u200d💻❤\ufe0f")] == ["👩💻❤"]


def test_pillows_font_has_what_it_is_used_for():
    font = ImageFont.load_default(20)
    missing = font.getmask("\U000f0000")
    for code in plain_characters() - {ord(" ")}:
        assert bytes(font.getmask(chr(code))) != bytes(missing), chr(code)


def test_sheets_of_all_names_at_once_keep_their_size():
    picture = np.full((40, 40, 3), 90, np.uint8)
    plain = contact_sheet([Tile(picture, "name.jpg", ("line",))] * len(NAMES), 3, 150)
    odd = contact_sheet([Tile(picture, name, (name,)) for name in NAMES], 3, 150, heading="")
    assert odd.shape[1] == plain.shape[1]
    margin = odd[:, :8].reshape(-1, 3)
    assert (margin == margin[0]).all()
