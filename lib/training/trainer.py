"""The training loop as an iterator: each `next` trains one batch and returns an event.

- The caller paces it: between two events nothing runs, so whoever stops iterating has stopped the training.
- The whole data set is two tensors and a batch is an index; there is no DataLoader.
- What chance decides in an epoch or a step depends on the seed and on its number alone: a training that goes on from a
  `TrainingState` makes the same steps, bit by bit, as one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data.augmentation import augment
from lib.data.dataset import MEAN, STD, Dataset, normalize
from lib.data.handwriting import sample_handwriting
from lib.data.outliers import sample_outliers
from lib.design.analysis import analyze
from lib.design.fast_path_eligibility import FAST_PATH_MACS, has_fast_path
from lib.design.layers import Architecture
from lib.design.recipe import Recipe, learning_rate
from lib.nn.fast_path import fast_path
from lib.nn.network import Dropout, Network, build, eval_batch_size

MOMENTUM = 0.9
HELD_OUT = 5_000
# What the marks' loss weighs beside the digits' (Hendrycks et al. 2019, section 3).
MARKS_WEIGHT = 0.5
# Black and white, normalized.
DARK, LIGHT = (0 - MEAN) / STD, (1 - MEAN) / STD


class DivergenceError(RuntimeError):
    """The loss is no longer a number. The message says at which step and what to change."""


@dataclass(frozen=True)
class StepMetrics:
    """One batch, measured before its update. `step` counts from 1 over the whole run, `epoch` from 1."""

    step: int
    epoch: int
    train_loss: float
    train_accuracy: float
    learning_rate: float
    images: int


@dataclass(frozen=True)
class EvaluationProgress:
    """`seen` of `total` images measured; lets a caller stop within the measuring too."""

    epoch: int
    seen: int
    total: int


@dataclass(frozen=True)
class EpochMetrics:
    """The network at the end of an epoch. Accuracies are fractions; `seconds` and the rate count training alone.

    `validation_accuracy` was measured on `validation_images` images, those that the recipe names. `test_accuracy` is
    that of the test images: the same number, or None until the final epoch where other images were held out.
    """

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    validation_images: int
    test_accuracy: float | None
    seconds: float
    images_per_second: float


Event: TypeAlias = StepMetrics | EvaluationProgress | EpochMetrics


@dataclass(frozen=True)
class RunningTotals:
    """What an epoch that is not yet over has added up; `correct` counts images."""

    loss: float = 0.0
    correct: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class TrainingState:
    """All that a training needs to go on after `step` batches; nobody writes to its tensors.

    `losses` are the validation losses of the epochs measured so far; `network` is the state of the network, `optimiser`
    that of the optimiser as "<number of the parameter>.<name>".
    """

    step: int
    losses: tuple[float, ...]
    sums: RunningTotals
    learning_rate_factor: float
    network: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


class Trainer(Iterator[Event]):
    """One training: a StepMetrics a batch, an EpochMetrics an epoch. The incomplete last batch is used too.

    With a `state`, it goes on from there; the state must be of the same architecture, recipe and number of images.
    `learning_rate_factor`, 1 unless it is set, multiplies what the schedule asks for from the next batch on. Iterating
    raises DivergenceError when the loss is not finite.
    """

    def __init__(
        self,
        architecture: Architecture,
        recipe: Recipe,
        data: Dataset,
        state: TrainingState | None = None,
        device: str = "cpu",
    ) -> None:
        self.architecture, self.recipe = architecture, recipe
        self.network = build(architecture, recipe.seed)
        self._device = device
        self._data = split(data, recipe).to(device)
        self.steps_per_epoch = math.ceil(len(self._data.train_images) / recipe.batch_size)
        self.step = 0
        self.learning_rate_factor = 1.0
        self._losses: list[float] = []
        self._sums = RunningTotals()
        self.network.to(device).to(memory_format=torch.channels_last)
        self._optimizer = _optimizer(self.network, recipe)
        if state:
            self._restore(state)
        self._forward = _training_pass(self.network, architecture, device)
        self._events = self._run()

    @property
    def epochs_done(self) -> int:
        return len(self._losses)

    @property
    def steps_total(self) -> int:
        return self.steps_per_epoch * self.recipe.epochs

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """No event comes after this."""
        self._events.close()

    def state(self) -> TrainingState:
        """A copy of all that going on needs, on the CPU. To be taken between two events."""
        slots = {
            f"{number}.{name}": value
            for number, values in self._optimizer.state_dict()["state"].items()
            for name, value in values.items()
            if value is not None
        }
        return TrainingState(
            self.step, tuple(self._losses), self._sums, self.learning_rate_factor, self.weights(), _copies(slots)
        )

    def weights(self) -> dict[str, Tensor]:
        """A copy of the network's state, on the CPU."""
        return _copies(self.network.state_dict())

    def _restore(self, state: TrainingState) -> None:
        self.step, self._losses, self._sums = state.step, list(state.losses), state.sums
        self.learning_rate_factor = state.learning_rate_factor
        self.network.load_state_dict(dict(state.network))
        slots: dict[int, dict[str, Tensor]] = {}
        parameters = list(self.network.parameters())
        for key, tensor in state.optimizer.items():
            number, name = key.split(".", 1)
            parameter = parameters[int(number)]
            # The optimisers walk through parameter and moments in memory side by side: their layouts must be one.
            like = torch.empty_like(parameter) if tensor.shape == parameter.shape else torch.empty_like(tensor)
            slots.setdefault(int(number), {})[name] = like.detach().copy_(tensor)
        if slots:
            self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": slots})

    def _run(self) -> Generator[Event, None, None]:
        while self.epochs_done < self.recipe.epochs:
            yield from self._train_epoch(self.epochs_done + 1)
            yield from self._measure_epoch(self.epochs_done + 1)

    def _train_epoch(self, epoch: int) -> Generator[Event, None, None]:
        recipe, images, labels = self.recipe, self._data.train_images, self._data.train_labels
        order = torch.randperm(len(images), generator=_chance(recipe.seed, "order", epoch))
        batches = torch.split(order, recipe.batch_size)
        for batch in batches[self.step - (epoch - 1) * self.steps_per_epoch :]:
            started = time.perf_counter()
            self.network.train()
            rate = self.learning_rate_factor * learning_rate(recipe, self.step, self.steps_per_epoch, self._losses)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            for module in self.network:
                if isinstance(module, Dropout):
                    module.generator.manual_seed(_number(recipe.seed, "dropout", self.step))
            batch = batch.to(self._device)
            y = labels[batch]
            x, truth = self._shown(normalize(images[batch]), y)
            if epoch <= recipe.epochs - recipe.unaugmented_epochs:
                x = augment(x, recipe.augmentation, _chance(recipe.seed, "augmentation", self.step))
            with self._whole_batch():
                logits = self._forward(x)
                of_digits, of_marks = logits[: len(truth)], logits[len(truth) :]
                logits = logits[: len(batch)]
                loss = whole = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
                if len(truth) > len(batch):
                    whole = F.cross_entropy(of_digits, truth, label_smoothing=recipe.label_smoothing)
                if len(of_marks):
                    whole = whole + MARKS_WEIGHT * F.cross_entropy(of_marks, torch.full_like(of_marks, 0.1))
                self._optimizer.zero_grad(set_to_none=True)
                whole.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self.step += 1
            train_loss, hits = loss.item(), int((logits.argmax(1) == y).sum())
            self._sums = RunningTotals(
                self._sums.loss + train_loss * len(batch),
                self._sums.correct + hits,
                self._sums.seconds + time.perf_counter() - started,
            )
            yield StepMetrics(self.step, epoch, train_loss, hits / len(batch), rate, len(batch))
            if not math.isfinite(train_loss):
                raise DivergenceError(
                    f"The loss was no longer a number at step {self.step} of epoch {epoch}. "
                    f"The learning rate of {rate:.3g} is too high for this network: try a tenth of it."
                )

    def _shown(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """A batch with what the recipe shows beside it: first digits in other hands, whose labels come after those of
        the batch, then marks, which have none. To be augmented together, or that would tell them from one another.
        """
        recipe, shown, truth = self.recipe, [x], y
        written, unknown = round(recipe.synthetic_ratio * len(x)), round(recipe.outlier_ratio * len(x))
        if written:
            digits, names = sample_handwriting(written, _chance(recipe.seed, "written", self.step))
            shown.append(_as_bright(digits, x))
            truth = torch.cat([y, names.to(y.device)])
        if unknown:
            shown.append(_as_bright(sample_outliers(_as_ink(x), unknown, _chance(recipe.seed, "marks", self.step)), x))
        return torch.cat(shown) if len(shown) > 1 else x, truth

    @contextmanager
    def _whole_batch(self) -> Iterator[None]:
        """Whoever leaves in the middle of a batch, by an exception from a hook, leaves no trace of it."""
        buffers = [] if self._forward is not self.network else list(self.network.buffers())
        before = [buffer.clone() for buffer in buffers]
        try:
            yield
        except BaseException:
            for buffer, old in zip(buffers, before, strict=True):
                buffer.copy_(old)
            raise

    def _measure_epoch(self, epoch: int) -> Generator[Event, None, None]:
        """The validation images, and after the final epoch the test images too where others were held out."""
        data, count = self._data, len(self._data.train_images)
        loss, accuracy = yield from self._measure(data.validation_images, data.validation_labels, epoch)
        test_accuracy = accuracy if self.recipe.validation == "test" else None
        if test_accuracy is None and epoch == self.recipe.epochs:
            _, test_accuracy = yield from self._measure(data.test_images, data.test_labels, epoch)
        sums, self._sums = self._sums, RunningTotals()
        self._losses.append(loss)
        yield EpochMetrics(
            epoch,
            self.step,
            sums.loss / count,
            sums.correct / count,
            loss,
            accuracy,
            len(data.validation_images),
            test_accuracy,
            sums.seconds,
            count / sums.seconds,
        )

    def _measure(
        self, images: Tensor, labels: Tensor, epoch: int
    ) -> Generator[EvaluationProgress, None, tuple[float, float]]:
        """Yields progress, returns (mean loss, accuracy)."""
        self.network.eval()
        loss_sum, correct, seen = 0.0, 0, 0
        for some, truth in _batches(self.network, images, labels):
            # A generator must not stay inside inference_mode while it is suspended: the mode is the thread's.
            with torch.inference_mode():
                logits = self.network(normalize(some))
                loss_sum += F.cross_entropy(logits, truth, reduction="sum").item()
                correct += int((logits.argmax(1) == truth).sum())
            seen += len(some)
            yield EvaluationProgress(epoch, seen, len(images))
        return loss_sum / len(images), correct / len(images)


@dataclass(frozen=True, eq=False)
class SplitDataset:
    """What is trained on, what every epoch is measured on, and the test images; shapes as in Dataset."""

    train_images: Tensor
    train_labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def to(self, device: str) -> SplitDataset:
        return SplitDataset(*(getattr(self, field.name).to(device) for field in fields(self)))


def split(data: Dataset, recipe: Recipe) -> SplitDataset:
    """The training images, less those held out where the recipe says so: the same ones for every seed."""
    images, labels = data.train_images, data.train_labels
    if recipe.validation == "test":
        return SplitDataset(images, labels, data.test_images, data.test_labels, data.test_images, data.test_labels)
    out, kept = held_out_indices(len(images))
    return SplitDataset(images[kept], labels[kept], images[out], labels[out], data.test_images, data.test_labels)


def held_out_indices(images: int) -> tuple[Tensor, Tensor]:
    """Where those held out of so many training images stand and where the others do, int64, ascending; no seed moves
    them.
    """
    order = torch.randperm(images, generator=_chance(0, "held out", 0))
    return order[: held_out(images)].sort().values, order[held_out(images) :].sort().values


def held_out(images: int) -> int:
    """How many of so many training images are held out: 5,000 of MNIST's, a twelfth of fewer."""
    return min(HELD_OUT, images // 12)


def recommended_threads(architecture: Architecture) -> int:
    """Threads for torch's own operations: one beside the fused kernels, which bring their own; all cores for a large
    network, all but one for a small one.

    On two cores a second thread makes a small network 1.2 times faster on its own, but slower than one thread while a
    browser on the same machine draws the curves: the two threads wait for each other at every operation.
    """
    cores = os.cpu_count() or 1
    if has_fast_path(architecture):
        return 1
    return cores if analyze(architecture).macs > FAST_PATH_MACS else max(1, cores - 1)


def best_device() -> str:
    """Where to train: "cuda" or "mps" where torch has one, else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _training_pass(network: nn.Sequential, architecture: Architecture, device: str) -> Callable[[Tensor], Tensor]:
    """The network itself, or what does the same faster on a CPU."""
    return (fast_path(network) if device == "cpu" and has_fast_path(architecture) else None) or network


def _as_ink(x: Tensor) -> Tensor:
    """normalized images -> 0 to 1, on the CPU."""
    return ((x - DARK) / (LIGHT - DARK)).cpu()


def _as_bright(ink: Tensor, x: Tensor) -> Tensor:
    """0 to 1 -> normalized as x is, on its device."""
    return (DARK + (LIGHT - DARK) * ink).to(x.device)


def _chance(seed: int, purpose: str, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(_number(seed, purpose, number))


def _number(seed: int, purpose: str, number: int) -> int:
    """A seed of 32 bits, all that torch's generator takes, for one purpose at one time."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {purpose} {number}".encode(), digest_size=4).digest(), "little")


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _batches(network: Network, images: Tensor, labels: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    count = eval_batch_size(network.architecture)
    return zip(torch.split(images, count), torch.split(labels, count), strict=True)


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters, rate, decay = network.parameters(), recipe.learning_rate, recipe.weight_decay
    match recipe.optimizer:
        case "SGD":
            return torch.optim.SGD(parameters, rate, MOMENTUM, weight_decay=decay, nesterov=True, fused=True)
        case "Adam":
            return torch.optim.Adam(parameters, rate, weight_decay=decay, fused=True)
        case "AdamW":
            return torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)
