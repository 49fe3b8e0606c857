"""What follows from each end of an attempt."""

from __future__ import annotations

import pytest

from mcap.batch.retry import Next, cause_of, remedy, what_next


@pytest.mark.parametrize(
    ("code", "cause"),
    [(0, "done"), (1, "failed"), (2, "usage"), (3, "refused"), (4, "missing"), (5, "memory"),
     (77, "failed"), (None, "worker")],
)  # fmt: skip
def test_exit_codes_are_causes(code, cause):
    assert cause_of(code) == cause


def test_an_interruption_is_a_stop_only_where_the_batch_stops():
    assert cause_of(130, stopping=True) == "stopped"
    assert cause_of(130) == "worker"
    assert cause_of(None, stopping=True) == "stopped"


@pytest.mark.parametrize(
    ("causes", "following"),
    [
        (["done"], Next("done")),
        (["usage"], Next("failed")),
        (["refused"], Next("failed")),
        (["missing"], Next("waiting", stops_batch=True)),
        (["memory"], Next("waiting", low_memory=True)),
        (["memory", "memory"], Next("failed")),
        (["memory", "worker"], Next("waiting", low_memory=True)),
        (["failed"], Next("waiting")),
        (["failed", "worker"], Next("waiting")),
        (["failed", "worker", "failed"], Next("failed")),
        (["worker", "stopped", "stopped", "worker"], Next("waiting")),
        (["stopped"] * 9, Next("waiting")),
    ],
)
def test_what_follows(causes, following):
    assert what_next(causes) == following


def test_a_refusal_of_photos_that_changed_meanwhile_is_not_the_last_word():
    assert cause_of(3) == "refused" and cause_of(3, photos_changed=True) == "failed"
    assert cause_of(2, photos_changed=True) == "failed"
    assert cause_of(0, photos_changed=True) == "done"
    assert cause_of(4, photos_changed=True) == "missing"


def test_what_is_given_up_has_a_remedy():
    for cause in ("failed", "worker", "usage", "refused", "memory"):
        assert "mcap batch retry STUDIO" in remedy(cause, [cause])
    assert "3 times" in remedy("worker", ["worker"] * 3)
    assert remedy("done") == ""
