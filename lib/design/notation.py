"""The notation: one line of text that names a network, one token for each layer.

`parse` reads it, `notation` writes it, and `parse(notation(a)) == a`. Tokens are separated by spaces or commas:

    16        convolution 3x3 with 16 output channels, padded so that a stride of 1 keeps the size, ReLU, batch norm
    16k5      kernel 5x5            16s2   stride 2            16d2   dilation 2
    16v       'valid': no padding   16p2   padding 2 on each side
    16n       no batch norm         16b    batch norm before the activation, not after it
    M  M3s2   max-pool 2x2, or 3x3 with stride 2
    A  A3s2   global average pool, or 3x3 with stride 2
    D10       dropout of 10 %
    64f       fully connected layer with 64 outputs

The last layer with weights gives the logits: neither ReLU nor norm follows it.
"""

from __future__ import annotations

import re

from lib.design.layers import (
    MAX_CHANNELS,
    MAX_DROPOUT,
    MAX_KERNEL,
    MAX_LAYERS,
    Architecture,
    ArchitectureError,
    AveragePool,
    Convolution,
    Dropout,
    FullyConnected,
    GlobalAveragePool,
    Layer,
    MaxPool,
)
from lib.design.operations import validate

_TOKEN = re.compile(
    r"(?P<pool>[MA])(?P<size>\d{1,2})?(?:s(?P<pool_stride>\d{1,2}))?"
    r"|(?P<features>\d{1,5})f"
    r"|D(?P<percent>\d{1,2})"
    r"|(?P<channels>\d{1,5})(?P<suffixes>(?:[ksdp]\d{1,2}|v|n|b)*)",
    re.IGNORECASE,
)
_SUFFIX = re.compile(r"([ksdpvnb])(\d*)", re.IGNORECASE)


def parse(text: str) -> Architecture:
    """Read the notation. Raises ArchitectureError, which names the token, its position and what was expected."""
    tokens = text.replace(",", " ").split()
    if not tokens:
        raise ArchitectureError("The network is empty. Type channel widths, for example 4 8 M 16 10 A.")
    if len(tokens) > MAX_LAYERS:
        raise ArchitectureError(f"The network has {len(tokens)} layers; the limit is {MAX_LAYERS}. Remove some.")
    architecture = Architecture(tuple(_layer(token, position) for position, token in enumerate(tokens, start=1)))
    validate(architecture)
    return architecture


def notation(architecture: Architecture) -> str:
    """Write an architecture in its canonical form; `parse` reads it back."""
    return " ".join(layer.token for layer in architecture.layers)


def _layer(text: str, position: int) -> Layer:
    """Read one token; `position`, counted from 1, is for the error message."""
    match = _TOKEN.fullmatch(text)
    shown = text if len(text) <= 20 else text[:20] + "…"
    if match is None or not text.isascii():
        raise ArchitectureError(
            f"Token {position}, “{shown}”, is not a layer. Write a channel width (16, 16v, 16k5), M or A for a pool, "
            "D10 for dropout, or 10f for a fully connected layer."
        )

    def bounded(number: str | int, name: str, largest: int, least: int = 1) -> int:
        if not least <= int(number) <= largest:
            raise ArchitectureError(f"Token {position}, “{shown}”: {name} must be from {least} to {largest}.")
        return int(number)

    if match["pool"]:
        if match["size"] is None and match["pool_stride"] is not None:
            raise ArchitectureError(f"Token {position}, “{shown}”: a pool's stride follows its size, as in M3s2.")
        if match["size"] is None:
            return MaxPool() if match["pool"].upper() == "M" else GlobalAveragePool()
        size = bounded(match["size"], "a pool's size", MAX_KERNEL)
        stride = bounded(match["pool_stride"] or size, "a pool's stride", MAX_KERNEL)
        pool = MaxPool if match["pool"].upper() == "M" else AveragePool
        return pool(kernel_size=size, stride=stride)
    if match["percent"]:
        return Dropout(percent=bounded(match["percent"], "a dropout's percentage", MAX_DROPOUT))
    if match["features"]:
        return FullyConnected(features=bounded(match["features"], "the number of outputs", MAX_CHANNELS))
    suffixes = [(letter.lower(), number) for letter, number in _SUFFIX.findall(match["suffixes"])]
    if len({letter for letter, _ in suffixes}) < len(suffixes):
        raise ArchitectureError(f"Token {position}, “{shown}”: a suffix appears twice. Write each of them once.")
    given = dict(suffixes)
    for first, second in (("v", "p"), ("n", "b")):
        if first in given and second in given:
            raise ArchitectureError(
                f"Token {position}, “{shown}”: {first} and {second} exclude each other. Write one of them."
            )
    padding = 0 if "v" in given else bounded(given["p"], "a padding", MAX_KERNEL, 0) if "p" in given else None
    return Convolution(
        channels=bounded(match["channels"], "the number of channels", MAX_CHANNELS),
        kernel_size=bounded(given.get("k", 3), "a kernel's size", MAX_KERNEL),
        stride=bounded(given.get("s", 1), "a stride", MAX_KERNEL),
        dilation=bounded(given.get("d", 1), "a dilation", MAX_KERNEL),
        padding=padding,
        norm="none" if "n" in given else "before" if "b" in given else "after",
    )
