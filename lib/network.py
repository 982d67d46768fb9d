"""The architecture as torch builds it: an `nn.Sequential` of stock modules."""

from __future__ import annotations

import math

import torch
from torch import nn

from lib.architecture import Architecture, Operation, operations


def build(architecture: Architecture, seed: int = 0) -> nn.Sequential:
    """Images (N, 1, 28, 28) float -> logits (N, 10). The same seed gives the same weights, in any thread.

    torch's own initialisers draw from one generator for the whole process; here each network draws from its own.
    """
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(*(_module(operation) for operation in operations(architecture)))
    for module in network:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert module.bias is not None
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    return network


def count_params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _module(operation: Operation) -> nn.Module:
    inputs, outputs = operation.input_shape[0], operation.output_shape[0]
    kernel_size, stride, padding = operation.kernel_size, operation.stride, operation.padding
    match operation.kind:
        case "Conv2d":
            return nn.Conv2d(inputs, outputs, kernel_size, stride, padding)
        case "ReLU":
            return nn.ReLU()
        case "BatchNorm2d":
            return nn.BatchNorm2d(outputs)
        case "MaxPool2d":
            return nn.MaxPool2d(kernel_size, stride)
        case "AvgPool2d":
            return nn.AvgPool2d(kernel_size, stride)
        case "AdaptiveAvgPool2d":
            return nn.AdaptiveAvgPool2d(1)
        case "Flatten":
            return nn.Flatten()
        case "Linear":
            return nn.Linear(inputs, outputs)
