"""The slice [marks]: what belongs together, and where it may be given."""

from __future__ import annotations

import pytest

from mcap.cli.settings import load_settings
from mcap.errors import UsageError


def test_a_certificate_and_its_key_belong_together(monkeypatch):
    monkeypatch.setenv("MCAP_MARKS__CERTIFICATE", "mine.pem")
    with pytest.raises(UsageError, match="certificate and key belong together"):
        load_settings()
    monkeypatch.setenv("MCAP_MARKS__KEY", "key.pem")
    found = load_settings().marks
    assert (str(found.certificate), str(found.key)) == ("mine.pem", "key.pem")
    assert found.watermark == "spread" and found.c2pa
