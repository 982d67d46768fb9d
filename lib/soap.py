"""SOAP: Adam in the directions in which the gradients of a layer are independent of each other.

N. Vyas, D. Morwani, R. Zhao, M. Kwun, I. Shapira, D. Brandfonbrener, L. Janson and S. Kakade, "SOAP: Improving and
Stabilizing Shampoo using Adam", 2024, algorithm 3. The weights of a layer are a matrix G of as many rows as it has
output channels. Running means of G G' and of G' G have eigenvectors, and Adam divides by the size of the gradient along
those instead of along single weights. The layers here are so small that this costs little beside the convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

BETAS = 0.9, 0.99
EPS = 1e-8
# The eigenvectors are brought up to date after so many steps.
EVERY = 10
# A side longer than this keeps its own directions, as in section 4.2: its eigenvectors would cost more than the layer.
LONGEST = 512


class SOAP(torch.optim.Optimizer):
    """Weight decay is decoupled, as in AdamW. Vectors, norms and biases that is, are trained by Adam.

    The first step of a matrix looks at its gradient and leaves it where it is, as the authors' own.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                gradient = parameter.grad.reshape(len(parameter), -1)
                if not state:
                    self._begin(state, gradient)
                    if parameter.dim() > 1:
                        continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(group["lr"] * _direction(state, gradient).view(parameter.shape))

    def _begin(self, state: dict[str, Any], gradient: Tensor) -> None:
        state["step"] = torch.zeros(())
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        if gradient.shape[1] == 1:
            return
        for side, product in _products(gradient).items():
            state[side] = product
            # The largest first, as the later steps leave them.
            state[f"{side}_basis"] = _as_kept(torch.linalg.eigh(product.cpu()).eigenvectors.flip(1), product)


def _direction(state: dict[str, Any], gradient: Tensor) -> Tensor:
    """Where to go from here, for a learning rate of 1; what is remembered of the gradients is brought up to date."""
    first, second = BETAS
    state["step"] += 1
    step = int(state["step"])
    left, right = state.get("left_basis"), state.get("right_basis")
    mean = state["exp_avg"].lerp_(gradient, 1 - first)
    turned = _turned(gradient, left, right)
    size = state["exp_avg_sq"].lerp_(turned * turned, 1 - second)
    scale = (size / (1 - second**step)).sqrt_().add_(EPS)
    along = _turned(mean / (1 - first**step), left, right).div_(scale)
    direction = _turned(along, None if left is None else left.T, None if right is None else right.T)
    if left is not None or right is not None:
        for side, product in _products(gradient).items():
            state[side].lerp_(product, 1 - second)
            if step % EVERY == 0:
                # One step of the power method for all eigenvectors at once.
                basis = state[side] @ state[f"{side}_basis"]
                state[f"{side}_basis"] = _as_kept(torch.linalg.qr(basis.cpu()).Q, basis)
    return direction


def _products(gradient: Tensor) -> dict[str, Tensor]:
    sides = {"left": gradient, "right": gradient.T}
    return {side: matrix @ matrix.T for side, matrix in sides.items() if len(matrix) <= LONGEST}


def _turned(matrix: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """A matrix seen along the columns of both bases; None is the basis that it has."""
    matrix = matrix if left is None else left.T @ matrix
    return matrix if right is None else matrix @ right


def _as_kept(basis: Tensor, like: Tensor) -> Tensor:
    """In the layout in which a saved state comes back: another would round otherwise."""
    return basis.to(like.device).contiguous()
