"""Contact sheets: every picture at its place, no text outside its tile."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from mcap.results.contact_sheet import BAD, GOOD, Tile, contact_sheet
from mcap.results.typeface import Typeface

RED, BLUE = (np.full((40, 80, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))


def count(sheet: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(sheet.astype(int) - colour).max(axis=-1) <= 2).sum())


def test_tiles_show_their_picture_enlarged_in_its_aspect():
    sheet = contact_sheet([Tile(RED, "a"), Tile(BLUE, "b", ("one", "two"))], 2, 200)
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    for colour in ((255, 0, 0), (0, 0, 255)):
        assert count(sheet, colour) == pytest.approx(200 * 100, rel=0.03)
    rows = np.flatnonzero((sheet == (255, 0, 0)).all(-1).any(1))
    assert rows[-1] - rows[0] + 1 == pytest.approx(100, abs=2)


def test_bars_have_their_colour():
    sheet = contact_sheet([Tile(RED, "a", (), GOOD), Tile(BLUE, "b", (), BAD)], 2, 120)
    assert count(sheet, GOOD) >= 3 * 120 and count(sheet, BAD) >= 3 * 120


def test_rows_and_columns():
    tiles = [Tile(RED, str(index)) for index in range(5)]
    wide, narrow = contact_sheet(tiles, 5, 100), contact_sheet(tiles, 2, 100)
    assert wide.shape[1] > 2 * narrow.shape[1] and narrow.shape[0] > 2 * wide.shape[0]
    assert contact_sheet(tiles[:1], 8, 100).shape[1] < 150  # no empty columns
    with pytest.raises(ValueError, match="columns"):
        contact_sheet(tiles, 0)


def test_long_texts_and_odd_letters_stay_in_their_tile():
    text = "a very long reason that goes on and on " * 20
    sheet = contact_sheet([Tile(RED, "x" * 500, (text, "tab\there\n人 é"), BAD)], 1, 150)
    plain = contact_sheet([Tile(RED, "x", ("y", "z"), BAD)], 1, 150)
    assert sheet.shape[1] == plain.shape[1]
    margin = sheet[:, :8].reshape(-1, 3)
    assert (margin == margin[0]).all()


def test_empty_and_missing_pictures():
    assert contact_sheet([]).ndim == 3
    assert contact_sheet([Tile(None, "unreadable")], tile_size=(90, 60)).ndim == 3
    pixel = np.zeros((1, 1, 3), np.uint8)
    assert count(contact_sheet([Tile(pixel, "dot")], 1, 100), (0, 0, 0)) >= 100 * 100 * 0.98


def test_plain_text_is_drawn_as_pillow_draws_it():
    """Sheets with plain names have the pixels that they had before other scripts were drawn."""
    face = Typeface(17.25)
    for text in ("06-close.jpg", "likeness 0.53  (of 2)", "AV To “fi”"):
        sheets = [Image.new("RGB", (300, 40), "white") for _ in range(2)]
        ImageDraw.Draw(sheets[0]).text((5, 7), text, font=ImageFont.load_default(17.25), fill=BAD)
        face.draw(ImageDraw.Draw(sheets[1]), (5, 7), text, BAD)
        assert sheets[0].tobytes() == sheets[1].tobytes()
        assert face.length(text) == ImageFont.load_default(17.25).getlength(text)
