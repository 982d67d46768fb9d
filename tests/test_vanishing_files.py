"""A file that vanishes between any two calls of a page is an error message, not a traceback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from lib.data.dataset import Dataset
from lib.design.notation import parse
from lib.design.recipe import Recipe
from lib.files import regular_file
from lib.nn.network import build
from lib.runs import run_store
from lib.runs.run_manager import MAX_LOADED_RUNS
from lib.runs.run_record import RunRecord
from lib.storage import checkpoints, digit_sets
from lib.storage.checkpoints import SUFFIX, Checkpoint, Summary
from lib.training.history import History
from lib.training.trainer import EvaluationProgress, Trainer
from lib.ui.browser_identity import TOKEN_KEY
from lib.ui.cache import run_manager
from tools import ROOT

TOKEN = "0" * 32
SUMMARY = Summary("Going", parse("2 10 A"), Recipe(), 5, 0.5, "2026-11-22T00:00:00+00:00")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibrated_once: None) -> None:
    monkeypatch.setattr(checkpoints, "SAVED_FOLDER", tmp_path / "saved")
    monkeypatch.setattr(digit_sets, "FOLDER", tmp_path / "own")
    st.cache_resource.clear()
    st.cache_data.clear()


def said(at: AppTest) -> str:
    return "\n".join(str(each.value) for each in [*at.error, *at.warning])


def gone_with_call(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, call: int, path: Path) -> list[int]:
    """Delete the file at the given call of a function: after it is listed, or before it is opened.

    Returns a list that grows by one element with each call.
    """
    real: Callable[..., Any] = getattr(module, name)
    calls: list[int] = []

    def wrapped(*arguments: Any) -> Any:
        mine = path in arguments or path.parent in arguments
        calls.extend([1] * mine)
        listing = path.parent in arguments
        found = real(*arguments) if listing else None
        if mine and len(calls) == call:
            path.unlink()
        return found if listing else real(*arguments)

    monkeypatch.setattr(module, name, wrapped)
    return calls


# The calls of a page: for irregular files, for the list of networks, and for the chosen network.
MOMENTS = [
    (regular_file, "listing", 1),
    (regular_file, "listing", 2),
    (regular_file, "listing", 3),
    (checkpoints, "load_summary", 1),
    (checkpoints, "load", 1),
]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["draw", "inspect", "errors", "photos"])
def test_a_checkpoint_vanishes_while_a_page_reads_it(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoints.SAVED_FOLDER / f"going{SUFFIX}"
    for module, name, call in MOMENTS:
        checkpoints.save(Checkpoint(SUMMARY, build(SUMMARY.architecture).state_dict()), path)
        at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
        at.session_state["reader"] = "going"
        with monkeypatch.context() as patch:
            calls = gone_with_call(patch, module, name, call, path)
            at.switch_page(f"pages/{page}.py").run()
        assert len(calls) >= call, (name, call)
        assert not path.exists()
        assert not at.exception, (name, call)
        assert len(at.title) == 1
        listed = any("Going" in option for option in at.selectbox(key="reader").options)
        # If it was listed before it vanished, there is a message in place of the prediction.
        assert listed == ((name, call) == ("listing", 3) or name == "load"), (name, call)
        if listed:
            assert "The checkpoint going" in said(at), (name, call)


def test_a_checkpoint_vanishes_while_the_design_page_offers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoints.SAVED_FOLDER / f"going{SUFFIX}"
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    at.query_params["net"] = "2 10 A"
    at.session_state["take"] = True
    for module, name, call in [(regular_file, "listing", 1), (checkpoints, "load_summary", 1)]:
        checkpoints.save(Checkpoint(SUMMARY, build(SUMMARY.architecture).state_dict()), path)
        with monkeypatch.context() as patch:
            assert not at.run().exception
            assert "ONNX: going" in str(at.main)
            st.cache_data.clear()
            calls = gone_with_call(patch, module, name, call, path)
            at.run()
        assert len(calls) >= call
        assert not path.exists()
        assert not at.exception, name
        assert "to export it as ONNX, too" in "\n".join(each.value for each in at.caption)


@pytest.mark.slow
def test_the_file_of_a_run_vanishes_while_the_train_page_shows_it(small: Dataset) -> None:
    """For a run whose curves are in memory, and for an older one that has to be read again."""
    past, training = History(), Trainer(parse("2 10 A"), Recipe(epochs=2, batch_size=250), small)
    while training.step < 5:
        event = next(training)
        if not isinstance(event, EvaluationProgress):
            past.add(event)
    owner = sha256(TOKEN.encode()).hexdigest()[:16]
    record = RunRecord(
        "run-0-going", "Going", owner, None, training.architecture, training.recipe, "paused", SUMMARY.created, None,
        training.steps_total, 1.0, past, training.state(),
    )  # fmt: skip
    for number in range(MAX_LOADED_RUNS + 1):
        run_store.save(replace(record, identity=f"run-{number}-going"), checkpoints.SAVED_FOLDER)
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    # The page would first ask about a run of another browser.
    at.session_state[TOKEN_KEY] = TOKEN
    at.switch_page("pages/train.py").run()
    runs = run_manager().runs()
    assert len(runs) == MAX_LOADED_RUNS + 1
    for path in checkpoints.SAVED_FOLDER.glob(f"*{SUFFIX}"):
        path.unlink()
    at.session_state["all_runs"] = True
    for identity in ("run-0-going", f"run-{MAX_LOADED_RUNS}-going"):
        at.selectbox(key="run").set_value(identity).run()
        assert not at.exception
        for label in ("Resume", "One step", "Stop"):
            next(button for button in at.button if button.label == label).click().run()
            assert not at.exception, (identity, label)
            assert f"{identity}{SUFFIX}" in said(at) or "no longer there" in said(at), (identity, label)
        at.text_input(key="new_name").set_value("Another").run()
        assert not at.exception
        assert "no longer there" in said(at)
    assert not any(run.active for run in run_manager().runs())
    assert list(checkpoints.SAVED_FOLDER.glob(f"*{SUFFIX}")) == []
    next(button for button in at.button if button.label == "Delete").click().run()
    assert not at.exception
    assert len(run_manager().runs()) == MAX_LOADED_RUNS
