"""Five hundred changed files: each is refused with a message or is valid, and every page opens."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import streamlit as st
import torch
from streamlit.testing.v1 import AppTest

from lib.data.dataset import Dataset
from lib.design.notation import parse
from lib.design.recipe import MAX_EPOCHS, Recipe
from lib.nn.network import build
from lib.runs import run_record, run_store
from lib.runs.run_record import RunRecord
from lib.storage import checkpoints, digit_sets
from lib.storage.checkpoints import SUFFIX, Checkpoint, CheckpointError, Summary
from lib.storage.digit_sets import DigitSet, DigitSetError
from lib.text import untrusted_text
from lib.training import history
from lib.training.history import History
from lib.training.trainer import EvaluationProgress, Trainer
from lib.ui.cache import run_manager
from tests.mutants import mutant, run_digest, set_digest, write_all
from tools import ROOT

pytestmark = pytest.mark.slow


RUNS, CHECKPOINTS, SETS = 300, 100, 100
# Valid files of each kind that the pages are opened with.
SHOWN = 12
NOTATION = "2 M 10 A"


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibrated_once: None) -> None:
    monkeypatch.setattr(checkpoints, "SAVED_FOLDER", tmp_path / "saved")
    monkeypatch.setattr(digit_sets, "FOLDER", tmp_path / "own")
    st.cache_resource.clear()
    st.cache_data.clear()


@pytest.fixture(scope="module")
def runs(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The content of run files in different states, by identity."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = Recipe(epochs=2, batch_size=250)

    def save(name: str, recipe: Recipe, steps: int, status: run_record.Status, message: str | None = None) -> None:
        past, training = History(), Trainer(parse(NOTATION), recipe, small)
        for event in training:
            if not isinstance(event, EvaluationProgress):
                past.add(event)
            if training.step >= steps and (steps < training.steps_total or training.epochs_done == recipe.epochs):
                break
        state = training.state() if steps and status != "failed" else None
        past = past if steps else History()
        total = training.steps_total if steps else 0
        created = datetime(2026, 11, 22, tzinfo=UTC).isoformat(timespec="microseconds")
        run_store.save(
            RunRecord(
                name, name, "", None, training.architecture, recipe, status, created, message, total, 1.0, past, state
            ),
            folder,
        )

    save("finished", recipe, 8, "finished")
    save("held-out", replace(recipe, validation="held-out", optimizer="SGD"), 8, "finished")
    save("paused", recipe, 5, "paused")
    save("begun", recipe, 0, "interrupted")
    save("failed", recipe, 6, "failed", "The loss was no longer a number.")
    return {path.stem: path.read_bytes() for path in folder.glob(f"*{SUFFIX}")}


def assert_possible(record: RunRecord) -> None:
    """Check what the pages rely on."""
    past, recipe = record.history, record.recipe
    assert run_record.IDENTITY.fullmatch(record.identity)
    assert record.status in run_record.STATUSES
    assert 1e-3 <= record.lr_scale <= 1e3
    assert 0 <= past.steps <= record.steps_total <= MAX_EPOCHS * 60_000
    assert record.steps_total % recipe.epochs == 0
    assert len(past.epochs) <= recipe.epochs
    assert record.message is None or len(record.message) <= run_record.MAX_MESSAGE
    assert datetime.fromisoformat(record.created).tzinfo is not None
    curves = past.curves()
    assert bool(((curves.train_accuracy >= 0) & (curves.train_accuracy <= 1)).all())
    assert bool(((curves.learning_rate >= 0) & (curves.learning_rate < math.inf)).all())
    for epoch in past.epochs:
        assert type(epoch.step) is int
        for accuracy in (epoch.train_accuracy, epoch.validation_accuracy, epoch.test_accuracy or 0.0):
            assert 0 <= accuracy <= 1
        assert 0 < epoch.seconds < math.inf
        assert 0 < epoch.images_per_second < math.inf
        assert 1 <= epoch.validation_images <= history.MAX_IMAGES
    if record.state:
        assert run_record.is_finite(record.state)
        assert record.state.step == past.steps
    if record.status == "finished":
        assert record.state is not None
        assert past.epochs[-1].test_accuracy is not None


def assert_sound(checkpoint: Checkpoint) -> None:
    summary = checkpoint.summary
    assert summary.test_accuracy is None or 0 <= summary.test_accuracy <= 1
    assert 0 <= summary.epochs_done <= MAX_EPOCHS
    assert len(summary.title) <= checkpoints.MAX_TITLE
    assert summary.title == untrusted_text.name(summary.title, checkpoints.MAX_TITLE)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in checkpoint.weights.values())
    if checkpoint.weights:
        answer = checkpoints.network(checkpoint)(torch.zeros(2, 1, 28, 28))
        assert answer.shape == (2, 10)


def assert_digits(digits: DigitSet) -> None:
    assert digits.images.shape == (len(digits), 28, 28)
    assert digits.images.dtype == digits.labels.dtype == torch.uint8
    assert len(digits) <= digit_sets.MAX_DIGITS
    assert not len(digits) or int(digits.labels.max()) <= 9


def assert_sentence(error: Exception, name: str) -> None:
    said = str(error)
    assert name in said
    assert said.endswith(".")
    assert len(said) < 400
    assert said.isprintable()


def some_runs(contents: dict[str, bytes], folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Load changed run files. Returns the valid and the refused ones."""
    read, refused = {}, {}
    rng = random.Random(8)
    for number in range(RUNS):
        name = list(contents)[number % len(contents)]
        content = mutant(rng, contents[name], run_digest)
        write_all(folder, {name: content})
        try:
            record = run_store.load(folder / f"{name}{SUFFIX}")
        except CheckpointError as error:
            assert_sentence(error, name)
            refused[f"{name}-{number}"] = content
            continue
        assert_possible(record)
        read[f"{name}-{number}"] = content
    return read, refused


