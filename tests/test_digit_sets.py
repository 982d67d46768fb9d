"""Sets of one's own digits: what was added is there, whole; what is damaged is set aside; no name leaves the folder."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lib.data.dataset import Dataset
from lib.storage import digit_sets
from lib.storage.digit_sets import DigitSetError

IMAGES = torch.arange(3 * 784).reshape(3, 28, 28).to(torch.uint8)
LABELS = torch.tensor([0, 9, 4])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(digit_sets, "FOLDER", tmp_path / "own")
    return tmp_path / "own"


def test_what_was_added_is_there_in_its_order_and_the_last_is_removed(folder: Path, mnist: Dataset) -> None:
    assert digit_sets.names() == []
    assert digit_sets.create("  Class   3e élèves ") == "Class 3e élèves"
    assert len(digit_sets.load("Class 3e élèves")) == 0
    digit_sets.add("Class 3e élèves", mnist.test_images[:5], mnist.test_labels[:5])
    digit_sets.add("Class 3e élèves", IMAGES, LABELS)
    digit_sets.remove_last("Class 3e élèves")
    found = digit_sets.load("Class 3e élèves")
    assert found.labels.tolist() == [7, 2, 1, 0, 4, 0, 9]
    assert torch.equal(found.images, torch.cat([mnist.test_images[:5], IMAGES[:2]]))
    assert [path.name for path in folder.iterdir()] == ["Class 3e élèves.safetensors"]
    assert digit_sets.names() == ["Class 3e élèves"]


def test_from_an_empty_set_nothing_is_removed() -> None:
    digit_sets.create("a")
    assert len(digit_sets.remove_last("a")) == 0


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "../a", "a/b", "a\\b", "/etc/passwd", "a\0b", "-a", "_a", "a.b", "a\n.b", "x" * 41, "CON:",
     ".hidden", "..\\a", "a/../b", "~", "x" * 5000, "a\u202eb", "a\u200bb", "\ud800", "a\x1b[1m"],
)  # fmt: skip
def test_a_name_that_is_none_is_refused_everywhere(name: str, folder: Path) -> None:
    for action in (digit_sets.create, digit_sets.load, digit_sets.remove_last, digit_sets.delete):
        with pytest.raises(DigitSetError, match=r"letters, digits, spaces|cannot be seen|at most 40"):
            action(name)
    assert not folder.exists()


SIGNS = st.sampled_from(list("aZ9é-_ ./\\\0:*?~\u202e\u0301\u1e9b\ud800\n")) | st.characters()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.text(SIGNS, max_size=45))
def test_whatever_the_name_a_set_lies_in_the_folder_or_is_refused(folder: Path, name: str) -> None:
    before = {path.name for path in folder.parent.iterdir()} | {folder.name}
    try:
        made = digit_sets.create(name)
    except DigitSetError as error:
        assert str(error).endswith(".")
        assert not folder.exists() or list(folder.iterdir()) == []
    else:
        path = folder / f"{made}.safetensors"
        assert list(folder.iterdir()) == [path]
        assert digit_sets.names() == [made]
        assert digit_sets.load(made).name == made
        path.unlink()
    assert {path.name for path in folder.parent.iterdir()} | {folder.name} == before


def test_a_name_is_taken_once_whatever_its_case_or_its_accents_are_made_of() -> None:
    digit_sets.create("Zoé")
    for name in ("Zoé", "ZOÉ", "Zoe\u0301"):
        with pytest.raises(DigitSetError, match="already"):
            digit_sets.create(name)


def test_the_limits_are_said_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digit_sets, "MAX_DIGITS", 5)
    monkeypatch.setattr(digit_sets, "MAX_SETS", 2)
    for name in ("a", "b"):
        digit_sets.create(name)
    with pytest.raises(DigitSetError, match="2 sets already"):
        digit_sets.create("c")
    digit_sets.add("a", IMAGES, LABELS)
    with pytest.raises(DigitSetError, match="has 3 digits, and a set holds at most 5"):
        digit_sets.add("a", IMAGES, LABELS)
    assert len(digit_sets.load("a")) == 3
    with pytest.raises(DigitSetError, match="from 0 to 9"):
        digit_sets.add("a", IMAGES[:1], torch.tensor([10]))
    assert len(digit_sets.load("a")) == 3


def test_a_full_set_is_read() -> None:
    digit_sets.create("full")
    digit_sets.add("full", torch.zeros(2000, 28, 28, dtype=torch.uint8), torch.zeros(2000, dtype=torch.int64))
    assert len(digit_sets.load("full")) == 2000


def test_a_deleted_set_comes_back_unless_its_name_was_taken(folder: Path) -> None:
    digit_sets.create("a")
    digit_sets.add("a", IMAGES, LABELS)
    first = digit_sets.delete("a")
    assert digit_sets.names() == []
    digit_sets.create("a")
    with pytest.raises(DigitSetError, match="another set"):
        digit_sets.undelete("a", first)
    second = digit_sets.delete("a")
    assert first != second
    digit_sets.undelete("a", first)
    assert torch.equal(digit_sets.load("a").images, IMAGES)
    with pytest.raises(DigitSetError, match="could not be deleted"):
        digit_sets.delete("b")
    digit_sets.delete("a")
    with pytest.raises(DigitSetError, match="could not be brought back"):
        digit_sets.undelete("a", folder / "deleted" / "gone")


def test_two_tabs_add_to_one_set() -> None:
    digit_sets.create("a")

    def work() -> None:
        for _ in range(10):
            digit_sets.add("a", IMAGES, LABELS)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digit_sets.load("a")) == 120


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04\x95 a pickle"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\7"),
        lambda path: os.truncate(path, digit_sets.MAX_BYTES + 1),
        lambda path: save_file({"images": IMAGES, "labels": LABELS.to(torch.uint8)}, path),
        lambda path: save_file({"images": IMAGES.float(), "labels": LABELS}, path, {"format": digit_sets.FORMAT}),
        lambda path: save_file({"other": IMAGES}, path),
    ],
)
def test_a_damaged_file_is_set_aside_unchanged(damage: object, folder: Path) -> None:
    digit_sets.create("a")
    digit_sets.add("a", IMAGES, LABELS)
    path = folder / "a.safetensors"
    damage(path)  # type: ignore[operator]
    content = path.read_bytes()
    with pytest.raises(DigitSetError, match=r"“a” is damaged .* set aside as .*set-aside.a\.safetensors, unchanged\.$"):
        digit_sets.load("a")
    assert (folder / "set-aside" / "a.safetensors").read_bytes() == content
    assert digit_sets.names() == []
    with pytest.raises(DigitSetError, match="cannot be read"):
        digit_sets.load("a")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_flipped_bytes_are_refused(folder: Path, data: st.DataObject) -> None:
    if "sample" not in digit_sets.names():
        digit_sets.create("sample")
        digit_sets.add("sample", IMAGES, LABELS)
    whole = (folder / "sample.safetensors").read_bytes()
    content = bytearray(whole)
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / "flipped.safetensors").write_bytes(content)
    try:
        found = digit_sets.load("flipped")
    except DigitSetError as error:
        assert str(error).endswith("unchanged.")
    else:
        # A change that JSON reads as before.
        assert torch.equal(found.images, IMAGES)


def test_a_folder_that_cannot_be_written_is_said(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(DigitSetError, match="could not be saved"):
        digit_sets.create("a")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_a_disk_that_is_full_leaves_what_stood(folder: Path) -> None:
    """A file that may grow no further stands for the disk."""
    import resource

    digit_sets.create("a")
    digit_sets.add("a", IMAGES, LABELS)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DigitSetError, match=r"could not be saved \(File too large\)"):
            digit_sets.add("a", IMAGES, LABELS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(digit_sets.load("a")) == 3
    assert [path.name for path in folder.iterdir()] == ["a.safetensors"]
