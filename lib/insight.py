"""What a network makes of an image, layer by layer, and where it fails.

One entry a layer of the notation: a convolution with its ReLU and norm is one. Networks come from `lib.network.build`
and are in eval mode; nothing here changes them or leaves a gradient behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor, nn

from lib import footprint
from lib.analysis import analyse
from lib.architecture import CLASSES, INPUT_SHAPE, Architecture, Operation, operations
from lib.dataset import normalise
from lib.network import torch_threads
from lib.training import threads

SIDE = INPUT_SHAPE[1]
PATCH = 5
BINS = 10
REFERENCE_IMAGES, FIELD_IMAGES = 500, 32
# What a look inside may cost, in MACs of a forward pass: some tenths of a second. A wide network is shown fewer images.
LOOK_MACS = 2 * 10**10
BATCH_SIZE = 250
# Numbers that one module may put out at once, 128 MB of them.
LARGEST_OUTPUT = 2**25
# Luo et al., section 3: a pixel belongs to the field from 1 - 95.45 % of the strongest on.
FIELD_THRESHOLD = 1 - 0.9545
Z95 = 1.959964


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """What a layer puts out for one image: `maps` float (C, H, W), after its ReLU and norm in the network's order.

    `silent` are the channels, from 0, whose ReLU is zero at every position; none for a layer without a ReLU.
    """

    layer: int
    maps: Tensor
    silent: tuple[int, ...]

    @property
    def lowest(self) -> float:
        return float(self.maps.min())

    @property
    def highest(self) -> float:
        return float(self.maps.max())


@dataclass(frozen=True)
class Proportion:
    """`correct` of `count`; `low` and `high` bound the 95 % interval, all 0 to 1; of nothing it is 0 to 1."""

    correct: int
    count: int

    @property
    def share(self) -> float:
        return self.correct / self.count if self.count else math.nan

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The score interval (E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
        J. Amer. Stat. Assoc. 22, 1927).
        """
        if not self.count:
            return 0.0, 1.0
        p, n = self.share, self.count
        centre = p + Z95**2 / (2 * n)
        half = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
        # At p = 0 and 1 one end is p itself, but for rounding.
        return min(p, (centre - half) / (1 + Z95**2 / n)), max(p, (centre + half) / (1 + Z95**2 / n))


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


def activations(network: nn.Module, architecture: Architecture, image: Tensor) -> list[LayerMaps]:
    """Every layer's output for one uint8 (28, 28) image."""
    with torch_threads(threads(architecture)), torch.inference_mode():
        return [
            LayerMaps(layer, _as_maps(outputs[-1][1])[0], _off(outputs))
            for layer, outputs in _layers(network, architecture, normalise(image[None]))
        ]


def dead_channels(network: nn.Module, architecture: Architecture, images: Tensor) -> dict[int, tuple[int, ...]]:
    """For each layer with a ReLU: the channels, from 0, whose ReLU is zero at every position of every uint8 (N, 28, 28)
    image. No gradient on these images reaches their weights.
    """
    dead: dict[int, set[int]] = {}
    with torch_threads(threads(architecture)), torch.inference_mode():
        for batch in torch.split(images, _batch_size(architecture)):
            for layer, outputs in _layers(network, architecture, normalise(batch)):
                if any(step.kind == "ReLU" for step, _ in outputs):
                    off = set(_off(outputs))
                    dead[layer] = dead.get(layer, off) & off
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
    for _, group in groupby(zip(steps, footprint.pixels(steps), strict=True), key=lambda pair: pair[0].layer):
        _, sets = list(group)[-1]
        line = torch.zeros(SIDE, dtype=torch.bool)
        line[footprint.positions(sets[len(sets) // 2])] = True
        fields.append(line[:, None] & line)
    return fields


def effective_fields(network: nn.Module, architecture: Architecture, images: Tensor) -> list[Tensor]:
    """For each layer: how much each pixel moves its centre unit, float (28, 28), 0 to 1, the strongest pixel being 1.

    Luo, Li, Urtasun and Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks",
    2016, section 2: dy / dx, by a gradient of 1 at the centre unit y and 0 elsewhere. Here y is the sum over the
    channels of a layer, and the absolute gradients are averaged over the uint8 (N, 28, 28) images. All 0 where nothing
    moves it.
    """
    x = normalise(images).requires_grad_()
    fields = []
    with torch_threads(threads(architecture)):
        for _, outputs in list(_layers(network, architecture, x)):
            maps = _as_maps(outputs[-1][1])
            centre = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2].sum()
            (gradient,) = torch.autograd.grad(centre, x, retain_graph=True)
            field = gradient[:, 0].abs().mean(0)
            fields.append(field / field.max().clamp_min(torch.finfo(torch.float32).tiny))
    return fields


def field_size(field: Tensor) -> float:
    """Side, in pixels, of a square with as many pixels as the effective field has (Luo et al., section 3, who measure
    against the centre pixel and not the strongest).
    """
    return math.sqrt(int((field > FIELD_THRESHOLD).sum()))


def affordable(architecture: Architecture, images: int, passes: int = 1) -> int:
    """How many of so many images may go through the network, each `passes` times, while somebody waits; 4 or more."""
    return min(images, max(4, LOOK_MACS // (passes * max(analyse(architecture).macs, 1))))


def _layers(
    network: nn.Module, architecture: Architecture, x: Tensor
) -> Iterator[tuple[int, list[tuple[Operation, Tensor]]]]:
    """Layer by layer the modules with what they put out for x (N, 1, 28, 28)."""

    def run() -> Iterator[tuple[int, tuple[Operation, Tensor]]]:
        y = x
        for step, module in zip(operations(architecture), network.children(), strict=True):
            y = module(y)
            yield step.layer, (step, y)

    for layer, outputs in groupby(run(), key=itemgetter(0)):
        yield layer, [output for _, output in outputs]


def _as_maps(output: Tensor) -> Tensor:
    """(N, C, H, W) as it is; (N, C) as (N, C, 1, 1)."""
    return output if output.dim() == 4 else output[:, :, None, None]


def _off(outputs: list[tuple[Operation, Tensor]]) -> tuple[int, ...]:
    """Channels whose ReLU, if the layer has one, is zero everywhere."""
    rectified = next((_as_maps(output) for step, output in outputs if step.kind == "ReLU"), None)
    if rectified is None:
        return ()
    return tuple((rectified.amax((0, 2, 3)) == 0).nonzero()[:, 0].tolist())


def _probabilities(network: nn.Module, architecture: Architecture, images: Tensor, temperature: float) -> Tensor:
    with torch.inference_mode():
        logits = torch.cat([network(normalise(batch)) for batch in torch.split(images, _batch_size(architecture))])
    # Made outside, so that whoever has them may do with them what they like.
    return torch.softmax(logits.clone() / temperature, 1)


def _batch_size(architecture: Architecture) -> int:
    largest = max(math.prod(step.output_shape) for step in operations(architecture))
    return max(1, min(BATCH_SIZE, LARGEST_OUTPUT // largest))
