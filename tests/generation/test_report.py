"""The report of a run, as one page."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from tests.support.generating import run
from tests.support.subjects import make_profile


def test_the_report_needs_nothing_from_elsewhere_and_escapes(subject, backbone, tmp_path):
    profile = make_profile(title="<script>alert(1)</script>", notice="Ask first & be kind.")
    *_, finished = run(subject, backbone, tmp_path, profile, count=2)
    text = finished.report.read_text()
    assert "<script" not in text and "http" not in text
    assert "Ask first &amp; be kind." in text
    assert 'src="test-000000.png"' in text


def test_sheet_and_report_say_what_the_backbone_is_for(subject, backbone, tmp_path):
    *_, plain = run(subject, backbone, tmp_path / "plain", count=2)
    backbone.info = replace(backbone.info, notice="For trying out <only>: little pictures. " * 3)
    *_, finished = run(subject, backbone, tmp_path / "told", count=2)
    assert "For trying out &lt;only&gt;" in finished.report.read_text()
    assert "For trying out" not in plain.report.read_text()
    sheets = [np.asarray(Image.open(event.contact_sheet)) for event in (plain, finished)]
    more = sheets[1].shape[0] - sheets[0].shape[0]
    assert more > 20, "lines of text between the heading and the pictures"
    below = sheets[0][60:].astype(int) - sheets[1][60 + more :]
    assert np.abs(below).mean() < 10, "what was there is further down"
