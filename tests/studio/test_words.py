"""What commands say, in the words of the page: no option that it has no field for, unexplained."""

from __future__ import annotations

import pytest

from mcap.masking.advice import REMEDIES
from mcap.studio.words import ELSEWHERE, on_the_page
from mcap_plugins import demo


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Plain words stay.", "Plain words stay."),
        ("For portraits: --backbone sd15 or --backbone sdxl.",
         "For portraits: the model sd15 or the model sdxl."),
        ("leave out --recipe instant", "leave out “Without training”"),
        ("it changed; start over with --force.", "it changed; train again from the start."),
        ("Draw other seeds (--seed), or change the words.",
         "Draw other seeds, or change the words."),
        ("Try --low-memory.", "Try --low-memory." + ELSEWHERE),
        ("a - b -- c, well--known", "a - b -- c, well--known"),
    ],
)  # fmt: skip
def test_options_become_fields_of_the_page(said, shown):
    assert on_the_page(said) == shown


def test_advice_on_photos_has_no_option_left():
    said = [on_the_page(sentence) for remedy in REMEDIES.values() for sentence in remedy]
    assert [sentence for sentence in said if "--" in sentence] == []
    assert any("This is the person" in sentence for sentence in said)


def test_the_plan_of_the_demo_has_no_option_left():
    assert "--" not in on_the_page(demo.NOTICE)
