"""The table of optimizers against the optimizers of torch."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from lib.design.recipe import Optimizer, Recipe
from lib.training.optimizers import OPTIMIZER_SPECS


def test_every_optimizer_of_a_recipe_is_in_the_table() -> None:
    assert set(OPTIMIZER_SPECS) == set(get_args(Optimizer))


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_an_optimizer_keeps_the_tensors_of_its_row(name: Optimizer) -> None:
    parameter, spec = nn.Parameter(torch.ones(2, 3)), OPTIMIZER_SPECS[name]
    optimizer = spec.build([parameter], Recipe(name, 0.25, weight_decay=0.5))
    assert type(optimizer).__name__ == name
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.25, 0.5)
    parameter.grad = torch.ones(2, 3)
    optimizer.step()
    kept = {key: (value.shape, value.dtype) for key, value in optimizer.state[parameter].items()}
    assert kept == {
        **dict.fromkeys(spec.moments, (parameter.shape, parameter.dtype)),
        **{scalar: (torch.Size(), torch.float32) for scalar in spec.scalars},
    }
