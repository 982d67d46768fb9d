"""The training loop as an iterator: each `next` trains one batch and returns an event.

- Nothing runs between two events: the caller may save the training, change the learning rate or stop there.
- Images and labels are two tensors in memory, and a batch is an index into them; there is no DataLoader.
- All random numbers of an epoch or a step are derived from the seed and the number of the epoch or step. A training
  resumed from a `TrainingState` is therefore bit-equal to one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.data.augmentation import augment
from lib.data.dataset import MEAN, STD, Dataset, normalize
from lib.data.handwriting import sample_handwriting
from lib.data.outliers import sample_outliers
from lib.design.analysis import LARGE_MACS, analyze
from lib.design.layers import Architecture
from lib.design.recipe import Recipe, learning_rate
from lib.nn.modules import Dropout, Dropout2d
from lib.nn.network import Network, build, eval_batch_size, torch_threads
from lib.training.optimizers import OPTIMIZER_SPECS

if TYPE_CHECKING:
    from lib.nn.fast_path import FastPath

HELD_OUT = 5_000
# Weight of the outlier loss (Hendrycks et al. 2019, section 3).
OUTLIER_WEIGHT = 0.5
# The normalized values of these pixels.
BLACK, WHITE = (0 - MEAN) / STD, (1 - MEAN) / STD


class DivergenceError(RuntimeError):
    """The loss is not finite. The message names the step and suggests a learning rate."""


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of one batch, measured before its update.

    - `step`, `epoch`: count from 1; `step` does not start again at a new epoch.
    - `train_loss`: mean loss of the digits of the data set, without synthetic digits and outliers.
    - `train_accuracy`: 0 to 1.
    - `images`: the size of the batch, without synthetic digits and outliers.
    """

    step: int
    epoch: int
    train_loss: float
    train_accuracy: float
    learning_rate: float
    images: int


@dataclass(frozen=True)
class EvaluationProgress:
    """Progress of an evaluation: `seen` of `total` images. The caller may stop here too."""

    epoch: int
    seen: int
    total: int


@dataclass(frozen=True)
class EpochMetrics:
    """Metrics of an epoch and of the network at its end.

    - `train_loss`, `train_accuracy`: means over the images of the epoch.
    - `validation_loss`, `validation_accuracy`: on the validation set, which has `validation_images` images.
    - `test_accuracy`: equal to `validation_accuracy` if the recipe validates on the test set; otherwise None before the
      last epoch.
    - `seconds`, `images_per_second`: of training, without the evaluation.

    Accuracies are from 0 to 1.
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
    """Sums over the batches of an unfinished epoch: the loss of each image, correct images, seconds of training."""

    loss: float = 0.0
    correct: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Everything needed to resume a training after `step` batches. Its tensors must not be changed.

    - `losses`: the validation loss of each finished epoch.
    - `network`: the state dict of the network.
    - `optimizer`: the tensors of the optimizer as "<index of the parameter>.<name>".
    """

    step: int
    losses: tuple[float, ...]
    sums: RunningTotals
    network: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


