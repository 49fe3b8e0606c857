"""Style profiles: TOML files that say what a style's prompts, references and framing are.

`find_profile` looks one up by name or path.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcap.style.profile import StyleProfile as StyleProfile
    from mcap.style.profile import find_profile as find_profile

__all__ = ["StyleProfile", "find_profile"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from mcap.style import profile

        return getattr(profile, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
