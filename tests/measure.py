"""Simple measurements of networks, to compare with those of lib/, and the networks that come with the project."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.data.dataset import normalize
from lib.nn.network import Network
from lib.storage import checkpoints

BATCH = 250


def shipped_network(name: str = "assignment-9274") -> Network:
    """Load a network of `checkpoints/`, in eval mode."""
    return checkpoints.network(checkpoints.load(checkpoints.FOLDER / f"{name}.safetensors"))


def count_params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def called_modules(network: nn.Module, x: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """The modules without children in the order in which a forward pass calls them, with their outputs."""
    found: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, _, output: found.append((module, output)))
        for module in network.modules()
        if not list(module.children())
    ]
    network(x)
    for hook in hooks:
        hook.remove()
    return found


def load_in_order(network: nn.Module, source: nn.Module) -> None:
    """Copy the tensors of one network into another that has the same ones in the same order under other names."""
    state = source.state_dict()
    names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    values = [tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")]
    network.load_state_dict(dict(zip(names, values, strict=True)), strict=False)


def accuracy_on(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the accuracy, 0 to 1, on uint8 images (N, 28, 28). Leaves the network in eval mode."""
    network.eval()
    with torch.inference_mode():
        predicted = torch.cat([network(normalize(x)).argmax(1) for x in torch.split(images, BATCH)])
    return int((predicted == labels).sum()) / len(images)
