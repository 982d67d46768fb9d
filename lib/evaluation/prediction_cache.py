"""Predictions for the test images, kept in `data/predictions` by the digest of the weights and of the images.

A network that was measured once is not measured again, in this process or in the next. The files may be deleted at any
time. A file that is damaged, or is not what was written, is measured again; where nothing can be written, nothing is
kept. Several processes may use the folder: a file is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from contextlib import suppress

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from lib.data import dataset
from lib.data.dataset import LabeledImages
from lib.design.layers import CLASSES
from lib.design.notation import notation
from lib.evaluation.metrics import Evaluation, logits, measurable
from lib.files import atomic_file, regular_file
from lib.nn.network import Network, torch_threads
from lib.storage.checkpoints import header, weights_digest
from lib.training.trainer import recommended_threads

FOLDER = dataset.FOLDER / "predictions"
SUFFIX = ".safetensors"
# A file of 10,000 predictions has 400 kB.
MAX_FILES, MAX_BYTES = 32, 2**20
_KEY, _LOGITS = "predictions", "logits"

# A temporary file belongs to a process, not to a thread.
_writing = threading.Lock()

log = logging.getLogger(__name__)


def cached_evaluation(network: Network, test: LabeledImages, temperature: float = 1.0) -> Evaluation:
    """Evaluate a network in eval mode on the first test images, as many as `metrics.measurable` says.

    The logits come from the folder if they are there, and are put there otherwise. Raises TooLargeError if the network
    is too large.
    """
    architecture = network.architecture
    count = measurable(architecture, len(test.images))
    key = _digest(network, test.images[:count])
    found = _read(key, count)
    if found is None:
        with torch_threads(recommended_threads(architecture)):
            found = logits(network, architecture, test.images[:count])
        _write(key, found)
    return Evaluation(torch.softmax(found / temperature, 1), test.labels[:count])


def _digest(network: Network, images: Tensor) -> str:
    """Return the sha256 of all that the logits depend on."""
    digest = hashlib.sha256(f"{notation(network.architecture)} {weights_digest(network.state_dict())} ".encode())
    digest.update(images.contiguous().numpy().reshape(-1).data)
    return digest.hexdigest()


def _read(key: str, count: int) -> Tensor | None:
    path = FOLDER / f"{key}{SUFFIX}"
    try:
        content = regular_file.read(path, MAX_BYTES)
        tensors = load_tensors(content)
        stated = header(content)["__metadata__"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, MemoryError):
        return None
    found = tensors.get(_LOGITS)
    if (
        found is None
        or found.shape != (count, CLASSES)
        or found.dtype != torch.float32
        or stated != _metadata(key, found)
        or not bool(torch.isfinite(found).all())
    ):
        return None
    return found


def _write(key: str, found: Tensor) -> None:
    content = save_tensors({_LOGITS: found}, _metadata(key, found))
    if found.dtype != torch.float32 or len(content) > MAX_BYTES or not bool(torch.isfinite(found).all()):
        return
    with _writing:
        try:
            atomic_file.write(FOLDER / f"{key}{SUFFIX}", content)
        except OSError as error:
            log.info("Predictions cannot be kept (%s)", error.strerror)
            return
        atomic_file.remove_remains(FOLDER)
        # The oldest go first; another process may remove the same ones.
        files = sorted(regular_file.listing(FOLDER, SUFFIX).files, key=lambda file: file[1])
        for path, _ in files[:-MAX_FILES]:
            with suppress(OSError):
                path.unlink()


def _metadata(key: str, found: Tensor) -> dict[str, str]:
    """What a file says of itself: whose predictions it has, and the digest of its content."""
    return {_KEY: key, "sha256": hashlib.sha256(found.contiguous().numpy().reshape(-1).data).hexdigest()}
