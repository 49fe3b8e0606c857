"""The whole person apart from the background, with MediaPipe's selfie segmenter."""

from __future__ import annotations

from typing import Any

from mcap import hookimpl


@hookimpl
def register_maskers(register: Any) -> None:
    register(
        "person",
        person,
        summary="the whole person with hair and clothes; its opposite is the background",
        licence="Apache-2.0",
        needs=("selfie-segmentation",),
    )


def person() -> Any:
    """Return the masker over the fetched network."""
    from mcap.weights.fetch import fetch
    from mcap_plugins.person.segmenter import PersonMasker

    return PersonMasker(fetch("selfie-segmentation"))
