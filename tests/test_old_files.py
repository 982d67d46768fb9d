"""What commit 9320cae wrote opens and means the same: runs, checkpoints, digit sets, addresses.

tests/fixtures/9320cae/make.py made the files, with that commit's code, and what it read of them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from torch import Tensor

from lib.data.dataset import Dataset
from lib.design.notation import notation
from lib.design.recipe import to_json
from lib.runs import run_store
from lib.runs.run_manager import RunManager
from lib.runs.run_store import RunRecord
from lib.storage import checkpoints, digit_sets
from lib.training.history import History
from tests.waiting import until

ROOT = Path(__file__).parent.parent
FOLDER = Path(__file__).parent / "fixtures" / "9320cae"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
COLUMNS = ("train_loss", "train_accuracy", "learning_rate")
# What a clock measured.
TIMES = ("seconds", "images_per_second")


def digest(tensor: Tensor) -> str:
    content = tensor.contiguous().numpy().tobytes()
    return hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + content).hexdigest()[:16]


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: digest(tensor) for name, tensor in tensors.items()}


def described(record: RunRecord) -> dict[str, object]:
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
        "factor": record.factor,
        "curves": {name: getattr(curves, name).tolist() for name in COLUMNS},
        "epochs": [asdict(epoch) for epoch in record.history.epochs],
        "state": state
        and {
            "step": state.step,
            "losses": list(state.losses),
            "factor": state.learning_rate_factor,
            "network": digests(state.network),
            "optimiser": digests(state.optimizer),
        },
    }


@pytest.mark.parametrize("name", EXPECTED["runs"])
def test_a_run_is_read_as_it_was(name: str) -> None:
    # Text compares NaN with itself.
    found = json.dumps(described(run_store.load(FOLDER / "runs" / name)), sort_keys=True)
    assert found == json.dumps(EXPECTED["runs"][name], sort_keys=True)


def test_a_folder_of_runs_is_listed_and_a_run_that_was_cut_off_may_go_on(tmp_path: Path, small: Dataset) -> None:
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


def assert_same_history(history: History, expected: dict[str, Any]) -> None:
    """On the machine that made the files it is equal bit by bit; another processor may round sums otherwise."""
    for name in COLUMNS:
        np.testing.assert_allclose(getattr(history.curves(), name), expected["curves"][name], rtol=1e-3, atol=1e-4)
    for epoch, then in zip(history.epochs, expected["epochs"], strict=True):
        now = asdict(epoch)
        for name in set(now) - set(TIMES):
            assert now[name] == (None if then[name] is None else pytest.approx(then[name], rel=1e-2, abs=5e-3)), name


@pytest.mark.slow
@pytest.mark.parametrize("name", [run["name"] for run in EXPECTED["runs"].values() if run["status"] == "finished"])
def test_the_same_recipe_trains_the_same_network(name: str, tmp_path: Path, small: Dataset) -> None:
    """Also from the middle: a run that was paused then is the whole one in the end."""
    (file,) = (file for file, run in EXPECTED["runs"].items() if run["name"] == name)
    then = run_store.load(FOLDER / "runs" / file)
    run = RunManager(lambda: small, tmp_path).start(then.architecture, then.recipe)
    until(lambda: not run.active and run.wait(0))
    now = run_store.load(run_store.path_of(run.identity, tmp_path))
    assert_same_history(now.history, EXPECTED["runs"][file])


def test_a_paused_run_goes_on_to_the_end_that_it_would_have_had(tmp_path: Path, small: Dataset) -> None:
    names = {run["name"]: file for file, run in EXPECTED["runs"].items()}
    shutil.copy(FOLDER / "runs" / names["half"], tmp_path)
    manager = RunManager(lambda: small, tmp_path)
    (run,) = manager.runs()
    manager.resume(run)
    until(lambda: not run.active and run.wait(0))
    assert run.status == "finished"
    now = run_store.load(run_store.path_of(run.identity, tmp_path))
    assert_same_history(now.history, EXPECTED["runs"][names["whole"]])


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


@pytest.mark.parametrize("case", EXPECTED["addresses"], ids=lambda case: f"{case['page']}?{case['address'][:30]}")
def test_an_address_is_understood_as_it_was(case: dict[str, Any]) -> None:
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    at.query_params.update(dict(parse_qsl(case["address"])))
    if case["page"]:
        at.switch_page(f"pages/{case['page']}.py")
    at.run()
    assert not at.exception
    assert dict(at.query_params) == case["written"]
    values = {key: at.session_state[key] for key in case["values"]}
    assert json.loads(json.dumps(values)) == case["values"]
