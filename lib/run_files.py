"""A run as a file: all that its thread knew when it was saved, so that it can be listed, drawn with and taken up again.

One checkpoint a run: the weights to use, the training's state, the curves. It is written whole or not at all, so the
curves and the weights in it are those of the same batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lib import checkpoints, history
from lib.architecture import Architecture
from lib.checkpoints import SUFFIX, Checkpoint, CheckpointError
from lib.history import History
from lib.network import build
from lib.recipe import Recipe
from lib.run_lock import WAIT_SECONDS, RunLock, is_locked
from lib.training import EpochSums, TrainingState

Status: TypeAlias = Literal[
    "queued", "running", "pausing", "stopping", "paused", "finished", "stopped", "failed", "interrupted"
]
STATUSES: tuple[str, ...] = get_args(Status)
ACTIVE: frozenset[Status] = frozenset({"queued", "running", "pausing", "stopping"})
DELETED = "deleted"


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
        extra |= {f"optimiser.{name}": tensor for name, tensor in state.optimiser.items()}
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
        "message": record.message,
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
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path.name} does not hold a run that can be read.") from error
    # An identity with a folder in it would have its run saved elsewhere: the name alone must be the whole of it.
    if path.name != f"{record.identity}{SUFFIX}":
        raise CheckpointError(f"{path.name} holds the run {record.identity}: give it back its name.")
    return record


def _record(checkpoint: Checkpoint) -> RunRecord:
    details, summary = checkpoint.details, checkpoint.summary
    if details["status"] not in STATUSES:
        raise ValueError(details["status"])
    state = _state(checkpoint, details["state"]) if details["state"] else None
    past = history.restore(_part(checkpoint, "history."), details["epochs"])
    if state and (state.step != past.steps or len(state.losses) != len(past.epochs)):
        raise ValueError("the curves are not those of the weights")
    steps_total, factor = int(details["steps_total"]), float(details["factor"])
    if past.steps > steps_total or len(past.epochs) > summary.recipe.epochs or not 0 < factor < math.inf:
        raise ValueError("no training comes there")
    return RunRecord(
        identity=str(details["identity"]),
        name=summary.title,
        owner=str(details["owner"]),
        parent=None if details["parent"] is None else str(details["parent"]),
        architecture=summary.architecture,
        recipe=summary.recipe,
        status=details["status"],
        created=summary.created,
        message=None if details["message"] is None else str(details["message"]),
        steps_total=steps_total,
        factor=factor,
        history=past,
        state=state,
    )


def _state(checkpoint: Checkpoint, values: Mapping[str, Any]) -> TrainingState:
    step, optimiser, sums = int(values["step"]), _part(checkpoint, "optimiser."), EpochSums(**values["sums"])
    expected = _optimiser_shapes(checkpoint) if step else {}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in optimiser.items()} != expected:
        raise ValueError("the optimiser's state is not that of the network")
    losses = tuple(float(loss) for loss in values["losses"])
    state = TrainingState(step, losses, sums, float(values["factor"]), checkpoint.weights, optimiser)
    if not checkpoint.weights or not is_sound(state):
        raise ValueError("no training goes on from that")
    return state


def is_sound(state: TrainingState) -> bool:
    """Whether a training may go on from it: all its values are numbers; a second moment of Adam may be infinite."""
    return (
        all(bool(torch.isfinite(tensor).all()) for tensor in state.network.values())
        and not any(bool(torch.isnan(tensor).any()) for tensor in state.optimiser.values())
        and all(math.isfinite(value) for value in (state.sums.loss, state.sums.correct, state.sums.seconds))
    )


def _optimiser_shapes(checkpoint: Checkpoint) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """What the recipe's optimiser keeps after a step, by the names of TrainingState."""
    moments = ("momentum_buffer",) if checkpoint.summary.recipe.optimiser == "SGD" else ("exp_avg", "exp_avg_sq")
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


@dataclass(frozen=True)
class Found:
    """What a folder of runs holds: the readable ones, oldest first, and a sentence for each file that was set aside."""

    records: tuple[RunRecord, ...]
    set_aside: tuple[str, ...]


def scan(folder: Path) -> Found:
    """Read all runs of a folder. What cannot be read is moved to its folder "set-aside", never deleted.

    A run that was in training when its process was killed is "interrupted"; one that another process trains is left
    out.
    """
    records, sentences = [], []
    for path in sorted(folder.glob(f"*{SUFFIX}"), key=_age):
        try:
            checkpoint = checkpoints.load(path)
            if "identity" not in checkpoint.details:
                # A network that was saved without its run, as the first version did: the Draw page lists it.
                continue
            record = _checked(path, checkpoint)
        except CheckpointError as error:
            if not path.exists():
                continue
            sentences.append(_set_aside(path, str(error)))
            continue
        if record.status in ACTIVE and is_locked(record.identity, folder):
            continue
        records.append(as_left(record))
    return Found(tuple(records), tuple(sentences))


def _age(path: Path) -> tuple[int, str]:
    try:
        return path.stat().st_mtime_ns, path.name
    except OSError:
        return 0, path.name


def _set_aside(path: Path, reason: str) -> str:
    try:
        target = checkpoints.set_aside(path, path.parent / "set-aside")
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
