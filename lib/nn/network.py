"""Build an architecture as an `nn.Sequential` of torch modules.

One module has a faster body on a CPU: `BatchNorm2d`, the same maths and the same state_dict as torch's own.
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

# WeightsCopy of fewer bytes are copied.
COPIED_BYTES = 2**20


class BatchNorm2d(nn.BatchNorm2d):
    """torch's batch norm; in training, on a CPU, its sums run over rows of width times channels.

    Networks here have four to twenty channels. In the channels-last layout, in which convolutions are fastest, torch's
    kernel works along the channels alone, too short a vector; seen as (N * H, W * C) the same numbers fill one.
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
    """torch's dropout with a generator of its own, where torch's draws from one for the whole process."""

    def __init__(self, p: float, generator: torch.Generator) -> None:
        super().__init__(p)
        self.generator = generator

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return input
        kept = torch.rand(input.shape, generator=self.generator) >= self.p
        return input * kept.to(input) / (1 - self.p)


class _BatchNorm(torch.autograd.Function):
    """Ioffe and Szegedy, "Batch Normalization", 2015, section 3: (N, C, H, W) -> the same, mean (C,), variance (C,)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        _, _, _, width = x.shape
        rows = _rows(x)
        count = x.numel() // x.shape[1]
        mean = _by_channel(rows, width) / count
        centred = rows - mean.repeat(width)
        variance = _by_channel(centred * centred, width) / count
        inverse = torch.rsqrt(variance + eps)
        y = torch.addcmul(bias.repeat(width), centred, (inverse * weight).repeat(width))
        ctx.save_for_backward(centred, inverse, weight)
        ctx.shape = x.shape
        ctx.mark_non_differentiable(mean, variance)
        return _images(y, x.shape), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        centred, inverse, weight = ctx.saved_tensors
        width = ctx.shape[3]
        rows = _rows(gradients[0])
        count = rows.numel() // ctx.shape[1]
        for_bias = _by_channel(rows, width)
        for_weight = _by_channel(rows * centred, width) * inverse
        scale = inverse * weight
        for_x = torch.addcmul((-scale * for_bias / count).repeat(width), rows, scale.repeat(width))
        for_x.addcmul_(centred, (-scale * inverse * for_weight / count).repeat(width))
        return _images(for_x, ctx.shape), for_weight, for_bias, None


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N * H, W * C), without a copy where x is channels-last."""
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
    """The modules of an architecture, which it knows."""

    architecture: Architecture


def build(architecture: Architecture, seed: int = 0) -> Network:
    """Images (N, 1, 28, 28) float -> logits (N, 10). The same seed gives the same weights, in any thread.

    torch's own initialisers draw from one generator for the whole process; here each network draws from its own.
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
    """The network with these very weights, in eval mode: large ones are not copied, and nobody may write to them.

    Raises RuntimeError where they are not the architecture's.
    """
    with torch.device("meta"):
        network = build(architecture)
    # A vector kernel may sum in another order where its numbers do not begin at a multiple of its width, as those do
    # that were read from a file: a small network, copied, gives the same numbers bit by bit wherever it comes from.
    own = {name: tensor.clone() if tensor.nbytes < COPIED_BYTES else tensor for name, tensor in weights.items()}
    network.load_state_dict(own, assign=True)
    return network.eval()


def forward_batch(architecture: Architecture) -> int:
    """How many images may go through the network at once (`lib/nn/memory.py`), at least 1."""
    return batch_size(architecture, unfolds())


def unfolds() -> bool:
    """Whether torch's convolutions unfold their input on this machine: it has no oneDNN."""
    return not torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def _module(operation: Operation, generator: torch.Generator) -> nn.Module:
    call = SPECS[operation.kind].module(operation)
    ours: dict[OperationKind, Callable[..., nn.Module]] = {
        "BatchNorm2d": BatchNorm2d,
        "Dropout": partial(Dropout, generator=generator),
    }
    module = ours.get(operation.kind) or getattr(nn, operation.kind)
    return module(*call.args, **dict(call.kwargs))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads for torch's operations on this thread, within.

    Several wait for each other at the end of every operation: while a browser or a training has the other cores, one
    does what is small sooner.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
