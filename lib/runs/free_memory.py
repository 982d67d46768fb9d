"""Return memory to the system that the process no longer uses."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def release_memory() -> None:
    """Collect garbage, and return what the C library has freed but keeps for later, if it is glibc.

    A training and a calibration leave some hundred megabytes behind. Afterwards is the time: a batch would have to ask
    for its memory again.
    """
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
