"""Checkpoints: whole or refused in one sentence, and those that are shipped."""

from __future__ import annotations

import os
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lib.data.dataset import Dataset
from lib.design.analysis import analyze
from lib.design.notation import notation, parse
from lib.design.recipe import Augmentation, Recipe
from lib.nn.network import build
from lib.storage import checkpoints
from lib.storage.checkpoints import Checkpoint, CheckpointError, Summary
from tests.measure import accuracy_on
from tests.safetensors_metadata import with_metadata

SHIPPED = sorted(checkpoints.FOLDER.glob("*.safetensors"))
SUMMARY = Summary("A test", parse("4 M 10 A"), Recipe(epochs=2), 2, 0.9876, "2026-11-22T00:00:00+00:00")


EXTRA = {"curve": torch.arange(3, dtype=torch.float64), "0.weight": torch.tensor(7), "none": torch.zeros(0)}
DETAILS = {"owner": "a tab", "rates": [0.1, None], "nested": {"é": True}}


def sample() -> Checkpoint:
    return Checkpoint(SUMMARY, build(SUMMARY.architecture, seed=5).state_dict(), EXTRA, DETAILS)


def of_the_first_format(path: Path, **changes: str) -> None:
    """As the first version wrote it: the weights and no digest."""
    header = {
        "format": "receptive-1",
        "title": SUMMARY.title,
        "architecture": notation(SUMMARY.architecture),
        "recipe": '{"augmentation": {"rotation": 5.0, "shift": 0.0, "zoom": 0.0}, "batch_size": 128, "epochs": 2, '
        '"learning_rate": 0.02, "optimiser": "AdamW", "schedule": "one-cycle", "seed": 0, "weight_decay": 0.01}',
        "epochs_done": "2",
        "test_accuracy": "0.9876",
        "created": SUMMARY.created,
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(build(SUMMARY.architecture, seed=5).state_dict(), path, header)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "sample.safetensors"
    checkpoints.save(sample(), path)
    return path


def test_there_are_shipped_networks() -> None:
    assert SHIPPED


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_network_scores_what_it_says_on_all_test_images(mnist: Dataset, path: Path) -> None:
    checkpoint = checkpoints.load(path)
    summary = checkpoint.summary
    learnt = sum(t.numel() for name, t in checkpoint.weights.items() if name.endswith(("weight", "bias")))
    assert learnt == analyze(summary.architecture).num_params
    assert summary.epochs_done == summary.recipe.epochs < 20
    assert len(mnist.test_images) == 10_000
    accuracy = accuracy_on(checkpoints.network(checkpoint), mnist.test_images, mnist.test_labels)
    assert accuracy >= 0.99
    # Another processor may round a borderline image to the other side.
    assert accuracy == pytest.approx(summary.test_accuracy, abs=0.0003)


def test_a_checkpoint_comes_back_whole(saved: Path) -> None:
    loaded = checkpoints.load(saved)
    assert loaded.summary == SUMMARY == checkpoints.load_summary(saved)
    assert set(loaded.weights) == set(sample().weights)
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in sample().weights.items())
    assert set(loaded.extra) == set(EXTRA)
    for name, tensor in EXTRA.items():
        assert loaded.extra[name].dtype == tensor.dtype
        assert torch.equal(loaded.extra[name], tensor)
    assert loaded.details == DETAILS
    x = torch.rand(4, 1, 28, 28)
    expected = build(SUMMARY.architecture, seed=5).eval()
    torch.testing.assert_close(checkpoints.network(loaded)(x), expected(x))
    assert [path.name for path in saved.parent.iterdir()] == ["sample.safetensors"]


def test_a_summary_is_read_without_the_rest_of_its_file(saved: Path) -> None:
    os.truncate(saved, 2**29)
    tracemalloc.start()
    try:
        assert checkpoints.load_summary(saved) == SUMMARY
        assert tracemalloc.get_traced_memory()[1] < 2 * checkpoints.MAX_HEADER_BYTES + 2**20
    finally:
        tracemalloc.stop()


