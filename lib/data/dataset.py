"""MNIST and the UCI pen digits as tensors, from the files in `data/`. Nothing is downloaded.

- The four IDX files of MNIST are part of the project, gzipped. At first use they are unpacked to `data/MNIST/raw`,
  where torchvision expects them too. Reading them here needs no torchvision, whose import takes longer than that.
- Every load compares the md5 of the unpacked files with LeCun's originals. A damaged file is unpacked again.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from lib import ROOT
from lib.design.layers import MEAN as MEAN
from lib.design.layers import STD as STD
from lib.files import atomic_file, regular_file

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = ROOT / "data"
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
# The UCI pen digits: pen trajectories on a tablet (Alimoglu and Alpaydin 1996), resampled to PEN_POINTS points each.
PEN_DIGITS, PEN_DIGITS_MD5, PEN_POINTS = "pen-digits.csv", "d73f60cd9dd5d0e112e4e38c02e2edaa", 8
# Limit for reading a data file, gzipped or unpacked.
MAX_BYTES = 64 * 2**20
RESTORE = "Restore it from the project."
REMEDY = (
    "Restore it from the project, or, with a network, let torchvision download it: "
    "python -c \"from torchvision.datasets import MNIST; MNIST('data', download=True)\""
)


class DatasetError(RuntimeError):
    """A data file is missing, damaged or unreadable. The message names the file and the remedy."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """MNIST: images uint8 (N, 28, 28), 0 to 255, light strokes on dark; labels int64 (N,), 0 to 9."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images uint8 (N, 28, 28), 0 to 255, light strokes on dark, and their labels, int64 (N,), 0 to 9."""

    images: Tensor
    labels: Tensor


# The training images take 47 MB, and only a training and a calibration need them: they last as long as these.
_loaded: WeakValueDictionary[Path, Dataset] = WeakValueDictionary()
_test_sets: dict[Path, LabeledImages] = {}
_lock = threading.RLock()


def load(folder: Path = FOLDER) -> Dataset:
    """Load the 60,000 training and 10,000 test images, shared while one caller has them. Raises DatasetError."""
    with _lock:
        found = _loaded.get(folder)
        if found is None:
            train, test = _read(folder, TRAIN), load_test(folder)
            found = _loaded[folder] = Dataset(train.images, train.labels, test.images, test.labels)
        return found


def load_test(folder: Path = FOLDER) -> LabeledImages:
    """Load the test images alone: `load` shares them, and reads six times as much. Raises DatasetError."""
    with _lock:
        if folder not in _test_sets:
            _test_sets[folder] = _read(folder, TEST)
        return _test_sets[folder]


def unpack(folder: Path) -> None:
    """Check the four files in `folder`/MNIST/raw and unpack those that are missing or damaged. Raises DatasetError."""
    for name in MD5:
        _unpacked(folder, name)


def _unpacked(folder: Path, name: str) -> bytes:
    """Return the content of an MNIST file, and unpack it if it is missing or damaged. Raises DatasetError."""
    target = _unpacked_path(folder, name)
    content, is_unpacked = _read_verified(folder, name)
    if not is_unpacked:
        try:
            atomic_file.remove_remains(target.parent)
            # Atomic, because two processes may unpack at the same time.
            atomic_file.write(target, content)
        except OSError as error:
            raise DatasetError(
                f"The data file {name} cannot be unpacked to {target.parent} ({error.strerror}). "
                "Free 55 MB there and make the folder writable."
            ) from error
    return content


def examples(folder: Path = FOLDER) -> tuple[bytes, ...]:
    """Return the first test image of each digit as 28 × 28 bytes, 0 to 255, without torch. Raises DatasetError."""
    images, labels = (_read_verified(folder, name)[0][offset:] for name, offset in zip(TEST, (16, 8), strict=True))
    first = [labels.index(digit) for digit in range(10)]
    return tuple(images[784 * index : 784 * (index + 1)] for index in first)


def pen_digits(folder: Path = FOLDER) -> tuple[Tensor, Tensor]:
    """Load the training set of the UCI pen digits, by 30 writers. Raises DatasetError.

    Returns points, float32 (7494, PEN_POINTS, 2), x to the right and y down, 0 to 1, about evenly spaced along the
    stroke; and labels, int64 (7494,).
    """
    return parse_pen_digits(_decompress(folder, PEN_DIGITS, PEN_DIGITS_MD5, RESTORE).decode("ascii"))


def parse_pen_digits(text: str) -> tuple[Tensor, Tensor]:
    """Parse a file of the UCI pen digits into points and labels, see `pen_digits`. Raises ValueError.

    Each line has x and y of PEN_POINTS points, 0 to 100, y up, then the label.
    """
    import numpy as np
    import torch

    rows = torch.from_numpy(np.loadtxt(text.splitlines(), delimiter=",", dtype=np.int64))
    points = rows[:, :-1].view(-1, PEN_POINTS, 2) / 100
    return torch.stack([points[..., 0], 1 - points[..., 1]], 2), rows[:, -1]


def normalize(images: Tensor) -> Tensor:
    """Standardize images, uint8 (N, 28, 28) to float32 (N, 1, 28, 28).

    The training set then has mean 0 and standard deviation 1.
    """
    return images.unsqueeze(1).float().sub_(255 * MEAN).div_(255 * STD)


def _unpacked_path(folder: Path, name: str) -> Path:
    return folder / "MNIST" / "raw" / name


def _read_verified(folder: Path, name: str) -> tuple[bytes, bool]:
    """Return the content of an MNIST file and whether it was read from the unpacked file. Raises DatasetError."""
    target = _unpacked_path(folder, name)
    try:
        if target.is_file() and _md5(content := regular_file.read(target, MAX_BYTES)) == MD5[name]:
            return content, True
    except regular_file.TooLargeError:
        pass
    except OSError as error:
        raise DatasetError(f"The data file {name} cannot be read ({error.strerror}). {REMEDY}") from error
    return _decompress(folder, name, MD5[name], REMEDY), False


def _decompress(folder: Path, name: str, md5: str, remedy: str) -> bytes:
    """Return the content of `folder`/`name`.gz. Raises DatasetError with the remedy if the md5 differs."""
    try:
        packed = regular_file.read(folder / f"{name}.gz", MAX_BYTES)
        # One byte more than the limit: a larger file then fails the md5 check.
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise DatasetError(f"The data file {name}.gz is missing from {folder}. {remedy}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"The data file {folder / name}.gz is damaged. {remedy}") from error
    except OSError as error:
        raise DatasetError(f"The data file {name} cannot be read ({error.strerror}). {remedy}") from error
    if _md5(content) != md5:
        raise DatasetError(f"The data file {folder / name}.gz is not the original: its md5 differs. {remedy}")
    return content


def _read(folder: Path, names: tuple[str, str]) -> LabeledImages:
    """Parse a file of images and one of labels in the IDX format: a header of 16 and 8 bytes, then bytes."""
    import torch

    # torch warns of memory that cannot be written to, as that of bytes.
    images, labels = (
        torch.frombuffer(bytearray(_unpacked(folder, name)), dtype=torch.uint8, offset=offset)
        for name, offset in zip(names, (16, 8), strict=True)
    )
    return LabeledImages(images.view(-1, 28, 28), labels.to(torch.int64))


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
