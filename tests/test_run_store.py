"""Runs as files: whole or set aside, and never executed."""

from __future__ import annotations

import io
import os
import pickle
import signal
import struct
import subprocess
import sys
import weakref
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_tensors
from torch import Tensor

from lib.data.dataset import Dataset
from lib.design.notation import notation, parse
from lib.design.recipe import OPTIMIZERS, Recipe, to_json
from lib.nn.network import build
from lib.runs import run_record, run_store
from lib.runs.process_lock import RunLock, is_locked
from lib.runs.run_record import RunRecord
from lib.runs.run_store import delete, load, path_of, remove_unfinished, save, undelete
from lib.storage import checkpoints
from lib.storage.checkpoints import Checkpoint, CheckpointError
from lib.training.diagnosis import NetworkProbe
from lib.training.history import History
from lib.training.trainer import EvaluationProgress, Trainer, TrainingState
from tests import safetensors_metadata
from tools import ROOT


@dataclass(frozen=True)
class Found:
    """What a scan gives, apart: the runs, and what is said of the files that hold none."""

    records: tuple[RunRecord, ...]
    set_aside: tuple[str, ...]


def scan(folder: Path) -> Found:
    found = list(run_store.scan(folder))
    return Found(
        tuple(each for each in found if isinstance(each, RunRecord)),
        tuple(each for each in found if isinstance(each, str)),
    )


TEXT = "4 M 8 M 10 A"


def trained(data: Dataset, identity: str, recipe: Recipe, steps: int) -> RunRecord:
    """A run after `steps` steps."""
    history, training = History(), Trainer(parse(TEXT), recipe, data)
    while training.step < steps:
        event = next(training)
        if not isinstance(event, EvaluationProgress):
            history.add(event)
    return RunRecord(
        identity=identity,
        name="The third try",
        owner="a-tab",
        parent="run-1-aaaaaa",
        architecture=training.architecture,
        recipe=recipe,
        status="paused",
        created="2026-11-22T00:00:00+00:00",
        message=None,
        steps_total=training.steps_total,
        lr_scale=2.0,
        history=history,
        state=training.state(),
    )


@pytest.fixture(scope="module")
def record(small: Dataset) -> RunRecord:
    return trained(small, "run-2-bbbbbb", Recipe(epochs=3, batch_size=100), 14)


def plain(record: RunRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in ("history", "state")}


def assert_equal(one: RunRecord, other: RunRecord) -> None:
    assert plain(one) == plain(other)
    for name in ("train_loss", "train_accuracy", "learning_rate"):
        np.testing.assert_array_equal(getattr(one.history.curves(), name), getattr(other.history.curves(), name))
    assert one.history.epochs == other.history.epochs
    if one.state is None or other.state is None:
        assert one.state is other.state
        return
    for name in ("step", "losses", "sums"):
        assert getattr(one.state, name) == getattr(other.state, name)
    for first, second in ((one.state.network, other.state.network), (one.state.optimizer, other.state.optimizer)):
        assert first.keys() == second.keys()
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_comes_back_whole(small: Dataset, tmp_path: Path, optimizer: Any) -> None:
    record = trained(
        small, "run-5-abc123", Recipe(optimizer, 0.01, epochs=3, batch_size=100, validation="held-out"), 14
    )
    path = save(record, tmp_path)
    assert path == path_of("run-5-abc123", tmp_path)
    assert_equal(load(path), record)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_run_that_has_learnt_nothing_comes_back_too(record: RunRecord, tmp_path: Path) -> None:
    nothing = replace(record, history=History(), state=None, steps_total=0, parent=None, status="queued")
    path = save(nothing, tmp_path)
    assert_equal(load(path), nothing)
    with pytest.raises(CheckpointError, match="has no weights"):
        checkpoints.network(checkpoints.load(path))


def test_no_run_has_more_steps_than_its_recipe_has_images_for(record: RunRecord, tmp_path: Path) -> None:
    """Batches of 100, of 60,000 images at most."""
    begun = replace(record, history=History(), state=None)
    assert load(save(replace(begun, steps_total=3 * 600), tmp_path)).steps_total == 1800
    with pytest.raises(CheckpointError, match="its number of steps does not match its recipe"):
        load(save(replace(begun, steps_total=3 * 601), tmp_path))


