"""The optimizers of recipes: how each is built, and which tensors it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lib.design.recipe import Optimizer, Recipe
from lib.training import compiler_stub

compiler_stub.install()

MOMENTUM = 0.9


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer of torch.

    `moments` and `scalars` are names of its state for each parameter, after the first step: tensors of the parameter's
    shape, and scalars of float32.
    """

    build: Callable[[Iterable[nn.Parameter], Recipe], torch.optim.Optimizer]
    moments: tuple[str, ...]
    scalars: tuple[str, ...] = ()


def _sgd(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters, recipe.learning_rate, MOMENTUM, weight_decay=recipe.weight_decay, nesterov=True, fused=True
    )


def _adam(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def _adamw(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


_ADAM_STATE = {"moments": ("exp_avg", "exp_avg_sq"), "scalars": ("step",)}
OPTIMIZER_SPECS: Mapping[Optimizer, OptimizerSpec] = {
    "SGD": OptimizerSpec(_sgd, moments=("momentum_buffer",)),
    "Adam": OptimizerSpec(_adam, **_ADAM_STATE),
    "AdamW": OptimizerSpec(_adamw, **_ADAM_STATE),
}
