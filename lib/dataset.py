"""MNIST as tensors, from the files in `data/`, through torchvision; nothing is fetched. `examples` needs no torch.

- The four IDX files travel gzipped with the project and are unpacked at first use to `data/MNIST/raw`, where
  torchvision keeps them too.
- Every unpacked file is held to the md5 of LeCun's original each time it is loaded. A damaged copy is unpacked anew.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(__file__).resolve().parent.parent / "data"
MEAN, STD = 0.1307, 0.3081
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
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
                _write(target, content)
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


def normalise(images: Tensor) -> Tensor:
    """uint8 (N, 28, 28) -> float32 (N, 1, 28, 28) with the mean 0 and deviation 1 of the training images."""
    return images.unsqueeze(1).float().sub_(255 * MEAN).div_(255 * STD)


def _unpacked(folder: Path, name: str) -> Path:
    return folder / "MNIST" / "raw" / name


def _content(folder: Path, name: str) -> tuple[bytes, bool]:
    """What the data file `name` holds, checked, and whether it came from its unpacked copy."""
    try:
        target = _unpacked(folder, name)
        if target.is_file() and _md5(content := target.read_bytes()) == MD5[name]:
            return content, True
        content = gzip.decompress((folder / f"{name}.gz").read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(f"The data file {name}.gz is missing from {folder}. {REMEDY}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"The data file {folder / name}.gz is damaged. {REMEDY}") from error
    except OSError as error:
        raise DatasetError(f"The data file {name} cannot be read ({error.strerror}). {REMEDY}") from error
    if _md5(content) != MD5[name]:
        raise DatasetError(f"The data file {folder / name}.gz is not the original: its md5 differs. {REMEDY}")
    return content, False


def _read(folder: Path) -> Dataset:
    import torch
    from torchvision.datasets import MNIST

    train, test = MNIST(str(folder), train=True), MNIST(str(folder), train=False)
    return Dataset(train.data, train.targets.to(torch.int64), test.data, test.targets.to(torch.int64))


def _write(target: Path, content: bytes) -> None:
    """Through a file of this process's own: two processes may unpack at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