def test_a_failed_run_keeps_its_curves_and_its_reason(record: RunRecord, tmp_path: Path) -> None:
    failed = replace(record, state=None, status="failed", message="The loss was no longer a number.")
    assert_equal(load(save(failed, tmp_path)), failed)


def test_only_an_accuracy_of_these_weights_is_stated(small: Dataset, tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, batch_size=100)
    between = save(trained(small, "between", recipe, 14), tmp_path)
    assert checkpoints.load_summary(between).test_accuracy is None
    history, training = History(), Trainer(parse(TEXT), recipe, small)
    while training.epochs_done < 1:
        event = next(training)
        if not isinstance(event, EvaluationProgress):
            history.add(event)
    whole = replace(trained(small, "whole", recipe, 0), history=history, state=training.state())
    assert checkpoints.load_summary(save(whole, tmp_path)).test_accuracy == history.epochs[0].test_accuracy


# What may be wrong with a file. Each writes it over the path of a good one.


@dataclass(frozen=True)
class Executed:
    """Leaves a file where it is unpickled."""

    trace: Path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Any, ...]]:
        return Path.touch, (self.trace,)


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor], dict[str, Tensor]], None]) -> None:
    """Rewrite a file in its own format, with a valid digest, after a change of details, weights or other tensors."""
    checkpoint = checkpoints.load(path)
    details, weights, extra = (dict(part) for part in (checkpoint.details, checkpoint.weights, checkpoint.extra))
    change(details, weights, extra)
    checkpoints.save(Checkpoint(checkpoint.summary, weights, extra, details), path)


def detail(**changes: Any) -> Callable[[Path], None]:
    return lambda path: rewritten(path, lambda details, weights, extra: details.update(changes))


def in_state(**changes: Any) -> Callable[[Path], None]:
    return lambda path: rewritten(path, lambda details, weights, extra: details["state"].update(changes))


PROBE = NetworkProbe(14, 0.1, (10,) * 10, 1, 10, 0.0, 0.1, 0.5, 1.0)


def in_probe(**changes: Any) -> Callable[[Path], None]:
    return detail(probe={**asdict(PROBE), **changes})


def in_epoch(**changes: Any) -> Callable[[Path], None]:
    return lambda path: rewritten(path, lambda details, weights, extra: details["epochs"][0].update(changes))


def stated(**changes: Any) -> Callable[[Path], None]:
    """In the summary, digest and all."""

    def write(path: Path) -> None:
        checkpoint = checkpoints.load(path)
        checkpoints.save(replace(checkpoint, summary=replace(checkpoint.summary, **changes)), path)

    return write


def extra(name: str, tensor: Tensor | None) -> Callable[[Path], None]:
    def change(details: dict[str, Any], weights: dict[str, Tensor], extra: dict[str, Tensor]) -> None:
        extra.pop(name, None)
        if tensor is not None:
            extra[name] = tensor

    return lambda path: rewritten(path, change)


def weight(name: str, tensor: Tensor | None) -> Callable[[Path], None]:
    def change(details: dict[str, Any], weights: dict[str, Tensor], extra: dict[str, Tensor]) -> None:
        weights.pop(name, None)
        if tensor is not None:
            weights[name] = tensor

    return lambda path: rewritten(path, change)


def no_weights(path: Path) -> None:
    rewritten(path, lambda details, weights, extra: weights.clear())


def metadata(**changes: Any) -> Callable[[Path], None]:
    """In the header, as JSON; the digest stays what it was."""

    def write(path: Path) -> None:
        path.write_bytes(safetensors_metadata.with_metadata(path.read_bytes(), **changes))

    return write


def flipped(place: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)

    return write


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../escaped", "x" * 1000)


