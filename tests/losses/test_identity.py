"""The identity term: angles, and nothing but angles."""

import pytest
import torch

from mcap.losses.identity import identity


def _random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_identity_does_not_care_for_length():
    a, b = _random(4, 16, seed=1), _random(4, 16, seed=2)
    expected = (1 - torch.nn.functional.cosine_similarity(a, b)).mean().item()
    assert identity(a, b).item() == pytest.approx(expected, abs=1e-6)
    assert identity(7 * a, 0.01 * b).item() == pytest.approx(expected, abs=1e-6)


def test_identity_runs_from_0_to_2():
    a = _random(3, 8)
    assert identity(a, 3 * a).item() == pytest.approx(0, abs=1e-6)
    assert identity(a, -a).item() == pytest.approx(2, abs=1e-6)


def test_one_target_serves_all_rows():
    a, b = _random(3, 8), _random(1, 8, seed=1)
    assert identity(a, b).item() == pytest.approx(identity(a, b.expand(3, 8)).item())


def test_identity_of_nothing_is_finite():
    a = torch.zeros(1, 8, requires_grad=True)
    loss = identity(a, _random(1, 8))
    loss.backward()
    assert loss.item() == 1
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("shapes", [((2, 8), (2, 7)), ((3, 8), (2, 8)), ((8,), (8,))])
def test_identity_refuses_shapes_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match=r"embeddings"):
        identity(*(torch.ones(*shape) for shape in shapes))
