"""Which networks have a fast training path (`lib.nn.fast_path`), decided without torch."""

from __future__ import annotations

from lib.design.analysis import analyze
from lib.design.layers import Architecture, AveragePool, Convolution, GlobalAveragePool, Layer, MaxPool

# Networks with more MACs per image are so wide that torch's own kernels are as fast.
FAST_PATH_MACS = 10_000_000
MAX_PADDING = 2


def has_fast_path(architecture: Architecture) -> bool:
    """Whether the network is small and has only pools and 3×3 convolutions of stride 1.

    The norm of a convolution must follow its activation, or be absent. The architecture must be valid.
    """
    return all(map(_is_covered, architecture.layers)) and analyze(architecture).macs <= FAST_PATH_MACS


def _is_covered(layer: Layer) -> bool:
    if isinstance(layer, Convolution):
        # Compared as a whole, so that every field that the kernels do not know must have its default.
        known = Convolution(channels=layer.channels, padding=layer.padding, norm=layer.norm)
        return layer == known and max(layer.padding_pixels) <= MAX_PADDING and layer.norm != "before"
    if isinstance(layer, MaxPool | AveragePool):
        return layer == type(layer)(layer.kernel_size, layer.stride) and all(
            isinstance(side, int) for side in (layer.kernel_size, layer.stride)
        )
    return isinstance(layer, GlobalAveragePool)
