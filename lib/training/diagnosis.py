"""Whether a training learns, and if not, why: pure functions over its curves and a probe of its network.

A training learns nothing if its loss stays at that of guessing: of the probabilities that do not depend on the image.
The digits of MNIST are about equally frequent, so that this loss is ln 10 = 2.303, with any label smoothing.

`diagnose` depends only on its arguments. A diagnosis is therefore withdrawn as soon as the loss falls, and a run that
is read from a file has the diagnosis that it had when it was saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lib.design.layers import CLASSES, Architecture, Dropout, Normalization, logits_layer
from lib.design.operations import operations
from lib.design.recipe import FIELDS, Optimizer, Recipe, number_text
from lib.text.formatting import percent

if TYPE_CHECKING:
    from lib.training.history import Curves
    from lib.training.trainer import EpochMetrics

Kind: TypeAlias = Literal[
    "high learning rate",
    "low learning rate",
    "dead units",
    "dead outputs",
    "constant outputs",
    "no signal",
    "dropout",
    "weight decay",
    "one class",
    "guessing",
    "batch norm",
]

GUESS_LOSS = math.log(CLASSES)
# Means are over the last steps with at least so many images, and so many steps.
WINDOW_IMAGES, WINDOW_STEPS = 2_000, 10
# The loss is that of guessing if it has fallen by less than this part of the way to the lowest possible one, and fewer
# images are right. One digit for every image is right for 9 to 11.3 %.
MIN_PROGRESS, MIN_ACCURACY = 0.05, 0.2
# Multiples of the loss of guessing: above the first it is worse than guessing, above the second it has jumped, and
# below the third something was learned.
WORSE, JUMPED, LEARNED = 1.1, 1.5, 0.8
# Steps at the full learning rate before a training that guesses is diagnosed, and before its network is probed.
PATIENCE, PROBE_PATIENCE = 300, 100
# A loss that jumps from the first to the second multiple of that of guessing, so often, is unstable.
CALM, JUMP, JUMPS = 0.5, 0.9, 2
# A network learns slowly if it is below all three: part of the way, accuracy of the network, change of its weights.
SLOW_PROGRESS, SLOW_ACCURACY, SLOW_CHANGE = 0.5, 0.7, 0.1
SLOW_PATIENCE = 600
# The weights shrink to this part of their initial norm only if they are forgotten.
FORGOTTEN = 0.1
# Outputs whose standard deviation over the images is a smaller part of their size hardly depend on the image.
MIN_VARIATION = 1e-2
MIN_LOGIT = 1e-3
# Accuracy of batches from which batch norm is to blame if the network, measured afterwards, has less than half of it.
TRAINED_ACCURACY = 0.3
HIGH_DROPOUT = 0.7
# Activations that are flat far from 0.
SATURATING = frozenset({"Sigmoid", "Tanh"})
# Learning rates: below the first a network hardly moves, the second is a usual one, and the third is usual with norm.
USUAL_RATES: dict[Optimizer, tuple[float, float, float]] = {
    "SGD": (1e-3, 0.02, 0.1),
    "Adam": (1e-4, 0.001, 0.01),
    "AdamW": (1e-4, 0.001, 0.01),
}
RATE = next(spec for spec in FIELDS if spec.name == "learning_rate")


@dataclass(frozen=True)
class NetworkProbe:
    """What a network does with a few training images in eval mode, after `step` steps.

    - `accuracy`: 0 to 1. `predictions`: how many images each digit is predicted for.
    - `dead_layer`: index of the first layer whose activation is 0 at every position of every image, None if there is
      none. `dead_logits`: how many of the ten outputs are the same for every image.
    - `variation`: standard deviation of the outputs over the images, relative to `logit_size`, their root mean square.
    - `weight_change`: median over the layers of the distance of the weights from the initial ones, relative to the
      initial norm. `weight_norm`: median of their norm, relative to the initial one.
    """

    step: int
    accuracy: float
    predictions: tuple[int, ...]
    dead_layer: int | None
    dead_logits: int
    variation: float
    logit_size: float
    weight_change: float
    weight_norm: float


@dataclass(frozen=True)
class Diagnosis:
    """Why a training does not learn: a sentence with the cause, and one about what to try.

    `learning_rate` is the one to try, None if the remedy is another.
    """

    kind: Kind
    sentence: str
    remedy: str
    learning_rate: float | None = None

    @property
    def text(self) -> str:
        return f"{self.sentence} {self.remedy}"


@dataclass(frozen=True)
class LossSummary:
    """What the diagnosis needs of the curves.

    - `loss`, `accuracy`: means over the last steps. `best`, `worst`: lowest and highest mean loss of a block of steps.
    - `progress`: 0 for the loss of guessing, 1 for the lowest possible loss.
    - `jumps`: how often the loss has jumped up; `jumped_lately`: whether the last time was in the last third.
    - `full_steps`: steps in units of the full learning rate, or of a usual one if that is lower: a step of a warm-up
      counts as the fraction that it has.
    - `rate`: the highest learning rate so far.
    - `is_full`: whether there are as many steps as the means are meant to be over.
    """

    loss: float
    accuracy: float
    best: float
    worst: float
    progress: float
    jumps: int
    jumped_lately: bool
    full_steps: float
    rate: float
    is_full: bool

    @property
    def guesses(self) -> bool:
        return self.progress < MIN_PROGRESS and self.accuracy < MIN_ACCURACY


def summarize(recipe: Recipe, curves: Curves, lr_scale: float = 1.0) -> LossSummary | None:
    """Summarize the curves from the first step on; None for less than WINDOW_STEPS steps or a loss that is no number.

    `lr_scale` multiplies the learning rate of the recipe, as at present.
    """
    window = max(WINDOW_STEPS, math.ceil(WINDOW_IMAGES / recipe.batch_size))
    blocks = _block_means(curves.train_loss, max(WINDOW_STEPS, window // 4))
    if not len(blocks):
        return None
    loss = float(curves.train_loss[-window:].mean())
    if not math.isfinite(loss):
        return None
    lowest = _lowest_loss(recipe.label_smoothing)
    jumps = _jumps(blocks)
    full_rate = min(recipe.learning_rate * lr_scale, USUAL_RATES[recipe.optimizer][1])
    return LossSummary(
        loss=loss,
        accuracy=float(curves.train_accuracy[-window:].mean()),
        best=float(blocks.min()),
        worst=float(blocks.max()),
        progress=(GUESS_LOSS - loss) / (GUESS_LOSS - lowest),
        jumps=len(jumps),
        jumped_lately=len(jumps) > 0 and int(jumps[-1]) >= len(blocks) * 2 / 3,
        full_steps=float(np.minimum(curves.learning_rate / full_rate, 1).sum()),
        rate=float(curves.learning_rate.max()),
        is_full=len(curves) >= window,
    )


def needs_probe(summary: LossSummary | None, *, ended: bool) -> bool:
    """Whether `diagnose` needs a probe: the loss is suspect, and no longer because the training has just begun."""
    if summary is None or not (ended or (summary.is_full and summary.full_steps >= PROBE_PATIENCE)):
        return False
    return summary.loss > WORSE * GUESS_LOSS or summary.guesses or summary.progress < SLOW_PROGRESS


def diagnose(
    architecture: Architecture,
    recipe: Recipe,
    summary: LossSummary | None,
    epochs: Sequence[EpochMetrics],
    probe: NetworkProbe | None,
    *,
    ended: bool,
    lr_scale: float = 1.0,
) -> Diagnosis | None:
    """Say why a training does not learn; None if it learns, or if it is too early to say.

    `ended` says that the recipe is done: then there is nothing to wait for. Without a `probe`, as for a run of an
    earlier version, fewer causes can be told apart.
    """
    if summary is None or not (ended or summary.is_full):
        return None
    case = _Case(architecture, recipe, summary, probe, recipe.learning_rate * lr_scale)
    # Dropout may hide in training what the network has learned.
    if probe and probe.accuracy > SLOW_ACCURACY and summary.loss < WORSE * GUESS_LOSS:
        return case.batch_norm(epochs, ended=ended)
    patience = summary.full_steps if not ended else math.inf
    if summary.loss > WORSE * GUESS_LOSS:
        enough = PROBE_PATIENCE if summary.loss > JUMPED * GUESS_LOSS else PATIENCE
        return case.worse_than_guessing() if patience >= enough else None
    if summary.guesses:
        if patience >= PROBE_PATIENCE and probe and probe.dead_logits == CLASSES:
            return case.cause()
        return case.cause() if patience >= PATIENCE else None
    if summary.jumps >= JUMPS and summary.jumped_lately:
        return case.unstable()
    if patience >= SLOW_PATIENCE and (slow := case.slow()):
        return slow
    return case.batch_norm(epochs, ended=ended)


@dataclass(frozen=True)
class _Case:
    """A training that may have a diagnosis; `rate` is its full learning rate."""

    architecture: Architecture
    recipe: Recipe
    summary: LossSummary
    probe: NetworkProbe | None
    rate: float

    @property
    def finding(self) -> str:
        return f"The network is not learning: its loss is {self.summary.loss:.2f}, and guessing gives {GUESS_LOSS:.2f}."

    def cause(self) -> Diagnosis:
        """The cause of a loss that is that of guessing, the most certain one first."""
        summary, probe = self.summary, self.probe
        if probe is None:
            return self._cause_from_curves() or self._guessing("guessing", "")
        after = self.architecture.layers[logits_layer(self.architecture) + 1 :]
        if self.recipe.weight_decay and probe.weight_norm < FORGOTTEN:
            return self._shrunk(probe.weight_norm)
        if probe.dead_layer is not None:
            return self._dead(probe.dead_layer)
        if probe.logit_size < MIN_LOGIT and any(isinstance(layer, Normalization) for layer in after):
            return Diagnosis(
                "constant outputs",
                f"{self.finding} All ten outputs are almost 0 for every image: the normalization after the last "
                "layer with weights subtracts what the pool then averages.",
                "Remove that normalization, or move it before the last convolution.",
            )
        if summary.worst > JUMPED * GUESS_LOSS or summary.best < LEARNED * GUESS_LOSS:
            return self._cause_from_curves() or self._guessing("guessing", "")
        low, *_ = USUAL_RATES[self.recipe.optimizer]
        if summary.rate < low and not self._signal_is_lost():
            return self._too_low(self.finding)
        if not self._signal_is_lost() and (dropout := _highest_dropout(self.architecture)):
            return Diagnosis(
                "dropout",
                f"{self.finding} Dropout of {percent(dropout, 0)} leaves too little of each image.",
                "Try a dropout of 10 %, or none.",
            )
        if probe.variation < MIN_VARIATION:
            return self._no_signal()
        if probe.weight_change < SLOW_CHANGE / 5:
            return self._too_low(self.finding)
        most = max(probe.predictions)
        if most > 0.95 * sum(probe.predictions):
            return self._guessing("one class", f" It predicts {probe.predictions.index(most)} for every image.")
        return self._guessing("guessing", "")

    def _cause_from_curves(self) -> Diagnosis | None:
        summary = self.summary
        low, *_ = USUAL_RATES[self.recipe.optimizer]
        if summary.best < LEARNED * GUESS_LOSS:
            return self._too_high(
                f"The network has forgotten what it had learned: its loss rose from {summary.best:.2f} to "
                f"{summary.loss:.2f}, and guessing gives {GUESS_LOSS:.2f}."
            )
        if summary.worst > JUMPED * GUESS_LOSS:
            return self._too_high(f"{self.finding} Before, the loss had jumped to {_loss_text(summary.worst)}.")
        return self._too_low(self.finding) if summary.rate < low else None

    def worse_than_guessing(self) -> Diagnosis:
        return self._too_high(
            f"The loss is {_loss_text(self.summary.loss)}, which is worse than guessing ({GUESS_LOSS:.2f})."
        )

    def unstable(self) -> Diagnosis:
        return self._too_high(
            f"The loss keeps jumping: {self.summary.jumps} times it rose again to almost that of guessing "
            f"({GUESS_LOSS:.2f})."
        )

    def slow(self) -> Diagnosis | None:
        summary, probe = self.summary, self.probe
        if (
            probe is None
            or summary.progress >= SLOW_PROGRESS
            or probe.accuracy >= SLOW_ACCURACY
            or probe.weight_change >= SLOW_CHANGE
        ):
            return None
        return self._too_low(f"The network learns very slowly: its loss is still {summary.loss:.2f}.")

    def batch_norm(self, epochs: Sequence[EpochMetrics], *, ended: bool) -> Diagnosis | None:
        """The diagnosis if the last epoch's batches were right far more often than the measured network.

        It takes two epochs, or the last: after a large step the statistics of a batch norm may be behind for a moment.
        """
        needed = 1 if ended else 2
        if len(epochs) < needed or not _has_batch_norm(self.architecture):
            return None
        for epoch in epochs[-needed:]:
            if epoch.train_accuracy < TRAINED_ACCURACY or epoch.validation_accuracy > epoch.train_accuracy / 2:
                return None
        last, dropout = epochs[-1], _highest_dropout(self.architecture, 0.0)
        sentence = (
            f"{percent(last.train_accuracy)} of the images were right in training, but only "
            f"{percent(last.validation_accuracy)} when measured: the running statistics of batch norm, which are used "
            "then, are not those of the batches."
        )
        if dropout:
            return Diagnosis(
                "batch norm", sentence, "Dropout changes them: try less of it, or none before a batch norm."
            )
        rate = self._lower_rate()
        return Diagnosis("batch norm", sentence, f"Try a learning rate of {_rate_text(rate)}, or larger batches.", rate)

    def _shrunk(self, weight_norm: float) -> Diagnosis:
        """Each step shrinks the weights by the product of learning rate and weight decay: either may be too high."""
        decay = self.recipe.weight_decay
        sentence = f"{self.finding} Its weights have shrunk to {percent(weight_norm)} of their initial size."
        if self.rate > self._usual_rate:
            return self._too_high(f"{sentence} Weight decay shrinks them the more, the higher the learning rate is.")
        return Diagnosis(
            "weight decay",
            f"{sentence} The weight decay of {number_text(decay)} is too high.",
            f"Try a weight decay of {number_text(min(0.01, decay / 10))}.",
        )

    def _dead(self, layer: int) -> Diagnosis:
        rate = self._lower_rate()
        if layer > logits_layer(self.architecture):
            name, high = self.architecture.layers[layer].description, self.rate > self._usual_rate
            also = f" Also try a learning rate of {_rate_text(rate)}." if high else ""
            return Diagnosis(
                "dead outputs",
                f"{self.finding} The last layer's {name} outputs only zeros, so no gradient passes.",
                f"Remove the {name}: the ten outputs must be able to be negative.{also}",
            )
        norm = "" if _has_norm(self.architecture) else ", batch norm"
        return Diagnosis(
            "dead units",
            f"{self.finding} Layer {layer + 1} outputs only zeros for every image (dead units), so no gradient passes. "
            "A step that was too large does that.",
            f"Start again with a learning rate of {_rate_text(rate)}{norm} or leaky ReLU.",
            rate,
        )

    def _no_signal(self) -> Diagnosis:
        reasons = [] if _has_norm(self.architecture) else ["Add batch norm"]
        saturating = {operation.kind for operation in operations(self.architecture)} & SATURATING
        if saturating:
            reasons.append(f"use ReLU instead of {' and '.join(sorted(saturating)).lower()}")
        reasons.append("use fewer layers")
        remedy = ", or ".join(reasons)
        return Diagnosis(
            "no signal",
            f"{self.finding} Its outputs are almost the same for every image: the layers pass too little on.",
            f"{remedy[0].upper()}{remedy[1:]}.",
        )

    def _signal_is_lost(self) -> bool:
        return self.probe is not None and self.probe.variation < MIN_VARIATION / 1000

    def _guessing(self, kind: Kind, detail: str) -> Diagnosis:
        """Neither the curves nor the probe have a cause: go to a usual learning rate, from either side."""
        rate = self._lower_rate() if self.rate > self._usual_rate else self._higher_rate()
        norm = "" if _has_norm(self.architecture) else ", or batch norm"
        return Diagnosis(kind, f"{self.finding}{detail}", f"Try a learning rate of {_rate_text(rate)}{norm}.", rate)

    def _too_high(self, sentence: str) -> Diagnosis:
        rate = self._lower_rate()
        return Diagnosis(
            "high learning rate",
            f"{sentence} The learning rate of {_rate_text(self.rate)} is too high.",
            f"Start again with {_rate_text(rate)}.",
            rate,
        )

    def _too_low(self, sentence: str) -> Diagnosis:
        rate = self._higher_rate()
        return Diagnosis(
            "low learning rate",
            f"{sentence} Its weights have hardly changed: the learning rate of {_rate_text(self.rate)} is too low.",
            f"Try {_rate_text(rate)}.",
            rate,
        )

    def _lower_rate(self) -> float:
        """A tenth, and at most a usual learning rate."""
        return _allowed_rate(min(self.rate / 10, self._usual_rate))

    def _higher_rate(self) -> float:
        """Ten times as much, and at least a usual learning rate."""
        _, plain, _ = USUAL_RATES[self.recipe.optimizer]
        return _allowed_rate(max(self.rate * 10, plain))

    @property
    def _usual_rate(self) -> float:
        _, plain, normed = USUAL_RATES[self.recipe.optimizer]
        return normed if _has_norm(self.architecture) else plain


def _lowest_loss(smoothing: float) -> float:
    """The lowest cross-entropy, that of the smoothed targets themselves."""
    other = smoothing / CLASSES
    true = 1 - smoothing + other
    return -true * math.log(true) - (CLASSES - 1) * other * math.log(other) if smoothing else 0.0


def _block_means(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Means of consecutive blocks, counted from the end, so that the last one is complete."""
    count = len(values) // size
    return np.asarray(values[len(values) - count * size :].reshape(count, size).mean(1))


