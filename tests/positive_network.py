"""A network with the same windows as another, one channel and positive weights: no gradient cancels by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lib.design.operations import IMAGE, Operation
from lib.design.receptive_field import Axis


def outputs(steps: Sequence[Operation], image: Tensor, module: Callable[[Operation], nn.Module]) -> list[Tensor]:
    """The output of every step for an image (1, 1, H, W), each with its gradient retained."""
    found: list[Tensor] = []
    for step in steps:
        inputs = [image if source == IMAGE else found[source] for source in step.inputs]
        # An identity returns its input; a copy has a separate gradient. One channel: a concatenation becomes a sum.
        x = module(step)(torch.stack(inputs).sum(0)).clone()
        x.retain_grad()
        found.append(x)
    return found


def positive_module(step: Operation) -> nn.Module:
    """The module of a step as it is on the image, with padding and cut-off windows."""
    match step.kind:
        case "Conv2d":
            layer = nn.Conv2d(1, 1, step.kernel_size, step.stride, step.padding, step.dilation, bias=False).double()
            nn.init.constant_(layer.weight, 1 / (step.kernel_size[0] * step.kernel_size[1]))
            return layer
        case "MaxPool2d" | "AvgPool2d":
            # A max-pool passes the gradient to one pixel only; an average has the same window.
            return nn.AvgPool2d(step.kernel_size, step.stride, step.padding, step.ceil_mode)
        case "AdaptiveAvgPool2d" | "AdaptiveMaxPool2d" | "Flatten":
            return nn.AdaptiveAvgPool2d(1)
    return nn.Identity()


def unbounded_module(step: Operation) -> nn.Module:
    """The module of a step on an image that is so large that nothing is cut off: pools over a whole map keep windows.

    Padding stays, so that the positions keep their numbers.
    """
    layer = nn.Conv2d(1, 1, step.kernel_size, step.stride, step.padding, step.dilation, bias=False).double()
    nn.init.constant_(layer.weight, 1 / (step.kernel_size[0] * step.kernel_size[1]))
    return layer


def along(steps: Sequence[Operation], axis: Axis) -> list[Operation]:
    """The same windows on a strip (1, 1, L, 1), along one axis of the image."""
    return [
        replace(
            step,
            kernel_size=(step.kernel_size[axis], 1),
            stride=(step.stride[axis], 1),
            padding=(step.padding[axis], 0),
        )
        for step in steps
    ]
