"""Print sheets: as many as fit, each at its exact size, with no mark on any of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcap.errors import UsageError
from mcap.framing.print_sheet import GAP_MM, MARGIN_MM, layout, print_sheet

PASSPORT = (35.0, 45.0)


@pytest.mark.parametrize(
    ("size", "copies"), [(PASSPORT, 8), ((50.0, 50.0), 2), ((30.0, 40.0), 9), ((90, 130), 1)]
)
def test_as_many_as_fit_on_10_by_15(size, copies):
    assert layout(size).copies == copies


@given(st.tuples(st.floats(8, 95), st.floats(8, 95)))
def test_copies_lie_apart_inside_the_margins_and_leave_no_room_for_more(size):
    plan = layout(size)
    corners = np.array(plan.corners())
    assert (corners >= MARGIN_MM - 1e-6).all()
    assert (corners + size <= np.array(plan.paper) - MARGIN_MM + 1e-6).all()
    assert len(corners) == plan.copies
    apart = np.abs(corners[:, None] - corners[None])
    touching = ((apart < np.array(size) + GAP_MM - 1e-6).all(axis=-1)).sum()
    assert touching == plan.copies  # each with itself only
    for axis, count in enumerate((plan.columns, plan.rows)):
        more = (count + 1) * size[axis] + count * GAP_MM
        assert more > plan.paper[axis] - 2 * MARGIN_MM - 1e-6


def test_a_copy_of_the_right_size_is_printed_pixel_for_pixel():
    picture = np.random.default_rng(0).integers(0, 200, (531, 413, 3), dtype=np.uint8)
    sheet = print_sheet(picture, PASSPORT)
    assert sheet.dpi == (300.0, 300.0)
    assert sheet.image.shape == (1181, 1772, 3)  # 10 x 15 cm on its side
    paper = sheet.image.copy()
    for x, y in sheet.layout.corners():
        left, top = round(x / 25.4 * 300), round(y / 25.4 * 300)
        there = paper[top : top + 531, left : left + 413]
        assert np.array_equal(there, picture)
        there[:] = 255
        # The marks are in line with the first and the last column and row, above and beside.
        for column in (left, left + 412):
            assert paper[top - 15 : top - 6, column].max() < 255
            assert paper[top - 15 : top, column + 3].min() == 255
    grey = paper.reshape(-1, 3)
    assert (grey.max(axis=1) == grey.min(axis=1)).all()
    assert 0.001 < (grey[:, 0] < 255).mean() < 0.02


def test_the_rule_is_50_mm_long():
    sheet = print_sheet(np.full((531, 413, 3), 200, np.uint8), PASSPORT, dpi=254)
    line = sheet.image[-16, :, 0] < 255  # 1.6 mm above the lower edge, ten pixels a millimetre
    first = int(np.flatnonzero(line)[0])
    assert line[first : first + 501].all() and not line[first + 501]


def test_fewer_copies_and_other_sizes():
    picture = np.full((90, 70, 3), 40, np.uint8)
    one, all_of_them = (print_sheet(picture, PASSPORT, copies=n).image for n in (1, None))
    dark = [float((image[..., 0] == 40).mean()) for image in (one, all_of_them)]
    assert dark[1] == pytest.approx(8 * dark[0])
    assert dark[0] * one.shape[0] * one.shape[1] == 413 * 531


def test_a_picture_larger_than_the_paper_is_refused():
    with pytest.raises(UsageError, match="120 x 160 mm does not fit"):
        layout((120.0, 160.0))
