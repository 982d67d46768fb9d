"""Memory and work of a pass through a network, estimated without torch, and the limits for both.

- A forward pass in eval mode holds, module by module, the input, the output and what the convolution copies meanwhile.
- Everything that is not training splits its images by `batch_size`, and asks `require_readable` first.
- `is_out_of_memory` tells an allocation that failed from any other error; `OUT_OF_MEMORY` is the sentence for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from lib.design.analysis import analyze
from lib.design.layers import Architecture
from lib.design.operation_specs import SPECS
from lib.design.operations import Operation, operations
from lib.text.formatting import gigabytes

# Images at once through a network that is small, as all that are shipped.
BATCH = 250
# What one forward pass, or one look inside, may take.
BUDGET = 512 * 2**20
# A number that is put out takes as long as so many multiply-accumulates: to write and read it is what takes the time.
MACS_A_NUMBER = 50
# What reading one image may take: some seconds on one core.
MOST_WORK = 10**11
# And reading many, as to measure: about a minute.
MEASURING_WORK = 2 * 10**12
# oneDNN pads channels to this many, the width of its vectors. For a batch of one image of at most so many numbers, and
# for 1x1 kernels and few images, torch does without it.
LANES, NATIVE_NUMBERS, NATIVE_IMAGES = 16, 20_480, 16
OUT_OF_MEMORY = (
    "There is not enough memory for this just now. Close other programs, or choose a smaller network: less padding, "
    "fewer channels."
)
_REMEDY = "Use less padding, fewer channels, or pools further up."


class TooLargeError(RuntimeError):
    """A network that is too large for what was asked. The message says what it would take, the limit and a remedy."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory could not be had, as Python or torch say it."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError)
        and any(
            words in text
            for words in ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")
        )
    )


def forward_bytes(architecture: Architecture, images: int, unfolds: bool = False) -> int:
    """The most that a forward pass in eval mode holds at once for so many images, in bytes at 4 a number.

    Where torch has no oneDNN, a convolution `unfolds` its input: k * k numbers for each.
    """
    return max(_step_bytes(step, images, unfolds) for step in _steps(architecture))


def backward_bytes(architecture: Architecture, images: int, unfolds: bool = False) -> int:
    """The most that a gradient with respect to the images takes: every output is kept, and then comes the way back."""
    kept = sum(math.prod(step.output_shape) * (4 + SPECS[step.kind].index_bytes) for step in _steps(architecture))
    return images * kept + 2 * forward_bytes(architecture, images, unfolds)


def work(architecture: Architecture) -> int:
    """What one image takes in a forward pass, in multiply-accumulates; the numbers put out count too."""
    found = analyze(architecture)
    return found.macs + MACS_A_NUMBER * found.activations


@lru_cache(maxsize=256)
def batch_size(architecture: Architecture, unfolds: bool = False, most: int = BATCH) -> int:
    """How many images may go through the network at once within BUDGET; at least 1, whatever that takes."""
    return _fitting(lambda images: forward_bytes(architecture, images, unfolds), most)


def require_readable(architecture: Architecture, unfolds: bool = False) -> None:
    """Raises TooLargeError where a single image takes more than BUDGET, or more time than somebody waits."""
    problem = _unreadable(architecture, unfolds)
    if problem:
        raise TooLargeError(problem)


@lru_cache(maxsize=256)
def gradient_batch_size(architecture: Architecture, unfolds: bool = False, most: int = BATCH) -> int:
    """As `batch_size`, for gradients with respect to the images. Raises TooLargeError where one image is too many."""
    require_readable(architecture, unfolds)
    needed = backward_bytes(architecture, 1, unfolds)
    if needed > BUDGET:
        raise TooLargeError(
            f"A gradient keeps all that the network puts out: {gigabytes(needed)} for one image, and the limit here is "
            f"{gigabytes(BUDGET)}. {_REMEDY}"
        )
    return _fitting(lambda images: backward_bytes(architecture, images, unfolds), most)


def require_work(architecture: Architecture, passes: int, most: int = MOST_WORK) -> None:
    """Raises TooLargeError where so many passes of one image take longer than somebody waits."""
    if passes * work(architecture) > most:
        raise TooLargeError(
            f"This takes {passes:,} passes of {work(architecture) / 1e9:,.1f} billion multiply-accumulates each, and "
            f"the limit here is {most / 1e9:,.0f} billion in all. Take fewer images, or a smaller network."
        )


@lru_cache(maxsize=256)
def _unreadable(architecture: Architecture, unfolds: bool) -> str | None:
    needed, macs = forward_bytes(architecture, 1, unfolds), work(architecture)
    if needed > BUDGET:
        step = max(_steps(architecture), key=lambda step: math.prod(step.output_shape))
        channels, side, _ = step.output_shape
        return (
            f"This network is too large to be read from: layer {step.layer + 1} puts out {channels:,} × {side:,} × "
            f"{side:,} numbers, one image takes {gigabytes(needed)} of memory, and the limit here is "
            f"{gigabytes(BUDGET)}. {_REMEDY}"
        )
    if macs > MOST_WORK:
        return (
            f"This network is too large to be read from: one image takes {macs / 1e9:,.0f} billion "
            f"multiply-accumulates, and the limit here is {MOST_WORK / 1e9:,.0f} billion. {_REMEDY}"
        )
    return None


@lru_cache(maxsize=64)
def _steps(architecture: Architecture) -> Sequence[Operation]:
    return tuple(operations(architecture))


def _fitting(needed: Callable[[int], int], most: int) -> int:
    images = most
    while images > 1 and (now := needed(images)) > BUDGET:
        images = max(1, min(images - 1, images * BUDGET // now))
    return images


def _step_bytes(step: Operation, images: int, unfolds: bool) -> int:
    spec = SPECS[step.kind]
    inputs, outputs = math.prod(step.input_shape), math.prod(step.output_shape)
    own = 0 if spec.is_view else outputs * (4 + spec.index_bytes)
    return images * (4 * inputs + own) + (4 * workspace(step, images, unfolds) if step.kind == "Conv2d" else 0)


def workspace(step: Operation, images: int, unfolds: bool) -> int:
    """Numbers that a convolution holds beside input and output."""
    (inputs, before, _), (outputs, after, _) = step.input_shape, step.output_shape
    # A dilated one is unfolded image by image.
    unfolded = (images if step.dilation == 1 else 1) * step.kernel_size**2 * inputs * after**2
    if unfolds:
        return unfolded
    blocked = images * (_padded(inputs) * before**2 + _padded(outputs) * after**2)
    blocked += 2 * _padded(inputs) * _padded(outputs) * step.kernel_size**2
    native = (images == 1 and step.kernel_size <= 3 and inputs * before**2 <= NATIVE_NUMBERS) or (
        images < NATIVE_IMAGES and step.kernel_size == 1
    )
    return max(blocked, unfolded) if native else blocked


def _padded(channels: int) -> int:
    return -(-channels // LANES) * LANES