def test_the_digest_is_computed_without_a_copy(tmp_path: Path) -> None:
    size = 2**25
    path = tmp_path / "large.safetensors"
    checkpoints.save(Checkpoint(SUMMARY, {}, {"large": torch.arange(size // 8)}), path)
    tracemalloc.start()
    try:
        assert len(checkpoints.load(path).extra["large"]) == size // 8
        # The file's content and, made of it, the tensor's.
        assert 1.9 < tracemalloc.get_traced_memory()[1] / size < 2.5
    finally:
        tracemalloc.stop()


def test_a_checkpoint_without_weights_is_one_of_a_run_that_has_learnt_nothing(tmp_path: Path) -> None:
    path = tmp_path / "nothing.safetensors"
    checkpoints.save(Checkpoint(SUMMARY, {}, EXTRA, DETAILS), path)
    loaded = checkpoints.load(path)
    assert (loaded.weights, loaded.details) == ({}, DETAILS)
    assert not checkpoints.load_summary(path).has_weights
    with pytest.raises(CheckpointError, match="has no weights"):
        checkpoints.network(loaded)


@pytest.mark.parametrize(
    ("stored", "title"), [("A\u202e\x1b\u200b  run", "A run"), ("\u200b\u200b", "strange"), ("n" * 61, "n" * 60)]
)
def test_a_title_that_cannot_be_seen_is_cleared_on_reading(stored: str, title: str, tmp_path: Path) -> None:
    """F12: a file that another program, or a version before, has written."""
    path = tmp_path / "strange.safetensors"
    written = sample()
    checkpoints.save(replace(written, summary=replace(written.summary, title=stored)), path)
    assert checkpoints.load_summary(path).title == checkpoints.load(path).summary.title == title


def test_the_first_format_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    of_the_first_format(path)
    loaded = checkpoints.load(path)
    assert (loaded.summary.title, loaded.summary.test_accuracy) == (SUMMARY.title, 0.9876)
    assert loaded.summary.recipe == replace(SUMMARY.recipe, augmentation=Augmentation(5.0))
    assert loaded.summary == checkpoints.load_summary(path)
    assert (loaded.extra, loaded.details) == ({}, {})
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in sample().weights.items())
    of_the_first_format(path, format="receptive-0")
    with pytest.raises(CheckpointError, match="not written by this version"):
        checkpoints.load(path)


def test_a_folder_that_cannot_be_written_is_said_and_what_stood_stands(saved: Path) -> None:
    before = saved.read_bytes()
    blocked = saved / "inside-a-file.safetensors"
    with pytest.raises(CheckpointError, match="could not be saved"):
        checkpoints.save(sample(), blocked)
    assert saved.read_bytes() == before


def _with_header(path: Path, **changes: str) -> None:
    path.write_bytes(with_metadata(path.read_bytes(), **changes))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        lambda path: path.write_bytes(path.read_bytes()[:50]),
        lambda path: path.unlink(),
        lambda path: _with_header(path, format="other"),
        lambda path: _with_header(path, architecture="4 M 10"),
        lambda path: _with_header(path, architecture="8 M 10 A"),
        lambda path: _with_header(path, recipe="{}x"),
        lambda path: _with_header(path, epochs_done="many"),
        lambda path: _with_header(path, title="Another"),
        lambda path: _with_header(path, details="{"),
        lambda path: _with_header(path, details="7"),
        lambda path: _with_header(path, sha256="0" * 64),
        lambda path: of_the_first_format(path, architecture="8 M 10 A"),
        lambda path: of_the_first_format(path, recipe="{}x"),
        lambda path: of_the_first_format(path, epochs_done="many"),
        lambda path: save_file({"a": torch.zeros(3)}, path),
        lambda path: checkpoints.save(
            Checkpoint(
                SUMMARY, {k: v * torch.nan if v.is_floating_point() else v for k, v in sample().weights.items()}
            ),
            path,
        ),
    ],
)
def test_a_damaged_file_gets_one_sentence_that_names_it(saved: Path, damage: object) -> None:
    damage(saved)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=r"sample\.safetensors"):
        checkpoints.load(saved)


def test_every_changed_bit_in_the_data_is_found(saved: Path) -> None:
    content = saved.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    for place in range(8 + length, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        saved.write_bytes(changed)
        with pytest.raises(CheckpointError, match="its content is not what was saved"):
            checkpoints.load(saved)


def test_a_file_does_not_lose_its_digest_by_naming_the_first_format(saved: Path) -> None:
    _with_header(saved, format="receptive-1")
    with pytest.raises(CheckpointError, match="its content is not what was saved"):
        checkpoints.load(saved)


def test_a_file_that_is_set_aside_is_moved_and_nothing_is_overwritten(tmp_path: Path) -> None:
    aside = tmp_path / "aside"
    for content in (b"one", b"two", b"three"):
        path = tmp_path / "bad.safetensors"
        path.write_bytes(content)
        target = checkpoints.quarantine(path, aside)
        assert target.parent == aside
        assert target.read_bytes() == content
        assert not path.exists()
    assert {path.read_bytes() for path in aside.iterdir()} == {b"one", b"two", b"three"}
    with pytest.raises(OSError, match="No such file"):
        checkpoints.quarantine(tmp_path / "gone.safetensors", aside)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.data())
def test_flipped_bytes_are_refused_or_harmless(saved: Path, data: st.DataObject) -> None:
    content = bytearray(saved.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = saved.with_name("flipped.safetensors")
    path.write_bytes(content)
    try:
        checkpoints.network(checkpoints.load(path))
    except CheckpointError as error:
        assert "flipped.safetensors" in str(error)


def test_paths_lists_the_shipped_first_then_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "saved"
    monkeypatch.setattr(checkpoints, "SAVED_FOLDER", folder)
    for index, name in enumerate(["old", "new"]):
        checkpoints.save(sample(), folder / f"{name}.safetensors")
        os.utime(folder / f"{name}.safetensors", (index, index))
    shipped = checkpoints.shipped()
    first, *others = shipped
    assert first.stem == checkpoints.DEFAULT
    assert others == sorted(set(SHIPPED) - {first})
    assert checkpoints.paths() == [*shipped, folder / "new.safetensors", folder / "old.safetensors"]
