"""The training pass of a small convolutional network by compiled kernels: the same results as its modules, faster.

`fast_path` returns a function that takes the place of an `nn.Sequential`, or None if the kernels do not cover it. The
modules keep their parameters, and get their gradients and running statistics as if they had been called themselves.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lib.design.fast_path_eligibility import MAX_PADDING
from lib.design.layers import INPUT_SHAPE
from lib.nn import kernels
from lib.nn.kernels import AVERAGE_POOL, CONVOLUTION, LANES, MAX_POOL, STAGE
from lib.nn.modules import BatchNorm2d, update_running_statistics
from lib.nn.network import Network

# A batch of 128 images has eight blocks: more threads than this find too few of them.
MAX_THREADS = 4


def fast_path(network: nn.Sequential, threads: int | None = None) -> Callable[[Tensor], Tensor] | None:
    """Function from images (N, 1, 28, 28), float32 on the CPU, to logits (N, 10), in training mode.

    None unless the network consists of pools and 3×3 convolutions of stride 1, each followed by ReLU, by ReLU and batch
    norm, or by neither, and ends in one pixel and Flatten. None also if a module has any argument, attribute or hook
    that the kernels do not know, so that nothing is ignored silently.

    `threads` includes the calling thread; by default there is one for each core, and at most MAX_THREADS. The results
    do not depend on it. A backward pass belongs to the last forward pass before it.
    """
    try:
        return _FastPath(network, min(threads or os.cpu_count() or 1, MAX_THREADS))
    except _UnsupportedError:
        return None


class _UnsupportedError(ValueError):
    """The kernels do not cover a module."""


def _require_like(module: nn.Module, plain: nn.Module) -> None:
    """Raise _UnsupportedError unless both have the same class, attributes, hooks, and names and shapes of tensors.

    All attributes are compared, not a list of known ones, so that an argument that torch adds is not ignored.
    """
    if (
        type(module) is not type(plain)
        or _attributes(module) != _attributes(plain)
        or _shapes(module) != _shapes(plain)
    ):
        raise _UnsupportedError


def _attributes(module: nn.Module) -> dict[str, object]:
    compared_elsewhere = {"_parameters", "_buffers", "_modules", "training"}
    return {name: value for name, value in vars(module).items() if name not in compared_elsewhere}


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    tensors = {**module._parameters, **module._buffers}
    return {name: tensor.shape for name, tensor in tensors.items() if tensor is not None}


def _is_float_on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


class _FastPath:
    """The plan of a network, its workspace for one batch size, and the calls of the kernels."""

    def __init__(self, network: nn.Sequential, threads: int) -> None:
        self._threads = threads
        self._params: list[Tensor] = []
        self._num_params = 0
        # Each norm with its slots and the number of positions of its output.
        self._norms: list[tuple[nn.BatchNorm2d, slice, int]] = []
        self._eps: float | None = None
        # Shape of the last stage's output, and the slot of its first channel; the image is slot 0.
        self._channels, self._size, self._slot = *INPUT_SHAPE[:2], 0
        # Images that the workspace is for.
        self._images = 0
        plain = nn.Sequential()
        if isinstance(network, Network):
            plain = Network()
            plain.architecture = network.architecture
            # The kernels know no branches.
            plain.branches = None
        _require_like(network, plain)
        self._training = network.training
        modules = list(network)
        if not modules or not isinstance(modules[-1], nn.Flatten):
            raise _UnsupportedError
        stages: list[dict[str, int]] = []
        while len(modules) > 1:
            stages.append(self._plan_stage(modules))
        _require_like(modules.pop(), nn.Flatten())
        if self._size != 1 or not self._params:
            raise _UnsupportedError
        self._plan = np.zeros(len(stages), STAGE)
        for row, stage in zip(self._plan, stages, strict=True):
            for name, number in stage.items():
                row[name] = number

    def __call__(self, x: Tensor) -> Tensor:
        return cast(Tensor, _Pass.apply(x, self, *self._params))

    def _plan_stage(self, modules: list[nn.Module]) -> dict[str, int]:
        """Remove the modules of the next stage, and return its fields but for the offsets in the workspace."""
        module = modules.pop(0)
        stage = {"in_channels": self._channels, "in_size": self._size, "in_slot": self._slot}
        slot = self._slot + self._channels
        match module:
            case nn.Conv2d():
                padding = module.padding[0]
                if not isinstance(padding, int) or padding > MAX_PADDING or module.in_channels != self._channels:
                    raise _UnsupportedError
                plain = nn.Conv2d(self._channels, module.out_channels, 3, padding=padding, device="meta")
                _require_like(module, plain)
                self._channels, self._size = module.out_channels, self._size + 2 * padding - 2
                stage |= {"kind": CONVOLUTION, "padding": padding}
                stage |= {"weight": self._add_param(module, "weight"), "bias": self._add_param(module, "bias")}
                if isinstance(modules[0], nn.ReLU):
                    _require_like(modules.pop(0), nn.ReLU())
                    stage["relu"] = 1
                if isinstance(modules[0], nn.BatchNorm2d):
                    norm = cast(nn.BatchNorm2d, modules.pop(0))
                    self._require_known_norm(norm)
                    self._eps = norm.eps
                    stage |= {
                        "norm": 1,
                        "gamma": self._add_param(norm, "weight"),
                        "beta": self._add_param(norm, "bias"),
                    }
                    self._norms.append((norm, slice(slot, slot + self._channels), self._size**2))
            case nn.MaxPool2d() | nn.AvgPool2d():
                kernel_size, stride = module.kernel_size, module.stride
                if not isinstance(kernel_size, int) or not isinstance(stride, int) or kernel_size > self._size:
                    raise _UnsupportedError
                plain_class = nn.MaxPool2d if isinstance(module, nn.MaxPool2d) else nn.AvgPool2d
                _require_like(module, plain_class(kernel_size, stride))
                kind = MAX_POOL if plain_class is nn.MaxPool2d else AVERAGE_POOL
                stage |= {"kind": kind, "kernel_size": kernel_size, "stride": stride}
                self._size = (self._size - kernel_size) // stride + 1
            case nn.AdaptiveAvgPool2d():
                _require_like(module, nn.AdaptiveAvgPool2d(1))
                stage |= {"kind": AVERAGE_POOL, "kernel_size": self._size, "stride": 1}
                self._size = 1
            case _:
                raise _UnsupportedError
        if self._size < 1:
            raise _UnsupportedError
        self._slot = slot
        return stage | {"out_channels": self._channels, "out_size": self._size, "out_slot": slot}

    def _require_known_norm(self, norm: nn.BatchNorm2d) -> None:
        """Raise _UnsupportedError unless the norm uses the batch's statistics and updates its running ones."""
        norm_class = BatchNorm2d if isinstance(norm, BatchNorm2d) else nn.BatchNorm2d
        _require_like(norm, norm_class(self._channels, norm.eps, norm.momentum, device="meta"))
        known = norm.momentum is not None and norm.training == self._training and self._eps in (None, norm.eps)
        statistics = norm.running_mean, norm.running_var
        if not known or any(values is None or not _is_float_on_cpu(values) for values in statistics):
            raise _UnsupportedError

    def _add_param(self, module: nn.Module, name: str) -> int:
        """Append a parameter to the flat parameters; returns its offset there."""
        parameter = getattr(module, name)
        if not isinstance(parameter, nn.Parameter) or not _is_float_on_cpu(parameter):
            raise _UnsupportedError
        offset, self._num_params = self._num_params, self._num_params + parameter.numel()
        self._params.append(parameter)
        return offset

    def _allocate(self, images: int) -> None:
        """Allocate the workspace for a batch of this size; see `kernels.forward` and `kernels.backward`."""
        blocks = -(-images // LANES)
        start, end, argmax_end, largest = 0, blocks * LANES * INPUT_SHAPE[1] ** 2, 0, 0
        for stage in self._plan:
            count = int(blocks * LANES * stage["out_size"] ** 2 * stage["out_channels"])
            stage["input"], stage["output"] = start, end
            start, end = end, end + count
            if stage["kind"] == MAX_POOL:
                stage["argmax"], argmax_end = argmax_end, argmax_end + count
            largest = max(largest, count)
        self._images = images
        self._activations, self._argmax = kernels.zeros(end), np.zeros(max(argmax_end, 1), np.int32)
        self._grad_output, self._grad_input = kernels.zeros(largest), kernels.zeros(largest)
        sizes = kernels.scratch_sizes(self._plan)
        self._scratch = [tuple(kernels.zeros(size) for size in sizes) for _ in range(self._threads)]
        slots = self._slot + self._channels
        self._block_stats, self._norm_grad = np.zeros((blocks, slots, 2)), np.zeros((slots, 3), np.float32)
        self._scale, self._shift = np.ones(slots, np.float32), np.zeros(slots, np.float32)
        self._mean, self._variance, self._inv_std = np.zeros(slots), np.zeros(slots), np.zeros(slots)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) -> logits (N, 10), and the running statistics updated."""
        images = len(x)
        if images != self._images:
            self._allocate(images)
        blocks, pixels, full_blocks = -(-images // LANES), x[0].numel(), images // LANES
        image_blocks = torch.from_numpy(self._activations[: blocks * pixels * LANES]).view(blocks, pixels, LANES)
        image_blocks[:full_blocks] = x[: full_blocks * LANES].reshape(full_blocks, LANES, pixels).transpose(1, 2)
        if full_blocks < blocks:
            image_blocks[full_blocks] = 0
            rest = x[full_blocks * LANES :].reshape(-1, pixels)
            image_blocks[full_blocks, :, : len(rest)] = rest.t()
        self._flat_params = torch.cat([parameter.detach().reshape(-1) for parameter in self._params]).numpy()
        counters = np.zeros(2 * len(self._plan), np.int64)
        shared = (
            self._plan, self._flat_params, images, self._activations, self._argmax, self._scale, self._shift,
            self._mean, self._variance, self._inv_std, self._block_stats, self._eps or 0.0, counters,
        )  # fmt: skip
        _run_parallel(
            kernels.forward,
            [(*shared, padded_input, conv_output) for padded_input, conv_output, _ in self._scratch],
        )
        mean, variance = torch.from_numpy(self._mean).float(), torch.from_numpy(self._variance).float()
        for norm, slots, positions in self._norms:
            update_running_statistics(norm, mean[slots], variance[slots], images * positions)
        end = len(self._activations)
        logits = torch.from_numpy(self._activations[end - blocks * self._channels * LANES :])
        return logits.view(blocks, self._channels, LANES).transpose(1, 2).reshape(-1, self._channels)[:images]

    def backward(self, gradient: Tensor) -> list[Tensor]:
        """Gradient of the logits (N, 10) -> gradients of the parameters, in the shapes of the parameters."""
        images, classes = gradient.shape
        blocks = -(-images // LANES)
        filled = torch.zeros(blocks * LANES, classes)
        filled[:images] = gradient
        grad_output = torch.from_numpy(self._grad_output[: filled.numel()]).view(blocks, classes, LANES)
        grad_output.copy_(filled.view(blocks, LANES, classes).transpose(1, 2))
        param_grads = np.zeros((blocks, self._num_params), np.float32)
        counters = np.zeros(4 * len(self._plan), np.int64)
        shared = (
            self._plan, self._flat_params, images, self._activations, self._argmax, self._scale, self._shift,
            self._mean, self._inv_std, param_grads, self._grad_output, self._grad_input, self._norm_grad, counters,
        )  # fmt: skip
        _run_parallel(kernels.backward, [(*shared, *scratch) for scratch in self._scratch])
        sizes = [parameter.numel() for parameter in self._params]
        pieces = torch.split(torch.from_numpy(param_grads).sum(0), sizes)
        return [piece.view_as(parameter) for piece, parameter in zip(pieces, self._params, strict=True)]


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, network: _FastPath, *params: Tensor) -> Tensor:
        ctx.network = network
        return network.forward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *ctx.network.backward(gradients[0]))


_tasks: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = SimpleQueue()
_workers: list[threading.Thread] = []


def _run_parallel(kernel: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> None:
    """Call the kernel in this thread and in workers, each with its own arguments.

    Returns when the call in this thread returns. A worker that starts later finds no block left.
    """
    while len(_workers) < len(arguments) - 1:
        _workers.append(threading.Thread(target=_work, name="training-helper", daemon=True))
        _workers[-1].start()
    for own in arguments[1:]:
        _tasks.put((kernel, own))
    kernel(*arguments[0])


def _work() -> None:
    while True:
        kernel, arguments = _tasks.get()
        kernel(*arguments)
        # Otherwise they would keep the workspace of a finished network in memory until the next call.
        del kernel, arguments
