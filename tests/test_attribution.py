"""Attribution against loops over numbers, finite differences, and networks with hand-made weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lib.data.dataset import MEAN, STD, Dataset, normalize
from lib.design.analysis import analyze, per_layer
from lib.design.layers import Architecture, Convolution
from lib.design.notation import parse
from lib.design.operations import operations
from lib.evaluation.attribution import (
    activations,
    affordable,
    dead_channels,
    effective_fields,
    field_size,
    filters,
    occlusion,
    saliency,
    theoretical_fields,
)
from lib.nn.memory import BATCH
from lib.nn.network import Network, build
from tests.architectures import architectures
from tests.measure import shipped_network

NETWORK = "4 8b M 6n D10 10v A"


@pytest.fixture(scope="module")
def shipped() -> tuple[Network, Architecture]:
    network = shipped_network()
    return network, network.architecture


def trained(text: str, images: Tensor, seed: int = 0) -> tuple[Network, Architecture]:
    """A network in eval mode whose norms have running statistics of these images."""
    architecture = parse(text)
    network = build(architecture, seed)
    network(normalize(images[:64]))
    return network.eval(), architecture


@given(architectures())
@settings(max_examples=60)
def test_every_layer_of_the_notation_has_one_output_with_the_analyzed_shape(architecture: Architecture) -> None:
    image = torch.arange(784).view(28, 28).remainder(256).to(torch.uint8)
    found = activations(build(architecture).eval(), architecture, image)
    rows = per_layer(analyze(architecture), architecture).rows
    assert [maps.layer for maps in found] == [row.layer for row in rows]
    assert [tuple(maps.maps.shape) for maps in found] == [row.output_shape for row in rows]
    assert all(maps.lowest == maps.maps.min() and maps.highest == maps.maps.max() for maps in found)


def test_maps_are_taken_after_relu_and_norm_in_either_order(mnist: Dataset) -> None:
    network, architecture = trained(NETWORK, mnist.test_images)
    found = activations(network, architecture, mnist.test_images[3])
    x = normalize(mnist.test_images[3:4])
    # Modules after each layer: ReLU and norm, norm and ReLU, pool, ReLU, dropout, logits, average and Flatten.
    for maps, end in zip(found, (3, 6, 7, 9, 10, 11, 13), strict=True):
        torch.testing.assert_close(maps.maps.flatten(), network[:end](x).flatten())
    assert found[0].lowest < 0
    assert found[1].lowest == 0
    torch.testing.assert_close(found[-1].maps[:, 0, 0], network(x)[0])


def test_a_dead_channel_is_zero_for_all_images_and_a_silent_one_for_this_image(mnist: Dataset) -> None:
    network, architecture = trained(NETWORK, mnist.test_images)
    first = network[0]
    assert isinstance(first, nn.Conv2d)
    with torch.no_grad():
        assert first.bias is not None
        # Channel 2 is always zero; channel 1 is positive where a pixel is bright, so nowhere in a black image.
        first.bias[2] = -1e3
        first.weight[1] = 1.0
        first.bias[1] = 0.0
    # The images that activate a channel are in the second batch.
    images = torch.cat([torch.zeros(BATCH + 10, 28, 28, dtype=torch.uint8), mnist.test_images[:40]])
    dead = dead_channels(network, architecture, images)
    assert set(dead) == {0, 1, 3}
    assert 2 in dead[0]
    assert 1 not in dead[0]
    black = activations(network, architecture, torch.zeros(28, 28, dtype=torch.uint8))
    assert {1, 2} <= set(black[0].silent)
    assert black[2].silent == ()
    # By the outputs for all images.
    for layer, end in ((0, 2), (1, 6), (3, 9)):
        outputs = network[:end](normalize(images)).detach().numpy()
        channels = [c for c in range(outputs.shape[1]) if not outputs[:, c].any()]
        assert list(dead[layer]) == channels


def test_filters_are_the_weights_of_the_convolutions(mnist: Dataset) -> None:
    network, architecture = trained("4k5 M 8 16f 10f", mnist.test_images)
    found = filters(network, architecture)
    assert {layer: tuple(weights.shape) for layer, weights in found.items()} == {0: (4, 1, 5, 5), 2: (8, 4, 3, 3)}
    assert not any(weights.requires_grad for weights in found.values())


def test_saliency_is_the_gradient_of_the_predicted_logit(shipped: tuple[Network, Architecture]) -> None:
    network, architecture = shipped
    # Noise: in a flat background every max-pool has ties, where the gradient is not unique.
    image = torch.randint(0, 256, (28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = saliency(network, architecture, image)
    double = shipped_network().double()
    x = normalize(image[None]).double()
    with torch.no_grad():
        digit = int(double(x).argmax())
        for row, column in ((14, 14), (9, 12), (20, 10), (2, 2)):
            step = torch.zeros_like(x)
            step[0, 0, row, column] = 1e-6
            slope = (double(x + step) - double(x - step))[0, digit] / 2e-6
            assert float(found[row, column]) == pytest.approx(abs(float(slope)), rel=1e-2, abs=1e-4)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_occlusion_is_the_drop_when_each_place_is_covered(
    shipped: tuple[Network, Architecture], mnist: Dataset, temperature: float
) -> None:
    network, architecture = shipped
    image = mnist.test_images[0]
    drop = occlusion(network, architecture, image, temperature=temperature)
    with torch.no_grad():
        before = torch.softmax(network(normalize(image[None])) / temperature, 1)[0]
        digit = int(before.argmax())
        for row, column in ((0, 0), (7, 8), (14, 15), (20, 12), (27, 27), (10, 19)):
            covered = image.clone()
            covered[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = 0
            after = torch.softmax(network(normalize(covered[None])) / temperature, 1)[0]
            assert float(drop[row, column]) == pytest.approx(float(before[digit] - after[digit]), abs=1e-5)
    assert drop.abs().max() > 0.01
    black = torch.zeros(28, 28, dtype=torch.uint8)
    assert not occlusion(network, architecture, black).any()


@given(architectures(), st.integers(0, 2**20))
@settings(max_examples=100)
def test_the_effective_field_is_inside_the_theoretical_one(architecture: Architecture, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (4, 28, 28), generator=generator).to(torch.uint8)
    # A norm over all positions spreads the gradient over the whole image.
    assume(not analyze(architecture).normalizes_over_positions)
    theory = theoretical_fields(architecture)
    effect = effective_fields(build(architecture, seed).eval(), architecture, images)
    assert len(theory) == len(effect) == len(per_layer(analyze(architecture), architecture).rows)
    for within, field in zip(theory, effect, strict=True):
        assert not field[~within].any()
        assert field.min() >= 0
        assert field.max() == 1 or not field.any()


@given(architectures(dense=False))
@settings(max_examples=100)
def test_a_theoretical_field_away_from_the_edges_has_the_size_of_the_formula(architecture: Architecture) -> None:
    """Without gaps, and away from the edges, it is a square of the receptive field's side."""
    rows = per_layer(analyze(architecture), architecture).rows
    fields = theoretical_fields(architecture)
    dense = all(
        not isinstance(layer, Convolution) or (layer.dilation == 1 and layer.stride == 1)
        for layer in architecture.layers
    )
    for row, field in zip(rows, fields, strict=True):
        area = 1
        for axis, size in zip((row, row.horizontal or row), row.output_shape[1:], strict=True):
            middle = axis.center + size // 2 * axis.jump
            half = (axis.receptive_field - 1) / 2
            area *= sum(1 for pixel in range(28) if abs(pixel - middle) <= half)
        assert int(field.sum()) <= area
        if dense and all(axis.jump == 1 for row in rows for axis in (row, row.horizontal or row)):
            assert int(field.sum()) == area


