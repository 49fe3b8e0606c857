"""The table of ID documents: every row checked, sourced, and good for framing."""

from __future__ import annotations

import pytest

from mcap.errors import UsageError
from mcap.style.id_documents import (
    ICAO_HEAD,
    TABLE,
    DocumentRule,
    described,
    find_document,
    rules,
)

ROW = {
    "title": "A card",
    "country": "DE",
    "medium": "print",
    "size_mm": [35.0, 45.0],
    "head_mm": [32.0, 36.0],
    "background": ["white"],
    "sources": {"a": "size"},
}
ALL = sorted(rules().documents.items())


def row(**keys) -> DocumentRule:
    return DocumentRule.model_validate({k: v for k, v in (ROW | keys).items() if v is not None})


def test_there_are_forty_documents_and_each_names_its_sources():
    table = rules()
    assert len(table.documents) >= 40
    assert sum(len(rule.sources) > 1 for rule in table.documents.values()) >= 40
    single = [n for n, r in table.documents.items() if len(set(r.sources) - {"icao"}) == 1]
    for name in single:  # whoever reads the row is told
        rule = table.documents[name]
        assert "no second source" in str(rule.sources) or rule.differ, name
    assert {"us-passport", "de-id"} <= set(table.documents)


@pytest.mark.parametrize(("name", "rule"), ALL, ids=[name for name, _ in ALL])
def test_a_row_makes_a_profile_that_can_be_framed(name, rule):
    profile = rule.profile(name)
    assert profile.name == name and profile.background.color == rule.colour
    assert profile.aspect_ratio == pytest.approx(rule.made[0] / rule.made[1])
    if rule.head_range is None:
        assert profile.framing.eye_line is None
        return
    # The smallest head has room between the edges somewhere in the eyes' range.
    half, (low, high) = rule.head_range[0] / 2, rule.eye_range
    assert max(low, half) <= min(high, 1 - half)
    assert 0.2 < rule.head_range[0] < rule.head_range[1] <= 0.85
    assert described(rule)["made"] == rule.made


def test_lengths_become_shares_and_inches_exact_pixels():
    rule = find_document("us-passport")
    assert rule.made == (600, 600)
    assert rule.head_range == pytest.approx((25 / 50.8, 35 / 50.8))
    assert rule.eye_range == pytest.approx((28 / 50.8, 35 / 50.8))
    assert find_document("de-id").made == (413, 531)
    assert find_document("nl-passport").made == (551, 709)  # at 400 DPI
    assert row(head_mm=None, icao_head=True).head_range == ICAO_HEAD


def test_a_kilobyte_is_counted_so_that_the_limit_holds_either_way():
    rule = find_document("in-driving-licence")
    assert (rule.smallest_bytes, rule.largest_bytes) == (20 * 1024, 40 * 1000)
    assert find_document("us-passport").largest_bytes is None


def test_the_notice_says_what_the_rule_says():
    assert "1 May 2025" in find_document("de-passport").notice
    assert "artificial intelligence" in find_document("us-passport").notice
    assert find_document("jp-passport").altered == ""
    assert find_document("jp-passport").notice.startswith("Many authorities refuse")


def test_an_unknown_document_names_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'us-passport'"):
        find_document("us-pasport")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"head": [0.7, 0.8]}, "exclude each other"),
        ({"head_mm": [36.0, 32.0]}, "smallest, largest"),
        ({"eyes": [0.5, 0.6], "eyes_mm": [20.0, 30.0]}, "exclude each other"),
        ({"medium": "upload"}, "an upload has pixels"),
        ({"pixels": [350, 450]}, "a print has size_mm"),
        ({"medium": "upload", "pixels": [300, 300]}, "different aspects"),
        ({"medium": "upload", "pixels": [350, 450], "smallest": [400, 400]}, "not within"),
        ({"size_mm": None, "medium": "upload", "pixels": [350, 450]}, "need size_mm"),
        ({"background": []}, "at least 1"),
        ({"background": ["mauve"]}, "Input should be"),
        ({"sources": {}}, "at least 1"),
        ({"heads": [0.7, 0.8]}, "not permitted"),
        ({"smallest_kb": 30, "largest_kb": 20}, "smallest, largest"),
    ],
)
def test_a_wrong_row_is_refused(keys, told):
    with pytest.raises(ValueError, match=told):
        row(**keys)


def test_a_table_whose_sources_do_not_fit_is_refused(tmp_path):
    text = TABLE.read_text(encoding="utf-8")
    for wrong, told in (
        (text.replace("[sources.icao]", "[sources.other]"), "icao"),
        (text.replace("schema = 1", "schema = 2"), "schema"),
        ("schema = [", "cannot be read"),
    ):
        path = tmp_path / f"{told.split()[0]}.toml"
        path.write_text(wrong, encoding="utf-8")
        with pytest.raises(UsageError, match=told):
            rules(path)
    with pytest.raises(UsageError, match="cannot be read"):
        rules(tmp_path / "missing.toml")
