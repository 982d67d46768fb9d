"""Calibrations in checkpoints: found once, and kept with the weights that they belong to.

A checkpoint holds the temperature and its errors as JSON, and the OOD reference as float32 tensors; of the triangular
matrix only the triangle. `ClassGaussians` has no other values, so a stored calibration is equal to a computed one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lib.evaluation.calibration import IMAGES, MAX_TEMPERATURE, MIN_TEMPERATURE, Calibration
from lib.evaluation.ood import DIGITS, ClassGaussians, feature_count
from lib.storage.checkpoints import Checkpoint, weights_digest

# Of `calibrate`: what another version has found is not used, and found again.
VERSION = 1
KEY, PREFIX = "calibration", "calibration."
# The most reference distances that `calibrate` keeps: of half its images, augmented or not, and synthetic.
MAX_DISTANCES = IMAGES


def with_calibration(checkpoint: Checkpoint, calibration: Calibration) -> Checkpoint:
    """Return a checkpoint that also holds the calibration of its weights; without images there is none to hold."""
    if not calibration.images or not checkpoint.weights:
        return checkpoint
    found = calibration.gaussians
    values = {
        "version": VERSION,
        "weights": weights_digest(checkpoint.weights),
        "temperature": calibration.temperature,
        "images": calibration.images,
        "error_before": calibration.error_before,
        "error_after": calibration.error_after,
        "ood": found is not None,
    }
    tensors: dict[str, Tensor] = {}
    if found:
        rows, columns = torch.tril_indices(*found.whitening.shape)
        tensors = {
            f"{PREFIX}means": found.means.float(),
            f"{PREFIX}whitening": found.whitening[rows, columns].float(),
            f"{PREFIX}distances": found.distances.float(),
        }
    return replace(checkpoint, extra={**checkpoint.extra, **tensors}, details={**checkpoint.details, KEY: values})


def stored_calibration(checkpoint: Checkpoint) -> Calibration | None:
    """Return the calibration that a checkpoint holds.

    None if there is none, or if it is not possible, of other weights or of another version: it can be computed again.
    """
    values = checkpoint.details.get(KEY)
    try:
        if not isinstance(values, Mapping) or values["version"] != VERSION:
            return None
        if values["weights"] != weights_digest(checkpoint.weights):
            return None
        gaussians = _gaussians(checkpoint) if values["ood"] else None
        return Calibration(
            _number(values["temperature"], MIN_TEMPERATURE, MAX_TEMPERATURE),
            int(_number(values["images"], 1, IMAGES)),
            _number(values["error_before"], 0, 1),
            _number(values["error_after"], 0, 1),
            gaussians,
        )
    except (KeyError, ValueError):
        return None


def _number(value: Any, low: float, high: float) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
        raise ValueError("not a possible value")
    return float(value)


def _gaussians(checkpoint: Checkpoint) -> ClassGaussians:
    width = feature_count(checkpoint.summary.architecture)
    means, packed, distances = (checkpoint.extra[PREFIX + name] for name in ("means", "whitening", "distances"))
    if (
        means.shape != (DIGITS, width)
        or packed.shape != (width * (width + 1) // 2,)
        or distances.dim() != 1
        or not 1 <= len(distances) <= MAX_DISTANCES
        or any(tensor.dtype != torch.float32 for tensor in (means, packed, distances))
        or not all(bool(torch.isfinite(tensor).all()) for tensor in (means, packed, distances))
        or bool((distances.diff() < 0).any())
    ):
        raise ValueError("not a possible reference")
    whitening = torch.zeros(width, width, dtype=torch.float64)
    rows, columns = torch.tril_indices(width, width)
    whitening[rows, columns] = packed.double()
    return ClassGaussians(means.double(), whitening, distances.double())
