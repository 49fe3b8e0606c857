"""The page on ID documents is what the table says."""

from __future__ import annotations

from tests.support import ROOT
from tests.support.tools import tool_modules


def test_the_page_is_rendered_from_the_table():
    with tool_modules(["docs"], ["render_documents"]) as tools:
        text = (ROOT / "docs" / "documents.md").read_text(encoding="utf-8")
        rendered = tools.render_documents.page(text)
    assert text == rendered, "run: python tools/docs/render_documents.py"
