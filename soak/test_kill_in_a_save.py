"""SIGKILL within a save, on a disk so slow that most kills meet one: between writes, before a sync, at a rename."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lib.data import dataset
from lib.runs import run_store
from lib.runs.run_manager import RunManager
from lib.storage import checkpoints, digit_sets
from lib.storage.checkpoints import SUFFIX
from soak.saver import IDENTITY, OTHER, SET
from tools import ROOT

KILLS = 200


@pytest.fixture
def slow_files(tmp_path: Path) -> Path:
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("a library is compiled that slows the files of Linux")
    built = tmp_path / "slow_files.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(built), str(ROOT / "soak/slow_files.c"), "-ldl"], check=True
    )
    return built


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".") and SUFFIX in name] if folder.exists() else []


def test_nothing_that_was_saved_is_lost_and_nothing_half_saved_is_left(
    tmp_path: Path, slow_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = tmp_path / "slow"
    saved, own = folders / "saved", folders / "own"
    monkeypatch.setattr(digit_sets, "FOLDER", own)
    rng = random.Random(3)
    said = {"run": 0, "set": 0, "checkpoint": 0}
    met = {"run": 0, "set": 0, "checkpoint": 0}
    saver = subprocess.Popen(
        [sys.executable, "-m", "soak.saver", str(saved), str(own)],
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": str(slow_files), "SLOW_FOLDER": str(folders)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert saver.stdin is not None
    assert saver.stdout is not None
    try:
        assert saver.stdout.readline().strip() == "ready"
        for number in range(KILLS):
            saver.stdin.write("\n")
            saver.stdin.flush()
            word, pid = saver.stdout.readline().split()
            assert word == "pid"
            time.sleep(rng.random() * 0.5)
            os.kill(int(pid), 9)
            while (line := saver.stdout.readline().split())[0] != "ended":
                said[line[0]] = int(line[1])
            assert line[1] == "-9", "it ended by itself"
            left = {"run": IDENTITY, "checkpoint": OTHER}
            for kind, name in left.items():
                met[kind] += any(name in each for each in leftovers(saved))
            met["set"] += bool(leftovers(own))

            # As the next process would: each process cleans the folder of digit sets once.
            digit_sets._cleaned.clear()
            manager = RunManager(dataset.load, saved)
            assert manager.set_aside == ()
            assert leftovers(saved) == []
            steps = 0
            for run in manager.runs():
                assert run.status == "interrupted"
                steps = run_store.load(saved / f"{IDENTITY}{SUFFIX}").history.steps
                assert run.snapshot().step == steps
            # The saves that were reported, and possibly one whose last call had returned.
            assert steps - said["run"] in (0, 1)
            digits = len(digit_sets.load(SET)) if SET in digit_sets.names() else 0
            assert digits - said["set"] in (0, 1)
            if digits:
                found = digit_sets.load(SET)
                assert torch.equal(found.images[:, 0, 0].long(), torch.arange(digits) % 256)
            assert leftovers(own) == []
            other = saved / f"{OTHER}{SUFFIX}"
            count = checkpoints.load(other).details["count"] if other.exists() else 0
            assert said["checkpoint"] <= count <= steps
            for folder in (saved, own):
                assert not (folder / "set-aside").exists()
            said |= {"run": steps, "set": digits, "checkpoint": count}
            if number % 20 == 19:
                print(f"kill {number + 1}: {said}, within a save of {met}")
    finally:
        saver.kill()
        saver.communicate()
    assert min(met.values()) >= KILLS / 20, met
    assert sum(met.values()) >= KILLS / 2, met
