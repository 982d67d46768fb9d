"""The stock modules of a network as the reference for its fast path, with the same dropout."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, nn

from lib.design.layers import Shape
from lib.nn import vectors
from lib.nn.fast_path import fast_path
from lib.nn.kernels import CHANNEL_DROPOUT
from lib.nn.modules import BatchNorm2d, Dropout, Dropout2d, GhostBatchNorm2d, LayerNorm2d
from lib.nn.vectors import LANES

# Mean of the values that a norm takes together, in standard deviations, beyond which it loses too many digits to
# compare single precision.
MAX_CONDITION = 20
IsExternal = Callable[[nn.Module, Shape], bool]


# numba knows the types of its intrinsics.
_operations: Any = vectors


def _draw(out: Any, seed: Any, other_seed: Any, threshold: Any, scale: Any) -> None:
    for index in range(0, len(out), LANES):
        _operations.store(out, index, _operations.keep(np.uint32(index), seed, other_seed, threshold, scale))


_compiled_draw = njit(_draw)


def drawn_factors(count: int, seeds: Sequence[int], p: float) -> NDArray[np.float32]:
    """The first `count` factors of a dropout, a multiple of LANES: 0 with probability `p`, otherwise 1 / (1 - p)."""
    out = np.zeros(count, np.float32)
    numbers = [np.uint32(number) for number in (*seeds, round(p * 2**32))]
    _compiled_draw(out, *numbers, np.float32(1 / (1 - p)))
    return out


class FixedDropout(nn.Module):
    """Multiplies by given factors in place of a dropout."""

    factors: Tensor

    def forward(self, x: Tensor) -> Tensor:
        factors = self.factors.to(x)
        return x * (factors.flatten(1) if x.dim() == 2 else factors)


class Comparison:
    """A network with a fast path, and the same network in torch's modules in single and in double precision."""

    def __init__(
        self,
        network: nn.Sequential,
        is_external: IsExternal = lambda _module, _shape: False,
        threads: int | None = None,
    ) -> None:
        self.network = network
        found: Any = fast_path(network, threads, is_external)
        assert found is not None
        self.forward = found
        self.numbers = {id(module): number for number, module in enumerate(found._plan.dropouts)}
        self.single, self.double = self._stock(), self._stock().double()

    def _stock(self) -> nn.Sequential:
        copied = copy.deepcopy(self.network)
        for index, module in enumerate(self.network):
            if isinstance(module, BatchNorm2d):
                copied[index] = nn.BatchNorm2d(module.num_features)
                copied[index].load_state_dict(module.state_dict())
            elif id(module) in self.numbers:
                copied[index] = FixedDropout()
            elif _is_dropout(module) and not module.p:
                # The kernels draw nothing for it.
                copied[index] = nn.Identity()
        return copied

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the fast path, and of torch in single and in double precision."""
        modules: Any = self.network
        generator = next((module.generator for module in modules if _is_dropout(module)), torch.Generator())
        state = generator.get_state()
        logits = self.forward(x)
        self._share_dropouts(state)
        return logits, self.single(x), self.double(x.double())

    def _share_dropouts(self, state: Tensor) -> None:
        """Give the copies the factors of the last forward pass; `state` is that of the generator before it."""
        plan, work, images = self.forward._plan, self.forward._work, self.forward._images
        records = {int(record["dropout_number"]): record for record in plan.records.tensors if record["dropout"]}
        modules: Any = self.network
        for index, module in enumerate(modules):
            number = self.numbers.get(id(module))
            copies: Any = (self.single, self.double)
            for copied in copies:
                if number is not None:
                    copied[index].factors = _factors(records[number], work.seeds[2 * number :][:2], module.p, images)
                elif _is_dropout(copied[index]):
                    # torch drops these channels, with numbers that follow the seeds of the kernels.
                    copied[index].generator.set_state(state)
                    for _ in plan.dropouts:
                        torch.randint(2**32, (2,), generator=copied[index].generator)

    def condition(self, x: Tensor) -> float:
        """The largest mean of the values that a norm takes together, in standard deviations, in double precision."""
        ratios = [0.0]

        def measure(norm: Any, inputs: tuple[Tensor, ...]) -> None:
            for values in _normalized_together(norm, inputs[0]):
                deviations = (values.var(-1, correction=0) + norm.eps).sqrt()
                ratios.append(float((values.mean(-1).abs() / deviations).max()))

        norms = (nn.BatchNorm2d, nn.BatchNorm1d, nn.GroupNorm, nn.InstanceNorm2d, nn.LayerNorm)
        copied = copy.deepcopy(self.double)
        for module in copied:
            if isinstance(module, norms):
                module.register_forward_pre_hook(measure)
        with torch.no_grad():
            copied(x.double())
        return max(ratios)

    def errors(
        self, images: int, generator: torch.Generator, max_condition: float = MAX_CONDITION
    ) -> tuple[float, float]:
        """Train on a batch; return the largest relative error of a parameter's gradient.

        First that of the fast path, then that of torch's modules in single precision, both against torch in double
        precision: a norm of almost constant values makes rounding errors large.

        In one draw out of five, rounding changes the sign of a ReLU's input or the argmax of a max-pool where two
        values are almost equal, and the gradient differs on any machine, also with torch alone. A defect shows in
        every draw and such a tie does not, so the tests take the smallest error of several draws.

        Returns infinity twice if a norm has a mean of more than `max_condition` standard deviations.
        """
        x = torch.randn(images, 1, 28, 28, generator=generator)
        for some in (self.network, self.single, self.double):
            some.zero_grad()
        logits, rounded, expected = self.outputs(x)
        if self.condition(x) > max_condition:
            return math.inf, math.inf
        weights = torch.randn(expected.shape, generator=generator)
        # The loss is smooth in the logits, so that rounding changes it little.
        for answer in (logits, rounded, expected):
            (answer * weights).sum().backward()  # type: ignore[no-untyped-call]
        assert excess(logits, rounded, expected) <= 1e-4
        for name, buffer in self.network.named_buffers():
            assert excess(buffer, self.single.state_dict()[name], self.double.state_dict()[name]) <= 1e-4, name
        ours, theirs = (
            max(
                (
                    relative_error(parameter.grad, exact.grad)
                    for parameter, exact in zip(some.parameters(), self.double.parameters(), strict=True)
                ),
                default=0.0,
            )
            for some in (self.network, self.single)
        )
        return ours, theirs


def _is_dropout(module: nn.Module) -> bool:
    return isinstance(module, Dropout | Dropout2d)


def _factors(record: Any, seeds: NDArray[np.uint32], p: float, images: int) -> Tensor:
    """The factors (N, channels, height, width) of a tensor's dropout, in the layout of `lib.nn.kernels`."""
    is_whole = record["dropout"] == CHANNEL_DROPOUT
    height, width = (1, 1) if is_whole else (int(record["height"]), int(record["width"]))
    shape = (-(-images // LANES), int(record["channels"]), height, width, LANES)
    drawn = drawn_factors(math.prod(shape), seeds.tolist(), p)
    return torch.from_numpy(drawn).view(shape).permute(0, 4, 1, 2, 3).flatten(0, 1)[:images]


def _normalized_together(norm: nn.Module, x: Tensor) -> list[Tensor]:
    """Rows of the values that a norm takes together."""
    match norm:
        case GhostBatchNorm2d():
            return [part.transpose(0, 1).flatten(1) for part in torch.chunk(x, norm.num_splits)]
        case nn.BatchNorm2d() | nn.BatchNorm1d():
            return [x.transpose(0, 1).flatten(1)]
        case nn.GroupNorm():
            return [x.reshape(len(x), norm.num_groups, -1)]
        case nn.InstanceNorm2d():
            return [x.flatten(2)]
        case LayerNorm2d():
            return [x.movedim(1, -1)]
    return [x.flatten(1)]


def excess(actual: Tensor | None, rounded: Tensor | None, expected: Tensor | None) -> float:
    """The relative error of the first tensor beyond ten times that of the second, which torch has rounded."""
    return relative_error(actual, expected) - 10 * relative_error(rounded, expected)


def relative_error(actual: Tensor | None, expected: Tensor | None) -> float:
    """Norm of the difference of two tensors of one shape, relative to the norm of the second plus 0.1."""
    assert actual is not None
    assert expected is not None
    assert actual.shape == expected.shape
    with torch.no_grad():
        return float((actual.double() - expected.double()).norm()) / (float(expected.double().norm()) + 0.1)
