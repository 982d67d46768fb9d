"""What a network makes of an image, layer by layer, and where it fails.

One entry a layer of the notation: a convolution with its ReLU and norm is one. Networks come from `lib.network.build`
and are in eval mode; nothing here changes them or leaves a gradient behind. What a network is too large for raises
TooLargeError (`lib/memory.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.analysis import analyze
from lib.dataset import normalise
from lib.layers import CLASSES, INPUT_SHAPE, Architecture
from lib.memory import (
    BUDGET,
    MEASURING_WORK,
    MOST_WORK,
    TooLargeError,
    gradient_batch_size,
    require_readable,
    require_work,
    work,
)
from lib.network import forward_batch, torch_threads, unfolds
from lib.operations import Operation, operations
from lib.proportion import Proportion
from lib.receptive_field import input_masks, set_bits
from lib.trainer import threads

SIDE = INPUT_SHAPE[1]
PATCH = 5
BINS = 10
REFERENCE_IMAGES, FIELD_IMAGES = 500, 32
# What a look inside may cost, in MACs of a forward pass: some tenths of a second. A wide network is shown fewer images.
LOOK_MACS = 2 * 10**10
# What covering a digit at some hundred places may take, as `lib.memory.work` counts: some ten seconds.
OCCLUSION_WORK = 4 * 10**11
# Luo et al., section 3: a pixel belongs to the field from 1 - 95.45 % of the strongest on.
FIELD_THRESHOLD = 1 - 0.9545


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """What a layer puts out for one image: `maps` float (C, H, W), after its ReLU and norm in the network's order.

    `silent` are the channels, from 0, whose ReLU is zero at every position; none for a layer without a ReLU. `lowest`
    and `highest` are those of the layer's own maps, whose side is `side`; `maps` may be smaller.
    """

    layer: int
    maps: Tensor
    silent: tuple[int, ...]
    lowest: float
    highest: float
    side: int


@dataclass(frozen=True)
class Bin:
    """Images whose confidence lies in (low, high]; `confidence` is their mean, not a number where there are none."""

    low: float
    high: float
    confidence: float
    accuracy: Proportion


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network says of labelled images: probabilities float (N, 10), labels int64 (N,)."""

    probabilities: Tensor
    labels: Tensor

    @cached_property
    def read(self) -> Tensor:
        """The likeliest digit of each image, int64 (N,)."""
        return self.probabilities.argmax(1)

    @cached_property
    def truth(self) -> Tensor:
        """The probability of each image's label, float (N,)."""
        return self.probabilities.gather(1, self.labels[:, None])[:, 0]

    @cached_property
    def confusion(self) -> Tensor:
        """Counts int64 (10, 10): row the label, column the digit read."""
        cells = self.labels * CLASSES + self.read
        return torch.bincount(cells, minlength=CLASSES**2).view(CLASSES, CLASSES)

    @cached_property
    def accuracy(self) -> Proportion:
        return Proportion(int(self.confusion.trace()), len(self.labels))

    @cached_property
    def by_class(self) -> tuple[Proportion, ...]:
        """For each digit, how many of its images are read right."""
        return tuple(Proportion(int(row[digit]), int(row.sum())) for digit, row in enumerate(self.confusion))

    @cached_property
    def errors(self) -> list[int]:
        """Numbers of the images read wrong, lowest probability of the truth first."""
        wrong = (self.read != self.labels).nonzero()[:, 0]
        return self._by_truth(wrong)

    def cell(self, label: int, read: int) -> list[int]:
        """Numbers of the images with this label that are read so, lowest probability of the truth first."""
        return self._by_truth(((self.labels == label) & (self.read == read)).nonzero()[:, 0])

    @cached_property
    def calibration(self) -> tuple[Bin, ...]:
        """Ten bins of equal width over the confidence, 0 to 1 (Guo et al., "On Calibration of Modern Neural Networks",
        2017, section 2).
        """
        confidence = self.probabilities.amax(1).double()
        edges = torch.arange(1, BINS, dtype=torch.float64) / BINS
        place, right = torch.bucketize(confidence, edges), self.read == self.labels
        bins = []
        for number in range(BINS):
            inside = place == number
            count = int(inside.sum())
            mean = float(confidence[inside].mean()) if count else math.nan
            bins.append(Bin(number / BINS, (number + 1) / BINS, mean, Proportion(int(right[inside].sum()), count)))
        return tuple(bins)

    @property
    def calibration_error(self) -> float:
        """The expected calibration error, 0 to 1: the mean over images of their bin's |accuracy - confidence| (Guo et
        al., section 2).
        """
        gaps = (b.accuracy.count * abs(b.accuracy.share - b.confidence) for b in self.calibration if b.accuracy.count)
        return sum(gaps) / len(self.labels)

    def _by_truth(self, numbers: Tensor) -> list[int]:
        found: list[int] = numbers[self.truth[numbers].argsort(stable=True)].tolist()
        return found


