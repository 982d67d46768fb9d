"""Run files: everything needed to list, show and resume a run.

One checkpoint a run: the weights to use, the training's state, the curves. It is written whole or not at all, so the
curves and the weights in it are those of the same batch.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lib.design.layers import Architecture
from lib.design.recipe import MAX_EPOCHS, Recipe
from lib.files import regular_file
from lib.nn.network import build
from lib.runs.process_lock import WAIT_SECONDS, RunLock, is_locked
from lib.storage import checkpoints
from lib.storage.checkpoints import SUFFIX, Checkpoint, CheckpointError
from lib.text.untrusted_text import visible
from lib.training import history
from lib.training.history import History, ImpossibleValueError
from lib.training.trainer import RunningTotals, TrainingState

Status: TypeAlias = Literal[
    "queued", "running", "pausing", "stopping", "paused", "finished", "stopped", "failed", "interrupted"
]
STATUSES: tuple[str, ...] = get_args(Status)
ACTIVE: frozenset[Status] = frozenset({"queued", "running", "pausing", "stopping"})
DELETED = "deleted"
# What a file's texts may be; of a longer message the beginning is kept.
IDENTITY, MAX_OWNER, MAX_MESSAGE = re.compile(r"[A-Za-z0-9_-]{1,100}"), 100, 2_000
# What the learning rate may be multiplied by.
MIN_FACTOR, MAX_FACTOR = 1e-3, 1e3


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run at one moment. `owner` names the browser that started it, `parent` the run it was forked from; `factor`
    multiplies the schedule's learning rate; `steps_total` is 0 until it is known.
    """

    identity: str
    name: str
    owner: str
    parent: str | None
    architecture: Architecture
    recipe: Recipe
    status: Status
    created: str
    message: str | None
    steps_total: int
    factor: float
    history: History
    state: TrainingState | None


def path_of(identity: str, folder: Path) -> Path:
    return folder / f"{identity}{SUFFIX}"


def save(record: RunRecord, folder: Path) -> Path:
    """Write the run's file. Raises CheckpointError; the one before it then still stands."""
    state, epochs = record.state, record.history.epochs
    extra: dict[str, Tensor] = {f"history.{name}": tensor for name, tensor in record.history.tensors().items()}
    if state:
        extra |= {f"optimiser.{name}": tensor for name, tensor in state.optimizer.items()}
    # An accuracy measured before the last batch is not that of these weights.
    measured = bool(state and epochs and epochs[-1].step == state.step)
    summary = checkpoints.Summary(
        title=record.name,
        architecture=record.architecture,
        recipe=record.recipe,
        epochs_done=len(epochs),
        test_accuracy=epochs[-1].test_accuracy if measured else None,
        created=record.created,
    )
    details = {
        "identity": record.identity,
        "owner": record.owner,
        "parent": record.parent,
        "status": record.status,
        "message": record.message and record.message[:MAX_MESSAGE],
        "steps_total": record.steps_total,
        "factor": record.factor,
        "epochs": record.history.epoch_values(),
        "state": None
        if state is None
        else {
            "step": state.step,
            "losses": list(state.losses),
            "sums": asdict(state.sums),
            "factor": state.learning_rate_factor,
        },
    }
    path = path_of(record.identity, folder)
    checkpoints.save(Checkpoint(summary, state.network if state else {}, extra, details), path)
    return path


def load(path: Path) -> RunRecord:
    """Read a run's file. Raises CheckpointError, in one sentence, for whatever is wrong with it."""
    return _checked(path, checkpoints.load(path))


def _checked(path: Path, checkpoint: Checkpoint) -> RunRecord:
    try:
        record = _record(checkpoint)
    except ImpossibleValueError as error:
        raise CheckpointError(f"{path.name} does not hold a run that can be read ({error}).") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path.name} does not hold a run that can be read.") from error
    # An identity with a folder in it would have its run saved elsewhere: the name alone must be the whole of it.
    if path.name != f"{record.identity}{SUFFIX}":
        raise CheckpointError(f"{path.name} holds the run {record.identity}: give it back its name.")
    return record


