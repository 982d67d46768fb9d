"""Measure training speed for networks that users build, against two plain loops of torch.

    python -m benchmarks.networks [ID or notation ...]

For each network, images per second of

- `ours`: `Trainer`;
- `notebook`: the loop of the exercise's notebook: a DataLoader with ToTensor and Normalize, torch's own layers;
- `in_memory`: the loop that an informed user writes: the images in memory as one tensor, channels-last, all cores.

Medians of rounds, taken in turns in one process, in batches of BATCH_SIZE.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

from lib.data.dataset import FOLDER, MEAN, STD, load, normalize
from lib.design.analysis import analyze
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.presets import PRESETS
from lib.design.recipe import Recipe
from lib.export.pytorch_source import pytorch_source
from lib.training.trainer import StepMetrics, Trainer, recommended_threads

FIXTURE = Path(__file__).parent / "networks.json"
SEED = 0
BATCH_SIZE = 128
ROUNDS = 5
# Seconds of each loop in each round.
SPAN = 0.7


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
    recipe = Recipe(epochs=100, batch_size=BATCH_SIZE, seed=SEED)
    for event in Trainer(architecture, recipe, load()):
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
        for batch in torch.randperm(len(images)).split(BATCH_SIZE):
            _step(network, optimizer, images[batch].contiguous(memory_format=torch.channels_last), labels[batch])
            yield


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    loss = F.nll_loss(F.log_softmax(network(x), 1), y)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    loss.item()
