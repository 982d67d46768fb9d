"""The notation: one line of text that names a network, one token for each layer.

`parse` reads it, `notation` writes it, and `parse(notation(a)) == a` for every canonical architecture (`canonical`).
Tokens are separated by spaces or commas:

    16        convolution 3x3 with 16 output channels, padded so that a stride of 1 keeps the size, ReLU, batch norm
    16k5      kernel 5x5 (k3x1: 3 high, 1 wide)   16s2   stride 2      16d2   dilation 2     16g4   4 groups
    16v       'valid': no padding                 16p2   padding 2 on each side
    16n       no norm                  16b    norm before the activation    16a    norm after it
    16x       neither activation nor norm         16u    no bias      16w    with bias
    16.gelu   another activation       16.gn4     another norm; both: 16.gn4.gelu
    M  M3s2   max-pool 2x2, or 3x3 with stride 2; M3s2p1 with padding; M2s2c keeps windows that are cut off at the edge
    A  A3s2   global average pool, or 3x3 with stride 2
    G         global max-pool
    D10  D5c  dropout of 10 %; of 5 % of the channels
    64f       fully connected layer with 64 outputs; 64fx without activation, 64fu without bias, 64f.tanh
    F         flattens a map, for a norm or a dropout between it and a fully connected layer
    R  N      ReLU and batch norm by themselves; gelu, tanh, leaky0.1, gn4, ln and others by their names
    add( 16 16x N )       residual block: the input is added to the output of the layers
    cat( 8 / 8k5 / )      branches whose outputs are concatenated; an empty branch is the input itself

Settings for the whole network come first, before a bar. The suffixes of a layer override them:

    bias=off norm=before.gn4 act=gelu dropout=5 | 8 16 M 16 10w A

The last layer with weights gives the logits: neither activation nor norm follows it, unless they are layers of their
own, as in `10 R A`.
"""

from __future__ import annotations

import re
from typing import Any

from lib.design.canonical_form import canonical, common_defaults, takes_dropout
from lib.design.layers import (
    ACTIVATIONS,
    MAX_CHANNELS,
    MAX_DROPOUT,
    MAX_KERNEL,
    MAX_LAYERS,
    NORMALIZATIONS,
    Activation,
    Architecture,
    ArchitectureError,
    AveragePool,
    Branch,
    Convolution,
    Defaults,
    Dropout,
    Flatten,
    Fork,
    FullyConnected,
    GlobalAveragePool,
    GlobalMaxPool,
    Join,
    Layer,
    MaxPool,
    Normalization,
    Size,
    last_weights,
    size,
)
from lib.design.operations import validate

# Key of the notation in the metadata of an ONNX file.
ONNX_KEY = "receptive.notation"

_SIZE = r"\d{1,2}(?:x\d{1,2})?"
_TOKEN = re.compile(
    rf"(?P<pool>[MA])(?P<size>{_SIZE})?(?:s(?P<pool_stride>{_SIZE}))?(?:p(?P<pool_padding>{_SIZE}))?(?P<ceil>c)?"
    r"|D(?P<percent>\d{1,2}(?:\.\d{1,6})?)(?P<whole>c)?"
    rf"|(?P<width>\d{{1,5}})(?P<dense>f)?(?P<suffixes>(?:[ksp]{_SIZE}|d\d{{1,2}}|g\d{{1,4}}|[vnbaxuw])*)"
    r"(?P<words>(?:\.[a-z].*)?)"
    r"|(?P<word>[a-z].*)",
    re.IGNORECASE,
)
_SUFFIX = re.compile(rf"([ksp])({_SIZE})|(d)(\d{{1,2}})|(g)(\d{{1,4}})|([vnbaxuw])", re.IGNORECASE)
# Longer names first: ln2d begins with ln.
_NAMES = "|".join(sorted([*ACTIVATIONS, *NORMALIZATIONS], key=len, reverse=True))
_WORD = re.compile(rf"({_NAMES})(\d{{1,4}}(?:\.\d{{1,6}})?)?")
_STRUCTURE: dict[str, Layer] = {"add(": Fork("add"), "cat(": Fork("cat"), "/": Branch(), ")": Join()}
_SINGLE: dict[str, Layer] = {"G": GlobalMaxPool(), "F": Flatten(), "R": Activation(), "N": Normalization()}
_EXCLUDING = (("v", "p"), ("n", "b"), ("n", "a"), ("a", "b"), ("x", "n"), ("x", "b"), ("x", "a"), ("u", "w"))


