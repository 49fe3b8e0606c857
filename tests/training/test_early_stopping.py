"""A run ends when its previews stop getting more like the person."""

from __future__ import annotations

from mcap.training.early_stopping import EarlyStopping


def test_it_ends_after_so_many_evaluations_without_a_rise_and_keeps_the_best():
    stopping = EarlyStopping(patience=2, min_delta=0.01)
    found = [
        stopping.update(similarity, {"number": number})
        for number, similarity in enumerate([0.1, 0.4, 0.405, 0.3])
    ]
    assert found == [False, False, False, True]
    assert stopping.best == {"number": 1}  # 0.405 rose by too little


def test_it_goes_on_where_it_was():
    first, second = (EarlyStopping(patience=2, min_delta=0.0) for _ in range(2))
    for similarity in (0.2, 0.1):
        first.update(similarity, {"of": similarity})
    second.load(first.state())
    assert second.update(0.15, {})
    assert second.best == {"of": 0.2}
