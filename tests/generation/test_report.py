"""The report of a run, as one page."""

from __future__ import annotations

from tests.support.generating import run
from tests.support.subjects import make_profile


def test_the_report_needs_nothing_from_elsewhere_and_escapes(subject, backbone, tmp_path):
    profile = make_profile(title="<script>alert(1)</script>", notice="Ask first & be kind.")
    *_, finished = run(subject, backbone, tmp_path, profile, count=2)
    text = finished.report.read_text()
    assert "<script" not in text and "http" not in text
    assert "Ask first &amp; be kind." in text
    assert 'src="test-000000.png"' in text