def test_changed_runs_are_refused_or_valid_and_the_train_page_shows_all(runs: dict[str, bytes], tmp_path: Path) -> None:
    read, refused = some_runs(runs, tmp_path / "loaded")
    assert len(read) > RUNS / 20
    assert len(refused) > RUNS / 2
    folder = checkpoints.SAVED_FOLDER
    # The file's name is the run's identity, so variants of one run are shown one after the other.
    shown = random.Random(1).sample(sorted(read), SHOWN)
    for turn in range(0, SHOWN, 4):
        st.cache_resource.clear()
        for path in folder.glob(f"*{SUFFIX}"):
            path.unlink()
        at_once = {name.rpartition("-")[0]: read[name] for name in shown[turn : turn + 4]}
        write_all(folder, at_once | {name: refused[name] for name in sorted(refused)[turn : turn + 4]})
        at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
        at.session_state["all_runs"] = True
        at.switch_page("pages/train.py").run()
        assert not at.exception, at_once.keys()
        assert len(run_manager().runs()) == len(at_once)
        for name in at_once:
            at.selectbox(key="run").set_value(name).run()
            assert not at.exception, shown


def test_changed_checkpoints_are_refused_or_valid_and_every_page_opens(tmp_path: Path) -> None:
    summary = Summary("A test", parse(NOTATION), Recipe(epochs=2), 2, 0.9876, "2026-11-22T00:00:00+00:00")
    path = tmp_path / f"sound{SUFFIX}"
    checkpoints.save(Checkpoint(summary, build(summary.architecture).state_dict()), path)
    content, rng = path.read_bytes(), random.Random(9)
    read: dict[str, bytes] = {}
    refused: dict[str, bytes] = {}
    for number in range(CHECKPOINTS):
        changed = mutant(rng, content, run_digest)
        path.write_bytes(changed)
        try:
            loaded = checkpoints.load(path)
        except CheckpointError as error:
            assert_sentence(error, path.name)
            refused[f"c{number}"] = changed
        else:
            assert_sound(loaded)
            read[f"c{number}"] = changed
        try:
            checkpoints.load_summary(path)
        except CheckpointError as error:
            assert_sentence(error, path.name)
            assert f"c{number}" in refused
    assert len(read) > CHECKPOINTS / 20
    assert len(refused) > CHECKPOINTS / 2
    write_all(checkpoints.SAVED_FOLDER, read | refused)
    # A file with other weights.
    others = [name for name, each in read.items() if each[-1000:] != content[-1000:]][:1]
    assert others
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    at.query_params["net"] = NOTATION
    at.run()
    assert not at.exception
    for page in ("draw", "inspect", "errors", "photos"):
        at.switch_page(f"pages/{page}.py").run()
        assert not at.exception, page
        for name in [*others, *list(read)[:1]]:
            at.selectbox(key="reader").set_value(name).run()
            assert not at.exception, (page, name)


def test_changed_digit_sets_are_refused_or_valid_and_the_page_opens(tmp_path: Path) -> None:
    digit_sets.create("sound")
    digit_sets.add("sound", torch.arange(3 * 784).reshape(3, 28, 28).to(torch.uint8), torch.tensor([0, 9, 4]))
    content = (digit_sets.FOLDER / f"sound{SUFFIX}").read_bytes()
    rng, read, refused = random.Random(10), {}, {}
    for number in range(SETS):
        name = f"s{number}"
        changed = mutant(rng, content, set_digest)
        write_all(digit_sets.FOLDER, {name: changed})
        try:
            assert_digits(digit_sets.load(name))
        except DigitSetError as error:
            assert_sentence(error, name)
            refused[name] = changed
        else:
            read[name] = changed
    assert len(read) > SETS / 20
    assert len(refused) > SETS / 2
    write_all(digit_sets.FOLDER, dict(list(refused.items())[:2]))
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    at.switch_page("pages/photos.py").run()
    for name in [*list(refused)[:2], *list(read)[:3]]:
        at.selectbox(key="own_set").set_value(name).run()
        assert not at.exception, name
