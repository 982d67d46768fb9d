"""Checkpoints: whole or refused in one sentence, and the one that is shipped."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lib import checkpoints
from lib.architecture import notation, parse
from lib.checkpoints import Checkpoint, CheckpointError, Summary
from lib.dataset import Dataset
from lib.network import build
from lib.recipe import Recipe
from lib.training import evaluate

SHIPPED = checkpoints.FOLDER / "assignment-9274.safetensors"
SUMMARY = Summary("A test", parse("4 M 10 A"), Recipe(epochs=2), 2, 0.9876, "2026-11-22T00:00:00+00:00")


def sample() -> Checkpoint:
    return Checkpoint(SUMMARY, build(SUMMARY.architecture, seed=5).state_dict())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "sample.safetensors"
    checkpoints.save(sample(), path)
    return path


def test_the_shipped_network_scores_what_it_says_on_all_test_images(mnist: Dataset) -> None:
    checkpoint = checkpoints.load(SHIPPED)
    summary = checkpoint.summary
    assert notation(summary.architecture) == "4 4 8 M 12 12 16 M 20v 10v A"
    assert sum(t.numel() for name, t in checkpoint.weights.items() if name.endswith(("weight", "bias"))) == 9274
    assert summary.epochs_done == summary.recipe.epochs < 20
    accuracy = evaluate(checkpoints.network(checkpoint), mnist.test_images, mnist.test_labels)
    assert accuracy >= 0.995
    # Another processor may round a borderline image to the other side.
    assert accuracy == pytest.approx(summary.test_accuracy, abs=0.0003)


def test_a_checkpoint_comes_back_whole(saved: Path) -> None:
    loaded = checkpoints.load(saved)
    assert loaded.summary == SUMMARY == checkpoints.load_summary(saved)
    assert set(loaded.weights) == set(sample().weights)
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in sample().weights.items())
    x = torch.rand(4, 1, 28, 28)
    expected = build(SUMMARY.architecture, seed=5).eval()
    torch.testing.assert_close(checkpoints.network(loaded)(x), expected(x))
    assert [path.name for path in saved.parent.iterdir()] == ["sample.safetensors"]


def test_a_folder_that_cannot_be_written_is_said_and_what_stood_stands(saved: Path) -> None:
    before = saved.read_bytes()
    blocked = saved / "inside-a-file.safetensors"
    with pytest.raises(CheckpointError, match="could not be saved"):
        checkpoints.save(sample(), blocked)
    assert saved.read_bytes() == before


def _with_header(path: Path, **changes: str) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"].update(changes)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


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
    assert checkpoints.paths() == [SHIPPED, folder / "new.safetensors", folder / "old.safetensors"]
