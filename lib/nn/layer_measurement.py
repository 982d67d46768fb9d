"""Measure for which convolutions and linear layers torch is faster than the compiled kernels on this machine.

The kernels are faster for the narrow layers of most networks here. torch may be faster for wide ones, depending on the
processor. Each kind of layer is measured once, and the answer is kept in a file beside numba's compiled code: a
training that goes on in another process must compute the same bits.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import llvmlite.binding
import numba
import torch
from torch import Tensor, nn

from lib.design.layers import Shape
from lib.nn.fast_path import FastPath
from lib.nn.network import torch_threads
from lib.nn.plan import build_plan

FILE = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parent / "__pycache__") / "layer_measurement.json"
# torch must be faster by this factor: the conversions around it cost more in a network than they do alone.
MARGIN = 1.15
# Images of a measurement, fewer for a layer with many multiply-accumulates.
IMAGES, MACS = 64, 1_000_000_000
ROUNDS = 3
# Larger layers are left to torch unmeasured: the kernels keep a gradient of the weights for each block of images.
MAX_WEIGHTS, MAX_MACS = 2**18, 500_000_000

_lock = threading.Lock()
# For each kind of layer on this machine, whether torch is faster; None before the file is read.
_answers: dict[str, bool] | None = None


def is_faster_in_torch(layer: nn.Conv2d | nn.Linear, input_shape: Shape) -> bool:
    """Whether torch computes a training step of a layer faster; `input_shape` is (channels, height, width).

    Measures a kind of layer that is not known yet, which takes some hundredths of a second.
    """
    global _answers
    name = _name(layer, input_shape)
    with _lock:
        if _answers is None:
            _answers = _read()
        if name not in _answers:
            _answers[name] = _measure(layer, input_shape)
            _write(_answers)
        return _answers[name]


def is_too_large(layer: nn.Conv2d | nn.Linear) -> bool:
    """Whether a layer has so many weights that it is left to torch without a measurement."""
    return layer.weight.numel() > MAX_WEIGHTS


def _name(layer: nn.Conv2d | nn.Linear, input_shape: Shape) -> str:
    return f"{layer} on {input_shape}"


def _machine() -> str:
    """What the answers depend on beside the layer."""
    versions = f"torch {torch.__version__}, numba {numba.__version__}"
    return f"{llvmlite.binding.get_host_cpu_name()}, {os.cpu_count()} cores, {versions}"


def _read() -> dict[str, bool]:
    with suppress(OSError, ValueError):
        content = json.loads(FILE.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("machine") == _machine():
            layers = content.get("torch_is_faster")
            if isinstance(layers, dict) and all(isinstance(answer, bool) for answer in layers.values()):
                return layers
    return {}


def _write(answers: dict[str, bool]) -> None:
    """Keep the answers, and those of other processes; without a file that can be written they are lost at the end."""
    content = {"machine": _machine(), "torch_is_faster": _read() | answers}
    temporary = FILE.with_suffix(f".{os.getpid()}.tmp")
    with suppress(OSError):
        FILE.parent.mkdir(exist_ok=True)
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(temporary, FILE)


def _measure(layer: nn.Conv2d | nn.Linear, input_shape: Shape) -> bool:
    copied = _untrained(layer)
    network = nn.Sequential(nn.Flatten(), copied)
    if isinstance(copied, nn.Conv2d):
        network = nn.Sequential(copied, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.device("meta"):
        output = copied.to("meta")(torch.empty(1, *_input(layer, input_shape)))
    macs = layer.weight[0].numel() * output.numel()
    if is_too_large(layer) or macs > MAX_MACS:
        return True
    copied.to_empty(device="cpu")
    images = max(16, min(IMAGES, MACS // max(1, macs)))
    generator = torch.Generator().manual_seed(0)
    for parameter in copied.parameters():
        nn.init.uniform_(parameter, -0.1, 0.1, generator=generator)
    x = torch.randn(images, *input_shape, generator=generator)
    steps = [_step(network, input_shape, x, is_external) for is_external in (False, True)]
    times: list[list[float]] = [[], []]
    with torch_threads(1):
        for _ in range(ROUNDS + 1):
            for step, taken in zip(steps, times, strict=True):
                started = time.perf_counter()
                step()
                taken.append(time.perf_counter() - started)
    # The first round compiles and allocates. Other work of the machine only makes a step slower.
    ours, torchs = (min(taken[1:]) for taken in times)
    return torchs * MARGIN < ours


def _untrained(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """A layer with the same arguments on the device "meta"."""
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features, bias, device="meta")
    return nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        layer.groups,
        bias,
        device="meta",
    )


def _input(layer: nn.Conv2d | nn.Linear, input_shape: Shape) -> tuple[int, ...]:
    return input_shape if isinstance(layer, nn.Conv2d) else (math.prod(input_shape),)


def _step(network: nn.Sequential, input_shape: Shape, x: Tensor, is_external: bool) -> Callable[[], object]:
    plan = build_plan(network, lambda _layer, _shape: is_external, input_shape, needs_input_grad=True)
    path = FastPath(plan)

    def step() -> None:
        logits = path.forward(x)
        path.backward(logits)

    return step