def torch_pickle(path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weights": Executed(path.parent / "executed")}, buffer)
    path.write_bytes(buffer.getvalue())


def of_another_type(path: Path) -> None:
    """Tensors of a type that numpy does not know."""
    weights = {"0.weight": torch.zeros(3, dtype=torch.bfloat16)}
    path.write_bytes(save_tensors(weights, safetensors_metadata.metadata(path.read_bytes())))


def of_a_huge_network(path: Path) -> None:
    """To build it would take 200 GB."""
    checkpoint = checkpoints.load(path)
    summary = replace(checkpoint.summary, architecture=parse(" ".join(["2048k27"] * 16) + " 10 A"))
    checkpoints.save(replace(checkpoint, summary=summary), path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "pickle": lambda path: path.write_bytes(pickle.dumps(Executed(path.parent / "executed"))),
    "torch's pickle": torch_pickle,
    "zip": zipped,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("This is no run.\n"),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 40),
    "cut off in the data": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "cut off in the header": lambda path: path.write_bytes(path.read_bytes()[:300]),
    "half a length": lambda path: path.write_bytes(path.read_bytes()[:5]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0" * 8),
    "huge header": lambda path: path.write_bytes(struct.pack("<Q", 2**63) + path.read_bytes()[8:]),
    "largest header": lambda path: path.write_bytes(struct.pack("<Q", 2**64 - 1) + path.read_bytes()[8:]),
    "deep header": lambda path: path.write_bytes(struct.pack("<Q", 10**6) + b"[" * 10**6),
    "header is a list": lambda path: path.write_bytes(struct.pack("<Q", 2) + b"[]"),
    "header without metadata": lambda path: path.write_bytes(struct.pack("<Q", 2) + b"{}"),
    "a bit in the data": flipped(-5),
    "a bit in the header": flipped(60),
    "wrong digest": metadata(sha256="0" * 64),
    "no digest": metadata(sha256=None),
    "metadata is no text": metadata(epochs_done=None, title=7),
    "another title": metadata(title="The best one"),
    "another format": metadata(format="receptive-3"),
    "the first format, digest and all": metadata(format="receptive-1"),
    "tensors of another type": of_another_type,
    "huge network": of_a_huge_network,
    "weight that is no number": weight("0.weight", torch.full((4, 1, 3, 3), torch.nan)),
    "weight of another shape": weight("0.weight", torch.zeros(4, 1, 5, 5)),
    "weight left out": weight("0.weight", None),
    "unknown weight": weight("99.weight", torch.zeros(1)),
    "state without weights": no_weights,
    "moment of another shape": extra("optimiser.0.exp_avg", torch.zeros(4, 1, 5, 5)),
    "moment of another type": extra("optimiser.0.exp_avg", torch.zeros(4, 1, 3, 3, dtype=torch.float64)),
    "moment that is no number": extra("optimiser.0.exp_avg", torch.full((4, 1, 3, 3), torch.nan)),
    "moment left out": extra("optimiser.0.exp_avg", None),
    "unknown moment": extra("optimiser.0.momentum_buffer", torch.zeros(4, 1, 3, 3)),
    "moment of no parameter": extra("optimiser.99.exp_avg", torch.zeros(4)),
    "moment of no number": extra("optimiser.first.exp_avg", torch.zeros(4)),
    "moment without a name": extra("optimiser.0", torch.zeros(4)),
    "shorter column": extra("history.train_loss", torch.zeros(13, dtype=torch.float64)),
    "column of another type": extra("history.train_loss", torch.zeros(14)),
    "column left out": extra("history.train_loss", None),
    "unknown column": extra("history.weather", torch.zeros(14, dtype=torch.float64)),
    "unknown status": detail(status="resting"),
    "no epochs": detail(epochs=[]),
    "epochs are text": detail(epochs="one"),
    "more steps than there are": detail(steps_total=13),
    "endlessly many steps": detail(steps_total=float("inf")),
    "steps are text": detail(steps_total="many"),
    "factor 0": detail(factor=0),
    "factor NaN": detail(factor=float("nan")),
    "factor beyond float": detail(factor=10**400),
    "probe is text": detail(probe="x"),
    "probe of another form": detail(probe={"step": 14}),
    "probe with more": in_probe(weather=1.0),
    "accuracy of a probe below 0": in_probe(accuracy=-0.1),
    "accuracy of a probe is text": in_probe(accuracy="high"),
    "variation NaN": in_probe(variation=float("nan")),
    "predictions of nine digits": in_probe(predictions=[1] * 9),
    "negative predictions": in_probe(predictions=[-1] * 10),
    "predictions left out": in_probe(predictions=None),
    "dead layer of another network": in_probe(dead_layer=99),
    "half a dead layer": in_probe(dead_layer=0.5),
    "dead outputs are true": in_probe(dead_logits=True),
    "state is text": detail(state="x"),
    "state is empty": detail(state={"step": 14}),
    "another step": in_state(step=13),
    "a step too many": in_state(losses=[0.1, 0.2]),
    "loss is text": in_state(losses=["x"]),
    "sums are not sums": in_state(sums={"loss": 1.0, "weather": 2.0}),
    "sum that is no number": in_state(sums={"loss": float("nan"), "correct": 1, "seconds": 1.0}),
    "sum that is text": in_state(sums={"loss": "1", "correct": 1, "seconds": 1.0}),
    "another run's": detail(identity="run-9-999999"),
    "a run elsewhere": detail(identity="../elsewhere/run-3-cccccc"),
    "a run in a folder": detail(identity="./run-3-cccccc"),
    "no identity": detail(identity=None),
    "identity of many signs": detail(identity="x" * 101),
    "identity with a space": detail(identity="run 3"),
    "factor too small": detail(factor=0.0009),
    "factor too large": detail(factor=1000.1),
    "factor is true": detail(factor=True),
    "steps of no whole epochs": detail(steps_total=31),
    "steps of too many images": detail(steps_total=3 * 601),
    "steps of half an epoch": detail(steps_total=15),
    "steps are true": detail(steps_total=True),
    "finished without its end": detail(status="finished"),
    "failed without a reason": detail(status="failed"),
    "message is a list": detail(message=["x"]),
    "owner is a number": detail(owner=7),
    "parent is a path": detail(parent="../x"),
    "state is false": detail(state=False),
    "accuracy of 2": in_epoch(test_accuracy=2.0),
    "accuracy below 0": in_epoch(test_accuracy=-1),
    "no accuracy on the test images": in_epoch(test_accuracy=None),
    "endless seconds": in_epoch(seconds=float("inf")),
    "seconds that are no number": in_epoch(seconds=float("nan")),
    "endless images a second": in_epoch(images_per_second=float("inf")),
    "no images a second": in_epoch(images_per_second=0.0),
    "images beyond float": in_epoch(validation_images=10**400),
    "another loss than the state's": in_epoch(validation_loss=0.5),
    "losses are whole": in_state(losses=[1]),
    "step is no whole number": in_state(step=14.0),
    "more right than there were": in_state(sums={"loss": 1.0, "correct": 401, "seconds": 1.0}),
    "right by parts": in_state(sums={"loss": 1.0, "correct": 1.5, "seconds": 1.0}),
    "endless time": in_state(sums={"loss": 1.0, "correct": 1, "seconds": 1e300}),
    "accuracy that is no number": stated(test_accuracy=float("nan")),
    "accuracy that is endless": stated(test_accuracy=float("inf")),
    "accuracy of 1e308": stated(test_accuracy=1e308),
    "accuracy of -5": stated(test_accuracy=-5.0),
    "101 epochs": stated(epochs_done=101),
    "fewer epochs than none": stated(epochs_done=-1),
    "created some day": stated(created="some day"),
    "created without a zone": stated(created="2026-11-22T00:00:00"),
    "created in another zone": stated(created="2026-11-22T00:00:00+01:00"),
    "created in short": stated(created="20261122T000000Z"),
    "a title of a book": stated(title="x" * 201),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_cannot_be_read_is_set_aside_unchanged_and_the_rest_is_listed(
    record: RunRecord, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    save(record, tmp_path)
    path = save(replace(record, identity="run-3-cccccc"), tmp_path)
    damage(path)
    content = path.read_bytes()
    found = scan(tmp_path)
    assert [good.identity for good in found.records] == [record.identity]
    assert_equal(found.records[0], record)
    (said,) = found.set_aside
    assert path.name in said
    assert said.endswith("It was set aside as set-aside/run-3-cccccc.safetensors, unchanged.")
    assert "\n" not in said
    assert (tmp_path / "set-aside" / path.name).read_bytes() == content
    assert not (tmp_path / "executed").exists()
    visible = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("[!.]*") if file.is_file()}
    assert visible == {f"{record.identity}.safetensors", "set-aside/run-3-cccccc.safetensors"}
    assert scan(tmp_path).set_aside == ()


def test_a_probe_is_kept_and_a_file_of_an_earlier_version_has_none(record: RunRecord, tmp_path: Path) -> None:
    path = save(replace(record, probe=PROBE), tmp_path)
    assert load(path).probe == PROBE
    rewritten(path, lambda details, weights, extra: details.pop("probe"))
    assert_equal(load(path), record)


def test_a_renamed_file_is_set_aside_and_two_of_a_name_stand_side_by_side(record: RunRecord, tmp_path: Path) -> None:
    for _ in range(2):
        save(record, tmp_path).rename(tmp_path / "run-7-dddddd.safetensors")
        (said,) = scan(tmp_path).set_aside
        assert "run-7-dddddd.safetensors holds the run run-2-bbbbbb: give it back its name." in said
    aside = sorted((tmp_path / "set-aside").iterdir())
    assert [path.name for path in aside] == ["run-7-dddddd-1.safetensors", "run-7-dddddd.safetensors"]
    assert all(load(path.rename(tmp_path / f"{record.identity}.safetensors")) for path in aside)


def test_a_network_that_the_first_version_saved_stays_where_it_is(record: RunRecord, tmp_path: Path) -> None:
    old = tmp_path / "run-1-0ec1f2.safetensors"
    header = {
        "format": "receptive-1",
        "title": "run-1-0ec1f2",
        "architecture": notation(record.architecture),
        "recipe": to_json(record.recipe),
        "epochs_done": "3",
        "test_accuracy": "0.99",
        "created": record.created,
    }
    old.write_bytes(save_tensors(build(record.architecture).state_dict(), header))
    found = scan(tmp_path)
    assert (found.records, found.set_aside) == ((), ())
    assert checkpoints.load(old).summary.title == "run-1-0ec1f2"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.data())
def test_flipped_bytes_are_refused_or_harmless(record: RunRecord, tmp_path: Path, data: st.DataObject) -> None:
    path = save(record, tmp_path)
    content = bytearray(path.read_bytes())
    # Half of them in the header, where a byte means more.
    end = data.draw(st.sampled_from([600, len(content)]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        found = load(path)
    except CheckpointError as error:
        assert path.name in str(error)
        assert "\n" not in str(error)
    else:
        assert_equal(found, record)


@pytest.mark.parametrize("status", ["queued", "running", "pausing", "stopping"])
def test_what_was_in_training_is_interrupted(record: RunRecord, tmp_path: Path, status: Any) -> None:
    save(replace(record, status=status), tmp_path)
    (found,) = scan(tmp_path).records
    assert_equal(found, replace(record, status="interrupted"))
    delete(record.identity, tmp_path)
    assert scan(tmp_path).records == ()
    assert_equal(undelete(record.identity, tmp_path), replace(record, status="interrupted"))


HOLDER = """
import sys
from pathlib import Path
from lib.runs.process_lock import RunLock
lock = RunLock(sys.argv[2], Path(sys.argv[1]))
print(lock.acquire() and lock.held, flush=True)
sys.stdin.read()
"""


def holder(folder: Path, identity: str) -> subprocess.Popen[str]:
    """Another process that holds the lock of a run until it ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), identity],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "True"
    return process


def test_a_living_process_keeps_its_runs_and_a_killed_one_leaves_them(record: RunRecord, tmp_path: Path) -> None:
    save(replace(record, status="running"), tmp_path)
    save(replace(record, identity="run-4-paused"), tmp_path)
    other = holder(tmp_path, record.identity)
    unfinished = tmp_path / f".run-2-bbbbbb.safetensors.{other.pid}"
    unfinished.write_bytes(b"half")
    remove_unfinished(tmp_path)
    assert unfinished.exists()
    assert is_locked(record.identity, tmp_path)
    found = scan(tmp_path)
    assert [each.identity for each in found.records] == ["run-4-paused"]
    assert found.set_aside == ()
    delete("run-4-paused", tmp_path)
    second = holder(tmp_path, "run-4-paused")
    with pytest.raises(CheckpointError, match="Another Receptive process is using"):
        undelete("run-4-paused", tmp_path)
    for process in (other, second):
        process.send_signal(signal.SIGKILL)
        process.communicate()
    undelete("run-4-paused", tmp_path)
    remove_unfinished(tmp_path)
    assert not unfinished.exists()
    assert {each.identity: each.status for each in scan(tmp_path).records} == {
        "run-2-bbbbbb": "interrupted",
        "run-4-paused": "paused",
    }


def test_what_killed_processes_had_begun_to_write_is_removed(record: RunRecord, tmp_path: Path) -> None:
    path = save(record, tmp_path)
    # In a container, a restarted server has the number that the killed one had.
    for pid in ("4194303", str(os.getpid()), "not-a-number"):
        (tmp_path / f".{path.name}.{pid}").write_bytes(b"half a file")
    (tmp_path / ".hidden").write_text("another file")
    remove_unfinished(tmp_path)
    assert {file.name for file in tmp_path.iterdir() if file.is_file()} == {path.name, ".hidden"}


def test_two_locks_of_a_run_exclude_each_other(tmp_path: Path) -> None:
    one, two, another = RunLock("run-1", tmp_path), RunLock("run-1", tmp_path), RunLock("run-2", tmp_path)
    assert one.acquire()
    assert one.acquire(), "it is held already"
    assert (one.held, two.acquire(), two.held, another.acquire()) == (True, False, False, True)
    two.release()
    assert is_locked("run-1", tmp_path)
    one.release()
    assert not is_locked("run-1", tmp_path)
    assert two.acquire()


def test_a_deleted_run_is_not_brought_back_over_another_file(record: RunRecord, tmp_path: Path) -> None:
    path = save(record, tmp_path)
    delete(record.identity, tmp_path)
    newer = save(replace(record, name="newer"), tmp_path).read_bytes()
    with pytest.raises(CheckpointError, match=r"There is a file run-2-bbbbbb\.safetensors again"):
        undelete(record.identity, tmp_path)
    assert path.read_bytes() == newer
    path.unlink()
    assert_equal(undelete(record.identity, tmp_path), record)


def test_a_deleted_file_that_was_damaged_stays_where_it_is(record: RunRecord, tmp_path: Path) -> None:
    path = save(record, tmp_path)
    delete(record.identity, tmp_path)
    deleted = tmp_path / "deleted" / path.name
    deleted.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        undelete(record.identity, tmp_path)
    assert deleted.exists()
    assert not path.exists()


def test_a_scan_holds_one_run_at_a_time(record: RunRecord, tmp_path: Path) -> None:
    """A folder of many may be larger than the memory."""
    for number in range(6):
        path = save(replace(record, identity=f"run-{number}"), tmp_path)
        os.utime(path, (number, number))
    seen: list[weakref.ref[RunRecord]] = []
    names = []
    for found in run_store.scan(tmp_path):
        assert isinstance(found, RunRecord)
        names.append(found.identity)
        seen.append(weakref.ref(found))
        del found
        assert sum(each() is not None for each in seen) <= 1
    assert names == [f"run-{number}" for number in range(6)]
    assert not any(each() for each in seen)


def test_a_folder_that_cannot_be_made_holds_no_runs(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    remove_unfinished(blocked)
    assert scan(blocked) == Found((), ())
    assert RunLock("run-1", blocked).acquire()
    assert not is_locked("run-1", blocked)


def test_a_state_that_is_no_number_is_not_sound(record: RunRecord) -> None:
    state = record.state
    assert state is not None
    assert run_record.is_finite(state)

    def with_value(tensors: Mapping[str, Tensor], name: str, value: float) -> dict[str, Tensor]:
        return {**tensors, name: torch.full_like(tensors[name], value)}

    worse: list[TrainingState] = [
        replace(state, network=with_value(state.network, "0.weight", torch.nan)),
        replace(state, network=with_value(state.network, "0.bias", torch.inf)),
        replace(state, optimizer=with_value(state.optimizer, "0.exp_avg", torch.nan)),
        replace(state, sums=replace(state.sums, loss=torch.inf)),
    ]
    assert not any(map(run_record.is_finite, worse))
    assert run_record.is_finite(replace(state, optimizer=with_value(state.optimizer, "0.exp_avg_sq", torch.inf)))
