"""The weights that the chosen settings need."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcap.cli.settings import Settings


def needed_weights(settings: Settings) -> dict[str, str]:
    """Return weight -> kind of what needs it, for the settings' detector, networks and backbone."""
    from mcap.registry import registry
    from mcap.weights.catalogue import WEIGHTS

    needed: dict[str, str] = {}
    for kind in ("detector", "identity", "masker", "backbone"):
        name = getattr(settings, kind)
        entry = registry().entries[kind].get(name)
        for need in (name, *(entry.needs if entry else ())):
            if need in WEIGHTS:
                needed.setdefault(need, kind)
    backbone = registry().entries["backbone"].get(settings.backbone)
    if backbone is not None and backbone.info.needs_safety:
        classifier = registry().entries["safety"].get(settings.safety.classifier)
        for need in classifier.needs if classifier else ():
            needed.setdefault(need, "safety classifier")
    return needed
