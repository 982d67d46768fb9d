"""Measure the peak memory of a training.

    python -m tests.training_peak RECIPE NETWORK

Trains three batches as the app does; RECIPE is JSON. Prints the bytes above those of a process with MNIST loaded.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from lib.data import dataset
from lib.design.notation import parse
from lib.design.recipe import from_json
from lib.runs.run_manager import RunManager
from lib.runs.training_run import StopAt
from tests.large_networks import memory


def main(recipe: str, network: str) -> None:
    data = dataset.load()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = memory("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        run = RunManager(lambda: data, Path(folder)).start(parse(network), from_json(recipe), stop_at=StopAt(step=3))
        assert run.wait(300)
        assert run.status == "paused", run.snapshot().message
    print(memory("VmHWM") - before)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
