"""SIGKILL at fifty random moments: ten times the server, forty times the engine without a server.

Runs are saved often, but few kills meet a save, which takes milliseconds; `soak/test_kill_in_a_save.py` slows saves.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import Browser, Page, expect

from lib.data.dataset import Dataset
from lib.runs import run_store
from lib.runs.run_manager import RunManager
from lib.runs.run_record import RunRecord
from lib.runs.training_run import Run
from soak.server import Server
from tools import ROOT
from tools.browser import settled, visit
from tools.server import copy_project
from tools.waiting import until

SERVER_KILLS, ENGINE_KILLS = 10, 40
START = "net=4+M+8+M+10+A&batch_size=128&epochs=6"


def read(folder: Path) -> dict[str, RunRecord]:
    """All runs in the folder, by identity. Raises CheckpointError for a damaged file."""
    return {path.stem: run_store.load(path) for path in folder.glob("*.safetensors")}


def unfinished(folder: Path) -> list[str]:
    """Temporary files of saves that were killed."""
    return [path.name for path in folder.glob(".*.safetensors.*")]


def assert_continued(before: dict[str, RunRecord], after: dict[str, RunRecord]) -> None:
    """Every run is still there, has all batches that its file had, and the same history up to there."""
    assert before.keys() <= after.keys()
    for identity, old in before.items():
        now, past = after[identity].history.curves(), old.history.curves()
        assert len(now) >= len(past)
        np.testing.assert_array_equal(now.train_loss[: len(past)], past.train_loss)
        assert after[identity].history.epochs[: len(old.history.epochs)] == old.history.epochs


def finish(run: Run) -> None:
    until(lambda: not run.active, seconds=600)
    assert run.wait(60)


def assert_as_if_never_interrupted(record: RunRecord, data: Dataset, folder: Path) -> None:
    """The run equals, bit for bit, one of the same recipe that is trained without a break."""
    whole = RunManager(lambda: data, folder).start(record.architecture, record.recipe)
    finish(whole)
    saved = whole.snapshot().saved
    assert saved is not None
    expected = run_store.load(saved)
    assert record.status == expected.status == "finished"
    for name in ("train_loss", "train_accuracy", "learning_rate"):
        np.testing.assert_array_equal(getattr(record.history.curves(), name), getattr(expected.history.curves(), name))
    for one, other in zip(record.history.epochs, expected.history.epochs, strict=True):
        assert (one.epoch, one.step, one.train_loss) == (other.epoch, other.step, other.train_loss)
        assert (one.validation_loss, one.test_accuracy) == (other.validation_loss, other.test_accuracy)
    assert record.state is not None
    assert expected.state is not None
    for tensors, others in (
        (record.state.network, expected.state.network),
        (record.state.optimizer, expected.state.optimizer),
    ):
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


def test_the_engine_is_killed_at_any_moment(tmp_path: Path, mnist: Dataset) -> None:
    rng, folder = random.Random(1), tmp_path / "runs"
    started: set[str] = set()
    before: dict[str, RunRecord] = {}
    met = steps = 0
    for number in range(ENGINE_KILLS):
        driver = subprocess.Popen(
            [sys.executable, "-m", "soak.driver", str(folder), str(rng.choice([0.0, 0.0, 0.05, 0.3]))],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert driver.stdout is not None
        lines = [driver.stdout.readline().strip()]
        # A fifth of the kills come while the run starts or its file is read.
        if rng.random() < 0.2:
            time.sleep(rng.random())
        else:
            while lines[-1] != "trains":
                lines.append(driver.stdout.readline().strip())
                assert lines[-1], "the engine ended by itself"
            time.sleep(rng.random() * 2)
        driver.kill()
        started |= {*lines, *driver.stdout.read().split()} - {"trains"}
        driver.wait()
        met += bool(unfinished(folder))
        after = read(folder)
        assert "" not in started
        assert started <= after.keys()
        assert_continued(before, after)
        manager = RunManager(lambda: mnist, folder)
        assert manager.set_aside == ()
        assert {run.identity for run in manager.runs()} == after.keys()
        for run in manager.runs():
            assert run.status in ("interrupted", "finished")
            assert run.snapshot().step == after[run.identity].history.steps
            assert run.resumable == (run.status == "interrupted")
        assert unfinished(folder) == []
        assert not (folder / "set-aside").exists()
        steps = sum(record.history.steps for record in after.values())
        before = after
        print(f"kill {number + 1}: {len(after)} runs, {steps} steps, {met} kills within a save")
    manager = RunManager(lambda: mnist, folder)
    for run in manager.runs():
        if run.resumable:
            manager.resume(run)
            finish(run)
    after = read(folder)
    assert_continued(before, after)
    assert_as_if_never_interrupted(after[min(after)], mnist, tmp_path / "whole")
    for record in after.values():
        np.testing.assert_array_equal(record.history.curves().train_loss, after[min(after)].history.curves().train_loss)


def resume_or_start(page: Page, server: Server, records: dict[str, RunRecord]) -> str:
    """Resume the interrupted run, or start one. Returns its identity."""
    interrupted = next((record for record in records.values() if record.status != "finished"), None)
    if interrupted:
        visit(page, f"{server.url}/train?run={interrupted.identity}")
        step = f"{interrupted.history.steps:,}"
        expect(page.get_by_text(f"It was saved at step {step}.")).to_be_visible()
        page.get_by_role("button", name="Resume").click()
        expect(page.get_by_role("button", name="Pause")).to_be_visible()
        return interrupted.identity
    visit(page, f"{server.url}/train?{START}")
    page.get_by_role("button", name="Start training").click()
    expect(page).to_have_url(re.compile(r"run=run-"), timeout=30_000)
    found = re.search(r"run=(run-\d+-[0-9a-f]+)", page.url)
    assert found
    return found.group(1)


def test_the_server_is_killed_at_any_moment(tmp_path: Path, mnist: Dataset, chromium: Browser) -> None:
    project = tmp_path / "project"
    project.mkdir()
    copy_project(project)
    rng = random.Random(2)
    folder = project / "checkpoints" / "saved"
    started: set[str] = set()
    before: dict[str, RunRecord] = {}
    met = 0
    # One browser, which owns all the runs.
    context = chromium.new_context()
    for number in range(SERVER_KILLS + 1):
        with Server(project, 0.1) as server:
            page = context.new_page()
            started.add(resume_or_start(page, server, before))
            settled(page)
            assert unfinished(folder) == []
            assert not (folder / "set-aside").exists()
            expect(page.get_by_text(f"All runs ({len(started)})")).to_be_visible()
            if number == SERVER_KILLS:
                expect(page.get_by_text(re.compile("^Finished: 9"))).to_be_visible(timeout=300_000)
                assert page.get_by_test_id("stException").count() == 0
                server.stop()
                break
            time.sleep(rng.random() * 4)
            server.kill()
        page.close()
        met += bool(unfinished(folder))
        after = read(folder)
        assert after.keys() == started
        assert_continued(before, after)
        before = after
        steps = sum(record.history.steps for record in after.values())
        print(f"kill {number + 1}: {len(after)} runs, {steps} steps, {met} kills within a save")
    context.close()
    after = read(folder)
    assert_continued(before, after)
    assert {record.status for record in after.values()} == {"finished"}
    assert_as_if_never_interrupted(after[max(after)], mnist, tmp_path / "whole")
