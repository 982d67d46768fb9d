"""The course exercise: its four limits, and the receptive fields in the comments of its reference code.

Under 20,000 parameters, under 20 epochs, no fully connected layer, 99.4 % on the test set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from lib.design.analysis import NetworkAnalysis
from lib.design.layers import Architecture, FullyConnected
from lib.text.formatting import percent

PARAMS_LIMIT = 20_000
EPOCHS_LIMIT = 20
TARGET_ACCURACY = 0.994
PARAMS_REQUIREMENT = "Under 20,000 parameters"
# Receptive fields as the comments in the reference code state them, one for each layer of the first two presets; it has
# no comment at its max-pools. They double the field at a pool, which is wrong: `analysis` has the true ones.
COMMENTED_FIELDS = (3, 5, 7, None, 14, 16, 18, None, 36, 38, 77)

Status: TypeAlias = Literal["met", "missed", "unknown"]


@dataclass(frozen=True)
class Requirement:
    """One limit of the exercise, the value of this network, and whether it meets the limit."""

    limit: str
    value: str
    status: Status


def requirements(
    analysis: NetworkAnalysis, architecture: Architecture, epochs: int, test_accuracy: float | None
) -> tuple[Requirement, Requirement, Requirement, Requirement]:
    """The four limits. `test_accuracy` is a fraction at the final epoch, None before training."""
    dense = sum(isinstance(layer, FullyConnected) for layer in architecture.layers)
    return (
        Requirement(PARAMS_REQUIREMENT, f"{analysis.num_params:,}", _status(analysis.num_params < PARAMS_LIMIT)),
        Requirement("Under 20 epochs", f"{epochs}", _status(epochs < EPOCHS_LIMIT)),
        Requirement("No fully connected layer", f"{dense}" if dense else "None", _status(dense == 0)),
        Requirement(
            "99.4 % on the test set",
            "Not trained yet" if test_accuracy is None else percent(test_accuracy, 2),
            "unknown" if test_accuracy is None else _status(test_accuracy >= TARGET_ACCURACY),
        ),
    )


def _status(met: bool) -> Status:
    return "met" if met else "missed"
