"""A run at one moment, and its form in a checkpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lib.design.layers import CLASSES, Architecture
from lib.design.recipe import MAX_EPOCHS, Recipe
from lib.evaluation.calibration import Calibration
from lib.evaluation.stored_calibration import stored_calibration, with_calibration
from lib.nn.network import build
from lib.storage import checkpoints
from lib.storage.checkpoints import Checkpoint
from lib.text.untrusted_text import visible
from lib.training import history
from lib.training.diagnosis import Diagnosis, NetworkProbe, diagnose, summarize
from lib.training.history import History, ImpossibleValueError
from lib.training.optimizers import OPTIMIZER_SPECS
from lib.training.trainer import RunningTotals, TrainingState

Status: TypeAlias = Literal[
    "queued", "running", "pausing", "stopping", "paused", "finished", "stopped", "failed", "interrupted"
]
STATUSES: tuple[str, ...] = get_args(Status)
ACTIVE: frozenset[Status] = frozenset({"queued", "running", "pausing", "stopping"})
# Limits of the texts in a file, in characters; a longer message is cut.
IDENTITY, MAX_OWNER, MAX_MESSAGE = re.compile(r"[A-Za-z0-9_-]{1,100}"), 100, 2_000
# Range of the learning-rate multiplier.
MIN_LR_SCALE, MAX_LR_SCALE = 1e-3, 1e3


def _identity(value: object) -> str:
    """Accept a name of a file that is also a part of an address, on every system."""
    if not isinstance(value, str) or not IDENTITY.fullmatch(value):
        raise ImpossibleValueError("its identity is not valid")
    return value


def _parent(value: object) -> str | None:
    return None if value is None else _identity(value)


def _owner(value: object) -> str:
    return checkpoints.text(value, MAX_OWNER)


def _status(value: object) -> Status:
    if value not in STATUSES:
        raise ImpossibleValueError("its status is unknown")
    return value  # type: ignore[return-value]


def _message(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ImpossibleValueError("its message is not text")
    return "\n".join(map(visible, value[:MAX_MESSAGE].splitlines()))


def _steps(value: object) -> int:
    # At most those of MAX_EPOCHS epochs in batches of one image.
    if type(value) is not int or not 0 <= value <= MAX_EPOCHS * history.MAX_IMAGES:
        raise ImpossibleValueError("its number of steps is not valid")
    return value


def _lr_scale(value: object) -> float:
    if type(value) not in (int, float) or not MIN_LR_SCALE <= value <= MAX_LR_SCALE:  # type: ignore[operator]
        raise ImpossibleValueError("its learning-rate multiplier is not valid")
    return float(value)  # type: ignore[arg-type]


def _probe(value: object) -> NetworkProbe | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {item.name for item in fields(NetworkProbe)}:
        raise ImpossibleValueError("its probe is not valid")
    predictions = value["predictions"]
    counts = [value["step"], value["dead_logits"], 0 if value["dead_layer"] is None else value["dead_layer"]]
    numbers = [value[name] for name in ("accuracy", "variation", "logit_size", "weight_change", "weight_norm")]
    if (
        not isinstance(predictions, list)
        or len(predictions) != CLASSES
        or any(type(count) is not int or count < 0 for count in [*counts, *predictions])
        or any(type(number) is not float or not 0 <= number < math.inf for number in numbers)
    ):
        raise ImpossibleValueError("its probe is not valid")
    return NetworkProbe(**{**value, "predictions": tuple(predictions)})


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run at one moment.

    `owner` identifies the browser that started it, `parent` is the run it was forked from. `created` is a time in UTC,
    ISO 8601. `steps_total` is the number of steps of the whole recipe, 0 before the first training. `lr_scale`
    multiplies the learning rate of the schedule. `state` is None if there is nothing to resume from. `probe` is the
    last one of a training that may not learn. `calibration` is that of its network after the last epoch; None before,
    or if it could not be calibrated.

    The fields with metadata are stored in the checkpoint's details, under "key" or their own name; "read" checks and
    returns the stored value, and raises ValueError for a value that no run has.
    """

    identity: str = field(metadata={"read": _identity})
    name: str
    owner: str = field(metadata={"read": _owner})
    parent: str | None = field(metadata={"read": _parent})
    architecture: Architecture
    recipe: Recipe
    status: Status = field(metadata={"read": _status})
    created: str
    message: str | None = field(default=None, metadata={"read": _message})
    steps_total: int = field(default=0, metadata={"read": _steps})
    lr_scale: float = field(default=1.0, metadata={"read": _lr_scale, "key": "factor"})
    history: History = field(default_factory=History)
    state: TrainingState | None = None
    calibration: Calibration | None = None
    probe: NetworkProbe | None = field(default=None, metadata={"read": _probe})


