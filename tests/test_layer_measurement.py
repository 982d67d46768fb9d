"""For which layers torch is faster, as it is measured and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lib.nn import layer_measurement
from lib.nn.layer_measurement import is_faster_in_torch, is_too_large

CONVOLUTION = nn.Conv2d(4, 8, 3, padding=1)
SHAPE = (4, 7, 7)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "folder" / "layers.json"
    monkeypatch.setattr(layer_measurement, "FILE", path)
    monkeypatch.setattr(layer_measurement, "_answers", None)
    return path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The layers that are measured."""
    layers: list[Any] = []
    measure = layer_measurement._measure

    def counted(layer: nn.Conv2d | nn.Linear, input_shape: tuple[int, int, int]) -> bool:
        layers.append(layer)
        return measure(layer, input_shape)

    monkeypatch.setattr(layer_measurement, "_measure", counted)
    return layers


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin as a new process does."""
    monkeypatch.setattr(layer_measurement, "_answers", None)


def test_a_kind_of_layer_is_measured_once(file: Path, measured: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    first = is_faster_in_torch(CONVOLUTION, SHAPE)
    assert is_faster_in_torch(nn.Conv2d(4, 8, 3, padding=1), SHAPE) == first
    forget(monkeypatch)
    assert is_faster_in_torch(CONVOLUTION, SHAPE) == first
    assert len(measured) == 1
    is_faster_in_torch(CONVOLUTION, (4, 14, 14))
    is_faster_in_torch(nn.Conv2d(4, 8, 3, padding=1, bias=False), SHAPE)
    is_faster_in_torch(nn.Conv2d(4, 8, 3, 2, padding=1), SHAPE)
    is_faster_in_torch(nn.Linear(196, 8), SHAPE)
    assert len(measured) == 5
    assert len(json.loads(file.read_text())["torch_is_faster"]) == 5


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"machine": 1}', '{"torch_is_faster": {"a": true}}', '{"machine": "MACHINE"}', "\0\xff"]
)
def test_a_damaged_file_is_measured_again(
    content: str, file: Path, measured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.parent.mkdir()
    file.write_bytes(content.replace("MACHINE", layer_measurement._machine()).encode("latin-1"))
    answer = is_faster_in_torch(CONVOLUTION, SHAPE)
    forget(monkeypatch)
    assert is_faster_in_torch(CONVOLUTION, SHAPE) == answer
    assert len(measured) == 1


def test_another_machine_is_measured_again(file: Path, measured: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    is_faster_in_torch(CONVOLUTION, SHAPE)
    forget(monkeypatch)
    monkeypatch.setattr(layer_measurement, "_machine", lambda: "another")
    is_faster_in_torch(CONVOLUTION, SHAPE)
    assert len(measured) == 2
    assert json.loads(file.read_text())["machine"] == "another"


def test_two_processes_keep_the_answers_of_both(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_faster_in_torch(CONVOLUTION, SHAPE)
    # The other process has begun before this one wrote its answer.
    monkeypatch.setattr(layer_measurement, "_answers", {})
    is_faster_in_torch(nn.Linear(196, 8), SHAPE)
    assert len(json.loads(file.read_text())["torch_is_faster"]) == 2


def test_without_a_file_the_answers_last_as_long_as_the_process(
    tmp_path: Path, measured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setattr(layer_measurement, "FILE", tmp_path / "a file" / "layers.json")
    forget(monkeypatch)
    assert is_faster_in_torch(CONVOLUTION, SHAPE) == is_faster_in_torch(CONVOLUTION, SHAPE)
    assert len(measured) == 1


def test_layers_with_many_weights_or_multiply_adds_are_left_to_torch(file: Path) -> None:
    wide = nn.Linear(784, 1000, device="meta")
    assert is_too_large(wide)
    assert is_faster_in_torch(wide, (1, 28, 28))
    huge = nn.Conv2d(16, 16, 3, padding=1, device="meta")
    assert not is_too_large(huge)
    assert is_faster_in_torch(huge, (16, 2000, 2000))


@pytest.mark.parametrize(
    ("seconds", "answer"), [((0.02, 0.002), True), ((0.002, 0.02), False), ((0.01, 0.0095), False)]
)
def test_torch_must_be_clearly_faster(
    seconds: tuple[float, float], answer: bool, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*arguments: object) -> Callable[[], object]:
        is_external = bool(arguments[-1])
        return lambda: time.sleep(seconds[is_external])

    monkeypatch.setattr(layer_measurement, "_step", step)
    assert is_faster_in_torch(CONVOLUTION, SHAPE) == answer


def test_a_measurement_changes_neither_the_layer_nor_torchs_random_numbers(file: Path) -> None:
    layer = nn.Conv2d(4, 8, 3, padding=1)
    before, state = layer.weight.clone(), torch.get_rng_state()
    is_faster_in_torch(layer, SHAPE)
    assert torch.equal(layer.weight, before)
    assert layer.weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)
