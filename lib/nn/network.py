"""Build an architecture as an `nn.Sequential` of torch modules.

Two modules replace torch's, with the same state_dict: `BatchNorm2d` is faster on a CPU, and `Dropout` has a generator
for each network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lib.design.layers import Architecture
from lib.design.operation_specs import SPECS
from lib.design.operations import Operation, OperationKind, operations
from lib.nn.memory import batch_size

# Tensors of fewer bytes are copied.
COPIED_BYTES = 2**20


class BatchNorm2d(nn.BatchNorm2d):
    """torch's batch norm, with sums that are faster on a CPU in training mode.

    Networks here have four to twenty channels. For the channels-last layout, in which their convolutions are fastest,
    torch's kernel vectorizes along the channels, which are too few. Here sums run over rows of W * C values.
    """

    def forward(self, input: Tensor) -> Tensor:
        count = input.numel() // input.shape[1]
        if not self.training or input.is_cuda or count == 1:
            return super().forward(input)
        output, mean, variance = _BatchNorm.apply(input, self.weight, self.bias, self.eps)
        with torch.no_grad():
            update_running_statistics(self, mean, variance, count)
        return output  # type: ignore[no-any-return]


class Dropout(nn.Dropout):
    """torch's dropout, but with a generator for each network instead of the global one."""

    def __init__(self, p: float, generator: torch.Generator) -> None:
        super().__init__(p)
        self.generator = generator

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return input
        kept = torch.rand(input.shape, generator=self.generator) >= self.p
        return input * kept.to(input) / (1 - self.p)


class _BatchNorm(torch.autograd.Function):
    """Batch norm as in Ioffe and Szegedy, "Batch Normalization", 2015, section 3.

    Input (N, C, H, W), weight (C,), bias (C,) and eps -> output (N, C, H, W), mean (C,) and biased variance (C,).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        _, _, _, width = x.shape
        rows = _rows(x)
        count = x.numel() // x.shape[1]
        mean = _by_channel(rows, width) / count
        centered = rows - mean.repeat(width)
        variance = _by_channel(centered * centered, width) / count
        inv_std = torch.rsqrt(variance + eps)
        y = torch.addcmul(bias.repeat(width), centered, (inv_std * weight).repeat(width))
        ctx.save_for_backward(centered, inv_std, weight)
        ctx.shape = x.shape
        ctx.mark_non_differentiable(mean, variance)
        return _images(y, x.shape), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        centered, inv_std, weight = ctx.saved_tensors
        width = ctx.shape[3]
        rows = _rows(gradients[0])
        count = rows.numel() // ctx.shape[1]
        bias_grad = _by_channel(rows, width)
        weight_grad = _by_channel(rows * centered, width) * inv_std
        scale = inv_std * weight
        x_grad = torch.addcmul((-scale * bias_grad / count).repeat(width), rows, scale.repeat(width))
        x_grad.addcmul_(centered, (-scale * inv_std * weight_grad / count).repeat(width))
        return _images(x_grad, ctx.shape), weight_grad, bias_grad, None


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N * H, W * C), without a copy if x is channels-last."""
    images, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(images * height, width * channels)


def _images(rows: Tensor, shape: torch.Size) -> Tensor:
    """(N * H, W * C) -> (N, C, H, W), channels-last."""
    images, channels, height, width = shape
    return rows.view(images, height, width, channels).permute(0, 3, 1, 2)


def _by_channel(rows: Tensor, width: int) -> Tensor:
    """Sums (C,) of (N * H, W * C)."""
    return rows.sum(0).view(width, -1).sum(0)


def update_running_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update the running mean and variance as torch does, from a batch's mean and biased variance, each (C,).

    `count` is the number of values in each channel, at least 2. The running variance is the unbiased one.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
    norm.num_batches_tracked.add_(1)


class Network(nn.Sequential):
    """The modules of an architecture, in the order of `lib.design.operations.operations`."""

    architecture: Architecture


def build(architecture: Architecture, seed: int = 0) -> Network:
    """Network with random weights: images (N, 1, 28, 28) float -> logits (N, 10).

    The weights are distributed as torch initializes them. The same seed gives the same weights in any thread, because
    each network draws from its own generator and not from torch's global one.
    """
    generator = torch.Generator().manual_seed(seed)
    network = Network(*(_module(operation, generator) for operation in operations(architecture)))
    network.architecture = architecture
    for module in network:
        weight = getattr(module, "weight", None)
        # The weight of a norm has one dimension; it begins as 1, and draws nothing.
        if isinstance(weight, nn.Parameter) and weight.dim() > 1:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(weight[0].numel())
            assert isinstance(module.bias, nn.Parameter)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    return network


def assembled(architecture: Architecture, weights: Mapping[str, Tensor]) -> Network:
    """Network with given weights, in eval mode.

    Large tensors are shared, not copied: do not write to them. Raises RuntimeError if the weights are not those of the
    architecture.
    """
    with torch.device("meta"):
        network = build(architecture)
    # A kernel may sum in another order if its values do not start at a multiple of the vector width, as after a read
    # from a file. Copies of small tensors are aligned, so their results do not depend on where they come from.
    aligned = {name: tensor.clone() if tensor.nbytes < COPIED_BYTES else tensor for name, tensor in weights.items()}
    network.load_state_dict(aligned, assign=True)
    return network.eval()


def eval_batch_size(architecture: Architecture) -> int:
    """Number of images that may go through the network at once in eval mode, at least 1; see `lib.nn.memory`."""
    return batch_size(architecture, uses_im2col())


def uses_im2col() -> bool:
    """Whether torch's convolutions use im2col on this machine, for lack of oneDNN."""
    return not torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def _module(operation: Operation, generator: torch.Generator) -> nn.Module:
    call = SPECS[operation.kind].module(operation)
    replacements: dict[OperationKind, Callable[..., nn.Module]] = {
        "BatchNorm2d": BatchNorm2d,
        "Dropout": partial(Dropout, generator=generator),
    }
    module = replacements.get(operation.kind) or getattr(nn, operation.kind)
    return module(*call.args, **dict(call.kwargs))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of threads of torch's operations in this thread, and restore it at the end.

    Threads wait for each other at the end of every operation. One thread finishes small operations sooner while a
    browser or a training uses the other cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
