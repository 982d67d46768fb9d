"""Regular files are read up to a limit; everything else is named and left as it is."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lib.cli.output import UsageError
from lib.cli.train import read_recipe
from lib.data import dataset
from lib.data.dataset import DatasetError
from lib.design.notation import parse
from lib.design.recipe import Recipe
from lib.files import regular_file
from lib.nn.network import build
from lib.runs import run_record, run_store
from lib.runs.run_manager import RunManager
from lib.runs.run_store import scan
from lib.storage import checkpoints, digit_sets
from lib.storage.checkpoints import SUFFIX, Checkpoint, CheckpointError
from lib.storage.digit_sets import DigitSetError
from lib.training.history import History
from tests.irregular_files import KINDS, entries, put_all, within
from tools import ROOT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
SUMMARY = checkpoints.Summary("Sound", parse("2 10 A"), Recipe(), 5, 0.5, "2026-11-22T00:00:00+00:00")
SOUND = Checkpoint(SUMMARY, build(SUMMARY.architecture).state_dict())


@pytest.fixture
def odd(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with each kind of irregular file, a valid checkpoint and a link to another; and the messages."""
    folder = tmp_path / "saved"
    said = put_all(folder, SUFFIX)
    checkpoints.save(SOUND, folder / f"sound{SUFFIX}")
    checkpoints.save(SOUND, tmp_path / "elsewhere" / f"other{SUFFIX}")
    (folder / f"link{SUFFIX}").symlink_to(tmp_path / "elsewhere" / f"other{SUFFIX}")
    return folder, said


@pytest.mark.parametrize("kind", KINDS)
def test_an_irregular_file_is_neither_read_nor_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{SUFFIX}"
    make, words = KINDS[kind]
    try:
        make(path)
    except PermissionError:
        pytest.skip("this root may not make devices")
    before = entries(tmp_path)
    said = "No such file or directory" if kind == "link to nothing" else words
    with within(10):
        for read in (lambda: regular_file.read(path, 1000), lambda: regular_file.opened(path).__enter__()):
            with pytest.raises(OSError, match=r".") as caught:
                read()
            assert caught.value.strerror == said
        for load in (checkpoints.load, checkpoints.load_summary, run_store.load):
            with pytest.raises(CheckpointError) as refused:
                load(path)
            assert str(refused.value) == f"The checkpoint x{SUFFIX} cannot be read ({said}). Restore it."
        with pytest.raises(UsageError, match="cannot be read"):
            read_recipe(f"@{path}")
        path.rename(tmp_path / f"{dataset.PEN_DIGITS}.gz")
        if kind not in ("link to itself", "loop of links"):
            with pytest.raises(DatasetError, match="pen-digits"):
                dataset.pen_digits(tmp_path)
            (tmp_path / f"{dataset.PEN_DIGITS}.gz").rename(path)
            assert entries(tmp_path) == before


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for size in (0, 1, 999, 1000):
        path.write_bytes(bytes(range(256)) * 4)
        os.truncate(path, size)
        assert regular_file.read(path, 1000) == (bytes(range(256)) * 4)[:size]
    os.truncate(path, 1001)
    with pytest.raises(regular_file.TooLargeError, match=r"larger than 0\.0 MB"):
        regular_file.read(path, 1000)
    # A sparse file of a terabyte, which would not fit into memory.
    os.truncate(path, 2**40)
    with within(10), pytest.raises(CheckpointError, match="larger than any network"):
        checkpoints.load(path)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's /proc")
def test_a_file_that_reports_no_size_is_read_up_to_the_limit() -> None:
    """Files in /proc report a size of 0."""
    assert os.stat("/proc/self/maps").st_size == 0
    assert len(regular_file.read("/proc/self/maps", 10**7)) > 1000
    with pytest.raises(regular_file.TooLargeError):
        regular_file.read("/proc/self/maps", 100)
    # The whole memory of the process.
    with within(10), pytest.raises(OSError, match=r"Errno"):
        regular_file.read("/proc/self/mem", 100)


