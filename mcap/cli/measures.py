"""``--measures`` and ``--measure-with`` -> the measures that can be taken here, and by whom."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcap.cli.plugins import is_here
from mcap.errors import MissingResourceError
from mcap.evaluation.entrants import MeasureFacts
from mcap.evaluation.measures import Observer
from mcap.registry import registry

if TYPE_CHECKING:
    from mcap.contracts import IdentityModel, Metric
    from mcap.registry import Entry


@dataclass(frozen=True)
class Yardsticks:
    """Measures to take, and the observer that looks at the pictures."""

    observer: Observer
    metrics: Mapping[str, Metric]
    facts: Sequence[MeasureFacts]
    left_out: Mapping[str, str]
    """Measure -> why it is not taken."""

    def need(self, what: str) -> bool:
        """Return whether a measure needs this part of its input."""
        return any(what in facts.info.needs for facts in self.facts)


def choose_yardsticks(
    wanted: Sequence[str], measure_with: str | None, detector: str, teachers: Collection[str]
) -> Yardsticks:
    """Return the measures, all that are registered or those ``wanted``.

    Whatever lacks a weight, an extra or a network that did not teach is left out with the reason.
    Raises `MissingResourceError` for an unknown name, and where nothing is left.
    """
    found = registry()
    names = list(dict.fromkeys(wanted)) or list(found.entries["metric"])
    entries = [found.get("metric", name) for name in names]
    entry, identity, reason = choose_network(measure_with, teachers)
    metrics: dict[str, Metric] = {}
    facts: list[MeasureFacts] = []
    left_out: dict[str, str] = {}
    for one in entries:
        by_identity = "identity" in one.info.needs
        if by_identity and entry is None:
            left_out[one.name] = reason
            continue
        missing = absent(one)
        if missing:
            left_out[one.name] = missing
            continue
        try:
            metrics[one.name] = found.create("metric", one.name)
        except MissingResourceError as error:
            left_out[one.name] = str(error)
            continue
        by = entry if by_identity else None
        facts.append(
            MeasureFacts(
                one.name,
                one.summary,
                one.info,
                network=by.name if by else one.info.model,
                licence=by.licence if by else (one.info.licence or one.licence),
                commercial=by.commercial if by else one.commercial,
                flattering=by is not None and by.name in teachers,
            )
        )
    if not metrics:
        told = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise MissingResourceError(f"No measure can be taken. {told}", details=dict(left_out))
    observer = Observer(found.create("detector", detector), identity)
    return Yardsticks(observer, metrics, facts, left_out)


def choose_network(
    insisted: str | None, teachers: Collection[str]
) -> tuple[Entry | None, IdentityModel | None, str]:
    """Return the identity network that measures, or None and why.

    One that taught is never taken, for it flatters, unless it is ``insisted`` on by name. Those
    that are only for measuring go first.
    """
    found = registry()
    if insisted is not None:
        return found.get("identity", insisted), found.create("identity", insisted), ""
    entries = sorted(
        (one for one in found.entries["identity"].values() if one.name not in teachers),
        key=lambda one: (one.info.differentiable, one.name),
    )
    reasons = []
    for one in entries:
        missing = absent(one)
        if not missing:
            try:
                return one, found.create("identity", one.name), ""
            except MissingResourceError as error:
                missing = str(error)
        reasons.append(f"'{one.name}' {missing}")
    taught = " and ".join(f"'{name}'" for name in sorted(teachers))
    why = f"{taught} taught, and so would flatter; " if teachers else ""
    insist = f"; or insist with --measure-with {min(teachers)}" if teachers else ""
    there = "; ".join(reasons) or "no other network is installed"
    return None, None, f"{why}{there}{insist}"


def absent(entry: Entry) -> str:
    """Return what an entry needs that is not here, and how to get it; empty where all is."""
    from mcap.registry import extra_of

    missing = [need for need in entry.needs if is_here(need) is False]
    extras = [need for need in missing if extra_of(need)]
    weights = [need for need in missing if need not in extras]
    parts = [f"pip install '{need}'" for need in extras]
    parts += [f"mcap models pull {' '.join(weights)}"] if weights else []
    return (
        f"needs {', '.join(missing)}, which is not here: {', then '.join(parts)}" if parts else ""
    )