def _jumps(blocks: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indexes of the blocks at which the loss first reaches JUMP, each time after it was below CALM."""
    marks = np.where(blocks < CALM * GUESS_LOSS, -1, np.where(blocks > JUMP * GUESS_LOSS, 1, 0))
    (places,) = marks.nonzero()
    found = marks[places]
    return np.asarray(places[1:][(found[:-1] == -1) & (found[1:] == 1)])


def _has_norm(architecture: Architecture) -> bool:
    return any("Norm" in operation.kind for operation in operations(architecture))


def _has_batch_norm(architecture: Architecture) -> bool:
    return any("BatchNorm" in operation.kind for operation in operations(architecture))


def _highest_dropout(architecture: Architecture, least: float = HIGH_DROPOUT) -> float | None:
    """The highest probability of a dropout, None if none is at least `least`."""
    found = [layer.p for layer in architecture.layers if isinstance(layer, Dropout) and layer.p >= least]
    return max(found, default=None)


def _allowed_rate(rate: float) -> float:
    """The learning rate with one digit, in the range of a recipe's."""
    return min(max(float(f"{rate:.1g}"), RATE.low), RATE.high)


def _rate_text(rate: float) -> str:
    return number_text(rate) if rate >= 1e-6 else f"{rate:.1g}"


def _loss_text(loss: float) -> str:
    return f"{loss:.2f}" if loss < 1e4 else f"{loss:.1e}"
