"""The safety classifier of ``[safety]`` for a backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcap.registry import registry

if TYPE_CHECKING:
    from mcap.cli.settings import Settings
    from mcap.contracts import SafetyClassifier
    from mcap.registry import Entry


def safety_entry(settings: Settings, backbone: Entry) -> Entry | None:
    """Return the classifier that looks at a backbone's pictures; None where none does.

    Raises `MissingResourceError` for a name that is not registered.
    """
    from mcap.generation.safety import OFF

    wanted = settings.safety.classifier
    if not backbone.info.needs_safety or wanted == OFF:
        return None
    return registry().get("safety", wanted)


def load_safety(settings: Settings, backbone: Entry) -> SafetyClassifier | None:
    """Load the classifier for a backbone; None for one that needs none.

    Raises `MissingResourceError`, with the remedy, where it or its weights are not here.
    """
    from mcap.generation.safety import SwitchedOff

    if not backbone.info.needs_safety:
        return None
    entry = safety_entry(settings, backbone)
    return SwitchedOff() if entry is None else registry().create("safety", entry.name)


def safety_of(settings: Settings, backbone: Entry) -> dict[str, Entry]:
    """Return `safety_entry` under the name "safety"; {} where there is none."""
    entry = safety_entry(settings, backbone)
    return {} if entry is None else {"safety": entry}