def evaluation(
    network: nn.Module, architecture: Architecture, images: Tensor, labels: Tensor, temperature: float = 1.0
) -> Evaluation:
    """Measure `network` on uint8 images (N, 28, 28) with labels int64 (N,); its logits are divided by the temperature
    (`lib/calibration.py`).
    """
    with torch_threads(threads(architecture)):
        return Evaluation(_probabilities(network, architecture, images, temperature), labels)


def measurable(architecture: Architecture, images: int) -> int:
    """How many of so many images `evaluation` may be asked for: all of them, or those that a minute is enough for."""
    return min(images, max(1, MEASURING_WORK // work(architecture)))


def activations(
    network: nn.Module, architecture: Architecture, image: Tensor, largest: Callable[[int], int] | None = None
) -> list[LayerMaps]:
    """Every layer's output for one uint8 (28, 28) image; maps wider than `largest` says for so many channels are made
    smaller by the mean of areas.
    """
    require_readable(architecture, unfolds())
    if largest is None and 4 * analyze(architecture).activations > BUDGET:
        raise TooLargeError("All feature maps together are too large to be kept. Look at smaller ones of them.")
    found = []
    with torch_threads(threads(architecture)), torch.inference_mode():
        silent: tuple[int, ...] = ()
        for step, output, ends in _outputs(network, architecture, normalise(image[None])):
            if step.kind == "ReLU":
                silent = _off(output)
            if ends:
                maps = _as_maps(output)[0]
                low, high, side = float(maps.min()), float(maps.max()), maps.shape[-1]
                if largest is not None:
                    maps = area_means(maps, largest(len(maps)))
                found.append(LayerMaps(step.layer, maps, silent, low, high, side))
                silent = ()
    return found


def area_means(maps: Tensor, side: int) -> Tensor:
    """Float (C, H, W), square: as they are, or of this side, each value the mean of the area that it stands for."""
    return maps if maps.shape[-1] <= side else F.interpolate(maps[None], size=(side, side), mode="area")[0]


def dead_channels(network: nn.Module, architecture: Architecture, images: Tensor) -> dict[int, tuple[int, ...]]:
    """For each layer with a ReLU: the channels, from 0, whose ReLU is zero at every position of every uint8 (N, 28, 28)
    image. No gradient on these images reaches their weights.
    """
    require_readable(architecture, unfolds())
    dead: dict[int, set[int]] = {}
    with torch_threads(threads(architecture)), torch.inference_mode():
        for batch in torch.split(images, forward_batch(architecture)):
            for step, output, _ in _outputs(network, architecture, normalise(batch)):
                if step.kind == "ReLU":
                    off = set(_off(output))
                    dead[step.layer] = dead.get(step.layer, off) & off
    return {layer: tuple(sorted(channels)) for layer, channels in dead.items()}


def filters(network: nn.Module, architecture: Architecture) -> dict[int, Tensor]:
    """For each convolution, by its layer: the weights (out, in, height, width)."""
    return {
        step.layer: module.weight.detach()
        for step, module in zip(operations(architecture), network.children(), strict=True)
        if isinstance(module, nn.Conv2d)
    }


def saliency(network: nn.Module, architecture: Architecture, image: Tensor) -> Tensor:
    """|d logit / d pixel| of the digit read, float (28, 28), for a uint8 (28, 28) image (Simonyan, Vedaldi and
    Zisserman, "Deep Inside Convolutional Networks", 2013, section 3), in logits a deviation of the training pixels.
    """
    gradient_batch_size(architecture, unfolds())
    x = normalise(image[None]).requires_grad_()
    with torch_threads(threads(architecture)):
        logits = network(x)[0]
        (gradient,) = torch.autograd.grad(logits[logits.argmax()], x)
    return gradient[0, 0].abs()


def occlusion(
    network: nn.Module, architecture: Architecture, image: Tensor, size: int = PATCH, temperature: float = 1.0
) -> Tensor:
    """How far the probability of the digit read falls, -1 to 1, when a black square of `size` (odd) pixels covers the
    place, float (28, 28) (Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014, section 4).

    Black is MNIST's background. The square is cut off at the edges. The logits are divided by the temperature.
    """
    near = (torch.arange(SIDE)[:, None] - torch.arange(SIDE)).abs() <= size // 2
    square = (near[:, None, :, None] & near[None, :, None, :]).reshape(SIDE * SIDE, SIDE, SIDE)
    covered = torch.where(square, 0, image)
    # Where there is no ink below it, the square changes nothing.
    changed = (covered != image).flatten(1).any(1)
    require_work(architecture, 1 + int(changed.sum()), OCCLUSION_WORK)
    with torch_threads(threads(architecture)):
        probabilities = _probabilities(network, architecture, torch.cat([image[None], covered[changed]]), temperature)
    before = probabilities[0]
    digit = before.argmax()
    drop = torch.zeros(SIDE * SIDE)
    drop[changed] = before[digit] - probabilities[1:, digit]
    return drop.view(SIDE, SIDE)


def theoretical_fields(architecture: Architecture) -> list[Tensor]:
    """For each layer: the pixels that its centre unit depends on, bool (28, 28), padding left out.

    Of an even number of positions the centre is the one after the middle.
    """
    steps = list(operations(architecture))
    fields = []
    for _, group in groupby(zip(steps, input_masks(steps), strict=True), key=lambda pair: pair[0].layer):
        _, sets = list(group)[-1]
        line = torch.zeros(SIDE, dtype=torch.bool)
        line[set_bits(sets[len(sets) // 2])] = True
        fields.append(line[:, None] & line)
    return fields


def effective_fields(network: nn.Module, architecture: Architecture, images: Tensor) -> list[Tensor]:
    """For each layer: how much each pixel moves its centre unit, float (28, 28), 0 to 1, the strongest pixel being 1.

    Luo, Li, Urtasun and Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks",
    2016, section 2: dy / dx, by a gradient of 1 at the centre unit y and 0 elsewhere. Here y is the sum over the
    channels of a layer, and the absolute gradients are averaged over the uint8 (N, 28, 28) images. All 0 where nothing
    moves it.
    """
    require_work(architecture, len(images) * len(architecture.layers))
    sums = [torch.zeros(SIDE, SIDE) for _ in architecture.layers]
    with torch_threads(threads(architecture)):
        for batch in torch.split(images, gradient_batch_size(architecture, unfolds())):
            x = normalise(batch).requires_grad_()
            ends = [_as_maps(output) for _, output, ends in _outputs(network, architecture, x) if ends]
            for number, maps in enumerate(ends):
                centre = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2].sum()
                (gradient,) = torch.autograd.grad(centre, x, retain_graph=True)
                sums[number] += gradient[:, 0].abs().sum(0)
    fields = [total / len(images) for total in sums]
    return [field / field.max().clamp_min(torch.finfo(torch.float32).tiny) for field in fields]


def field_size(field: Tensor) -> float:
    """Side, in pixels, of a square with as many pixels as the effective field has (Luo et al., section 3, who measure
    against the centre pixel and not the strongest).
    """
    return math.sqrt(int((field > FIELD_THRESHOLD).sum()))


def affordable(architecture: Architecture, images: int, passes: int = 1) -> int:
    """How many of so many images may go through the network, each `passes` times, while somebody waits; 4 or more, or
    1 where even four take long.
    """
    cheap = max(4, LOOK_MACS // (passes * max(analyze(architecture).macs, 1)))
    return min(images, cheap, max(1, MOST_WORK // (passes * work(architecture))))


def _outputs(network: nn.Module, architecture: Architecture, x: Tensor) -> Iterator[tuple[Operation, Tensor, bool]]:
    """Module by module what is put out for x (N, 1, 28, 28), and whether its layer ends there. Nothing is kept."""
    steps = list(operations(architecture))
    for place, (step, module) in enumerate(zip(steps, network.children(), strict=True)):
        x = module(x)
        yield step, x, place + 1 == len(steps) or steps[place + 1].layer != step.layer


def _as_maps(output: Tensor) -> Tensor:
    """(N, C, H, W) as it is; (N, C) as (N, C, 1, 1)."""
    return output if output.dim() == 4 else output[:, :, None, None]


def _off(rectified: Tensor) -> tuple[int, ...]:
    """Channels of a ReLU's output that are zero everywhere."""
    return tuple((_as_maps(rectified).amax((0, 2, 3)) == 0).nonzero()[:, 0].tolist())


def _probabilities(network: nn.Module, architecture: Architecture, images: Tensor, temperature: float) -> Tensor:
    require_readable(architecture, unfolds())
    with torch.inference_mode():
        logits = torch.cat([network(normalise(batch)) for batch in torch.split(images, forward_batch(architecture))])
    # Made outside, so that whoever has them may do with them what they like.
    return torch.softmax(logits.clone() / temperature, 1)
