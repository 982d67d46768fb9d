"""Memory and work of a pass through a network, estimated without torch, and the limits for both.

- A forward pass in eval mode holds, for one module at a time, its input, its output and the workspace of a convolution.
- All code except training splits its images by `batch_size`, and calls `require_inference_fits` first.
- `is_out_of_memory` recognizes a failed allocation; `OUT_OF_MEMORY` is the message for it.

Several functions take `im2col`: whether torch's convolutions copy each window of their input into a column of a matrix,
as they do without oneDNN (`lib.nn.network.uses_im2col`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from lib.design.analysis import analyze
from lib.design.layers import INPUT_SHAPE, Architecture
from lib.design.operation_specs import SPECS
from lib.design.operations import IMAGE, Operation, operations
from lib.text.formatting import gigabytes

# The usual batch size in eval mode. All shipped networks stay within BUDGET with it.
BATCH = 250
# Bytes that one forward pass, or one analysis on the Inspect page, may take.
BUDGET = 512 * 2**20
# Writing and reading an activation takes about as long as this many multiply-accumulates.
MACS_PER_ACTIVATION = 50
# Limit of `work` for one image: some seconds on one core.
MAX_WORK = 10**11
# Limit of `work` for a whole set of images: about a minute.
MEASURING_WORK = 2 * 10**12
# oneDNN pads channels to a multiple of this, the width of its vectors.
ONEDNN_BLOCK = 16
# torch does not use oneDNN for one image of at most NATIVE_VALUES values and a kernel of at most 3×3, nor for a 1×1
# kernel and fewer than NATIVE_IMAGES images.
NATIVE_VALUES, NATIVE_IMAGES = 20_480, 16
OUT_OF_MEMORY = (
    "There is not enough memory for this just now. Close other programs, or choose a smaller network: less padding, "
    "fewer channels."
)
_REMEDY = "Use less padding, fewer channels, or pools further up."


class TooLargeError(RuntimeError):
    """A network that is too large for a request. The message says what it needs, the limit and a remedy."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it reports a failed allocation, in Python, torch or the system."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError)
        and any(
            words in text
            for words in ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")
        )
    )


def forward_bytes(architecture: Architecture, images: int, im2col: bool = False) -> int:
    """Peak bytes of a forward pass in eval mode, in float32, for a batch of this many images."""
    return max(
        _step_bytes(step, images, im2col) + 4 * images * kept
        for step, kept in zip(operations(architecture), _kept_values(architecture), strict=True)
    )


def backward_bytes(architecture: Architecture, images: int, im2col: bool = False) -> int:
    """Peak bytes of a gradient with respect to a batch of images: all outputs, and a backward pass."""
    kept = sum(math.prod(step.output_shape) * (4 + SPECS[step.kind].index_bytes) for step in operations(architecture))
    return images * kept + 2 * forward_bytes(architecture, images, im2col)


def work(architecture: Architecture) -> int:
    """Time of a forward pass for one image, as a number of multiply-accumulates; activations count as well."""
    analysis = analyze(architecture)
    return analysis.macs + MACS_PER_ACTIVATION * analysis.activations


@lru_cache(maxsize=256)
def batch_size(architecture: Architecture, im2col: bool = False, most: int = BATCH) -> int:
    """Largest number of images, up to `most`, whose forward pass stays within BUDGET; at least 1."""
    return _fitting(lambda images: forward_bytes(architecture, images, im2col), most)


def require_inference_fits(architecture: Architecture, im2col: bool = False) -> None:
    """Raise TooLargeError if one image needs more than BUDGET or MAX_WORK."""
    problem = _inference_problem(architecture, im2col)
    if problem:
        raise TooLargeError(problem)


@lru_cache(maxsize=256)
def gradient_batch_size(architecture: Architecture, im2col: bool = False, most: int = BATCH) -> int:
    """Like `batch_size`, for gradients with respect to the images. Raises TooLargeError if one image does not fit."""
    require_inference_fits(architecture, im2col)
    needed = backward_bytes(architecture, 1, im2col)
    if needed > BUDGET:
        raise TooLargeError(
            f"A gradient keeps all outputs of the network: {gigabytes(needed)} for one image, and the limit here is "
            f"{gigabytes(BUDGET)}. {_REMEDY}"
        )
    return _fitting(lambda images: backward_bytes(architecture, images, im2col), most)


