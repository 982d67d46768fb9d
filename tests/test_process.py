"""Settings of the server process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from lib.ui.process import MAX_ARENAS
from tools import ROOT

# Count glibc's memory arenas while twenty threads have allocated memory.
CODE = """
import ctypes, os, sys, tempfile, threading
if sys.argv[1] == "shared":
    from lib.ui.process import limit_memory_arenas
    limit_memory_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
ready, over = threading.Barrier(21), threading.Event()

def hold():
    libc.malloc(1000)
    ready.wait()
    over.wait()

for _ in range(20):
    threading.Thread(target=hold, daemon=True).start()
ready.wait()
with tempfile.NamedTemporaryFile() as file:
    stream = libc.fopen(file.name.encode(), b"w")
    libc.malloc_info(0, ctypes.c_void_p(stream))
    libc.fclose(ctypes.c_void_p(stream))
    print(file.read().count(b"<heap "))
over.set()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives each thread an arena")
def test_threads_share_the_memory_arenas() -> None:
    def arenas(how: str) -> int:
        command = [sys.executable, "-c", CODE, how]
        return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)

    assert arenas("shared") <= MAX_ARENAS
    assert arenas("alone") > MAX_ARENAS
