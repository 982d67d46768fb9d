"""What a network in training does with a few images: what the diagnosis of a training needs beside its curves."""

from __future__ import annotations

import math
from statistics import median

import torch
from torch import Tensor

from lib.data.dataset import normalize
from lib.design.layers import CLASSES
from lib.design.operations import operations
from lib.evaluation.attribution import CAN_BE_DEAD
from lib.nn.network import Network, build, eval_batch_size
from lib.training.diagnosis import NetworkProbe

PROBE_IMAGES = 256


def probe(network: Network, images: Tensor, labels: Tensor, *, step: int, seed: int) -> NetworkProbe | None:
    """Probe a network after `step` steps; `seed` is that of its initial weights. None if a value is not finite.

    `images` are uint8 (N, 28, 28) and `labels` int64 (N,); at most PROBE_IMAGES are used, fewer for a large network.
    The network is left in eval mode, and otherwise unchanged.
    """
    count = min(PROBE_IMAGES, eval_batch_size(network.architecture))
    device = next(network.parameters()).device
    dead_layer = None
    network.eval()
    with torch.inference_mode():
        x = normalize(images[:count].to(device))
        for operation, output in zip(operations(network.architecture), network.outputs(x), strict=True):
            if dead_layer is None and operation.kind in CAN_BE_DEAD and not output.any():
                dead_layer = operation.layer
        # Some devices have no float64.
        logits = output.cpu().double()
        predictions = logits.argmax(1)
        size = float(logits.square().mean().sqrt())
        change, norm = _compare_weights(network, build(network.architecture, seed))
        if not all(map(math.isfinite, (size, change, norm))):
            return None
        return NetworkProbe(
            step=step,
            accuracy=float((predictions == labels[:count].cpu()).double().mean()),
            predictions=tuple(torch.bincount(predictions, minlength=CLASSES).tolist()),
            dead_layer=dead_layer,
            dead_logits=int((logits == logits[:1]).all(0).sum()),
            variation=float(logits.std(0, correction=0).square().mean().sqrt()) / size if size else 0.0,
            logit_size=size,
            weight_change=change,
            weight_norm=norm,
        )


def _compare_weights(network: Network, initial: Network) -> tuple[float, float]:
    """Medians over the layers: the change of the weights, and their norm, both relative to the initial norm."""
    changes, norms = [], []
    for now, before in zip(network.parameters(), initial.parameters(), strict=True):
        # Biases and the weights of a norm have one dimension.
        if now.dim() > 1:
            norm = float(before.norm())
            changes.append(float((now.cpu() - before).norm()) / norm)
            norms.append(float(now.norm()) / norm)
    return median(changes), median(norms)