def parse(text: str) -> Architecture:
    """Read the notation into a canonical architecture.

    Raises ArchitectureError, which names the token, its position and what was expected.
    """
    settings, bar, layers_text = text.rpartition("|")
    defaults = _settings(settings) if bar else Defaults()
    words = re.sub(r"(\(|/|\))", r"\1 ", re.sub(r"(/|\))", r" \1", layers_text)).replace(",", " ").split()
    if not words:
        raise ArchitectureError("The network is empty. Type channel widths, for example 4 8 M 16 10 A.")
    if len(words) > MAX_LAYERS:
        raise ArchitectureError(f"The network has {len(words)} layers; the limit is {MAX_LAYERS}. Remove some.")
    layers = [_layer(token, position, defaults) for position, token in enumerate(words, start=1)]
    if defaults.dropout:
        layers = _with_dropout(layers, defaults.dropout)
    architecture = canonical(Architecture(tuple(layers)))
    validate(architecture)
    return architecture


def notation(architecture: Architecture) -> str:
    """Write an architecture in its canonical form; `parse` reads it back."""
    layers = architecture.layers
    defaults = common_defaults(layers)
    settings = _settings_text(defaults)
    logits = last_weights(layers)
    written = [
        token
        for index, (layer, token) in enumerate(zip(layers, tokens(architecture), strict=True))
        if not (defaults.dropout == layer and index and takes_dropout(layers[index - 1], index - 1 == logits))
    ]
    return " ".join([*settings, "|", *written] if settings else written)


def tokens(architecture: Architecture) -> list[str]:
    """The token of each layer, as `notation` writes it after the settings of the network.

    A dropout that is one of the settings has a token here, too.
    """
    layers = architecture.layers
    defaults = common_defaults(layers)
    logits = last_weights(layers)
    return [
        layer.written(defaults, is_logits=index == logits)
        if isinstance(layer, Convolution | FullyConnected)
        else layer.token
        for index, layer in enumerate(layers)
    ]


def _with_dropout(layers: list[Layer], dropout: Dropout) -> list[Layer]:
    """Insert a dropout after each convolution with an activation that has none of its own behind it."""
    logits = last_weights(tuple(layers))
    found: list[Layer] = []
    for index, layer in enumerate(layers):
        found.append(layer)
        follows = layers[index + 1] if index + 1 < len(layers) else None
        if takes_dropout(layer, index == logits) and not isinstance(follows, Dropout):
            found.append(dropout)
    if len(found) > MAX_LAYERS:
        raise ArchitectureError(f"The network has {len(found)} layers; the limit is {MAX_LAYERS}. Remove some.")
    return found


def _settings_text(defaults: Defaults) -> list[str]:
    norm: list[str] = [] if defaults.norm == "after" else [defaults.norm]
    norm += [] if defaults.normalization == Normalization() else [defaults.normalization.word]
    return [
        *(["bias=off"] if not defaults.bias else []),
        *([f"norm={'.'.join(norm)}"] if norm else []),
        *([f"act={defaults.activation.word}"] if defaults.activation != Activation() else []),
        *([f"dropout={defaults.dropout.token[1:]}"] if defaults.dropout else []),
    ]


def _settings(text: str) -> Defaults:
    """Read the settings before the bar."""
    given: dict[str, str] = {}
    for setting in text.replace(",", " ").split():
        name, equals, value = setting.lower().partition("=")
        if not equals or name not in ("bias", "norm", "act", "dropout"):
            raise ArchitectureError(
                f"“{_shown(setting)}” before the bar is not a setting. Write bias=off, norm=before, norm=gn4, act=gelu "
                "or dropout=5."
            )
        if name in given:
            raise ArchitectureError(f"The setting {name} appears twice. Write it once.")
        given[name] = value
    return Defaults(
        bias=_bias_setting(given.get("bias", "on")),
        activation=_activation_setting(given.get("act", "relu")),
        dropout=_dropout_setting(given["dropout"]) if "dropout" in given else None,
        **_norm_setting(given.get("norm", "after")),
    )


def _bias_setting(value: str) -> bool:
    if value not in ("on", "off"):
        raise ArchitectureError(f"The setting bias={_shown(value)} is unknown. Write bias=on or bias=off.")
    return value == "on"


