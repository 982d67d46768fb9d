"""Activations that a file computes by several operators, recognized by their values at a few points."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from lib.importing.module_graph import Argument

# On both sides of every bend.
POINTS = (-5.5, -3.2, -2.0, -0.7, 0.3, 1.1, 2.6, 4.5)
_TOLERANCE = 1e-4


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def _clip(x: float, low: float = -math.inf, high: float = math.inf, **attributes: float) -> float:
    return min(max(x, attributes.get("min", low)), attributes.get("max", high))


def _hard_sigmoid(x: float, alpha: float = 0.2, beta: float = 0.5) -> float:
    return min(max(alpha * x + beta, 0.0), 1.0)


# What each operator of ONNX does to single numbers. Its attributes are keyword arguments.
POINTWISE: Mapping[str, Callable[..., float]] = {
    "Add": lambda x, y: x + y,
    "Sub": lambda x, y: x - y,
    "Mul": lambda x, y: x * y,
    "Div": lambda x, y: x / y,
    "Pow": lambda x, y: x**y,
    "Min": min,
    "Max": max,
    "Erf": math.erf,
    "Tanh": math.tanh,
    "Sigmoid": _sigmoid,
    "HardSigmoid": _hard_sigmoid,
    "Softplus": _softplus,
    "Relu": lambda x: max(x, 0.0),
    "Clip": _clip,
}

_COMPOSITES: tuple[tuple[str, Mapping[str, Argument], Callable[[float], float]], ...] = (
    ("SiLU", {}, lambda x: x * _sigmoid(x)),
    ("Mish", {}, lambda x: x * math.tanh(_softplus(x))),
    ("Hardswish", {}, lambda x: x * _hard_sigmoid(x, 1 / 6)),
    ("GELU", {}, lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
    (
        "GELU",
        {"approximate": "tanh"},
        lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    ),
)
_EXPECTED = [(kind, arguments, tuple(map(compute, POINTS))) for kind, arguments, compute in _COMPOSITES]


def composite(values: tuple[float, ...]) -> tuple[str, Mapping[str, Argument]] | None:
    """The activation with these values at POINTS, with its arguments; None if it is none of those here."""
    for kind, arguments, expected in _EXPECTED:
        if all(abs(value - wanted) < _TOLERANCE for value, wanted in zip(values, expected, strict=True)):
            return kind, arguments
    return None
