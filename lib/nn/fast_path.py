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

from lib.design.layers import Shape
from lib.nn import kernels
from lib.nn.kernels import CONVOLUTION, Workspace
from lib.nn.network import torch_threads
from lib.nn.plan import External, NetworkPlan, Norm, UnsupportedError, build_plan
from lib.nn.vectors import LANES

# A batch of 128 images has eight blocks: more threads than this find too few of them.
MAX_THREADS = 8


def fast_path(
    network: nn.Sequential,
    threads: int | None = None,
    is_external: Callable[[nn.Conv2d | nn.Linear, Shape], bool] = lambda _module, _shape: False,
) -> FastPath | None:
    """Function from images (N, 1, 28, 28), float32 on the CPU, to logits (N, 10), in training mode.

    None if the kernels do not cover a module of a plain `nn.Sequential`. In a `Network`, torch computes the kinds of
    modules that they do not cover. None also if a module has any argument, attribute or hook that is not known, so that
    nothing is ignored silently.

    `threads` includes the calling thread; by default there is one for each core, and at most MAX_THREADS. The results
    do not depend on it. `is_external` says of a convolution or linear layer, and the shape of its input, whether torch
    computes it. A backward pass belongs to the last forward pass before it.
    """
    try:
        plan = build_plan(network, is_external)
    except UnsupportedError:
        return None
    return FastPath(plan, threads)


def default_threads() -> int:
    """Number of threads of the kernels: one for each core, and at most MAX_THREADS."""
    return min(os.cpu_count() or 1, MAX_THREADS)


