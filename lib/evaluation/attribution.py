"""Interpretability of a network: feature maps, dead channels, filters, saliency, occlusion and receptive fields.

Results have one entry for each layer of the notation: a convolution with its ReLU and norm is one layer. Networks come
from `lib.nn.network.build` and are in eval mode; they are not changed, and no gradient is left behind. If a network is
too large, TooLargeError is raised (`lib/nn/memory.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data.dataset import normalize
from lib.design.analysis import analyze, layers_with_rows
from lib.design.layers import ACTIVATIONS, INPUT_SHAPE, Architecture
from lib.design.operations import Operation, operations
from lib.design.receptive_field import input_masks, set_bits
from lib.evaluation.metrics import probabilities
from lib.nn.memory import (
    BUDGET,
    MAX_WORK,
    TooLargeError,
    gradient_batch_size,
    require_inference_fits,
    require_work,
    work,
)
from lib.nn.network import Network, eval_batch_size, torch_threads, uses_im2col
from lib.training.trainer import recommended_threads

SIDE = INPUT_SHAPE[1]
PATCH = 5
REFERENCE_IMAGES, FIELD_IMAGES = 500, 32
# Limit for a page, in MACs of forward passes: some tenths of a second. Wide networks get fewer images.
PAGE_MACS = 2 * 10**10
# Limit for an occlusion map, in units of `lib.nn.memory.work`: about ten seconds.
OCCLUSION_WORK = 4 * 10**11
# Luo et al., section 3: pixels with at least 1 - 95.45 % of the strongest gradient belong to the field.
FIELD_THRESHOLD = 1 - 0.9545
# Modules whose output may be 0 with a gradient of 0.
CAN_BE_DEAD = frozenset(spec.module for spec in ACTIVATIONS.values() if spec.can_be_dead)


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """The output of a layer for one image: `maps` float (C, H, W), after its activation and norm.

    `silent` has the indices of the channels whose activation is zero at every position; it is empty for a layer without
    an activation that can be dead.
    `lowest`, `highest` and `side`, the larger of height and width, are those of the original maps; `maps` may have been
    made smaller.
    """

    layer: int
    maps: Tensor
    silent: tuple[int, ...]
    lowest: float
    highest: float
    side: int


def activations(
    network: Network, architecture: Architecture, image: Tensor, max_side: Callable[[int], int] | None = None
) -> list[LayerMaps]:
    """The output of every layer for one uint8 (28, 28) image.

    `max_side` gives the largest side for a number of channels; wider maps are reduced by area means.
    """
    require_inference_fits(architecture, uses_im2col())
    if max_side is None and 4 * analyze(architecture).activations > BUDGET:
        raise TooLargeError("All feature maps together are too large to be kept. Look at smaller ones of them.")
    found = []
    with torch_threads(recommended_threads(architecture)), torch.inference_mode():
        silent: tuple[int, ...] = ()
        for step, output, ends in _outputs(network, architecture, normalize(image[None])):
            if step.kind in CAN_BE_DEAD:
                silent = _zero_channels(output)
            if ends:
                maps = _as_maps(output)[0]
                low, high, side = float(maps.min()), float(maps.max()), max(maps.shape[-2:])
                if max_side is not None:
                    maps = area_means(maps, max_side(len(maps)))
                found.append(LayerMaps(step.layer, maps, silent, low, high, side))
                silent = ()
    return found


def area_means(maps: Tensor, side: int) -> Tensor:
    """Reduce maps, float (C, H, W), to at most `side` pixels a side; each value is the mean of an area.

    Height and width keep their ratio.
    """
    height, width = maps.shape[-2:]
    longer = max(height, width)
    if longer <= side:
        return maps
    size = (max(1, round(height * side / longer)), max(1, round(width * side / longer)))
    return F.interpolate(maps[None], size=size, mode="area")[0]


def dead_channels(network: Network, architecture: Architecture, images: Tensor) -> dict[int, tuple[int, ...]]:
    """Return, for each layer with an activation in CAN_BE_DEAD, the channels that are zero after it everywhere.

    That is at every position of every image, uint8 (N, 28, 28); channels count from 0. On these images no gradient
    reaches the weights of a dead channel.
    """
    require_inference_fits(architecture, uses_im2col())
    dead: dict[int, set[int]] = {}
    with torch_threads(recommended_threads(architecture)), torch.inference_mode():
        for batch in torch.split(images, eval_batch_size(architecture)):
            for step, output, _ in _outputs(network, architecture, normalize(batch)):
                if step.kind in CAN_BE_DEAD:
                    off = set(_zero_channels(output))
                    dead[step.layer] = dead.get(step.layer, off) & off
    return {layer: tuple(sorted(channels)) for layer, channels in dead.items()}


def filters(network: Network, architecture: Architecture) -> dict[int, Tensor]:
    """The weights (out, in, height, width) of each convolution, by layer index."""
    return {
        step.layer: module.weight.detach()
        for step, module in zip(operations(architecture), network.children(), strict=True)
        if isinstance(module, nn.Conv2d)
    }


def saliency(network: Network, architecture: Architecture, image: Tensor) -> Tensor:
    """|d logit / d pixel| of the predicted digit, float (28, 28), for a uint8 (28, 28) image.

    Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks", 2013, section 3. The unit is logits per
    standard deviation of the training pixels.
    """
    gradient_batch_size(architecture, uses_im2col())
    x = normalize(image[None]).requires_grad_()
    with torch_threads(recommended_threads(architecture)):
        logits = network(x)[0]
        (gradient,) = torch.autograd.grad(logits[logits.argmax()], x)
    return gradient[0, 0].abs()


def occlusion(
    network: Network, architecture: Architecture, image: Tensor, size: int = PATCH, temperature: float = 1.0
) -> Tensor:
    """Drop of the probability of the predicted digit when a black square covers each pixel, float (28, 28), -1 to 1.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014, section 4. `size` is the side of
    the square, odd; it is cut off at the edges. Black is the background of MNIST. The logits are divided by
    `temperature`.
    """
    near = (torch.arange(SIDE)[:, None] - torch.arange(SIDE)).abs() <= size // 2
    square = (near[:, None, :, None] & near[None, :, None, :]).reshape(SIDE * SIDE, SIDE, SIDE)
    covered = torch.where(square, 0, image)
    # A square without ink below it changes nothing.
    changed = (covered != image).flatten(1).any(1)
    require_work(architecture, 1 + int(changed.sum()), OCCLUSION_WORK)
    with torch_threads(recommended_threads(architecture)):
        found = probabilities(network, architecture, torch.cat([image[None], covered[changed]]), temperature)
    before = found[0]
    digit = before.argmax()
    drop = torch.zeros(SIDE * SIDE)
    drop[changed] = before[digit] - found[1:, digit]
    return drop.view(SIDE, SIDE)


def theoretical_fields(architecture: Architecture) -> list[Tensor]:
    """Return, for each layer, the pixels that its center unit depends on, bool (28, 28), without padding.

    If the number of positions is even, the center unit is the one after the middle.
    """
    steps = operations(architecture)
    fields = []
    masks = zip(steps, input_masks(steps, 0), input_masks(steps, 1), strict=True)
    rows = layers_with_rows(architecture)
    for layer, group in groupby(masks, key=lambda step: step[0].layer):
        if layer not in rows:
            continue
        _, *axes = list(group)[-1]
        lines = torch.zeros(2, SIDE, dtype=torch.bool)
        for line, sets in zip(lines, axes, strict=True):
            line[set_bits(sets[len(sets) // 2])] = True
        fields.append(lines[0][:, None] & lines[1])
    return fields


def effective_fields(network: Network, architecture: Architecture, images: Tensor) -> list[Tensor]:
    """Return, for each layer, the influence of each pixel on its center unit, float (28, 28), 0 to 1; the maximum is 1.

    Luo, Li, Urtasun and Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks",
    2016, section 2: dy / dx, with a gradient of 1 at the center unit y and 0 elsewhere. Here y is the sum over the
    channels of a layer, and the absolute gradients are averaged over the uint8 (N, 28, 28) images. All 0 if no pixel
    has an influence.
    """
    layers = len(layers_with_rows(architecture))
    require_work(architecture, len(images) * layers)
    sums = [torch.zeros(SIDE, SIDE) for _ in range(layers)]
    with torch_threads(recommended_threads(architecture)):
        for batch in torch.split(images, gradient_batch_size(architecture, uses_im2col())):
            x = normalize(batch).requires_grad_()
            ends = [_as_maps(output) for _, output, ends in _outputs(network, architecture, x) if ends]
            for number, maps in enumerate(ends):
                center = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2].sum()
                (gradient,) = torch.autograd.grad(center, x, retain_graph=True)
                sums[number] += gradient[:, 0].abs().sum(0)
    fields = [total / len(images) for total in sums]
    return [field / field.max().clamp_min(torch.finfo(torch.float32).tiny) for field in fields]


def field_size(field: Tensor) -> float:
    """Side, in pixels, of a square with as many pixels as the effective field.

    Luo et al., section 3, who compare with the center pixel instead of the strongest.
    """
    return math.sqrt(int((field > FIELD_THRESHOLD).sum()))


def affordable(architecture: Architecture, images: int, passes: int = 1) -> int:
    """The number of images, at most `images`, whose `passes` forward passes a page can wait for; at least 1."""
    cheap = max(4, PAGE_MACS // (passes * max(analyze(architecture).macs, 1)))
    return min(images, cheap, max(1, MAX_WORK // (passes * work(architecture))))


def _outputs(network: Network, architecture: Architecture, x: Tensor) -> Iterator[tuple[Operation, Tensor, bool]]:
    """The output of each module for x (N, 1, 28, 28), and whether it is the last module of a layer with a row."""
    steps = operations(architecture)
    rows = layers_with_rows(architecture)
    for place, (step, output) in enumerate(zip(steps, network.outputs(x), strict=True)):
        is_last = place + 1 == len(steps) or steps[place + 1].layer != step.layer
        yield step, output, is_last and step.layer in rows


def _as_maps(output: Tensor) -> Tensor:
    """(N, C, H, W) unchanged; (N, C) as (N, C, 1, 1)."""
    return output if output.dim() == 4 else output[:, :, None, None]


def _zero_channels(rectified: Tensor) -> tuple[int, ...]:
    """Channels of an activation's output that are zero everywhere."""
    return tuple((_as_maps(rectified).amax((0, 2, 3)) == 0).nonzero()[:, 0].tolist())
