"""MNIST and the UCI pen digits as tensors, from the files in `data/`; nothing is downloaded.

- The four IDX files travel gzipped with the project and are unpacked at first use to `data/MNIST/raw`, where
  torchvision keeps them too.
- Every unpacked file is held to the md5 of LeCun's original each time it is loaded. A damaged copy is unpacked anew.
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

from lib import ROOT
from lib.files import atomic_file, regular_file

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = ROOT / "data"
MEAN, STD = 0.1307, 0.3081
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
# Digits as the way of a pen on a tablet (Alimoglu and Alpaydin 1996): so many points each.
PEN_DIGITS, PEN_DIGITS_MD5, PEN_POINTS = "pen-digits.csv", "d73f60cd9dd5d0e112e4e38c02e2edaa", 8
# No data file is larger, packed or not.
MAX_BYTES = 64 * 2**20
RESTORE = "Restore it from the project."
REMEDY = (
    "Restore it from the project, or, with a network, let torchvision download it: "
    "python -c \"from torchvision.datasets import MNIST; MNIST('data', download=True)\""
)


class DatasetError(RuntimeError):
    """A data file that is missing or damaged. The message names it and the remedy."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images uint8 (N, 28, 28), 0 to 255; labels int64 (N,), 0 to 9."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


_loaded: dict[Path, Dataset] = {}
_lock = threading.Lock()


def load(folder: Path = FOLDER) -> Dataset:
    """The 60,000 and 10,000 images, loaded once a process. Raises DatasetError with the remedy in words."""
    with _lock:
        if folder not in _loaded:
            unpack(folder)
            _loaded[folder] = _read(folder)
        return _loaded[folder]


def unpack(folder: Path) -> None:
    """Bring all four files, checked, to `folder`/MNIST/raw. Raises DatasetError."""
    for name in MD5:
        target = _unpacked(folder, name)
        content, is_unpacked = _content(folder, name)
        if not is_unpacked:
            try:
                atomic_file.remove_remains(target.parent)
                # Through a file of this process's own: two processes may unpack at once.
                atomic_file.write(target, content)
            except OSError as error:
                raise DatasetError(
                    f"The data file {name} cannot be unpacked to {target.parent} ({error.strerror}). "
                    "Free 55 MB there and make the folder writable."
                ) from error


def examples(folder: Path = FOLDER) -> tuple[bytes, ...]:
    """The first test image of each of the ten digits, 28 rows of 28 bytes, 0 to 255. Raises DatasetError."""
    images = _content(folder, "t10k-images-idx3-ubyte")[0][16:]
    labels = _content(folder, "t10k-labels-idx1-ubyte")[0][8:]
    first = [labels.index(digit) for digit in range(10)]
    return tuple(images[784 * index : 784 * (index + 1)] for index in first)


def pen_digits(folder: Path = FOLDER) -> tuple[Tensor, Tensor]:
    """What thirty people wrote on a tablet: (7494, PEN_POINTS, 2), x to the right and y down, 0 to 1, points about
    evenly along the pen's way, and which digits they are, int64 (7494,). Raises DatasetError.
    """
    return pen_digits_of(_decompressed(folder, PEN_DIGITS, PEN_DIGITS_MD5, RESTORE).decode("ascii"))


def pen_digits_of(text: str) -> tuple[Tensor, Tensor]:
    """As `pen_digits`, of any file of that data set. A line is x and y of the points, 0 to 100, y up, and the digit.

    Raises ValueError for what is no such file.
    """
    import numpy as np
    import torch

    rows = torch.from_numpy(np.loadtxt(text.splitlines(), delimiter=",", dtype=np.int64))
    points = rows[:, :-1].view(-1, PEN_POINTS, 2) / 100
    return torch.stack([points[..., 0], 1 - points[..., 1]], 2), rows[:, -1]


def normalize(images: Tensor) -> Tensor:
    """uint8 (N, 28, 28) -> float32 (N, 1, 28, 28) with the mean 0 and deviation 1 of the training images."""
    return images.unsqueeze(1).float().sub_(255 * MEAN).div_(255 * STD)


def _unpacked(folder: Path, name: str) -> Path:
    return folder / "MNIST" / "raw" / name


def _content(folder: Path, name: str) -> tuple[bytes, bool]:
    """What the data file `name` holds, checked, and whether it came from its unpacked copy."""
    target = _unpacked(folder, name)
    try:
        if target.is_file() and _md5(content := regular_file.read(target, MAX_BYTES)) == MD5[name]:
            return content, True
    except regular_file.TooLargeError:
        pass
    except OSError as error:
        raise DatasetError(f"The data file {name} cannot be read ({error.strerror}). {REMEDY}") from error
    return _decompressed(folder, name, MD5[name], REMEDY), False


def _decompressed(folder: Path, name: str, md5: str, remedy: str) -> bytes:
    """What `folder`/`name`.gz holds, checked."""
    try:
        packed = regular_file.read(folder / f"{name}.gz", MAX_BYTES)
        # What unpacks to more is not the original, whatever it is.
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


def _read(folder: Path) -> Dataset:
    import torch
    from torchvision.datasets import MNIST

    train, test = MNIST(str(folder), train=True), MNIST(str(folder), train=False)
    return Dataset(train.data, train.targets.to(torch.int64), test.data, test.targets.to(torch.int64))


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