# Key in the details -> (name of the field, function that checks a stored value).
_DETAILS: dict[str, tuple[str, Callable[[object], Any]]] = {
    item.metadata.get("key", item.name): (item.name, item.metadata["read"])
    for item in fields(RunRecord)
    if item.metadata
}


def to_checkpoint(record: RunRecord) -> Checkpoint:
    """Return the run as a checkpoint; `from_checkpoint` is the inverse."""
    state, epochs = record.state, record.history.epochs
    # The accuracy belongs to these weights only if no step followed the measurement.
    measured = bool(state and epochs and epochs[-1].step == state.step)
    summary = checkpoints.Summary(
        title=record.name,
        architecture=record.architecture,
        recipe=record.recipe,
        epochs_done=len(epochs),
        test_accuracy=epochs[-1].test_accuracy if measured else None,
        created=record.created,
    )
    details: dict[str, Any] = {key: getattr(record, name) for key, (name, _) in _DETAILS.items()}
    details["message"] = record.message and record.message[:MAX_MESSAGE]
    details["probe"] = record.probe and asdict(record.probe)
    details["epochs"] = record.history.epoch_values()
    details["state"] = None
    tensors = {f"history.{name}": tensor for name, tensor in record.history.tensors().items()}
    if state:
        tensors |= {f"optimiser.{name}": tensor for name, tensor in state.optimizer.items()}
        # Earlier versions require the multiplier here too.
        details["state"] = {
            "step": state.step,
            "losses": list(state.losses),
            "sums": asdict(state.sums),
            "factor": record.lr_scale,
        }
    checkpoint = Checkpoint(summary, state.network if state else {}, tensors, details)
    return with_calibration(checkpoint, record.calibration) if record.calibration else checkpoint


def from_checkpoint(checkpoint: Checkpoint) -> RunRecord:
    """Return the run of a checkpoint.

    Raises ImpossibleValueError for values that no run has, and ValueError, KeyError, TypeError, AttributeError or
    OverflowError for values of another type or form.
    """
    # Earlier versions store no probe.
    summary, details = checkpoint.summary, {"probe": None, **checkpoint.details}
    values = {name: read(details[key]) for key, (name, read) in _DETAILS.items()}
    state = details["state"]
    record = RunRecord(
        name=summary.title,
        architecture=summary.architecture,
        recipe=summary.recipe,
        created=summary.created,
        history=history.restore(_part(checkpoint, "history."), details["epochs"]),
        state=None if state is None else _state(checkpoint, state),
        calibration=stored_calibration(checkpoint),
        **values,
    )
    _check(record)
    return record


def _state(checkpoint: Checkpoint, values: Mapping[str, Any]) -> TrainingState:
    step, losses, sums = _steps(values["step"]), tuple(values["losses"]), RunningTotals(**values["sums"])
    return TrainingState(step, losses, sums, checkpoint.weights, _part(checkpoint, "optimiser."))


def _part(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in checkpoint.extra.items() if name.startswith(prefix)}


