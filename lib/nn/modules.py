"""Modules that torch lacks, or that replace torch's with the same state_dict.

`BatchNorm2d` is faster on a CPU, and the dropouts have a generator for each network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


class GhostBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over each of `num_splits` equal parts of a batch, (N, C, H, W) -> (N, C, H, W).

    Hoffer, Hubara and Soudry, "Train longer, generalize better", 2017, section 4. The running statistics are the means
    of those of the parts. If the batch cannot be divided, the last part is smaller.
    """

    def __init__(self, num_features: int, num_splits: int) -> None:
        super().__init__(num_features)
        self.num_splits = num_splits

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or len(input) == 1:
            return super().forward(input)
        outputs, means, variances = [], [], []
        for part in torch.chunk(input, self.num_splits):
            mean, variance = part.new_zeros(self.num_features), part.new_zeros(self.num_features)
            # With a momentum of 1 the statistics of the part take the place of the zeros.
            outputs.append(F.batch_norm(part, mean, variance, self.weight, self.bias, True, 1.0, self.eps))
            means.append(mean)
            variances.append(variance)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(torch.stack(means).mean(0), self.momentum)
        self.running_var.lerp_(torch.stack(variances).mean(0), self.momentum)
        self.num_batches_tracked.add_(1)
        return torch.cat(outputs)

    def extra_repr(self) -> str:
        return f"{self.num_features}, num_splits={self.num_splits}"


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each position, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, num_channels: int) -> None:
        super().__init__(num_channels)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Dropout(nn.Dropout):
    """torch's dropout, but with a generator for each network instead of the global one."""

    def __init__(self, p: float, generator: torch.Generator) -> None:
        super().__init__(p)
        self.generator = generator

    def forward(self, input: Tensor) -> Tensor:
        return _dropped(input, input.shape, self.p, self.generator) if self.training else input


class Dropout2d(nn.Dropout2d):
    """torch's dropout of whole channels, but with a generator for each network instead of the global one."""

    def __init__(self, p: float, generator: torch.Generator) -> None:
        super().__init__(p)
        self.generator = generator

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return input
        # (N, C, 1, 1), or (N, C) without an image.
        shape = torch.Size((*input.shape[:2], *[1] * (input.dim() - 2)))
        return _dropped(input, shape, self.p, self.generator)


class Add(nn.Module):
    """The sum of its inputs, which have the same shape."""

    def forward(self, *inputs: Tensor) -> Tensor:
        total = inputs[0]
        for other in inputs[1:]:
            total = total + other
        return total


class Concat(nn.Module):
    """Its inputs one after the other along the channels."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, 1)


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


def _dropped(x: Tensor, shape: torch.Size, p: float, generator: torch.Generator) -> Tensor:
    """Zero x where random numbers of `shape`, which is broadcast, are below p, and scale the rest by 1 / (1 - p)."""
    kept = torch.rand(shape, generator=generator) >= p
    return x * kept.to(x) / (1 - p)


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
