"""Build an architecture as a torch network."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from lib.design.layers import Architecture
from lib.design.operation_specs import SPECS
from lib.design.operations import IMAGE, Operation, operations
from lib.nn import modules
from lib.nn.memory import batch_size

# Tensors of fewer bytes are copied.
COPIED_BYTES = 2**20


class Network(nn.Sequential):
    """The modules of an architecture, in the order of `lib.design.operations.operations`.

    If it has no branches, each module takes the output of the one before it, as in any `nn.Sequential`.
    """

    architecture: Architecture
    # For each module, the modules whose outputs it takes; None if there are no branches.
    branches: tuple[tuple[int, ...], ...] | None = None

    def forward(self, input: Tensor) -> Tensor:
        if self.branches is None:
            return cast(Tensor, super().forward(input))  # type: ignore[no-untyped-call]
        # A deque of one keeps no other output.
        return deque(self.outputs(input), maxlen=1)[0]

    def outputs(self, input: Tensor) -> Iterator[Tensor]:
        """The output of each module, for images (N, 1, 28, 28)."""
        branches = self.branches or tuple((index - 1,) for index in range(len(self)))
        last_use = {source: index for index, sources in enumerate(branches) for source in sources}
        kept = {IMAGE: input}
        for index, (module, sources) in enumerate(zip(self, branches, strict=True)):
            output = module(*(kept[source] for source in sources))
            kept[index] = output
            # What no later module takes need not be kept.
            for source in sources:
                if last_use[source] == index:
                    kept.pop(source, None)
            yield output


def build(architecture: Architecture, seed: int = 0) -> Network:
    """Network with random weights: images (N, 1, 28, 28) float -> logits (N, 10).

    The weights are distributed as torch initializes them. The same seed gives the same weights in any thread, because
    each network draws from its own generator and not from torch's global one.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = operations(architecture)
    network = Network(*(_module(operation, generator) for operation in steps))
    network.architecture = architecture
    is_sequential = all(step.inputs == (index - 1,) for index, step in enumerate(steps))
    network.branches = None if is_sequential else tuple(step.inputs for step in steps)
    for module in network:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
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
    source = modules if hasattr(modules, operation.kind) else nn
    arguments = dict(call.kwargs)
    if operation.kind in ("Dropout", "Dropout2d"):
        arguments["generator"] = generator
    return cast(nn.Module, getattr(source, operation.kind)(*call.args, **arguments))


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