def test_a_listing_names_the_files_that_it_skips(odd: tuple[Path, dict[str, str]]) -> None:
    folder, said = odd
    os.link(folder / f"sound{SUFFIX}", os.fsencode(folder) + b"/\xff" + SUFFIX.encode())
    unseen = {"a\nb": "a[U+000A]b", "a\u202eb": "a[U+202E]b", "a\u200b": "a[U+200B]"}
    for name in unseen:
        (folder / f"{name}{SUFFIX}").write_text("")
    found = regular_file.listing(folder, SUFFIX)
    assert {path.name for path, _ in found.files} == {f"sound{SUFFIX}", f"link{SUFFIX}"}
    assert all(modified == path.stat().st_mtime_ns for path, modified in found.files)
    words = said | {
        f"{name}{SUFFIX}": "its name has a character that cannot be seen" for name in ("[byte FF]", *unseen.values())
    }
    expected = {f"saved/{name} was passed over ({why}). Move it out of the folder." for name, why in words.items()}
    assert set(found.passed_over) == expected
    assert len(found.passed_over) == len(expected)
    assert regular_file.listing(folder / "none", SUFFIX) == regular_file.Listing((), ())
    assert regular_file.listing(folder / f"sound{SUFFIX}", SUFFIX).files == ()


def test_irregular_files_neither_stop_a_scan_nor_are_moved(
    odd: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, said = odd
    run = replace(_record(), identity="run-1-aaaaaa")
    run_store.save(run, folder)
    monkeypatch.setattr(checkpoints, "SAVED_FOLDER", folder)
    before = entries(folder)
    with within(20):
        found = list(scan(folder))
        manager = RunManager(dataset.load, folder)
        assert [getattr(each, "identity", each) for each in found] == [run.identity]
        assert [each.identity for each in manager.runs()] == [run.identity]
        assert manager.set_aside == ()
        assert {path.name for path in checkpoints.paths() if path.parent == folder} == {
            f"sound{SUFFIX}",
            f"link{SUFFIX}",
            f"{run.identity}{SUFFIX}",
        }
        assert len(checkpoints.passed_over(folder)) == len(said)
    assert entries(folder) == before


def _record() -> run_record.RunRecord:
    return run_record.RunRecord(
        identity="run-0-000000",
        name="A run",
        owner="",
        parent=None,
        architecture=SUMMARY.architecture,
        recipe=SUMMARY.recipe,
        status="stopped",
        created=SUMMARY.created,
        message=None,
        steps_total=0,
        lr_scale=1.0,
        history=History(),
        state=None,
    )


def test_a_link_to_a_run_elsewhere_is_a_run(tmp_path: Path) -> None:
    path = run_store.save(_record(), tmp_path / "elsewhere")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / path.name).symlink_to(path)
    assert [getattr(each, "name", each) for each in scan(tmp_path / "runs")] == ["A run"]


def test_an_irregular_file_in_the_place_of_a_set_is_not_waited_for(tmp_path: Path) -> None:
    """In a process of its own: one that waits while it holds the interpreter's lock could not even be interrupted."""
    own = tmp_path / "own"
    said = put_all(own, SUFFIX)
    code = """
import sys
from pathlib import Path
from lib.storage import digit_sets
digit_sets.FOLDER = Path(sys.argv[1])
for name in sys.argv[2:]:
    try:
        digit_sets.load(name)
    except digit_sets.DigitSetError as error:
        print(error)
assert digit_sets.names() == []
"""
    names = [name.removesuffix(SUFFIX) for name in said]
    before = entries(own)
    done = subprocess.run(
        [sys.executable, "-c", code, str(own), *names], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(names)
    assert all(line.startswith("The set “") and line.endswith("Choose another one.") for line in lines)
    assert entries(own) == before


def test_a_set_cannot_take_the_name_of_another_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digit_sets, "FOLDER", tmp_path / "own")
    said = put_all(tmp_path / "own", SUFFIX)
    (tmp_path / "own" / f".hidden{SUFFIX}").write_text("")
    before = entries(tmp_path / "own")
    for name in ("pipe", "FOLDER", "link to nothing", "socket"):
        with pytest.raises(DigitSetError, match="already"):
            digit_sets.create(name)
    assert entries(tmp_path / "own") == before
    assert digit_sets.names() == []
    sentences = digit_sets.passed_over()
    assert len(sentences) == len(said) + 1
    assert f"own/.hidden{SUFFIX} was passed over: a set has another name. Rename it." in sentences
    digit_sets.create("free")
    assert digit_sets.names() == ["free"]


IMPORTS = """
import os, sys
from pathlib import Path
import psutil, torch
from lib.data import dataset
from lib.runs import run_store
from lib.storage import checkpoints, digit_sets
from lib.design.notation import parse
from lib.data.dataset import Dataset
from lib.design.recipe import Recipe
from lib.runs.run_manager import RunManager
from lib.training.trainer import Trainer
images, labels = torch.zeros(20, 28, 28, dtype=torch.uint8), torch.arange(20) % 10
data, recipe = Dataset(images, labels, images, labels), Recipe(epochs=1, batch_size=10)
# Late imports: an ordinary user may not be able to read Python's own files.
list(Trainer(parse("2 10 A"), recipe, data))
"""
BECOME_NOBODY = "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"


