"""A network that is ready to predict, with its calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lib.design.layers import Architecture
from lib.evaluation.calibration import UNCALIBRATED, Calibration
from lib.inference.predict import Prediction, predict, predict_all
from lib.nn.network import Network

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A saved network, or the last published weights of a run in training. `network` is in eval mode.

    - `name`: the name of the checkpoint or of the run.
    - `network`: None before the first batch of a run.
    - `version`: differs if the weights do. For a run in training its second part is the number of steps.
    - `calibration`: UNCALIBRATED if there is none yet, or without MNIST.
    - `calibrated_step`: the step of the run that the calibration belongs to, which may be earlier than the weights.
    """

    name: str
    architecture: Architecture
    network: Network | None
    version: tuple[str, int]
    calibration: Calibration = UNCALIBRATED
    in_training: bool = False
    calibrated_step: int = 0

    @property
    def step(self) -> int:
        """Steps after which the weights were published; 0 if the network is not in training."""
        return self.version[1] if self.in_training else 0

    def predict(self, images: Tensor) -> list[Prediction]:
        """Return the predictions for uint8 (N, 28, 28) images. `network` must not be None. Raises TooLargeError."""
        assert self.network is not None
        fitted = self.calibration.temperature, self.calibration.gaussians
        if len(images) == 1:
            return [predict(self.network, images[0], *fitted)]
        return predict_all(self.network, images, *fitted)
