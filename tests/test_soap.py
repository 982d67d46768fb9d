"""SOAP against torch's Adam, and against itself seen from another side."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lib import soap
from lib.soap import EPS, SOAP

RATE, DECAY, STEPS = 0.03, 0.1, 60


def trained(
    start: Tensor,
    make: Callable[[list[Tensor]], torch.optim.Optimizer],
    loss: Callable[[Tensor, int], Tensor],
    skip: int = 0,
) -> list[Tensor]:
    """The weights after each of STEPS steps, the first `skip` gradients left out."""
    weights = start.clone().requires_grad_()
    optimiser, path = make([weights]), []
    for step in range(STEPS):
        optimiser.zero_grad()
        loss(weights, step).backward()  # type: ignore[no-untyped-call]
        if step >= skip:
            optimiser.step()
        path.append(weights.detach().clone())
    return path


def ours(weights: list[Tensor]) -> torch.optim.Optimizer:
    return SOAP(weights, RATE, weight_decay=DECAY)


def theirs(weights: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(weights, RATE, soap.BETAS, EPS, weight_decay=DECAY)


def noise(step: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def test_a_vector_is_trained_by_adamw() -> None:
    start = noise(99, 7)

    def loss(w: Tensor, step: int) -> Tensor:
        return ((w - 1) ** 2 * (1 + noise(step, 7).abs())).sum()

    for a, b in zip(trained(start, ours, loss), trained(start, theirs, loss), strict=True):
        torch.testing.assert_close(a, b)


def test_a_matrix_in_its_own_directions_is_trained_by_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the first gradient, which is only looked at."""
    monkeypatch.setattr(soap, "LONGEST", 0)
    start = noise(99, 4, 3, 3, 3)

    def loss(w: Tensor, step: int) -> Tensor:
        return ((w - 1) ** 2 * (1 + noise(step, 4, 3, 3, 3).abs())).sum()

    for a, b in zip(trained(start, ours, loss), trained(start, theirs, loss, skip=1), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("height", "width", "longest"), [(6, 6, 6), (4, 9, 4), (9, 4, 4)])
def test_it_goes_the_same_way_seen_from_any_side(
    height: int, width: int, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotate the rows and columns of weights and loss alike, those sides that are not too long, and every step is the
    rotated one; AdamW's is not.
    """
    monkeypatch.setattr(soap, "LONGEST", longest)
    rows, columns = (
        torch.linalg.qr(noise(size, size, size)).Q if size <= longest else torch.eye(size, dtype=torch.float64)
        for size in (height, width)
    )
    scale, target, start = noise(3, height, width).abs() + 0.1, noise(4, height, width), noise(5, height, width)

    def loss(w: Tensor, step: int) -> Tensor:
        return (scale * (w - target + 0.3 * noise(100 + step, height, width)) ** 2).sum()

    def rotated(w: Tensor, step: int) -> Tensor:
        return loss(rows.T @ w @ columns, step)

    def apart(make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> float:
        one, other = trained(start, make, loss), trained(rows @ start @ columns.T, make, rotated)
        return max(float((rows @ a @ columns.T - b).abs().max()) for a, b in zip(one, other, strict=True))

    assert apart(ours) < 1e-6
    assert apart(theirs) > 0.01


def test_a_state_is_taken_up_where_it_was_left() -> None:
    start = noise(99, 4, 6)
    weights = [start.clone().requires_grad_() for _ in range(2)]
    optimisers = [SOAP([weight], RATE) for weight in weights]
    for step in range(STEPS):
        if step == 17:
            kept = copy.deepcopy(optimisers[1].state_dict())
            optimisers[1] = SOAP([weights[1]], RATE)
            optimisers[1].load_state_dict(kept)
        for weight, optimiser in zip(weights, optimisers, strict=True):
            optimiser.zero_grad()
            ((weight - noise(step, 4, 6)) ** 2).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    assert torch.equal(*weights)