def _activation_setting(value: str) -> Activation:
    found = _word(value)
    if not isinstance(found, Activation):
        raise ArchitectureError(
            f"The setting act={_shown(value)} is unknown. Write act= with one of {', '.join(ACTIVATIONS)}."
        )
    return found


def _dropout_setting(value: str) -> Dropout:
    match = re.fullmatch(r"(\d{1,2}(?:\.\d{1,6})?)(c)?", value)
    if match is None or float(match[1]) > MAX_DROPOUT:
        raise ArchitectureError(
            f"The setting dropout={_shown(value)} is unknown. Write a percentage from 0 to {MAX_DROPOUT}, as in "
            "dropout=5, or dropout=5c for whole channels."
        )
    return _dropout(match[1], bool(match[2]))


def _norm_setting(value: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in value.split("."):
        if word in ("after", "before", "none") and "norm" not in found:
            found["norm"] = word
        elif isinstance(kind := _word(word), Normalization) and "normalization" not in found:
            found["normalization"] = kind
        else:
            raise ArchitectureError(
                f"The setting norm={_shown(value)} is unknown. Write norm=before, norm=none, norm=gn4 or, for both, "
                "norm=before.gn4."
            )
    return found


def _layer(text: str, position: int, defaults: Defaults) -> Layer:
    """Read one token; `position`, counted from 1, is for the error message."""
    if text.lower() in _STRUCTURE:
        return _STRUCTURE[text.lower()]
    if text.upper() in _SINGLE:
        return _SINGLE[text.upper()]
    match = _TOKEN.fullmatch(text) if text.isascii() else None
    where = f"Token {position}, “{_shown(text)}”"
    not_a_layer = ArchitectureError(
        f"{where}, is not a layer. Write a channel width (16, 16v, 16k5), M or A for a pool, "
        "D10 for dropout, or 10f for a fully connected layer."
    )
    if match is None:
        raise not_a_layer
    if match["word"]:
        word = _word(match["word"].lower())
        if word is None:
            raise not_a_layer
        return word
    if match["pool"]:
        return _pool(match, where)
    if match["percent"]:
        if float(match["percent"]) > MAX_DROPOUT:
            raise ArchitectureError(f"{where}: a dropout's percentage must be from 0 to {MAX_DROPOUT}.")
        return _dropout(match["percent"], bool(match["whole"]))
    suffixes = [
        next((found[i].lower(), found[i + 1]) for i in (0, 2, 4, 6) if found[i])
        for found in ((*groups, "") for groups in _SUFFIX.findall(match["suffixes"]))
    ]
    if len({letter for letter, _ in suffixes}) < len(suffixes):
        raise ArchitectureError(f"{where}: a suffix appears twice. Write each of them once.")
    given = dict(suffixes)
    for first, second in _EXCLUDING:
        if first in given and second in given:
            raise ArchitectureError(f"{where}: {first} and {second} exclude each other. Write one of them.")
    words = _words(match["words"].lower(), where)
    if match["dense"]:
        return _fully_connected(match["width"], given, words, where, defaults)
    return _convolution(match["width"], given, words, where, defaults)


def _pool(match: re.Match[str], where: str) -> Layer:
    kind = MaxPool if match["pool"].upper() == "M" else AveragePool
    if match["size"] is None:
        if match["pool_stride"] or match["pool_padding"] or match["ceil"]:
            raise ArchitectureError(f"{where}: a pool's stride follows its size, as in M3s2.")
        return MaxPool() if kind is MaxPool else GlobalAveragePool()
    kernel_size = _size(match["size"], where, "a pool's size")
    return kind(
        kernel_size=kernel_size,
        stride=_size(match["pool_stride"], where, "a pool's stride") if match["pool_stride"] else kernel_size,
        padding=_size(match["pool_padding"] or "0", where, "a pool's padding", 0),
        ceil_mode=bool(match["ceil"]),
    )


def _dropout(percent: str, whole_channels: bool) -> Dropout:
    # Without rounding, 2.9 % would be 0.028999999999999998.
    return Dropout(p=round(float(percent) / 100, 8), whole_channels=whole_channels)


def _fully_connected(
    features: str, given: dict[str, str], words: dict[str, Layer], where: str, defaults: Defaults
) -> FullyConnected:
    unknown = [letter for letter in given if letter not in "xuw"]
    if unknown or "norm" in words:
        raise ArchitectureError(
            f"{where}: a fully connected layer takes x, u, w and an activation. Write a norm as a layer of its own, "
            "as in 64fx N R."
        )
    if "x" in given and words:
        raise ArchitectureError(f"{where}: x means no activation, but one is named. Write one of them.")
    activation: Any = words.get("activation", defaults.activation)
    return FullyConnected(
        features=_bounded(features, where, "the number of outputs", MAX_CHANNELS),
        activation=None if "x" in given else activation,
        bias="w" in given or (defaults.bias and "u" not in given),
    )


def _convolution(
    channels: str, given: dict[str, str], words: dict[str, Layer], where: str, defaults: Defaults
) -> Convolution:
    if "x" in given and words:
        raise ArchitectureError(f"{where}: x means neither activation nor norm, but one is named. Write one of them.")
    if "n" in given and "norm" in words:
        raise ArchitectureError(f"{where}: n means no norm, but one is named. Write one of them.")
    padding: Size | None = None
    if "v" in given:
        padding = 0
    elif "p" in given:
        padding = _size(given["p"], where, "a padding", 0)
    norm = next((place for letter, place in _PLACES if letter in given), defaults.norm)
    # A norm that is named is there, also if the network has none by default.
    if norm == "none" and "norm" in words:
        norm = "after"
    activation: Any = None if "x" in given else words.get("activation", defaults.activation)
    normalization: Any = words.get("norm", defaults.normalization)
    is_plain = activation is None
    return Convolution(
        channels=_bounded(channels, where, "the number of channels", MAX_CHANNELS),
        kernel_size=_size(given.get("k", "3"), where, "a kernel's size"),
        stride=_size(given.get("s", "1"), where, "a stride"),
        dilation=_bounded(given.get("d", "1"), where, "a dilation", MAX_KERNEL),
        padding=padding,
        norm="after" if is_plain else norm,
        activation=activation,
        normalization=Normalization() if is_plain or norm == "none" else normalization,
        bias="w" in given or (defaults.bias and "u" not in given),
        groups=_bounded(given.get("g", "1"), where, "the number of groups", MAX_CHANNELS),
    )


_PLACES: tuple[tuple[str, Any], ...] = (("n", "none"), ("b", "before"), ("a", "after"))


def _words(text: str, where: str) -> dict[str, Layer]:
    """Read words such as ".gn4.leaky0.1" into {"norm": …, "activation": …}."""
    found: dict[str, Layer] = {}
    while text:
        match = _WORD.match(text, 1)
        word = _word(match[0]) if match else None
        kind = "norm" if isinstance(word, Normalization) else "activation"
        if match is None or word is None or kind in found or (match.end() < len(text) and text[match.end()] != "."):
            raise ArchitectureError(
                f"{where}: “{_shown(text)}” is not one activation and one norm. Write for example 16.gelu, 16.gn4 or "
                "16.gn4.gelu."
            )
        found[kind] = word
        text = text[match.end() :]
    return found


def _word(text: str) -> Activation | Normalization | None:
    """Read a word such as "gelu", "leaky0.1" or "gn4"; None if it is none."""
    match = _WORD.fullmatch(text)
    if match is None:
        return None
    name, number = match[1], match[2]
    if name in NORMALIZATIONS:
        is_number_right = number.isdecimal() and int(number) > 0 if number else False
        if NORMALIZATIONS[name].is_grouped != bool(number) or (number and not is_number_right):
            return None
        return Normalization(name, int(number) if number else None)
    spec = ACTIVATIONS[name]
    if spec.parameter is None:
        return None if number else Activation(name)
    return Activation(name, float(number) if number else spec.default)


def _size(text: str, where: str, name: str, least: int = 1) -> Size:
    height, _, width = text.lower().partition("x")
    sides = [_bounded(side, where, name, MAX_KERNEL, least) for side in (height, width or height)]
    return size(*sides)


def _bounded(number: str, where: str, name: str, largest: int, least: int = 1) -> int:
    if not least <= int(number) <= largest:
        raise ArchitectureError(f"{where}: {name} must be from {least} to {largest}.")
    return int(number)


def _shown(text: str) -> str:
    return text if len(text) <= 20 else text[:20] + "…"