def _check(record: RunRecord) -> None:
    """Raise ImpossibleValueError if the parts of a run contradict each other: all other code relies on them."""
    past, recipe, state = record.history, record.recipe, record.state
    per_epoch, rest = divmod(record.steps_total, recipe.epochs)
    most = math.ceil(history.MAX_IMAGES / recipe.batch_size)
    if rest or per_epoch > most or past.steps > record.steps_total or len(past.epochs) > recipe.epochs:
        raise ImpossibleValueError("its number of steps does not match its recipe")
    for number, epoch in enumerate(past.epochs, 1):
        # Held-out images leave the test images for the end of the final epoch.
        tested = recipe.validation == "test" or number == recipe.epochs
        if epoch.step != number * per_epoch or (epoch.test_accuracy is not None) != tested:
            raise ImpossibleValueError(f"epoch {number} does not match its recipe")
    if record.probe and (record.probe.dead_layer or 0) >= len(record.architecture.layers):
        raise ImpossibleValueError("its probe does not match its network")
    if state:
        _check_state(record, state, per_epoch)
    finished = state is not None and len(past.epochs) == recipe.epochs
    if (record.status == "finished" and not finished) or (record.status == "failed" and record.message is None):
        raise ImpossibleValueError(f"its content contradicts its status, {record.status}")


def _check_state(record: RunRecord, state: TrainingState, per_epoch: int) -> None:
    past, sums = record.history, state.sums
    expected = _optimizer_shapes(record) if state.step else {}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in state.optimizer.items()} != expected:
        raise ImpossibleValueError("the state of its optimizer does not match its network")
    # The steps and images of the epoch that is not complete.
    steps = state.step - len(state.losses) * per_epoch
    images = min(steps * record.recipe.batch_size, history.MAX_IMAGES)
    if (
        not 0 <= steps <= per_epoch
        or type(sums.correct) is not int
        or not 0 <= sums.correct <= images
        or type(sums.loss) is not float
        or type(sums.seconds) is not float
        or not 0 <= sums.seconds <= history.MAX_SECONDS
        or sums.loss < history.MIN_LOSS * max(images, 1)
    ):
        raise ImpossibleValueError("the totals of its last epoch are not possible")
    if not state.network or not is_finite(state):
        raise ImpossibleValueError("its training state is missing or not finite")
    # Losses are compared as text because NaN is not equal to itself.
    losses = tuple(epoch.validation_loss for epoch in past.epochs)
    if (state.step, repr(state.losses)) != (past.steps, repr(losses)):
        raise ImpossibleValueError("its curves and its weights are of different steps")


def is_finite(state: TrainingState) -> bool:
    """Whether a training can continue from the state: no value is NaN; only a second moment of Adam may be infinite."""
    return (
        all(bool(torch.isfinite(tensor).all()) for tensor in state.network.values())
        and not any(bool(torch.isnan(tensor).any()) for tensor in state.optimizer.values())
        and all(math.isfinite(value) for value in (state.sums.loss, state.sums.correct, state.sums.seconds))
    )


def _optimizer_shapes(record: RunRecord) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Return the shape and type of each tensor that the recipe's optimizer keeps, named as in `TrainingState`."""
    spec = OPTIMIZER_SPECS[record.recipe.optimizer]
    shapes: dict[str, tuple[torch.Size, torch.dtype]] = {}
    with torch.device("meta"):
        parameters = list(build(record.architecture).parameters())
    for number, parameter in enumerate(parameters):
        shapes |= {f"{number}.{name}": (parameter.shape, parameter.dtype) for name in spec.moments}
        shapes |= {f"{number}.{name}": (torch.Size(), torch.float32) for name in spec.scalars}
    return shapes


def diagnosis(record: RunRecord) -> Diagnosis | None:
    """Say why the run does not learn; None if it does. The message of a failed run already has the reason."""
    if record.status == "failed":
        return None
    past = record.history
    return diagnose(
        record.architecture,
        record.recipe,
        summarize(record.recipe, past.curves(), record.lr_scale),
        past.epochs,
        record.probe,
        ended=len(past.epochs) == record.recipe.epochs,
        lr_scale=record.lr_scale,
    )


def as_interrupted(record: RunRecord) -> RunRecord:
    """Return the run as its process left it: "interrupted" if its file says that it is in training."""
    return replace(record, status="interrupted") if record.status in ACTIVE else record
