"""Runs, checkpoints, digit sets and addresses of commit 9320cae open and mean the same.

tests/fixtures/9320cae/README.md says how the files were made, and the description that they are compared with.
"""

from __future__ import annotations

import hashlib
import json
import runpy
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest
from torch import Tensor

from lib.data.dataset import Dataset
from lib.design.notation import notation
from lib.design.recipe import to_json
from lib.runs import run_store
from lib.runs.run_manager import RunManager
from lib.runs.run_record import RunRecord
from lib.storage import checkpoints, digit_sets
from tools import ROOT

FOLDER = Path(__file__).parent / "fixtures" / "9320cae"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
for described_run in EXPECTED["runs"].values():
    if described_run["state"]:
        # The multiplier of the last training: a run continues with its own, `factor` of the run.
        del described_run["state"]["factor"]
COLUMNS = ("train_loss", "train_accuracy", "learning_rate")
# Measured by a clock.
TIMES = {"seconds", "images_per_second"}
# Of each column, relative and absolute.
TOLERANCES = {"train_loss": (1e-3, 1e-4), "train_accuracy": (0, 0.011), "learning_rate": (1e-9, 0)}
FILES = {run["name"]: file for file, run in EXPECTED["runs"].items()}
machine = runpy.run_path(str(FOLDER / "machine.py"))["machine"]


def digest(tensor: Tensor) -> str:
    content = tensor.contiguous().numpy().tobytes()
    return hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + content).hexdigest()[:16]


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: digest(tensor) for name, tensor in tensors.items()}


def described(record: RunRecord) -> dict[str, Any]:
    curves, state = record.history.curves(), record.state
    return {
        "identity": record.identity,
        "name": record.name,
        "owner": record.owner,
        "parent": record.parent,
        "network": notation(record.architecture),
        "recipe": json.loads(to_json(record.recipe)),
        "status": record.status,
        "created": record.created,
        "message": record.message,
        "steps_total": record.steps_total,
        "factor": record.lr_scale,
        "curves": {name: getattr(curves, name).tolist() for name in COLUMNS},
        "epochs": [asdict(epoch) for epoch in record.history.epochs],
        "state": state
        and {
            "step": state.step,
            "losses": list(state.losses),
            "network": digests(state.network),
            "optimiser": digests(state.optimizer),
        },
    }


@pytest.mark.parametrize("name", EXPECTED["runs"])
def test_a_run_is_read_as_it_was(name: str) -> None:
    # As text, NaN equals NaN.
    found = json.dumps(described(run_store.load(FOLDER / "runs" / name)), sort_keys=True)
    assert found == json.dumps(EXPECTED["runs"][name], sort_keys=True)


def test_a_folder_of_runs_is_listed_and_interrupted_runs_can_resume(tmp_path: Path, small: Dataset) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(FOLDER / "runs", folder)
    manager = RunManager(lambda: small, folder)
    assert manager.set_aside == ()
    expected = {run["identity"]: run["status"] for run in EXPECTED["runs"].values()}
    found = {run.identity: run.status for run in manager.runs()}
    assert found == expected | {"run-99-abcdef": "interrupted"}
    assert {run.identity for run in manager.runs() if run.resumable} == {
        identity for identity, status in expected.items() if status in ("paused", "stopped", "running")
    }


def assert_same_training(record: RunRecord, expected: dict[str, Any]) -> None:
    """The same history up to rounding.

    Later versions of the kernels, and other processors, may round a sum differently in its last bit, which training
    amplifies. The loss of a step may differ by a thousandth, the accuracy of a batch by one image, and a measurement
    after an epoch by a hundredth of the loss and by 10 of the 500 images.
    """
    found = described(record)
    for name, (relative, absolute) in TOLERANCES.items():
        now, then = found["curves"][name], expected["curves"][name]
        np.testing.assert_allclose(now, then, rtol=relative, atol=absolute, err_msg=name)
    for now, then in zip(found["epochs"], expected["epochs"], strict=True):
        for name in now.keys() - TIMES:
            assert now[name] == (None if then[name] is None else pytest.approx(then[name], rel=1e-2, abs=0.02)), name


# Dropout draws other random numbers since the kernels compute it.
FINISHED = [
    run["name"] for run in EXPECTED["runs"].values() if run["status"] == "finished" and "D" not in run["network"]
]


@pytest.mark.parametrize("name", FINISHED)
def test_the_same_recipe_trains_the_same_network(name: str, tmp_path: Path, small: Dataset) -> None:
    then = run_store.load(FOLDER / "runs" / FILES[name])
    run = RunManager(lambda: small, tmp_path).start(then.architecture, then.recipe)
    assert run.wait(120)
    assert_same_training(run_store.load(run_store.path_of(run.identity, tmp_path)), EXPECTED["runs"][FILES[name]])


def test_a_paused_run_resumes_and_ends_as_without_a_pause(tmp_path: Path, small: Dataset) -> None:
    """That of the run `whole`, which that commit trained with the same recipe without a pause."""
    shutil.copy(FOLDER / "runs" / FILES["half"], tmp_path)
    manager = RunManager(lambda: small, tmp_path)
    (run,) = manager.runs()
    manager.resume(run)
    assert run.wait(120)
    assert_same_training(run_store.load(run_store.path_of(run.identity, tmp_path)), EXPECTED["runs"][FILES["whole"]])


@pytest.mark.parametrize("name", EXPECTED["checkpoints"])
def test_a_checkpoint_is_read_as_it_was(name: str) -> None:
    found = checkpoints.load(FOLDER / "checkpoints" / name)
    assert {
        "title": found.summary.title,
        "network": notation(found.summary.architecture),
        "recipe": json.loads(to_json(found.summary.recipe)),
        "epochs_done": found.summary.epochs_done,
        "test_accuracy": found.summary.test_accuracy,
        "created": found.summary.created,
        "weights": digests(found.weights),
    } == EXPECTED["checkpoints"][name]
    assert checkpoints.network(found).architecture == found.summary.architecture


def test_digit_sets_are_read_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FOLDER / "own", tmp_path / "own")
    monkeypatch.setattr(digit_sets, "FOLDER", tmp_path / "own")
    found = {name: digit_sets.load(name) for name in digit_sets.names()}
    assert {
        name: {"images": digest(digits.images), "labels": digits.labels.tolist()} for name, digits in found.items()
    } == EXPECTED["sets"]


@pytest.fixture
def old_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that has just started on a copy of the runs."""
    shutil.copytree(FOLDER / "runs", tmp_path / "saved")
    monkeypatch.setattr(checkpoints, "SAVED_FOLDER", tmp_path / "saved")
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


@pytest.mark.parametrize("number", range(len(EXPECTED["addresses"])))
def test_an_address_means_what_it_meant(number: int, old_runs: None, calibrated_once: None) -> None:
    case = EXPECTED["addresses"][number]
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    at.query_params.update(dict(parse_qsl(case["address"])))
    if case["page"]:
        at.switch_page(f"pages/{case['page']}.py")
    at.run()
    assert not at.exception
    assert dict(at.query_params) == case["written"]
    values = {key: at.session_state[key] for key in case["values"]}
    assert json.loads(json.dumps(values)) == case["values"]
    assert len(at.error) + len(at.warning) == case["complaints"]
