"""The identity guard on embeddings that are known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from mcap.contracts import IdentityInfo
from mcap.enhancement.identity_guard import WEIGHTS, IdentityGuard
from tests.support.restoring import face_at

FACE = face_at(10, 10, 60)


def turned(angle: float) -> np.ndarray:
    """Unit vectors in one plane, by degrees."""
    return np.float32([np.cos(np.radians(angle)), np.sin(np.radians(angle))])


class Angles:
    """A network that reads a picture's first pixel as degrees."""

    name = "angles"
    info = IdentityInfo(embeds_images=True, same_person=0.5)

    def embed_images(self, image, face):
        return turned(float(image[0, 0, 0]))


def picture(angle: float) -> np.ndarray:
    return np.full((4, 4, 3), angle, np.uint8)


def guard(**options) -> IdentityGuard:
    return IdentityGuard(Angles(), **{"max_change": 0.4, "max_loss": 0.1, **options})


def judged(drift: float, start: float = 0, **options):
    """A restoration that turns the embedding by ``drift`` degrees, evenly with its weight."""
    looks = guard(**options)
    before = looks.look(picture(start), FACE)
    return looks.admit(before, lambda weight: (picture(start + weight * drift), FACE))


@pytest.mark.parametrize(
    ("drift", "weight"), [(0, 1), (50, 1), (60, 0.75), (75, 0.5), (78, 0.5), (79, 0), (180, 0)]
)
def test_as_much_as_keeps_the_face_its_own(drift, weight):
    """cos(53 degrees) = 0.6 is the least; cos(78.5) = 0.2 is another face."""
    verdict = judged(drift)
    assert verdict.weight == weight
    assert verdict.allowed is (weight == 1)
    assert verdict.whole == pytest.approx(np.cos(np.radians(drift)), abs=1e-5)
    assert verdict.similarity >= 0.6 - 1e-6
    assert weight in (0, *WEIGHTS)


def test_refuse_is_all_or_nothing_and_off_is_all():
    assert judged(60, mode="refuse").weight == 0
    assert judged(40, mode="refuse").weight == 1
    verdict = judged(170, mode="off")
    assert (verdict.weight, verdict.allowed) == (1, False)
    assert verdict.similarity == verdict.whole


def test_the_person_is_what_counts_where_it_is_known():
    # The face is 40 degrees from the person; a restoration that goes there may change it a lot.
    verdict = judged(40, start=0, person=5 * turned(40))
    assert (verdict.weight, verdict.similarity) == (1, pytest.approx(1, abs=1e-5))
    # ... and one that goes 6 degrees away loses more than 0.05.
    verdict = judged(6, start=40, person=turned(0), max_loss=0.05)
    assert 0 < verdict.weight < 1
    before = guard(person=turned(0)).look(picture(40), FACE)
    assert before.known
    assert before.similarity == pytest.approx(np.cos(np.radians(40)), abs=1e-5)


def test_somebody_else_in_the_picture_is_compared_with_themselves():
    before = guard(person=turned(0)).look(picture(80), FACE)
    assert not before.known
    assert before.similarity == 1
    verdict = judged(40, start=80, person=turned(0))
    assert verdict.weight == 1


def test_another_network_s_person_is_refused():
    with pytest.raises(ValueError, match="3 values"):
        guard(person=np.ones(3)).look(picture(0), FACE)
