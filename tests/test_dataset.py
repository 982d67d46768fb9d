"""Loading MNIST and the pen digits from complete, gzipped, damaged or missing files."""

from __future__ import annotations

import gc
import gzip
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from torchvision.datasets import MNIST

from lib.data import dataset
from lib.data.dataset import FOLDER, MD5, Dataset, DatasetError

NAMES = list(MD5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        shutil.copy(FOLDER / f"{name}.gz", tmp_path)
    return tmp_path


def test_mnist_is_complete(mnist: Dataset) -> None:
    assert mnist.train_images.shape == (60_000, 28, 28)
    assert mnist.test_images.shape == (10_000, 28, 28)
    # The counts of each digit in LeCun's files.
    assert mnist.train_labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist.test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_the_tensors_are_those_that_torchvision_reads(mnist: Dataset) -> None:
    train, test = MNIST(str(FOLDER), train=True), MNIST(str(FOLDER), train=False)
    for ours, theirs in (
        (mnist.train_images, train.data),
        (mnist.train_labels, train.targets),
        (mnist.test_images, test.data),
        (mnist.test_labels, test.targets),
    ):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def test_the_test_images_are_read_without_the_training_images_and_shared(folder: Path) -> None:
    packed = folder / f"{dataset.TRAIN[0]}.gz"
    packed.rename(folder / "elsewhere")
    test = dataset.load_test(folder)
    with pytest.raises(DatasetError, match="is missing"):
        dataset.load(folder)
    (folder / "elsewhere").rename(packed)
    data = dataset.load(folder)
    assert data.test_images is test.images
    assert data.test_labels is test.labels


def test_normalized_training_images_have_mean_0_and_deviation_1(mnist: Dataset) -> None:
    x = dataset.normalize(mnist.train_images)
    assert x.shape == (60_000, 1, 28, 28)
    assert float(x.mean()) == pytest.approx(0, abs=1e-3)
    assert float(x.std()) == pytest.approx(1, abs=1e-3)


def test_the_examples_are_the_first_of_each_digit_unpacked_or_not(folder: Path, mnist: Dataset) -> None:
    packed = dataset.examples(folder)
    assert not (folder / "MNIST").exists()
    dataset.unpack(folder)
    assert dataset.examples(folder) == packed
    for digit, image in enumerate(packed):
        first = mnist.test_images[mnist.test_labels == digit][0]
        assert image == first.numpy().tobytes()


def test_loading_twice_reads_once(folder: Path) -> None:
    first = dataset.load(folder)
    assert dataset.load(folder) is first


def test_the_training_images_are_freed_with_their_last_use(folder: Path) -> None:
    found = dataset.load(folder)
    images = weakref.ref(found.train_images)
    del found
    gc.collect()
    assert images() is None
    assert len(dataset.load(folder).train_images) == 60_000


def test_a_clean_folder_is_unpacked_and_read(folder: Path, mnist: Dataset) -> None:
    data = dataset.load(folder)
    assert torch.equal(data.test_images, mnist.test_images)


def test_a_damaged_unpacked_file_is_repaired(folder: Path) -> None:
    dataset.unpack(folder)
    raw = folder / "MNIST" / "raw" / NAMES[1]
    original = raw.read_bytes()
    raw.write_bytes(original[:100])
    dataset.unpack(folder)
    assert raw.read_bytes() == original
    assert not list(raw.parent.glob("*.[0-9]*"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "is damaged"),
        (lambda path: path.write_bytes(b"not gzip at all"), "is damaged"),
        (lambda path: path.write_bytes(gzip.compress(b"another file")), "md5 differs"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
    ],
)
def test_a_missing_or_damaged_file_is_named_with_the_remedy(folder: Path, damage: object, says: str) -> None:
    damage(folder / f"{NAMES[3]}.gz")  # type: ignore[operator]
    with pytest.raises(DatasetError) as caught:
        dataset.load(folder)
    assert says in str(caught.value)
    assert NAMES[3] in str(caught.value)
    assert "MNIST('data', download=True)" in str(caught.value)


def test_a_folder_that_cannot_be_unpacked_into_is_an_error(folder: Path) -> None:
    (folder / "MNIST").write_text("a file where the folder should be")
    with pytest.raises(DatasetError, match=r"cannot be (read|unpacked)"):
        dataset.load(folder)


def test_the_pen_digits_are_the_training_set_of_thirty_writers() -> None:
    points, labels = dataset.pen_digits()
    assert points.shape == (7494, dataset.PEN_POINTS, 2)
    # The counts in the description of pendigits.tra; those of the fourteen test writers differ.
    assert labels.bincount().tolist() == [780, 779, 780, 719, 780, 720, 720, 778, 719, 719]
    assert float(points.amin()) == 0
    assert float(points.amax()) == 1
    # Most people start a 7 at the top left and end a 6 below the middle.
    assert float((points[labels == 7, 0] < 0.5).all(1).double().mean()) > 0.9
    assert float((points[labels == 6, -1, 1] > 0.5).double().mean()) > 0.9


@pytest.mark.parametrize("content", [None, b"no gzip", gzip.compress(b"0,1,2\n")])
def test_missing_or_damaged_pen_digits_are_an_error_with_the_remedy(folder: Path, content: bytes | None) -> None:
    if content is not None:
        (folder / f"{dataset.PEN_DIGITS}.gz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"pen-digits\.csv\.gz .*Restore it from the project\."):
        dataset.pen_digits(folder)
