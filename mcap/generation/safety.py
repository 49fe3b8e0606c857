"""The safety classifier: it looks at what a backbone drew before that is written.

Pictures of a backbone that can draw anything are looked at one by one; those that fail are not
written, under no name, and their seeds are told. `BackboneInfo.needs_safety` says which backbones
these are, the setting ``[safety]`` who looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mcap.contracts import SafetyInfo
from mcap.errors import InputRejectedError, UsageError

if TYPE_CHECKING:
    from mcap.contracts import BackboneInfo, SafetyClassifier, UInt8Image

OFF = "off"
"""The setting's word for no classifier."""

ATTEMPTS = 4
"""Seeds that are tried for a picture that training cannot do without."""

SEED_STEP = 1_000_003
"""From the seed of a withheld picture to the next that is tried for it: beyond those of others."""


class SwitchedOff:
    """`mcap.contracts.SafetyClassifier` of those who look at the pictures themselves."""

    name = OFF
    info = SafetyInfo()

    def score(self, image: UInt8Image) -> float:
        """Return 0: it has not looked."""
        return 0.0


@dataclass(frozen=True)
class SafetyVerdict:
    """Verdict of a classifier on a picture; ``score`` is None where nobody looked."""

    passed: bool
    score: float | None = None
    classifier: str = ""

    def record(self) -> dict[str, Any]:
        """Return what the picture's record says of it; {} where no classifier looked."""
        if self.score is None:
            return {}
        return {"safety": {"classifier": self.classifier, "score": self.score}}


@dataclass(frozen=True)
class Withheld:
    """A picture that was drawn and not written."""

    name: str
    """What its file would have been called, without the suffix."""
    seed: int
    score: float
    """The classifier's, 0 to 1."""


def require_classifier(info: BackboneInfo, classifier: SafetyClassifier | None) -> None:
    """Raise `UsageError` where a backbone's pictures must be looked at and nobody does."""
    if info.needs_safety and classifier is None:
        raise UsageError(
            f"Backbone '{info.id}' can draw anything, so a safety classifier looks at its pictures "
            "before they are written: give one (registry().create('safety', 'nsfw')), or "
            "mcap.generation.safety.SwitchedOff() to answer for them yourself."
        )


def look(
    image: UInt8Image, info: BackboneInfo, classifier: SafetyClassifier | None
) -> SafetyVerdict:
    """Return the verdict on a picture uint8[H, W, 3] that the backbone has drawn.

    Raises as `require_classifier`. A score that is no number counts as the worst.
    """
    require_classifier(info, classifier)
    if classifier is None or not info.needs_safety or isinstance(classifier, SwitchedOff):
        return SafetyVerdict(passed=True)
    score = round(float(classifier.score(image)), 4)
    if not 0 <= score <= 1:
        score = 1.0
    return SafetyVerdict(score < classifier.info.threshold, score, classifier.name)


def first_safe(
    draw: Callable[[int], UInt8Image],
    seed: int,
    info: BackboneInfo,
    classifier: SafetyClassifier | None,
) -> UInt8Image:
    """Return the first picture that passes, of ``draw(seed)`` and a few seeds further on.

    Raises `InputRejectedError` where none does.
    """
    seeds = [seed + number * SEED_STEP for number in range(ATTEMPTS)]
    for one in seeds:
        image = draw(one)
        if look(image, info, classifier).passed:
            return image
    raise InputRejectedError(
        f"{ATTEMPTS} pictures that training needs were withheld by the safety classifier (seeds "
        f"{', '.join(map(str, seeds))}); use other prompts, or another backbone."
    )


def nothing_left(
    withheld: Sequence[Withheld], classifier: SafetyClassifier | None, remedy: str
) -> InputRejectedError:
    """Return the error of a run all of whose pictures were withheld; ``remedy`` is a sentence."""
    return InputRejectedError(
        f"Nothing to write: {describe_withheld(withheld, classifier)} {remedy}",
        details={"withheld": [asdict(item) for item in withheld]},
    )


def describe_withheld(
    withheld: Iterable[Withheld], classifier: SafetyClassifier | None = None
) -> str:
    """Return the sentence that tells which pictures were not written, by their seeds."""
    found = list(withheld)
    who = f"the safety classifier '{classifier.name}'" if classifier else "the safety classifier"
    what = f" as showing {classifier.info.finds}" if classifier else ""
    seeds = ", ".join(f"{item.seed} (score {item.score:.2f})" for item in found)
    pictures = "1 picture was" if len(found) == 1 else f"{len(found)} pictures were"
    return f"{pictures} withheld by {who}{what} and not written: seed {seeds}."
