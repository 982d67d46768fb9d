"""Measure training speed for networks that users build, against two plain loops of torch.

    python -m benchmarks.networks [NOTATION ...]

Prints a row for each network of networks.json, or for the given ones: images per second of

- `ours`: `Trainer`;
- `notebook`: the loop of the exercise's notebook: a DataLoader with ToTensor and Normalize, torch's own layers;
- `in_memory`: the loop that an informed user writes: the images in memory as one tensor, channels-last, all cores.

Medians of rounds, taken in turns in one process, in batches of BATCH_SIZE, with the optimizer of the notebook (SGD with
momentum) in all three. `estimate_off_percent` is how much longer a step of ours took than `lib.training.time_estimate`
had said.

networks.json names public solutions of the exercise by their ids, and four others.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

from benchmarks.arithmetic import peak_flops
from lib.data.dataset import FOLDER, MEAN, STD, load, normalize
from lib.design.analysis import analyze
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.operation_specs import num_macs
from lib.design.operations import IMAGE, operations
from lib.design.recipe import Recipe
from lib.export.pytorch_source import pytorch_source
from lib.nn import fast_path
from lib.training import time_estimate
from lib.training.time_estimate import MachineProfile
from lib.training.trainer import StepMetrics, Trainer

NETWORKS = Path(__file__).parent / "networks.json"
# The last networks of the file are not public solutions.
OWN_NETWORKS = 4
SEED = 0
BATCH_SIZE = 128
ROUNDS = 5
# Seconds of each loop in each round.
SPAN = 0.7
RECIPE = Recipe("SGD", 0.01, epochs=100, batch_size=BATCH_SIZE, seed=SEED)
SLOWEST = 3
PROFILED_STEPS = 60


def measured(networks: Sequence[dict[str, str]] | None = None) -> dict[str, Any]:
    """Measure the networks, each with `id` and `notation`; by default those of networks.json.

    Returns `networks` (a row for each), the geometric `means` and the `least` of both ratios over the public networks,
    `peak_gflops` (the arithmetic limit of this machine), and for the SLOWEST of them `step_milliseconds` by part.
    """
    profile, peak = time_estimate.measure(), peak_flops()
    chosen = networks or json.loads(NETWORKS.read_text(encoding="utf-8"))
    rows = []
    for network in chosen:
        rows.append(_row(network["id"], network["notation"], profile, peak))
        print(json.dumps(rows[-1]), flush=True)
    public = rows if networks else rows[:-OWN_NETWORKS]
    ratios = {name: [row["ours"] / row[name] for row in public] for name in ("notebook", "in_memory")}
    slowest = sorted(public, key=lambda row: float(row["ours"] / row["in_memory"]))[:SLOWEST]
    return {
        "networks": rows,
        "network_means": {name: round(statistics.geometric_mean(found), 2) for name, found in ratios.items()},
        "network_least": {name: round(min(found), 2) for name, found in ratios.items()},
        "peak_gflops": round(peak / 1e9),
        "slowest_steps": [_step_parts(row["id"], parse(row["notation"]), peak) for row in slowest],
    }


def _row(name: str, notation: str, profile: MachineProfile, peak: float) -> dict[str, Any]:
    architecture, cores = parse(notation), os.cpu_count() or 1
    ours, notebook, in_memory = in_turns(
        [(our_batches(architecture), 1), (notebook_batches(architecture), cores),
         (in_memory_batches(architecture), cores)]
    )  # fmt: skip
    estimated = time_estimate.epoch_seconds(profile, architecture, RECIPE, BATCH_SIZE)
    return {
        "id": name,
        "notation": notation,
        "macs": analyze(architecture).macs,
        "ours": round(ours),
        "notebook": round(notebook),
        "in_memory": round(in_memory),
        "ours_over_notebook": round(ours / notebook, 2),
        "ours_over_in_memory": round(ours / in_memory, 2),
        "share_of_peak": round(ours * step_flops(architecture) / peak, 2),
        "estimate_off_percent": round(100 * (BATCH_SIZE / ours / estimated - 1)),
    }


def step_flops(architecture: Architecture) -> int:
    """Floating-point operations of a training step for one image: outputs, gradients of weights and of inputs."""
    return sum(
        2 * num_macs(operation) * (2 if operation.inputs == (IMAGE,) else 3) for operation in operations(architecture)
    )


def _step_parts(name: str, architecture: Architecture, peak: float) -> dict[str, Any]:
    """Where the milliseconds of a step go: in the kernels, and around them."""
    seconds: dict[str, float] = {}

    def timed(key: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments)
            seconds[key] = seconds.get(key, 0.0) + time.perf_counter() - started
            return result

        return call

    path, run = fast_path.FastPath, fast_path._run_parallel
    forward, backward = path.forward, path.backward
    steps = our_batches(architecture)
    torch.set_num_threads(1)
    next(steps)
    try:
        path.forward = timed("forward", forward)  # type: ignore[method-assign]
        path.backward = timed("backward", backward)  # type: ignore[method-assign]
        fast_path._run_parallel = timed("kernels", run)
        seconds.clear()
        started = time.perf_counter()
        for _ in range(PROFILED_STEPS):
            next(steps)
        total = time.perf_counter() - started
    finally:
        path.forward, path.backward = forward, backward  # type: ignore[method-assign]
        fast_path._run_parallel = run
    around = seconds["forward"] + seconds["backward"] - seconds["kernels"]
    parts = {
        "step": total,
        "arithmetic_limit": PROFILED_STEPS * BATCH_SIZE * step_flops(architecture) / peak,
        "kernels": seconds["kernels"],
        "around_the_kernels": around,
        "batch_loss_and_optimizer": total - seconds["forward"] - seconds["backward"],
    }
    return {"id": name, **{f"{key}_ms": round(1000 * value / PROFILED_STEPS, 2) for key, value in parts.items()}}


def in_turns(loops: Sequence[tuple[Iterator[None], int]], rounds: int = ROUNDS, span: float = SPAN) -> list[float]:
    """Median images per second of each loop, given with its number of torch threads.

    The loops take turns; the first turn of each warms up.
    """
    rates: list[list[float]] = [[] for _ in loops]
    for _ in range(rounds + 1):
        for (loop, threads), rate in zip(loops, rates, strict=True):
            torch.set_num_threads(threads)
            started, steps, elapsed = time.perf_counter(), 0, 0.0
            while elapsed < span:
                next(loop)
                steps += 1
                elapsed = time.perf_counter() - started
            rate.append(steps * BATCH_SIZE / elapsed)
    return [statistics.median(rate[1:]) for rate in rates]


def our_batches(architecture: Architecture) -> Iterator[None]:
    """Train with `Trainer`, a batch for each item."""
    for event in Trainer(architecture, RECIPE, load()):
        if isinstance(event, StepMetrics):
            yield


def stock_network(architecture: Architecture) -> nn.Module:
    """The network as its exported source builds it."""
    torch.manual_seed(SEED)
    scope: dict[str, Any] = {}
    exec(pytorch_source(architecture), scope)
    network: nn.Module = scope["network"]
    return network.train()


def notebook_batches(architecture: Architecture) -> Iterator[None]:
    """Train as the exercise's notebook does, a batch for each item."""
    load()
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    loader = DataLoader(MNIST(str(FOLDER), transform=transform), BATCH_SIZE, shuffle=True)
    network = stock_network(architecture)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    while True:
        for x, y in loader:
            _step(network, optimizer, x, y)
            yield


def in_memory_batches(architecture: Architecture) -> Iterator[None]:
    """Train with the images in memory as one tensor, channels-last, a batch for each item."""
    data = load()
    images, labels = normalize(data.train_images), data.train_labels
    network = stock_network(architecture).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    while True:
        for batch in torch.split(torch.randperm(len(images)), BATCH_SIZE):
            _step(network, optimizer, images[batch].contiguous(memory_format=torch.channels_last), labels[batch])
            yield


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    loss = F.nll_loss(F.log_softmax(network(x), 1), y)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    loss.item()


def main(notations: Sequence[str]) -> None:
    print(json.dumps(measured([{"id": "", "notation": text} for text in notations] or None), indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
