"""Predictions that are kept in files: equal to those computed, and computed again if a file is not what was written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from lib.data.dataset import Dataset, LabeledImages
from lib.design.notation import parse
from lib.evaluation import metrics, prediction_cache
from lib.evaluation.metrics import Evaluation, evaluate
from lib.evaluation.prediction_cache import cached_evaluation
from lib.nn.network import Network, build
from tools import ROOT

COUNT = 300


@pytest.fixture
def test(mnist: Dataset) -> LabeledImages:
    return LabeledImages(mnist.test_images[:COUNT], mnist.test_labels[:COUNT])


@pytest.fixture
def network() -> Network:
    return build(parse("4 M 10 A"), 3).eval()


@pytest.fixture
def forward_passes(monkeypatch: pytest.MonkeyPatch) -> list[Network]:
    """The networks whose logits were computed."""
    found: list[Network] = []
    compute = metrics.logits

    def counted(network: Network, *arguments: object) -> torch.Tensor:
        found.append(network)
        return compute(network, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(prediction_cache, "logits", counted)
    return found


def assert_equal(one: Evaluation, other: Evaluation) -> None:
    assert torch.equal(one.probabilities, other.probabilities)
    assert torch.equal(one.labels, other.labels)


def test_what_is_kept_is_equal_to_what_is_computed_at_any_temperature(
    network: Network, test: LabeledImages, forward_passes: list[Network], predictions: Path
) -> None:
    for temperature in (1.0, 0.7, 3.0):
        computed = evaluate(network, network.architecture, test.images, test.labels, temperature)
        assert_equal(cached_evaluation(network, test, temperature), computed)
    assert len(forward_passes) == 1
    (path,) = predictions.iterdir()
    assert path.stat().st_size < COUNT * 40 + 400


def test_other_weights_images_or_networks_have_predictions_of_their_own(
    network: Network, test: LabeledImages, forward_passes: list[Network]
) -> None:
    other_weights, other_network = build(network.architecture, 4).eval(), build(parse("4 A 10 A"), 3).eval()
    fewer = LabeledImages(test.images[:-1], test.labels[:-1])
    other_images = LabeledImages(test.images.flip(0), test.labels.flip(0))
    for _ in range(2):
        for model, images in (
            (network, test),
            (other_weights, test),
            (other_network, test),
            (network, fewer),
            (network, other_images),
        ):
            found = cached_evaluation(model, images)
            assert_equal(found, evaluate(model, model.architecture, images.images, images.labels))
    assert len(forward_passes) == 5


def _replaced(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _of_others(path: Path) -> None:
    """The predictions of another network, under this one's name."""
    content = path.read_bytes()
    logits = load(content)["logits"].roll(1, 1)
    other = path.with_name("other.safetensors")
    other.write_bytes(save({"logits": logits}, prediction_cache._metadata("other", logits)))
    other.replace(path)


def _changed(path: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Other tensors, with the metadata that belong to them."""
    logits = change(load(path.read_bytes())["logits"]).contiguous()
    path.write_bytes(save({"logits": logits}, prediction_cache._metadata(path.stem, logits)))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: _replaced(path, path.read_bytes()[:-1]),
    "empty": lambda path: _replaced(path, b""),
    "another kind": lambda path: _replaced(path, b"no safetensors at all"),
    "a changed byte": lambda path: _replaced(path, path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "of others": _of_others,
    "without metadata": lambda path: _replaced(path, save(load(path.read_bytes()))),
    "fewer images": lambda path: _changed(path, lambda logits: logits[1:]),
    "fewer digits": lambda path: _changed(path, lambda logits: logits[:, 1:]),
    "not numbers": lambda path: _changed(path, lambda logits: logits * torch.nan),
    "another type": lambda path: _changed(path, lambda logits: logits.double()),
    "too large": lambda path: _replaced(path, path.read_bytes() + bytes(prediction_cache.MAX_BYTES)),
    "a folder": _folder,
    "a pipe": _pipe,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_file_that_is_not_what_was_written_is_computed_again(
    network: Network,
    test: LabeledImages,
    forward_passes: list[Network],
    predictions: Path,
    damage: Callable[[Path], object],
) -> None:
    computed = cached_evaluation(network, test)
    (path,) = predictions.iterdir()
    damage(path)
    assert_equal(cached_evaluation(network, test), computed)
    assert len(forward_passes) == 2
    if not path.is_dir():
        # It was replaced by what is right.
        assert_equal(cached_evaluation(network, test), computed)
        assert len(forward_passes) == 2


def test_only_the_newest_files_are_kept(
    test: LabeledImages, forward_passes: list[Network], predictions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_cache, "MAX_FILES", 3)
    networks = [build(parse("4 M 10 A"), seed).eval() for seed in range(5)]
    for number, network in enumerate(networks):
        cached_evaluation(network, test)
        newest = max(predictions.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    assert len(list(predictions.iterdir())) == 3
    for network in networks[2:]:
        cached_evaluation(network, test)
    assert len(forward_passes) == 5


def test_where_nothing_can_be_written_nothing_is_kept(
    network: Network,
    test: LabeledImages,
    forward_passes: list[Network],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("a file where the folder should be")
    monkeypatch.setattr(prediction_cache, "FOLDER", tmp_path / "file" / "predictions")
    assert_equal(cached_evaluation(network, test), cached_evaluation(network, test))
    assert len(forward_passes) == 2


def test_another_process_finds_them(network: Network, test: LabeledImages, predictions: Path) -> None:
    computed = cached_evaluation(network, test)
    program = f"""
from pathlib import Path
from lib.data.dataset import LabeledImages, load_test
from lib.design.notation import parse
from lib.evaluation import metrics, prediction_cache
from lib.nn.network import build
prediction_cache.FOLDER, prediction_cache.logits = Path({str(predictions)!r}), None
found = load_test()
test = LabeledImages(found.images[:{COUNT}], found.labels[:{COUNT}])
print(prediction_cache.cached_evaluation(build(parse("4 M 10 A"), 3).eval(), test).accuracy.correct)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stderr, done.stdout) == ("", f"{computed.accuracy.correct}\n")