def require_work(architecture: Architecture, passes: int, limit: int = MAX_WORK) -> None:
    """Raise TooLargeError if the `work` of this many forward passes of one image is above `limit`."""
    if passes * work(architecture) > limit:
        raise TooLargeError(
            f"This takes {passes:,} passes of {work(architecture) / 1e9:,.1f} billion multiply-accumulates each, and "
            f"the limit here is {limit / 1e9:,.0f} billion in all. Take fewer images, or a smaller network."
        )


@lru_cache(maxsize=256)
def _inference_problem(architecture: Architecture, im2col: bool) -> str | None:
    needed, macs = forward_bytes(architecture, 1, im2col), work(architecture)
    if needed > BUDGET:
        step = max(operations(architecture), key=lambda step: math.prod(step.output_shape))
        channels, height, width = step.output_shape
        return (
            f"This network is too large for predictions: the output of layer {step.layer + 1} has {channels:,} × "
            f"{height:,} × {width:,} values, one image takes {gigabytes(needed)} of memory, and the limit here is "
            f"{gigabytes(BUDGET)}. {_REMEDY}"
        )
    if macs > MAX_WORK:
        return (
            f"This network is too large for predictions: one image takes {macs / 1e9:,.0f} billion "
            f"multiply-accumulates, and the limit here is {MAX_WORK / 1e9:,.0f} billion. {_REMEDY}"
        )
    return None


@lru_cache(maxsize=64)
def _kept_values(architecture: Architecture) -> Sequence[int]:
    """For each module, the values of one image that only later modules take: outputs of other branches."""
    steps = operations(architecture)
    sizes = {IMAGE: math.prod(INPUT_SHAPE)} | {index: math.prod(step.output_shape) for index, step in enumerate(steps)}
    last_use = {source: index for index, step in enumerate(steps) for source in step.inputs}
    return [
        sum(sizes[source] for source, last in last_use.items() if source < index < last and source not in step.inputs)
        # A join takes more than one input, and only the first is counted with the module.
        + sum(sizes[source] for source in step.inputs[1:])
        for index, step in enumerate(steps)
    ]


def _fitting(needed: Callable[[int], int], most: int) -> int:
    """Number of images from 1 to `most` whose needed bytes are within BUDGET, close to the largest one."""
    images = most
    while images > 1 and (count := needed(images)) > BUDGET:
        images = max(1, min(images - 1, images * BUDGET // count))
    return images


def _step_bytes(step: Operation, images: int, im2col: bool) -> int:
    spec = SPECS[step.kind]
    inputs, outputs = math.prod(step.input_shape), math.prod(step.output_shape)
    own = 0 if spec.is_view else outputs * (4 + spec.index_bytes)
    return images * (4 * inputs + own) + (4 * workspace(step, images, im2col) if step.kind == "Conv2d" else 0)


def workspace(step: Operation, images: int, im2col: bool) -> int:
    """Values that a convolution holds in addition to its input and output."""
    inputs, outputs = step.input_shape[0], step.output_shape[0]
    before, after, taps = math.prod(step.input_shape[1:]), math.prod(step.output_shape[1:]), math.prod(step.kernel_size)
    # A dilated convolution copies the windows of one image at a time.
    columns = (images if step.dilation == 1 else 1) * taps * inputs * after
    if im2col:
        return columns
    blocked = images * (_padded(inputs) * before + _padded(outputs) * after)
    blocked += 2 * _padded(inputs) * _padded(outputs) * taps
    native = (images == 1 and max(step.kernel_size) <= 3 and inputs * before <= NATIVE_VALUES) or (
        images < NATIVE_IMAGES and taps == 1
    )
    return max(blocked, columns) if native else blocked


def _padded(channels: int) -> int:
    return -(-channels // ONEDNN_BLOCK) * ONEDNN_BLOCK
