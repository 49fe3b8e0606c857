"""Sheets and pages: whole files, text that stays text."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from pathlib import Path

import jinja2
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image

import mcap
from mcap.images.jpeg import write_jpeg
from mcap.results.html import write_page

TEMPLATES = Path(mcap.__file__).parent / "results" / "templates"
NOTHING = {"cards": [], "refused": [], "identity": "sface", "notices": []}


def test_a_jpeg_of_the_picture_that_was_given(tmp_path):
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = (200, 30, 30)
    write_jpeg(tmp_path / "new" / "sheet.jpg", image)
    with Image.open(tmp_path / "new" / "sheet.jpg") as file:
        assert (file.format, file.size) == ("JPEG", (60, 40))
        assert np.abs(np.asarray(file, int) - image)[:, [5, 55]].max() < 12
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.jpg"]


def test_text_is_escaped(tmp_path):
    write_page(tmp_path / "a.html", "enhance.html", **{**NOTHING, "notices": ["<b>Ask</b> & wait"]})
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;Ask&lt;/b&gt; &amp; wait" in text
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")


def test_a_value_that_is_missing_leaves_the_page_that_was_there(tmp_path):
    (tmp_path / "a.html").write_text("before")
    with pytest.raises(jinja2.UndefinedError, match="identity"):
        write_page(tmp_path / "a.html", "enhance.html", cards=[], refused=[], notices=[])
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
    assert (tmp_path / "a.html").read_text() == "before"


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
def test_pages_share_their_look_and_take_nothing_from_elsewhere(path):
    text = path.read_text(encoding="utf-8")
    assert "http" not in text
    if path.name.startswith("app"):  # of mcap studio, which serves its one script
        assert set(re.findall(r"<script[^>]*>", text)) <= {'<script src="/page.js" defer>'}
    else:
        assert path.name == "page.html" or text.startswith('{% extends "page.html" %}')
        assert "<script" not in text


def test_a_page_brings_the_glyphs_of_writing_that_not_every_system_has(tmp_path):
    names = "自拍 한국 ภาพถ่ายน้ำ 😀 Müller Жанна → ★"
    write_page(tmp_path / "a.html", "enhance.html", **{**NOTHING, "notices": [names]})
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    faces = re.findall(r'@font-face .*?base64,([^"]+)"\); unicode-range: ([^;]+);', text)
    ranges = {int(code[2:], 16) for _, codes in faces for code in codes.split(", ")}
    assert ranges.issuperset(map(ord, "自拍한국ภาพถ่ายน้ำ😀"))
    assert not ranges.intersection(map(ord, "Müller Жанна → ★"))
    assert "\u0e4d" in map(chr, ranges), "of which ำ is made while it is shaped"
    for data, codes in faces:
        with TTFont(BytesIO(base64.b64decode(data))) as font:
            assert {int(code[2:], 16) for code in codes.split(", ")} <= set(font.getBestCmap())
            assert font["fvar"].axes[0].axisTag == "wght", "headings are bold"
    assert len(text) < 100_000


def test_a_page_of_plain_names_brings_none(tmp_path):
    plain = {**NOTHING, "notices": ["Müller, Жанна: 3 → 4"]}
    write_page(tmp_path / "a.html", "enhance.html", **plain)
    assert "@font-face" not in (tmp_path / "a.html").read_text(encoding="utf-8")