class Trainer(Iterator[Event]):
    """Train a network: yields a StepMetrics for each batch and an EpochMetrics for each epoch.

    The last batch of an epoch may be smaller; it is not dropped. With a `state`, training resumes there; the state must
    have the same architecture, recipe and number of images. `lr_scale` (default 1) scales the learning rate from
    the next batch on. Iterating raises DivergenceError if the loss is not finite.
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
        self.lr_scale = 1.0
        self._losses: list[float] = []
        self._sums = RunningTotals()
        self.network.to(device).to(memory_format=torch.channels_last)
        self._optimizer = OPTIMIZER_SPECS[recipe.optimizer].build(self.network.parameters(), recipe)
        if state:
            self._restore(state)
        self._path = _compiled_path(self.network) if device == "cpu" else None
        self._check: Callable[[], None] | None = None
        self._events = self._run()

    @property
    def epochs_done(self) -> int:
        return len(self._losses)

    @property
    def steps_total(self) -> int:
        return self.steps_per_epoch * self.recipe.epochs

    @property
    def threads(self) -> int:
        """The number of torch's threads that suits its steps: one beside the compiled kernels, which have their own."""
        return 1 if self._path else recommended_threads(self.architecture)

    def interrupt_with(self, check: Callable[[], None]) -> None:
        """Call `check` between two parts of a batch, too. If it raises, the batch is as if it had not begun."""
        self._check = check
        if self._path:
            self._path.check = check
            return
        for module in self.network.children():
            module.register_forward_pre_hook(lambda *_: check())
            module.register_full_backward_pre_hook(lambda *_: check())

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """End the iteration. The network keeps its weights."""
        self._events.close()

    def state(self) -> TrainingState:
        """Copy the state to the CPU. Call it between two events only."""
        slots = {
            f"{index}.{name}": value
            for index, values in self._optimizer.state_dict()["state"].items()
            for name, value in values.items()
            if value is not None
        }
        return TrainingState(self.step, tuple(self._losses), self._sums, self.weights(), _copies(slots))

    def weights(self) -> dict[str, Tensor]:
        """Copy the state dict of the network to the CPU."""
        return _copies(self.network.state_dict())

    def _restore(self, state: TrainingState) -> None:
        self.step, self._losses, self._sums = state.step, list(state.losses), state.sums
        self.network.load_state_dict(dict(state.network))
        slots: dict[int, dict[str, Tensor]] = {}
        parameters = list(self.network.parameters())
        for key, tensor in state.optimizer.items():
            index, name = key.split(".", 1)
            parameter = parameters[int(index)]
            # The fused optimizers read parameter and moments in memory order, so they need the same memory layout.
            like = torch.empty_like(parameter) if tensor.shape == parameter.shape else torch.empty_like(tensor)
            slots.setdefault(int(index), {})[name] = like.detach().copy_(tensor)
        if slots:
            self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": slots})

    def _run(self) -> Generator[Event, None, None]:
        while self.epochs_done < self.recipe.epochs:
            yield from self._train_epoch(self.epochs_done + 1)
            yield from self._evaluate_epoch(self.epochs_done + 1)

    def _train_epoch(self, epoch: int) -> Generator[Event, None, None]:
        recipe, images, labels = self.recipe, self._data.train_images, self._data.train_labels
        order = torch.randperm(len(images), generator=_generator(recipe.seed, "order", epoch))
        batches = torch.split(order, recipe.batch_size)
        for batch in batches[self.step - (epoch - 1) * self.steps_per_epoch :]:
            started = time.perf_counter()
            if not self.network.training:
                self.network.train()
            rate = self.lr_scale * learning_rate(recipe, self.step, self.steps_per_epoch, self._losses)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            for module in self.network:
                if isinstance(module, Dropout | Dropout2d):
                    module.generator.manual_seed(_derive_seed(recipe.seed, "dropout", self.step))
            batch = batch.to(self._device)
            y = labels[batch]
            x, digit_labels = self._build_batch(normalize(images[batch]), y)
            if epoch <= recipe.epochs - recipe.unaugmented_epochs:
                x = augment(x, recipe.augmentation, _generator(recipe.seed, "augmentation", self.step))
            with self._restoring_buffers():
                logits = outputs = self._path.forward(x).requires_grad_() if self._path else self.network(x)
                digit_logits, outlier_logits = logits[: len(digit_labels)], logits[len(digit_labels) :]
                logits = logits[: len(batch)]
                loss = total_loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
                if len(digit_labels) > len(batch):
                    total_loss = F.cross_entropy(digit_logits, digit_labels, label_smoothing=recipe.label_smoothing)
                if len(outlier_logits):
                    uniform = torch.full_like(outlier_logits, 0.1)
                    total_loss = total_loss + OUTLIER_WEIGHT * F.cross_entropy(outlier_logits, uniform)
                self._optimizer.zero_grad(set_to_none=True)
                total_loss.backward()  # type: ignore[no-untyped-call]
                if self._path:
                    # Without autograd, which takes a while for each parameter.
                    self._path.set_gradients(outputs)
            self._optimizer.step()
            self.step += 1
            # One transfer: a GPU must end its work before each.
            measured = torch.stack([loss.detach(), (logits.argmax(1) == y).sum().to(loss)]).tolist()
            train_loss, correct = measured[0], round(measured[1])
            self._sums = RunningTotals(
                self._sums.loss + train_loss * len(batch),
                self._sums.correct + correct,
                self._sums.seconds + time.perf_counter() - started,
            )
            yield StepMetrics(self.step, epoch, train_loss, correct / len(batch), rate, len(batch))
            if not math.isfinite(train_loss):
                raise DivergenceError(
                    f"The loss was no longer a number at step {self.step} of epoch {epoch}. "
                    f"The learning rate of {rate:.3g} is too high for this network: try a tenth of it."
                )

    def _build_batch(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Append the synthetic digits and outliers of the recipe to a batch of normalized images (N, 1, 28, 28).

        Returns the images in the order data set, synthetic digits, outliers, and the labels of the first two kinds. The
        caller augments all of them: otherwise augmentation itself would tell the kinds apart.
        """
        recipe, images, labels = self.recipe, [x], y
        num_synthetic, num_outliers = round(recipe.synthetic_ratio * len(x)), round(recipe.outlier_ratio * len(x))
        if num_synthetic:
            digits, digit_labels = sample_handwriting(num_synthetic, _generator(recipe.seed, "written", self.step))
            images.append(_normalize_unit(digits).to(x.device))
            labels = torch.cat([y, digit_labels.to(y.device)])
        if num_outliers:
            generator = _generator(recipe.seed, "marks", self.step)
            outliers = sample_outliers(_denormalize(x).cpu(), num_outliers, generator)
            images.append(_normalize_unit(outliers).to(x.device))
        return torch.cat(images) if len(images) > 1 else x, labels

    @contextmanager
    def _restoring_buffers(self) -> Iterator[None]:
        """Restore the running statistics of the norms if `interrupt_with` aborts the batch with an exception."""
        buffers = list(self.network.buffers()) if self._check else []
        before = [buffer.clone() for buffer in buffers]
        try:
            yield
        except BaseException:
            for buffer, old in zip(buffers, before, strict=True):
                buffer.copy_(old)
            raise

    def _evaluate_epoch(self, epoch: int) -> Generator[Event, None, None]:
        """Evaluate the validation set, and after the last epoch the test set if it is a different one."""
        data, count = self._data, len(self._data.train_images)
        loss, accuracy = yield from self._evaluate(data.validation_images, data.validation_labels, epoch)
        test_accuracy = accuracy if self.recipe.validation == "test" else None
        if test_accuracy is None and epoch == self.recipe.epochs:
            _, test_accuracy = yield from self._evaluate(data.test_images, data.test_labels, epoch)
        totals, self._sums = self._sums, RunningTotals()
        self._losses.append(loss)
        yield EpochMetrics(
            epoch,
            self.step,
            totals.loss / count,
            totals.correct / count,
            loss,
            accuracy,
            len(data.validation_images),
            test_accuracy,
            totals.seconds,
            count / totals.seconds,
        )

    def _evaluate(
        self, images: Tensor, labels: Tensor, epoch: int
    ) -> Generator[EvaluationProgress, None, tuple[float, float]]:
        """Evaluate images, uint8 (N, 28, 28): yields progress, returns the mean loss and the accuracy, 0 to 1."""
        self.network.eval()
        loss_sum, correct, seen = 0.0, 0, 0
        threads = recommended_threads(self.architecture)
        for batch, batch_labels in _batches(self.network, images, labels):
            # inference_mode belongs to the thread: it must end before the yield, or the caller would run in it.
            with torch.inference_mode(), torch_threads(threads):
                logits = self.network(normalize(batch))
                loss_sum += F.cross_entropy(logits, batch_labels, reduction="sum").item()
                correct += int((logits.argmax(1) == batch_labels).sum())
            seen += len(batch)
            yield EvaluationProgress(epoch, seen, len(images))
        return loss_sum / len(images), correct / len(images)


@dataclass(frozen=True, eq=False)
class SplitDataset:
    """Training, validation and test set. Shapes are those of Dataset; the sets may share tensors."""

    train_images: Tensor
    train_labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def to(self, device: str) -> SplitDataset:
        return SplitDataset(*(getattr(self, field.name).to(device) for field in fields(self)))


def split(data: Dataset, recipe: Recipe) -> SplitDataset:
    """Split the data into training, validation and test set as the recipe says, the same way for every seed."""
    images, labels = data.train_images, data.train_labels
    if recipe.validation == "test":
        return SplitDataset(images, labels, data.test_images, data.test_labels, data.test_images, data.test_labels)
    val, train = held_out_indices(len(images))
    return SplitDataset(images[train], labels[train], images[val], labels[val], data.test_images, data.test_labels)


def held_out_indices(images: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the held-out images and of the others, int64, ascending, the same for every seed."""
    order = torch.randperm(images, generator=_generator(0, "held out", 0))
    return order[: held_out(images)].sort().values, order[held_out(images) :].sort().values


def held_out(images: int) -> int:
    """Return how many of `images` training images are held out: a twelfth, at most 5,000 (of MNIST's 60,000)."""
    return min(HELD_OUT, images // 12)


def recommended_threads(architecture: Architecture) -> int:
    """Return the number of threads for the modules of a network.

    All cores for a large network, all but one for a small network. On two cores, a second thread makes a small network
    1.2 times faster, but slower than one thread while a browser on the same machine draws the curves: the threads
    synchronize at every operation.
    """
    cores = os.cpu_count() or 1
    return cores if analyze(architecture).macs > LARGE_MACS else max(1, cores - 1)


def best_device() -> str:
    """Return the device to train on: "cuda" or "mps" if torch has one, otherwise "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _compiled_path(network: Network) -> FastPath | None:
    """Return the compiled training pass of a network on the CPU, or None if torch does better."""
    # They import numba, which only a training needs.
    from lib.nn.fast_path import fast_path
    from lib.nn.layer_measurement import is_faster_in_torch

    path = fast_path(network, is_external=is_faster_in_torch)
    return path if path and path.is_useful else None


def _denormalize(x: Tensor) -> Tensor:
    """Map normalized images to 0 to 1."""
    return (x - BLACK) / (WHITE - BLACK)


def _normalize_unit(x: Tensor) -> Tensor:
    """Normalize images from 0 to 1."""
    return BLACK + (WHITE - BLACK) * x


def _generator(seed: int, purpose: str, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(_derive_seed(seed, purpose, number))


def _derive_seed(seed: int, purpose: str, number: int) -> int:
    """Derive a seed of 32 bits for one purpose in the epoch or step `number`.

    The names of the purposes must not change: a saved run resumes with the same random numbers.
    """
    return int.from_bytes(hashlib.blake2b(f"{seed} {purpose} {number}".encode(), digest_size=4).digest(), "little")


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _batches(network: Network, images: Tensor, labels: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    count = eval_batch_size(network.architecture)
    return zip(torch.split(images, count), torch.split(labels, count), strict=True)
