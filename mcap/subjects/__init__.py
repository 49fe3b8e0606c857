"""Trained subjects: the folder NAME.mcap, its manifest, and its files for other programs.

`read_subject` opens a folder that `mcap train` completed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcap.subjects.subject import Subject as Subject
    from mcap.subjects.subject import read_subject as read_subject

__all__ = ["Subject", "read_subject"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from mcap.subjects import subject

        return getattr(subject, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