def _record(checkpoint: Checkpoint) -> RunRecord:
    """Raises ValueError, and what goes with it, for a value that no run has: every page may rely on them."""
    details, summary = checkpoint.details, checkpoint.summary
    status, recipe = details["status"], summary.recipe
    if status not in STATUSES:
        raise ImpossibleValueError("its status is unknown")
    past = history.restore(_part(checkpoint, "history."), details["epochs"])
    steps_total, factor = _whole(details["steps_total"]), _factor(details["factor"])
    per_epoch, rest = divmod(steps_total, recipe.epochs)
    most = math.ceil(history.MAX_IMAGES / recipe.batch_size)
    if rest or per_epoch > most or past.steps > steps_total or len(past.epochs) > recipe.epochs:
        raise ImpossibleValueError("its recipe has other steps")
    for number, epoch in enumerate(past.epochs, 1):
        # The test images are measured whenever they validate, else after the final epoch alone.
        tested = recipe.validation == "test" or number == recipe.epochs
        if epoch.step != number * per_epoch or (epoch.test_accuracy is not None) != tested:
            raise ImpossibleValueError(f"its recipe has another epoch {number}")
    state = _state(checkpoint, details["state"], per_epoch) if details["state"] is not None else None
    # As text NaN is equal to itself.
    if state and (state.step, repr(state.losses)) != (past.steps, repr(tuple(e.validation_loss for e in past.epochs))):
        raise ImpossibleValueError("its curves are not those of its weights")
    message = None if details["message"] is None else _message(details["message"])
    if (status == "finished" and not (state and len(past.epochs) == recipe.epochs)) or (
        status == "failed" and message is None
    ):
        raise ImpossibleValueError(f"no {status} run is like that")
    parent = details["parent"]
    return RunRecord(
        identity=_identity(details["identity"]),
        name=summary.title,
        owner=checkpoints.text(details["owner"], MAX_OWNER),
        parent=None if parent is None else _identity(parent),
        architecture=summary.architecture,
        recipe=recipe,
        status=status,
        created=summary.created,
        message=message,
        steps_total=steps_total,
        factor=factor,
        history=past,
        state=state,
    )


def _identity(value: object) -> str:
    """A name of a file, and a part of an address, whatever the system."""
    if not isinstance(value, str) or not IDENTITY.fullmatch(value):
        raise ImpossibleValueError("its identity is none")
    return value


def _message(value: object) -> str:
    if not isinstance(value, str):
        raise ImpossibleValueError("its message is no text")
    return "\n".join(map(visible, value[:MAX_MESSAGE].splitlines()))


def _whole(value: object) -> int:
    # What one epoch of single images has, a hundred times.
    if type(value) is not int or not 0 <= value <= MAX_EPOCHS * history.MAX_IMAGES:
        raise ImpossibleValueError("its number of steps is none")
    return value


def _factor(value: object) -> float:
    if type(value) not in (int, float) or not MIN_FACTOR <= value <= MAX_FACTOR:  # type: ignore[operator]
        raise ImpossibleValueError("its factor of the learning rate is none")
    return float(value)  # type: ignore[arg-type]


def _state(checkpoint: Checkpoint, values: Mapping[str, Any], per_epoch: int) -> TrainingState:
    step, optimiser, sums = _whole(values["step"]), _part(checkpoint, "optimiser."), RunningTotals(**values["sums"])
    expected = _optimizer_shapes(checkpoint) if step else {}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in optimiser.items()} != expected:
        raise ImpossibleValueError("its optimiser's state is not that of its network")
    losses = tuple(values["losses"])
    # Batches of the epoch that has no measurement yet.
    begun = step - len(losses) * per_epoch
    images = min(begun * checkpoint.summary.recipe.batch_size, history.MAX_IMAGES)
    if not 0 <= begun <= per_epoch or type(sums.correct) is not int or not 0 <= sums.correct <= images:
        raise ImpossibleValueError("no epoch has such sums")
    if type(sums.loss) is not float or type(sums.seconds) is not float:
        raise ImpossibleValueError("no epoch has such sums")
    if not 0 <= sums.seconds <= history.MAX_SECONDS or sums.loss < history.MIN_LOSS * max(images, 1):
        raise ImpossibleValueError("no epoch has such sums")
    factor = _factor(values["factor"])
    state = TrainingState(step, losses, sums, factor, checkpoint.weights, optimiser)
    if not checkpoint.weights or not is_finite(state):
        raise ImpossibleValueError("no training goes on from its state")
    return state