def as_nobody(code: str, *arguments: str, first: str = "") -> str:
    """The output of Python code that runs as an ordinary user, who can read the project and not write to it.

    Root runs `first` before, in the same process.
    """
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS + first + BECOME_NOBODY + code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": "/nonexistent"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """A folder that other users can reach."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    return tmp_path


@pytest.mark.slow
@needs_root
def test_without_permissions_errors_are_shown_and_training_works(open_path: Path) -> None:
    secret = open_path / "runs"
    run_store.save(_record(), secret)
    (secret / f"run-0-000000{SUFFIX}").chmod(0)
    checkpoints.save(SOUND, open_path / "closed" / f"x{SUFFIX}")
    (secret / f"link{SUFFIX}").symlink_to(open_path / "closed" / f"x{SUFFIX}")
    (open_path / "closed").chmod(0)
    (open_path / "own").mkdir()
    (open_path / "own").chmod(0o555)
    code = """
runs, closed, own = map(Path, sys.argv[1:])
manager = RunManager(dataset.load, runs)
print(*manager.set_aside, sep="\\n")
print(*checkpoints.passed_over(runs, closed), sep="\\n")
digit_sets.FOLDER = own
for name in ("mine", "other"):
    try:
        digit_sets.create(name)
    except digit_sets.DigitSetError as error:
        print(error)
print(digit_sets.names(), manager.runs())
manager = RunManager(lambda: data, own)
run = manager.start(parse("2 10 A"), recipe)
assert run.wait(60)
snapshot = run.snapshot()
print(snapshot.status, snapshot.step, snapshot.saved)
print(snapshot.save_error)
run.rename("again")
assert run.snapshot().save_error == snapshot.save_error
"""
    lines = as_nobody(code, str(secret), str(open_path / "closed"), str(open_path / "own")).splitlines()
    assert lines[-1].endswith("could not be saved (Permission denied). Free some disk space and try again.")
    assert lines[:-1] == [
        f"The checkpoint run-0-000000{SUFFIX} cannot be read (Permission denied). Restore it. "
        "It could not be set aside (Permission denied).",
        f"runs/link{SUFFIX} was passed over (Permission denied). Move it out of the folder.",
        "The folder closed cannot be read (Permission denied).",
        "The set “mine” could not be saved (Permission denied). Free some disk space and try again.",
        "The set “other” could not be saved (Permission denied). Free some disk space and try again.",
        "[] []",
        "finished 2 None",
    ]
    assert list((open_path / "own").iterdir()) == []


@pytest.mark.slow
def test_files_may_appear_and_vanish_while_they_are_listed_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three threads make, replace and delete files, links and pipes while everything that lists them is called."""
    saved, own = tmp_path / "saved", tmp_path / "own"
    monkeypatch.setattr(checkpoints, "SAVED_FOLDER", saved)
    monkeypatch.setattr(digit_sets, "FOLDER", own)
    checkpoints.save(SOUND, tmp_path / f"sound{SUFFIX}")
    digit_sets.create("stays")
    digit_sets.add("stays", torch.zeros(3, 28, 28, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    saved.mkdir()
    run = run_store.save(_record(), saved)
    end = threading.Event()

    def disturb(number: int) -> None:
        makers: list[Callable[[Path], object]] = [
            lambda path: os.link(tmp_path / f"sound{SUFFIX}", path),
            lambda path: os.link(own / f"stays{SUFFIX}", path),
            lambda path: path.symlink_to("/nonexistent"),
            os.mkfifo,
        ]
        count = number
        while not end.is_set():
            for folder in (saved, own):
                path = folder / f"x{number}{SUFFIX}"
                try:
                    makers[count % len(makers)](path)
                    path.unlink()
                except OSError:
                    # The path is taken, or the file was set aside.
                    continue
            count += 1

    threads = [threading.Thread(target=disturb, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    calls, until = 0, time.monotonic() + 2
    try:
        with within(30):
            while time.monotonic() < until or calls < 20:
                for path in checkpoints.paths():
                    try:
                        checkpoints.load_summary(path)
                        checkpoints.load(path)
                    except CheckpointError as error:
                        assert path.name in str(error)
                checkpoints.passed_over(saved)
                digit_sets.passed_over()
                for name in digit_sets.names():
                    try:
                        digit_sets.load(name)
                    except DigitSetError as error:
                        assert name in str(error)
                assert run.stem in {getattr(each, "identity", "") for each in scan(saved)}
                assert len(digit_sets.load("stays")) == 3
                calls += 1
    finally:
        end.set()
        for thread in threads:
            thread.join(10)
    assert calls >= 20
