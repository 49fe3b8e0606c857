"""What ``mcap enhance --dry-run`` says: sizes, restorers, and the weights to fetch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.cli.output import human_bytes
from mcap.enhancement.enhance import result_size
from mcap.errors import InputRejectedError
from mcap.images.picture import size_of
from mcap.registry import registry
from mcap.weights.fetch import WEIGHTS, local_path

if TYPE_CHECKING:
    from mcap.cli.restorers import Choice
    from mcap.cli.settings import Settings
    from mcap.enhancement.enhance import FinishOptions
    from mcap.enhancement.settings import EnhanceSettings
    from mcap.registry import Entry


def make_plan(
    paths: Sequence[Path],
    choices: Sequence[Choice],
    wanted: EnhanceSettings,
    settings: Settings,
    framing: FinishOptions | None,
) -> dict[str, Any]:
    """What would be done, from the files' heads and the restorers' facts alone."""
    pictures, refused = _sizes(paths, choices, wanted, settings)
    return {
        "restorers": [
            {
                "name": choice.name,
                "licence": choice.entry.licence,
                "commercial": choice.entry.commercial,
            }
            for choice in choices
        ],
        "profile": framing.profile.name if framing else None,
        "pictures": pictures,
        "refused": refused,
        "weights": _weights(_entries(choices, settings, framing)),
    }


def _sizes(
    paths: Sequence[Path],
    choices: Sequence[Choice],
    wanted: EnhanceSettings,
    settings: Settings,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Each picture's size before and after (None: only the restorer's file knows), and what is no
    picture."""
    scales = [
        choice.entry.info and choice.entry.info.scale
        for choice in choices
        if choice.entry.info is None or choice.entry.info.kind == "image"
    ]
    known = wanted.scale is not None or None not in scales
    pictures, refused = [], []
    for path in paths:
        try:
            size = size_of(path, settings.photos)
        except InputRejectedError as refusal:
            refused.append({"file": path, "reason": str(refusal)})
            continue
        result = list(result_size(size, scales, wanted.scale)) if known else None
        pictures.append({"file": path, "size": list(size), "result": result})
    return pictures, refused


def _entries(
    choices: Sequence[Choice], settings: Settings, framing: FinishOptions | None
) -> list[Entry]:
    """Everything registered that takes part."""
    found = registry()
    used = [choice.entry for choice in choices]
    used += [
        found.get(kind, getattr(settings, kind)) for kind in ("detector", "identity", "masker")
    ]
    if framing is not None and "person" in found.entries["masker"]:
        used.append(found.entries["masker"]["person"])
    return used


def _weights(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    names = dict.fromkeys(need for entry in entries for need in entry.needs if need in WEIGHTS)
    return [
        {
            "name": weight.name,
            "bytes": weight.bytes,
            "licence": weight.licence,
            "commercial": weight.commercial,
            "here": local_path(weight.name) is not None,
        }
        for weight in map(WEIGHTS.__getitem__, names)
    ]


def print_plan(console: Any, plan: dict[str, Any]) -> None:
    """The plan for people."""

    def line(text: str) -> None:
        console.print(text, markup=False)

    names = ", ".join(f"{r['name']} ({r['licence']})" for r in plan["restorers"])
    line(f"Restorers: {names or 'none'}")
    if plan["profile"]:
        line(f"Profile: {plan['profile']}")
    for item in plan["pictures"]:
        made = "{} x {}".format(*item["result"]) if item["result"] else "as the file's scale is"
        line(f"{item['file']}: {item['size'][0]} x {item['size'][1]} to {made}")
    for item in plan["refused"]:
        line(f"refused: {item['reason']}")
    for item in plan["weights"]:
        where = "is here" if item["here"] else f"to fetch, {human_bytes(item['bytes'])}"
        use = "" if item["commercial"] else "; no commercial use"
        line(f"Weight {item['name']}: {where}; {item['licence']}{use}")