def is_finite(state: TrainingState) -> bool:
    """Whether a training may go on from it: all its values are numbers; a second moment of Adam may be infinite."""
    return (
        all(bool(torch.isfinite(tensor).all()) for tensor in state.network.values())
        and not any(bool(torch.isnan(tensor).any()) for tensor in state.optimizer.values())
        and all(math.isfinite(value) for value in (state.sums.loss, state.sums.correct, state.sums.seconds))
    )


def _optimizer_shapes(checkpoint: Checkpoint) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """What the recipe's optimiser keeps after a step, by the names of TrainingState."""
    moments = ("momentum_buffer",) if checkpoint.summary.recipe.optimizer == "SGD" else ("exp_avg", "exp_avg_sq")
    shapes: dict[str, tuple[torch.Size, torch.dtype]] = {}
    with torch.device("meta"):
        parameters = list(build(checkpoint.summary.architecture).parameters())
    for number, parameter in enumerate(parameters):
        shapes |= {f"{number}.{name}": (parameter.shape, parameter.dtype) for name in moments}
        if "exp_avg" in moments:
            shapes[f"{number}.step"] = (torch.Size(), torch.float32)
    return shapes


def _part(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in checkpoint.extra.items() if name.startswith(prefix)}


def scan(folder: Path) -> Iterator[RunRecord | str]:
    """Read all runs of a folder, oldest first and one at a time: together they may not fit into memory.

    A file that cannot be read is a sentence instead. It is moved to the folder's own "set-aside", never deleted, unless
    the reason may pass; what is no file is passed over.

    A run that was in training when its process was killed is "interrupted"; one that another process trains is left
    out.
    """
    for path, _ in sorted(regular_file.listing(folder, SUFFIX).files, key=lambda found: (found[1], found[0].name)):
        try:
            checkpoint = checkpoints.load(path)
            if "identity" not in checkpoint.details:
                # A network that was saved without its run, as the first version did: the Draw page lists it.
                continue
            record = _checked(path, checkpoint)
        except CheckpointError as error:
            if not os.path.lexists(path) or isinstance(error.__cause__, regular_file.NotRegularError):
                # It has gone, or gone for something else, since the folder was read.
                continue
            yield str(error) if _may_pass(error) else _quarantine(path, str(error))
            continue
        if record.status in ACTIVE and is_locked(record.identity, folder):
            continue
        # Nothing of it is kept here while the next one is read.
        del checkpoint
        yield as_left(record)
        del record


def _may_pass(error: CheckpointError) -> bool:
    """Whether the system could not read the file just now: what it holds may be sound."""
    cause = error.__cause__
    mine = isinstance(cause, PermissionError | regular_file.TooLargeError)
    return isinstance(cause, OSError | MemoryError) and not mine


def _quarantine(path: Path, reason: str) -> str:
    try:
        target = checkpoints.quarantine(path, path.parent / "set-aside")
    except OSError as error:
        return f"{reason} It could not be set aside ({error.strerror})."
    return f"{reason} It was set aside as {target.parent.name}/{target.name}, unchanged."


def delete(identity: str, folder: Path) -> None:
    """Move a run's file where `undelete` finds it; of no effect where there is none. The caller holds the run's lock.

    Raises OSError.
    """
    bin_folder = folder / DELETED
    bin_folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        path_of(identity, folder).replace(path_of(identity, bin_folder))


def undelete(identity: str, folder: Path) -> RunRecord:
    """Bring a deleted run's file back; nobody trains it. Raises CheckpointError or OSError; then nothing has moved."""
    path, lock = path_of(identity, folder), RunLock(identity, folder)
    if not lock.acquire(WAIT_SECONDS):
        raise CheckpointError(f"Another Receptive process is using {path.name}.")
    try:
        if path.exists():
            raise CheckpointError(f"There is a file {path.name} again, and it is left as it is.")
        deleted = path_of(identity, folder / DELETED)
        record = as_left(load(deleted))
        deleted.replace(path)
        return record
    finally:
        lock.release()


def as_left(record: RunRecord) -> RunRecord:
    """The run as a killed process left it: interrupted, where its file says that it trains."""
    return replace(record, status="interrupted") if record.status in ACTIVE else record


def remove_unfinished(folder: Path) -> None:
    """Remove the files that killed processes had begun to write, where nobody is writing them now."""
    for path in folder.glob(f".*{SUFFIX}.*"):
        identity = path.name.removeprefix(".").partition(SUFFIX)[0]
        if not is_locked(identity, folder):
            with suppress(OSError):
                path.unlink()
