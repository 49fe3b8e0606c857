"""Photos -> the subject's face in each, its mask and its training crop, or why it is refused.

`mask_photos` finds the one person who recurs; `mask_references` takes a style's photos, which may
show anybody. Neither needs the command line.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcap.masking.records import MaskedSet as MaskedSet
    from mcap.masking.records import MaskSettings as MaskSettings
    from mcap.masking.select import mask_photos as mask_photos
    from mcap.masking.select import mask_references as mask_references

__all__ = ["MaskSettings", "MaskedSet", "mask_photos", "mask_references"]


def __getattr__(name: str) -> Any:
    if name in ("mask_photos", "mask_references"):
        from mcap.masking import select

        return getattr(select, name)
    if name in ("MaskSettings", "MaskedSet"):
        from mcap.masking import records

        return getattr(records, name)
    raise AttributeError(f"module 'mcap.masking' has no attribute '{name}'")
