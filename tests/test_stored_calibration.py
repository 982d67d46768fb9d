"""Calibrations that are kept in checkpoints: equal to those computed, and refused if they belong to others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from lib.data.dataset import Dataset, normalize
from lib.design.layers import Architecture
from lib.evaluation import stored_calibration as stored
from lib.evaluation.calibration import Calibration, calibrate
from lib.evaluation.ood import feature_count, features, ood_percentile
from lib.evaluation.stored_calibration import stored_calibration, with_calibration
from lib.nn.network import build
from lib.storage import checkpoints
from lib.storage.checkpoints import Checkpoint
from tests.architectures import architectures

NAME = "small-4468"
SHIPPED = sorted(path.stem for path in checkpoints.FOLDER.glob("*.safetensors"))


@pytest.fixture(scope="module")
def bare() -> Checkpoint:
    """A shipped checkpoint without its calibration."""
    shipped = checkpoints.load(checkpoints.FOLDER / f"{NAME}.safetensors")
    return replace(shipped, extra={}, details={})


@pytest.fixture(scope="module")
def computed(bare: Checkpoint, mnist: Dataset) -> Calibration:
    return calibrate(checkpoints.network(bare), mnist)


def assert_equal(one: Calibration | None, other: Calibration) -> None:
    """Bit by bit."""
    assert one is not None
    assert replace(one, gaussians=None) == replace(other, gaussians=None)
    assert (one.gaussians is None) == (other.gaussians is None)
    if one.gaussians and other.gaussians:
        for name in ("means", "whitening", "distances"):
            first, second = getattr(one.gaussians, name), getattr(other.gaussians, name)
            assert first.dtype == second.dtype == torch.float64
            assert torch.equal(first, second)


@pytest.mark.slow
def test_what_a_file_holds_is_equal_to_what_was_computed(
    bare: Checkpoint, computed: Calibration, tmp_path: Path
) -> None:
    path = tmp_path / "own.safetensors"
    assert computed.gaussians is not None
    checkpoints.save(with_calibration(bare, computed), path)
    assert_equal(stored_calibration(checkpoints.load(path)), computed)
    checkpoints.save(with_calibration(bare, replace(computed, gaussians=None)), path)
    assert_equal(stored_calibration(checkpoints.load(path)), replace(computed, gaussians=None))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_each_shipped_checkpoint_holds_its_calibration(name: str, mnist: Dataset) -> None:
    checkpoint = checkpoints.load(checkpoints.FOLDER / f"{name}.safetensors")
    found, network = stored_calibration(checkpoint), checkpoints.network(checkpoint)
    expected = calibrate(network, mnist)
    assert found is not None
    # Another processor sums in another order.
    assert found.temperature == pytest.approx(expected.temperature, rel=1e-3)
    assert found.error_after == pytest.approx(expected.error_after, abs=1e-3)
    assert found.gaussians is not None
    assert expected.gaussians is not None
    logits, measured = features(network, normalize(mnist.test_images[:1000]))
    torch.testing.assert_close(
        ood_percentile(found.gaussians, measured, logits.argmax(1)),
        ood_percentile(expected.gaussians, measured, logits.argmax(1)),
        rtol=0,
        atol=2e-3,
    )


@pytest.mark.slow
def test_the_calibration_of_other_weights_is_not_used(bare: Checkpoint, computed: Calibration) -> None:
    own = with_calibration(bare, computed)
    assert stored_calibration(own) is not None
    other = dict(bare.weights)
    name = next(name for name, tensor in other.items() if tensor.is_floating_point())
    other[name] = other[name] + 1e-6
    assert stored_calibration(replace(own, weights=other)) is None


def _value(key: str, value: object) -> Callable[[Checkpoint], Checkpoint]:
    def damage(checkpoint: Checkpoint) -> Checkpoint:
        values: dict[str, Any] = {**checkpoint.details[stored.KEY], key: value}
        return replace(checkpoint, details={stored.KEY: values})

    return damage


def _tensor(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Checkpoint], Checkpoint]:
    key = stored.PREFIX + name

    def damage(checkpoint: Checkpoint) -> Checkpoint:
        return replace(checkpoint, extra={**checkpoint.extra, key: change(checkpoint.extra[key].clone())})

    return damage


DAMAGES = {
    "no values": lambda checkpoint: replace(checkpoint, details={}),
    "a list": lambda checkpoint: replace(checkpoint, details={stored.KEY: [1, 2]}),
    "no tensors": lambda checkpoint: replace(checkpoint, extra={}),
    "another version": _value("version", stored.VERSION + 1),
    "no digest": _value("weights", None),
    "a temperature of 0": _value("temperature", 0),
    "a temperature that is no number": _value("temperature", math.nan),
    "a temperature that is text": _value("temperature", "1.0"),
    "a temperature that is true": _value("temperature", True),
    "too many images": _value("images", 10**6),
    "an error above 1": _value("error_after", 1.5),
    "means of more features": _tensor("means", lambda found: torch.cat([found, found], 1)),
    "means of fewer digits": _tensor("means", lambda found: found[:9]),
    "a mean that is no number": _tensor("means", lambda found: found * math.nan),
    "a matrix of fewer features": _tensor("whitening", lambda found: found[:-1]),
    "an infinite matrix": _tensor("whitening", lambda found: found + math.inf),
    "whole numbers": _tensor("whitening", lambda found: found.to(torch.int64)),
    "no distances": _tensor("distances", lambda found: found[:0]),
    "distances that are not sorted": _tensor("distances", lambda found: found.flip(0)),
    "too many distances": _tensor("distances", lambda found: found.repeat_interleave(2)),
    "distances in a table": _tensor("distances", lambda found: found[None]),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_an_impossible_calibration_is_not_used(
    bare: Checkpoint, computed: Calibration, damage: Callable[[Checkpoint], Checkpoint]
) -> None:
    assert stored_calibration(damage(with_calibration(bare, computed))) is None


@pytest.mark.slow
def test_a_network_that_is_not_calibrated_has_nothing_to_store(bare: Checkpoint, computed: Calibration) -> None:
    assert with_calibration(bare, replace(computed, images=0)) is bare
    assert with_calibration(replace(bare, weights={}), computed).details == {}


@settings(max_examples=30, deadline=None)
@given(architectures())
def test_the_number_of_features_is_known_without_the_network(architecture: Architecture) -> None:
    _, found = features(build(architecture).eval(), torch.zeros(1, 1, 28, 28))
    assert feature_count(architecture) == found.shape[1]