class FastPath:
    """The workspace of a plan for one batch size, and the calls of the kernels; see `fast_path`.

    If `check` is given, it is called between two segments, and may end a pass with an exception.
    """

    check: Callable[[], None] | None = None

    def __init__(self, plan: NetworkPlan, threads: int | None = None) -> None:
        threads = min(threads or default_threads(), MAX_THREADS)
        # The places of tensors depend on the size of a batch.
        records = plan.records._replace(tensors=plan.records.tensors.copy(), stages=plan.records.stages.copy())
        self._plan, self._records = plan, records
        external = [parameter for step in plan.externals for parameter in step.module.parameters()]
        self._params: list[Tensor] = [*plan.params, *external]
        self._num_params = sum(parameter.numel() for parameter in plan.params)
        self._images = 0
        # The batch norms by momentum, each with its slots.
        self._norms: dict[float, list[tuple[Norm, slice]]] = {}
        for norm in plan.norms:
            record = records.tensors[norm.tensor]
            slots = slice(int(record["slot"]), int(record["slot"] + record["channels"]))
            self._norms.setdefault(cast(float, norm.module.momentum), []).append((norm, slots))
        # The inputs and outputs of external modules between the forward and the backward pass.
        self._external: list[tuple[Tensor, Tensor]] = []
        # Calls of the kernels: segments from `first` to `end`, each run after the external module, if any.
        ends = [step.segment for step in plan.externals] + [len(plan.records.segments)]
        self._runs: list[tuple[External | None, int, int]] = [(None, 0, ends[0])]
        self._runs += [(step, step.segment, end) for step, end in zip(plan.externals, ends[1:], strict=True)]
        self._scratch = [
            tuple(kernels.zeros(size) for size in (plan.x_size, plan.g_size, plan.w_size)) for _ in range(threads)
        ]
        self._thresholds = np.array([round(module.p * 2**32) for module in plan.dropouts], np.uint32)
        self._keep_scales = np.array([1 / (1 - module.p) for module in plan.dropouts], np.float32)

    @property
    def is_useful(self) -> bool:
        """Whether the kernels compute any convolution or linear layer; otherwise torch is faster without them."""
        return bool((self._plan.records.stages["kind"] == CONVOLUTION).any())

    def __call__(self, x: Tensor) -> Tensor:
        return cast(Tensor, _Pass.apply(x, self, *self._params))

    def _allocate(self, images: int) -> None:
        """Allocate the workspace for a batch of this size."""
        plan, blocks = self._plan, -(-images // LANES)
        tensors = self._records.tensors
        sizes = LANES * tensors["channels"] * tensors["height"] * tensors["width"]
        tensors["values"] = np.cumsum(sizes) - sizes
        tensors["grad"], grad_size = _grad_places(plan.records)
        self._records.stages["argmax"] = plan.records.stages["argmax"] * blocks
        self._shares, self._unbiased_shares = self._part_shares(images)
        lanes = blocks * plan.slots * LANES
        ones = kernels.zeros(lanes)
        ones[:] = 1
        # A norm that left padding as it is would let it grow from layer to layer, up to infinity.
        scale = ones.copy().reshape(blocks, plan.slots, LANES)
        for record in tensors[tensors["norm"] != kernels.NO_NORM]:
            slots = slice(int(record["slot"]), int(record["slot"] + record["channels"]))
            scale[images // LANES :, slots, images % LANES :] = 0
        self._work = Workspace(
            values_size=int(sizes.sum()),
            grads_size=grad_size,
            # One number more, for the biases of convolutions that have none.
            params=np.zeros(self._num_params + 1, np.float32),
            packed=np.zeros(len(plan.packed), np.float32),
            eps=np.array(plan.eps, np.float32),
            seeds=np.zeros(2 * len(plan.dropouts), np.uint32),
            thresholds=self._thresholds,
            keep_scales=self._keep_scales,
            values=kernels.zeros(blocks * int(sizes.sum())),
            argmax=np.zeros(plan.argmax_size * blocks, np.int32),
            batch_mean=np.zeros((plan.parts, plan.slots)),
            batch_variance=np.zeros((plan.parts, plan.slots)),
            param_grads=np.zeros(blocks * (self._num_params + 1), np.float32),
            scale=scale.reshape(-1),
            shift=kernels.zeros(lanes),
            dropped=ones,
            statistics=kernels.zeros(2 * lanes),
            mean=kernels.zeros(lanes),
            inv_std=kernels.zeros(lanes),
            grad_sums=kernels.zeros(2 * lanes),
            coefficients=kernels.zeros(3 * lanes),
            grads=kernels.zeros(blocks * grad_size),
        )
        self._images = images

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) -> logits (N, 10), and the running statistics updated."""
        images = len(x)
        if not images:
            raise ValueError("A batch needs at least one image.")
        if images != self._images:
            self._allocate(images)
        plan, work = self._plan, self._work
        # More threads would find no block.
        blocks = -(-images // LANES)
        self._write(work.values, 0, x)
        if plan.params:
            flat = torch.from_numpy(work.params)[:-1]
            torch.cat([parameter.detach().reshape(-1) for parameter in plan.params], out=flat)
            np.take(work.params, plan.packed, out=work.packed, mode="clip")
        for number, module in enumerate(plan.dropouts):
            drawn = torch.randint(2**32, (2,), generator=module.generator)
            work.seeds[2 * number : 2 * number + 2] = drawn.numpy()
        counters = np.zeros(2 * len(plan.records.segments), np.int64)
        self._external = []
        for external, first, end in self._runs:
            if external is not None:
                self._forward_external(external)
            for start, stop in self._parts(first, end):
                if self.check:
                    self.check()
                shared = (self._records, work, images, start, stop, counters)
                _run_parallel(kernels.forward, [(*shared, x, w) for x, _, w in self._scratch[:blocks]])
        self._update_running_statistics()
        return self._read(work.values, plan.output).flatten(1)

    def _parts(self, first: int, end: int) -> list[tuple[int, int]]:
        """The segments of each call of a kernel: all at once, or one for each call if there is a check between."""
        return [(first, end)] if self.check is None else [(segment, segment + 1) for segment in range(first, end)]

    def _forward_external(self, step: External) -> None:
        x = self._read(self._work.values, step.source)
        x = x.flatten(1) if step.flat else x.contiguous(memory_format=torch.channels_last)
        # The gradient of the image has no memory.
        x.requires_grad_(bool(self._records.tensors[step.source]["needs_grad"]))
        with torch.enable_grad(), torch_threads(os.cpu_count() or 1):
            y = step.module(x)
        self._external.append((x, y))
        self._write(self._work.values, step.target, y.detach())

    def _update_running_statistics(self) -> None:
        """Update running means and variances as torch does, those of all norms with one momentum at once."""
        mean = torch.from_numpy((self._work.batch_mean * self._shares).sum(0)).float()
        variance = torch.from_numpy((self._work.batch_variance * self._unbiased_shares).sum(0)).float()
        for momentum, norms in self._norms.items():
            modules = [norm.module for norm, _ in norms]
            buffers = [module.running_mean for module in modules] + [module.running_var for module in modules]
            updates = [values[slots] for values in (mean, variance) for _, slots in norms]
            torch._foreach_lerp_(cast(list[Tensor], buffers), updates, momentum)
            torch._foreach_add_([cast(Tensor, module.num_batches_tracked) for module in modules], 1)

    def _part_shares(self, images: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Weights of the statistics of the parts of a batch in its mean and its unbiased variance, (parts, slots).

        Raises ValueError if a part has one value for a channel, whose variance is unknown.
        """
        shares = np.zeros((self._plan.parts, self._plan.slots))
        unbiased = np.zeros_like(shares)
        for norms in self._norms.values():
            for norm, slots in norms:
                tensor = self._records.tensors[norm.tensor]
                size = -(-images // int(tensor["parts"]))
                positions = int(tensor["height"] * tensor["width"])
                counts = [min(size, images - start) * positions for start in range(0, images, size)]
                if min(counts) < 2:
                    raise ValueError("Expected more than 1 value per channel when training.")
                shares[: len(counts), slots] = 1 / len(counts)
                unbiased[: len(counts), slots] = [[count / (count - 1) / len(counts)] for count in counts]
        return shares, unbiased

    def backward(self, gradient: Tensor) -> list[Tensor]:
        """Gradient of the logits (N, 10) -> gradients of the parameters, in the shapes of the parameters."""
        plan, work = self._plan, self._work
        blocks = -(-self._images // LANES)
        self._write(work.grads, plan.output, gradient, "grad")
        counters = np.zeros(4 * len(plan.records.segments), np.int64)
        external_grads: list[list[Tensor]] = []
        for step, first, end in reversed(self._runs):
            for start, stop in reversed(self._parts(first, end)):
                if self.check:
                    self.check()
                shared = (self._records, work, self._images, start, stop, counters)
                _run_parallel(kernels.backward, [(*shared, *scratch) for scratch in self._scratch[:blocks]])
            if step is not None:
                external_grads.append(self._backward_external(step))
        sizes = [parameter.numel() for parameter in plan.params]
        summed = torch.from_numpy(work.param_grads).view(-1, self._num_params + 1).sum(0)[:-1]
        pieces = list(torch.split(summed, sizes))
        pieces += [grad for grads in reversed(external_grads) for grad in grads]
        return [piece.view_as(parameter) for piece, parameter in zip(pieces, self._params, strict=True)]

    def set_gradients(self, logits: Tensor) -> None:
        """Set the gradients of all parameters from that of the logits, after a pass of `forward` without autograd."""
        assert logits.grad is not None
        for parameter, gradient in zip(self._params, self.backward(logits.grad), strict=True):
            # The fused optimizers read both in memory order, so they need the same memory layout.
            is_same = gradient.stride() == parameter.stride()
            parameter.grad = gradient if is_same else torch.empty_like(parameter).copy_(gradient)

    def _backward_external(self, step: External) -> list[Tensor]:
        x, y = self._external.pop()
        wanted = [*([x] if x.requires_grad else []), *step.module.parameters()]
        if not wanted:
            return []
        gradient = self._read(self._work.grads, step.target, "grad").reshape(y.shape)
        with torch_threads(os.cpu_count() or 1):
            grads = list(torch.autograd.grad(y, wanted, gradient))
        if x.requires_grad:
            self._write(self._work.grads, step.source, grads.pop(0), "grad")
        return grads

    def _read(self, array: np.ndarray[Any, Any], tensor: int, field: str = "values") -> Tensor:
        """The images of a tensor of the workspace, (N, channels, height, width)."""
        blocks = self._blocks(array, tensor, field)
        return blocks.permute(0, 4, 1, 2, 3).flatten(0, 1)[: self._images]

    def _write(self, array: np.ndarray[Any, Any], tensor: int, x: Tensor, field: str = "values") -> None:
        """Write images to a tensor of the workspace, and 0 to the lanes of the last block that have no image."""
        blocks = self._blocks(array, tensor, field)
        full = self._images // LANES
        shape = blocks.shape[1:4]
        blocks[:full] = x[: full * LANES].reshape(full, LANES, *shape).permute(0, 2, 3, 4, 1)
        if full < len(blocks):
            blocks[full] = 0
            rest = x[full * LANES :].reshape(-1, *shape)
            blocks[full, ..., : len(rest)] = rest.permute(1, 2, 3, 0)

    def _blocks(self, array: np.ndarray[Any, Any], tensor: int, field: str) -> Tensor:
        """A tensor of the workspace, (blocks, channels, height, width, LANES)."""
        record = self._records.tensors[tensor]
        shape = tuple(int(record[name]) for name in ("channels", "height", "width"))
        start = int(record[field])
        end = start + LANES * shape[0] * shape[1] * shape[2]
        return torch.from_numpy(array).view(-(-self._images // LANES), -1)[:, start:end].view(-1, *shape, LANES)


def workspace_bytes(plan: NetworkPlan, images: int) -> int:
    """Memory of a `FastPath` that has trained on batches of this size, with torch's copies for external modules."""
    blocks = -(-images // LANES)
    tensors = plan.records.tensors
    sizes = LANES * tensors["channels"] * tensors["height"] * tensors["width"]
    params = sum(parameter.numel() for parameter in plan.params)
    for_blocks = int(sizes.sum()) + _grad_places(plan.records)[1] + plan.argmax_size + params
    # The arrays with a vector for each slot.
    for_blocks += 12 * LANES * plan.slots
    for_threads = plan.x_size + plan.g_size + plan.w_size
    # Input, output and their gradients, in torch's memory layout, and as autograd keeps them.
    external = sum(int(sizes[step.source] + sizes[step.target]) for step in plan.externals)
    return 4 * (blocks * (for_blocks + 3 * external) + default_threads() * for_threads + params + 2 * len(plan.packed))


def _grad_places(records: kernels.Plan) -> tuple[np.ndarray[Any, Any], int]:
    """Offsets of the gradients of all tensors, within the memory for one block, and the size of that.

    A gradient is needed from the last stage that reads the tensor to the first that writes it. Others may use its
    memory before and after.
    """
    tensors, stages = records.tensors, records.stages
    sizes = LANES * tensors["channels"] * tensors["height"] * tensors["width"]
    places = np.zeros(len(tensors), np.int64)
    placed: list[tuple[int, int, int, int]] = []
    for tensor in range(len(tensors)):
        readers, writers = np.flatnonzero(stages["source"] == tensor), np.flatnonzero(stages["target"] == tensor)
        if not tensors[tensor]["needs_grad"]:
            continue
        first, last = int(min(writers, default=0)), int(max(readers, default=len(stages)))
        start = 0
        for other_start, other_end, other_first, other_last in sorted(placed):
            is_alive = other_first <= last and first <= other_last
            if is_alive and other_start < start + sizes[tensor] and start < other_end:
                start = other_end
        places[tensor] = start
        placed.append((start, start + int(sizes[tensor]), first, last))
    return places, max((end for _, end, _, _ in placed), default=1)


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, network: FastPath, *params: Tensor) -> Tensor:
        ctx.network = network
        return network.forward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *ctx.network.backward(gradients[0]))


_tasks: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = SimpleQueue()
_workers: list[threading.Thread] = []
_starting = threading.Lock()


def _run_parallel(kernel: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> None:
    """Call the kernel in this thread and in workers, each with its own arguments.

    Returns when the call in this thread returns. A worker that starts later finds no block left.
    """
    with _starting:
        while len(_workers) < len(arguments) - 1:
            _workers.append(threading.Thread(target=_work, name="kernel-helper", daemon=True))
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
