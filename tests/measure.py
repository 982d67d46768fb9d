"""What the tests measure of a network in the plainest way, beside what lib/ says of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.data.dataset import normalise

BATCH = 250


def count_params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def accuracy_on(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Accuracy, a fraction, of `network` on uint8 images (N, 28, 28); the network is left in eval mode."""
    network.eval()
    with torch.inference_mode():
        answers = torch.cat([network(normalise(x)).argmax(1) for x in torch.split(images, BATCH)])
    return int((answers == labels).sum()) / len(images)