def test_the_effective_field_of_a_linear_network_is_its_weights() -> None:
    """A convolution and an average, by loops: unit (14, 14) of the convolution, then the mean over all its units."""
    architecture = parse("10k5 A")
    network = build(architecture, 3).eval()
    convolution = network[0]
    assert isinstance(convolution, nn.Conv2d)
    kernel = convolution.weight.detach().sum((0, 1)).double().numpy()
    unit, mean = np.zeros((28, 28)), np.zeros((28, 28))
    unit[12:17, 12:17] = np.abs(kernel)
    for row in range(28):
        for column in range(28):
            for down in range(5):
                for right in range(5):
                    y, x = row + down - 2, column + right - 2
                    if 0 <= y < 28 and 0 <= x < 28:
                        mean[y, x] += kernel[down, right]
    images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    found = effective_fields(network, architecture, images)
    np.testing.assert_allclose(found[0].numpy(), unit / unit.max(), atol=1e-6)
    np.testing.assert_allclose(found[1].numpy(), np.abs(mean) / np.abs(mean).max(), atol=1e-5)
    assert field_size(found[0]) == math.sqrt((np.abs(kernel) / np.abs(kernel).max() > 0.0455).sum())


def test_the_effective_field_is_averaged_over_the_images(mnist: Dataset) -> None:
    """With one convolution and ReLU, each image contributes the filters that are positive at the center."""
    architecture = parse("6n 10 A")
    network = build(architecture, 1).eval()
    first = network[0]
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    weights, bias = first.weight.detach().double().numpy(), first.bias.detach().double().numpy()
    images = mnist.test_images[:20]
    expected = np.zeros((3, 3))
    for image in images.double().numpy():
        patch = (image[13:16, 13:16] / 255 - MEAN) / STD
        active = [w[0] for w, b in zip(weights, bias, strict=True) if (w[0] * patch).sum() + b > 0]
        expected += np.abs(sum(active)) / len(images)
    (found, *_) = effective_fields(network, architecture, images)
    np.testing.assert_allclose(found[13:16, 13:16].numpy(), expected / expected.max(), atol=1e-5)


def test_a_wide_network_gets_fewer_images() -> None:
    assert affordable(parse("4 4 8 M 12 12 16 M 20v 10v A"), 500) == 500
    wide = parse("32n 64n M 128n 256n M 512vn 1024vn 10v")
    assert 4 <= affordable(wide, 500) < 500
    assert affordable(wide, 500, passes=100) == 4
    assert affordable(wide, 500, passes=1000) == 1


def test_there_is_one_field_for_each_layer(shipped: tuple[Network, Architecture]) -> None:
    network, architecture = shipped
    assert len(list(operations(architecture))) == len(network)
    assert len(theoretical_fields(architecture)) == len(architecture.layers)
