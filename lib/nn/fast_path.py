"""The training pass of a small convolutional network by compiled kernels: the same results as its modules, faster.

`fast_path` looks at an `nn.Sequential` and returns what may be called in its place, or None where the kernels have no
answer. The modules keep their parameters, gradients and running statistics as if they had been called themselves.
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
from lib.nn.kernels import AVERAGE_POOL, CONVOLUTION, FIELDS, LANES, MAX_POOL
from lib.nn.network import BatchNorm2d, Network

# More threads than this find no block to work on in a batch of 128.
MAX_THREADS = 4


def fast_path(network: nn.Sequential, threads: int | None = None) -> Callable[[Tensor], Tensor] | None:
    """Images (N, 1, 28, 28) float on the CPU -> logits (N, 10), in training mode.

    None for a network that has anything but pools and 3x3 convolutions of stride 1, each followed by ReLU, by ReLU and
    norm, or by neither, and one pixel at its end, flattened. None too for a module with any other argument, attribute
    or hook than the kernels know: what they do not compute must not be left out in silence. `threads` counts the
    calling one and its helpers, by default one a core; the numbers that come out do not depend on it. A backward pass
    belongs to the last forward pass before it.
    """
    try:
        return _FastPath(network, min(threads or os.cpu_count() or 1, MAX_THREADS))
    except _UnsupportedError:
        return None


class _UnsupportedError(ValueError):
    pass


def _require_like(module: nn.Module, plain: nn.Module) -> None:
    """Raise _UnsupportedError where the module differs from `plain` in its class, an attribute or a hook, or in the
    names and shapes of its parameters and buffers.

    All that a module has is compared, not a list of what is known to matter: what torch adds is refused as well.
    """
    if (
        type(module) is not type(plain)
        or _attributes(module) != _attributes(plain)
        or _shapes(module) != _shapes(plain)
    ):
        raise _UnsupportedError


def _attributes(module: nn.Module) -> dict[str, object]:
    own = {"_parameters", "_buffers", "_modules", "training"}
    return {name: value for name, value in vars(module).items() if name not in own}


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    tensors = {**module._parameters, **module._buffers}
    return {name: tensor.shape for name, tensor in tensors.items() if tensor is not None}


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


class _FastPath:
    def __init__(self, network: nn.Sequential, threads: int) -> None:
        self._stages: list[dict[str, int]] = []
        self._norms: list[tuple[nn.BatchNorm2d, slice, int]] = []
        self._params: list[Tensor] = []
        self._threads = threads
        self._eps: float | None = None
        self._count = 0
        # The images themselves are slot 0, with nothing to normalise.
        self._channels, self._size, self._slot = *INPUT_SHAPE[:2], 0
        self._images = 0
        plain = nn.Sequential()
        if isinstance(network, Network):
            plain = Network()
            plain.architecture = network.architecture
        _require_like(network, plain)
        self._training = network.training
        modules = list(network)
        if not modules or not isinstance(modules[-1], nn.Flatten):
            raise _UnsupportedError
        while modules:
            self._take(modules)
        if self._size != 1 or not self._params:
            raise _UnsupportedError

    def __call__(self, x: Tensor) -> Tensor:
        return cast(Tensor, _Pass.apply(x, self, *self._params))

    def _take(self, modules: list[nn.Module]) -> None:
        """The next stage: a pool, or a convolution with its ReLU and norm."""
        module = modules.pop(0)
        stage = dict.fromkeys(FIELDS, 0)
        stage["in_channels"], stage["in_size"], stage["in_channel"] = self._channels, self._size, self._slot
        slot = self._slot + self._channels
        match module:
            case nn.Conv2d():
                padding = module.padding[0]
                if not isinstance(padding, int) or padding > MAX_PADDING or module.in_channels != self._channels:
                    raise _UnsupportedError
                plain = nn.Conv2d(self._channels, module.out_channels, 3, padding=padding, device="meta")
                _require_like(module, plain)
                stage["kind"], stage["padding"] = CONVOLUTION, padding
                self._channels, self._size = module.out_channels, self._size + 2 * padding - 2
                stage["weight"], stage["bias"] = self._place(module, "weight"), self._place(module, "bias")
                if modules and isinstance(modules[0], nn.ReLU):
                    _require_like(modules.pop(0), nn.ReLU())
                    stage["relu"] = 1
                if modules and isinstance(modules[0], nn.BatchNorm2d):
                    norm = cast(nn.BatchNorm2d, modules.pop(0))
                    self._require_known_norm(norm)
                    self._eps = norm.eps
                    stage["norm"] = 1
                    stage["gamma"], stage["beta"] = self._place(norm, "weight"), self._place(norm, "bias")
                    self._norms.append((norm, slice(slot, slot + self._channels), self._size**2))
            case nn.MaxPool2d() | nn.AvgPool2d():
                kernel_size, stride = module.kernel_size, module.stride
                if not isinstance(kernel_size, int) or not isinstance(stride, int) or kernel_size > self._size:
                    raise _UnsupportedError
                kind = nn.MaxPool2d if isinstance(module, nn.MaxPool2d) else nn.AvgPool2d
                _require_like(module, kind(kernel_size, stride))
                stage["kind"] = MAX_POOL if kind is nn.MaxPool2d else AVERAGE_POOL
                stage["kernel_size"], stage["stride"] = kernel_size, stride
                self._size = (self._size - kernel_size) // stride + 1
            case nn.AdaptiveAvgPool2d():
                _require_like(module, nn.AdaptiveAvgPool2d(1))
                stage["kind"], stage["kernel_size"], stage["stride"] = AVERAGE_POOL, self._size, 1
                self._size = 1
            case nn.Flatten() if self._size == 1 and not modules:
                _require_like(module, nn.Flatten())
                return
            case _:
                raise _UnsupportedError
        if self._size < 1:
            raise _UnsupportedError
        self._slot = slot
        stage["out_channels"], stage["out_size"], stage["out_channel"] = self._channels, self._size, slot
        self._stages.append(stage)

    def _require_known_norm(self, norm: nn.BatchNorm2d) -> None:
        """Raise _UnsupportedError where it does anything but normalise by its batch and keep running statistics."""
        kind = BatchNorm2d if isinstance(norm, BatchNorm2d) else nn.BatchNorm2d
        _require_like(norm, kind(self._channels, norm.eps, norm.momentum, device="meta"))
        known = norm.momentum is not None and norm.training == self._training and self._eps in (None, norm.eps)
        statistics = norm.running_mean, norm.running_var
        if not known or any(values is None or not _on_cpu(values) for values in statistics):
            raise _UnsupportedError

    def _place(self, module: nn.Module, name: str) -> int:
        """Where its parameter of that name begins among the flat parameters."""
        parameter = getattr(module, name)
        if not isinstance(parameter, nn.Parameter) or not _on_cpu(parameter):
            raise _UnsupportedError
        place, self._count = self._count, self._count + parameter.numel()
        self._params.append(parameter)
        return place

    def _make_room(self, images: int) -> None:
        """Work space for a batch of this size."""
        blocks = -(-images // LANES)
        before, end, choices, largest = 0, blocks * LANES * self._stages[0]["in_size"] ** 2, 0, 0
        for stage in self._stages:
            numbers = blocks * LANES * stage["out_size"] ** 2 * stage["out_channels"]
            stage["input"], stage["output"] = before, end
            before, end = end, end + numbers
            if stage["kind"] == MAX_POOL:
                stage["choice"], choices = choices, choices + numbers
            largest = max(largest, numbers)
        self._images = images
        self._plan = np.array([[stage[name] for name in FIELDS] for stage in self._stages], np.int64)
        self._activations, self._choices = kernels.zeros(end), np.zeros(max(choices, 1), np.int32)
        self._above, self._below = kernels.zeros(largest), kernels.zeros(largest)
        sizes = kernels.scratch_sizes(self._plan)
        self._own = [tuple(kernels.zeros(size) for size in sizes) for _ in range(self._threads)]
        slots = self._slot + self._channels
        self._stats, self._slopes = np.zeros((blocks, slots, 2)), np.zeros((slots, 3), np.float32)
        self._scale, self._shift = np.ones(slots, np.float32), np.zeros(slots, np.float32)
        self._mean, self._variance, self._inverse = np.zeros(slots), np.zeros(slots), np.zeros(slots)

    def forward(self, x: Tensor) -> Tensor:
        images = len(x)
        if images != self._images:
            self._make_room(images)
        blocks, pixels, whole = -(-images // LANES), x[0].numel(), images // LANES
        entry = torch.from_numpy(self._activations[: blocks * pixels * LANES]).view(blocks, pixels, LANES)
        entry[:whole] = x[: whole * LANES].reshape(whole, LANES, pixels).transpose(1, 2)
        if whole < blocks:
            entry[whole] = 0
            entry[whole, :, : images - whole * LANES] = x[whole * LANES :].reshape(-1, pixels).t()
        self._flat = torch.cat([parameter.detach().reshape(-1) for parameter in self._params]).numpy()
        counters = np.zeros(2 * len(self._plan), np.int64)
        shared = (
            self._plan, self._flat, images, self._activations, self._choices, self._scale, self._shift, self._mean,
            self._variance, self._inverse, self._stats, self._eps or 0.0, counters,
        )  # fmt: skip
        _together(kernels.forward, [(*shared, scratch, out) for scratch, out, _ in self._own])
        self._update_running_statistics()
        end = len(self._activations)
        logits = torch.from_numpy(self._activations[end - blocks * self._channels * LANES :])
        return logits.view(blocks, self._channels, LANES).transpose(1, 2).reshape(-1, self._channels)[:images]

    def backward(self, gradient: Tensor) -> list[Tensor]:
        images, classes = gradient.shape
        blocks = -(-images // LANES)
        filled = torch.zeros(blocks * LANES, classes)
        filled[:images] = gradient
        above = torch.from_numpy(self._above[: filled.numel()]).view(blocks, classes, LANES)
        above.copy_(filled.view(blocks, LANES, classes).transpose(1, 2))
        gradients = np.zeros((blocks, self._count), np.float32)
        counters = np.zeros(4 * len(self._plan), np.int64)
        shared = (
            self._plan, self._flat, images, self._activations, self._choices, self._scale, self._shift, self._mean,
            self._inverse, gradients, self._above, self._below, self._slopes, counters,
        )  # fmt: skip
        _together(kernels.backward, [(*shared, *own) for own in self._own])
        pieces = torch.split(torch.from_numpy(gradients).sum(0), [parameter.numel() for parameter in self._params])
        return [piece.view_as(parameter) for piece, parameter in zip(pieces, self._params, strict=True)]

    def _update_running_statistics(self) -> None:
        mean, variance = torch.from_numpy(self._mean).float(), torch.from_numpy(self._variance).float()
        for norm, slots, places in self._norms:
            count = self._images * places
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert norm.num_batches_tracked is not None
            assert norm.momentum is not None
            norm.running_mean.lerp_(mean[slots], norm.momentum)
            norm.running_var.lerp_(variance[slots] * (count / (count - 1)), norm.momentum)
            norm.num_batches_tracked.add_(1)


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, network: _FastPath, *params: Tensor) -> Tensor:
        ctx.network = network
        return network.forward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *ctx.network.backward(gradients[0]))


_waiting: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = SimpleQueue()
_helpers: list[threading.Thread] = []


def _together(kernel: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> None:
    """Call the kernel here and in helper threads, each with its own arguments. Late helpers find nothing left to do."""
    while len(_helpers) < len(arguments) - 1:
        _helpers.append(threading.Thread(target=_help, name="training-helper", daemon=True))
        _helpers[-1].start()
    for own in arguments[1:]:
        _waiting.put((kernel, own))
    kernel(*arguments[0])


def _help() -> None:
    while True:
        kernel, arguments = _waiting.get()
        kernel(*arguments)
        # Held until the next call, they would keep a finished network's work space in memory.
        del kernel, arguments
