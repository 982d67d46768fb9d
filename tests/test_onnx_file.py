"""The ONNX file, run by ONNX Runtime and compared with torch."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings

from lib.data.dataset import Dataset, normalize
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.presets import PRESETS
from lib.export.onnx_file import onnx_bytes
from lib.nn.network import build
from lib.storage import checkpoints
from tests.architectures import architectures


def logits(content: bytes, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"pixels": pixels})[0])


@settings(max_examples=60, deadline=None)
@given(architectures())
def test_logits_are_those_of_torch(architecture: Architecture) -> None:
    network = build(architecture, seed=1)
    images = torch.randint(0, 256, (8, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    # A training batch changes the running statistics from 0 and 1.
    network.train()(normalize(images))
    with torch.inference_mode():
        expected = network.eval()(normalize(images)).numpy()
    found = logits(onnx_bytes(architecture, network.state_dict()), images[:, None].numpy().astype(np.float32) / 255)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_the_shipped_network_has_the_same_test_accuracy(mnist: Dataset) -> None:
    checkpoint = checkpoints.load(checkpoints.paths()[0])
    content = onnx_bytes(checkpoint.summary.architecture, checkpoint.weights)
    pixels = mnist.test_images[:, None].numpy().astype(np.float32) / 255
    accuracy = float((logits(content, pixels).argmax(1) == mnist.test_labels.numpy()).mean())
    assert accuracy == checkpoint.summary.test_accuracy


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.title)
def test_every_preset_can_be_exported(preset: object) -> None:
    architecture = parse(preset.text)  # type: ignore[attr-defined]
    content = onnx_bytes(architecture, build(architecture).state_dict())
    assert logits(content, np.zeros((2, 1, 28, 28), np.float32)).shape == (2, 10)
